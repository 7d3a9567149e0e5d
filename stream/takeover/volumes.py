"""Checks the files on this machine's volumes of slices that aren't uploaded yet. Blocks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from stream.errors import UserError
from stream.storage.model.entity import Slice
from stream.storage.model.state import Level
from stream.storage.volumes.local_volume import find_volumes, read_volume_id
from stream.storage.volumes.unfinished import is_of_original, unfinished_rows
from stream.takeover.report import Report, Weight

__all__ = ["check_volumes", "slice_paths"]

_HERE = "also run this command on the machine that has the volume"


def slice_paths(volume: Path, slice_: Slice) -> list[Path]:
    """Return the files of a slice, including hidden ones."""
    directory = volume / slice_.local.dir
    pattern = f"{slice_.local.filename_prefix}-*.{slice_.local.filename_extension}"
    return sorted({*directory.glob(pattern), *directory.glob(f".{pattern}")})


def check_volumes(
    volumes_path: str, slices: Iterable[Slice], counted: dict[str, int], report: Report
) -> None:
    """Add the state of the volumes to the *report*; change nothing on the volumes.

    Raises UserError: there is no volume.

    :param counted: number of records counted in each slice, by the slice's key.
    """
    found = {}
    for volume in find_volumes(volumes_path):
        report.counts["volumes on this machine"] += 1
        try:
            volume_id = read_volume_id(volume)
        except (UserError, OSError) as error:
            report.problem(
                str(volume.path),
                f"the volume's id can't be read: {error}",
                "restore the file `volume-id`: the keys of its slices contain the id; otherwise "
                "the service doesn't start with this volume",
            )
            continue
        if volume_id is None:
            report.add(Weight.NOTE, str(volume.path), "the volume has no ID yet because it is new")
        else:
            found[volume_id] = volume
    for slice_ in slices:
        if slice_.level is not Level.LOCAL:
            continue
        volume_here = found.get(slice_.key.volume_id)
        if volume_here is None:
            report.add(
                Weight.NOTE,
                f"volume {slice_.key.volume_id}",
                f"slices that aren't uploaded yet are on a volume that isn't here; {_HERE}",
            )
            continue
        _check_files(volume_here.path, slice_, counted.get(str(slice_.key), 0), report)


def _check_files(volume: Path, slice_: Slice, counted: int, report: Report) -> None:
    paths = slice_paths(volume, slice_)
    report.counts["slice files on this machine"] += len(paths)
    if not paths and counted:
        report.problem(
            str(volume / slice_.local.dir),
            f"no file of the slice is here, though {counted} records were counted",
            "search for the directory on other disks and move it here before you start Stream, "
            "otherwise the slice is uploaded without rows",
        )
    for path in paths:
        if slice_.encoding.compression.type != "gzip" or not is_of_original(path):
            continue
        try:
            rows = unfinished_rows(path)
        except OSError as error:
            report.problem(
                str(path), f"the file can't be read: {error.strerror}", "repair the disk or file"
            )
            continue
        if rows:
            report.add(
                Weight.NOTE,
                str(path),
                "the gzip stream has no end because its writer was killed; every row up to its "
                "last "
                "marker is read, and the file is finished when it is first used",
            )


def check_volumes_or_say(
    volumes_path: str, slices: Iterable[Slice], counted: dict[str, int], report: Report
) -> None:
    """Call `check_volumes`; if there are no volumes, report that instead of failing."""
    try:
        check_volumes(volumes_path, slices, counted, report)
    except UserError as error:
        report.add(Weight.NOTE, volumes_path, f"files are not checked: {error}")
