"""The comparison of done with needed work. Plain functions over values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs

from benchmarks.coordination.journal import Journal

__all__ = ["Job", "Work", "account", "misplaced"]

_SHOWN = 5


@attrs.frozen
class Job:
    """An import job of the sandbox."""

    id: int
    file: int
    status: str


@attrs.frozen
class Work:
    """The work of a run: slices, uploads, files and jobs, counted from several sources.

    :ivar slices: number of slices with records in etcd at the end.
    :ivar uploads: number of successful uploads, from the readers' logs.
    :ivar failed_uploads: number of failed attempts.
    :ivar objects: number of slices in staging.
    :ivar files: number of files with records in etcd at the end.
    :ivar jobs: number of started import jobs, by outcome.
    :ivar rotations: number of rotations of slices and files, from the coordinators' logs.
    :ivar faults: work that was repeated or missing.
    """

    slices: int
    uploads: int
    failed_uploads: int
    objects: int
    files: int
    jobs: Counter[str]
    rotations: tuple[int, int]
    faults: list[str]


def account(
    journal: Journal,
    slices: Iterable[str],
    files: Iterable[str],
    jobs: Iterable[Job],
    objects: int,
    *,
    whole: bool = True,
) -> Work:
    """Compare the counts.

    :param slices: keys of slices with records.
    :param files: keys of files with records.
    :param objects: slices in staging.
    :param whole: whether no fault was injected: everything must be done once. Otherwise failed
        attempts and failed jobs are counted, but are no faults.
    """
    slices, files, jobs = set(slices), set(files), list(jobs)
    uploads = Counter(event.key for event in journal.of("uploaded slice"))
    succeeded = Counter(job.file for job in jobs if job.status == "success")
    failed = len(journal.of("slice upload failed"))
    faults = [
        *_each_once("upload", "slice", uploads, slices),
        *_never_twice(journal, "rotated slice"),
        *_never_twice(journal, "rotated file"),
        *_never_twice(journal, "imported file"),
    ]
    if objects != len(slices):
        faults.append(f"{objects} objects in staging for {len(slices)} slices")
    faults += [f"the staged file {f} was imported {n} times" for f, n in succeeded.items() if n > 1]
    if len(succeeded) != len(files):
        faults.append(f"{len(succeeded)} staged files were imported, {len(files)} have records")
    if whole and failed:
        faults.append(f"{failed} uploads failed")
    if whole and len(jobs) != len(files):
        faults.append(f"{len(jobs)} import jobs for {len(files)} files")
    return Work(
        slices=len(slices),
        uploads=sum(uploads.values()),
        failed_uploads=failed,
        objects=objects,
        files=len(files),
        jobs=Counter(job.status for job in jobs),
        rotations=(len(journal.of("rotated slice")), len(journal.of("rotated file"))),
        faults=faults,
    )


def _each_once(act: str, thing: str, done: Counter[str], needed: set[str]) -> list[str]:
    repeated = [key for key, times in done.items() if times > 1]
    parts = (
        (f"more than one {act} of", repeated),
        (f"no {act} of", sorted(needed - done.keys())),
        (f"an {act} of the unknown", sorted(done.keys() - needed)),
    )
    return [f"{text} {thing} {key}" for text, keys in parts for key in keys[:_SHOWN]]


def _never_twice(journal: Journal, kind: str) -> list[str]:
    counts = Counter(event.key for event in journal.of(kind))
    return [f'"{kind}" {times} times: {key}' for key, times in counts.items() if times > 1]


def misplaced(
    acknowledged: Iterable[int], sent: Iterable[int], rows: Mapping[int, int]
) -> Counter[str]:
    """Return the faults of a table: lost, repeated or unknown records.

    :param rows: number of rows of each record.
    """
    sent = set(sent)
    return Counter(
        lost=sum(number not in rows for number in acknowledged),
        repeated=sum(count > 1 for count in rows.values()),
        unknown=sum(number not in sent for number in rows),
    )
