"""The single file without Python, libraries or environment variables."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests.conftest import free_ports
from tests.docs.blocks import ROOT, blocks, matches
from tests.e2e.processes import ALL, COLUMNS, TABLE, Deployment, Running, wait_for

TEMPLATE = {
    "type": "template",
    "name": "shout",
    "rawString": True,
    "template": {"language": "jsonnet", "content": "std.asciiUpper(Body('id'))"},
}


@attrs.define(eq=False)
class Alone(Deployment):
    """A deployment of the single file whose environment has only settings."""

    file: Path = attrs.field(kw_only=True)

    def environment(self, node_id: str = "node-1") -> dict[str, str]:
        settings = super().environment(node_id)
        return {name: value for name, value in settings.items() if name.startswith("STREAM_")} | {
            "PATH": "/nonexistent",
            "STREAM_BUNDLE_DIR": str(self.root / "unpacked"),
        }

    def command(self, components: Sequence[str]) -> list[str]:
        return [str(self.file), *components]


@attrs.define(eq=False)
class Jailed(Alone):
    """A deployment in another root: a directory with the file, `/dev/null` and the volumes."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        shutil.copy(self.file, self.root / "stream-service")
        (self.root / "dev").mkdir()
        os.mknod(self.root / "dev" / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))

    def environment(self, node_id: str = "node-1") -> dict[str, str]:
        outside = super().environment(node_id)
        return {name: value.replace(str(self.root), "") for name, value in outside.items()}

    def command(self, components: Sequence[str]) -> list[str]:
        return [str(shutil.which("chroot")), str(self.root), "/stream-service", *components]


@contextmanager
def _running(deployed: Deployment, **settings: str) -> Iterator[Running]:
    try:
        yield deployed.start(*ALL, **settings)
    finally:
        deployed.stop_all()


def _check_a_record(deployed: Deployment) -> None:
    """Check that a record is acknowledged, and that its row has the result of a template."""
    url = deployed.define([*COLUMNS, TEMPLATE])
    wait_for(lambda: deployed.push(url, {"id": "ada"}) == (200, b"OK"), "an acknowledged record")
    wait_for(lambda: deployed.rows(TABLE), "a row in the table")
    assert {row[-1] for row in deployed.rows(TABLE)} == {"ADA"}


def test_empty_environment_and_workers(single_file: Path, tmp_path: Path) -> None:
    """All components run without environment and PATH: etcd, workers, templates, the table."""
    deployed = Alone(tmp_path, file=single_file)
    metrics = f"127.0.0.1:{free_ports(3)}"  # the next two are those of the workers
    with _running(
        deployed, STREAM_SOURCE_HTTP_WORKERS="2", STREAM_METRICS_LISTEN=metrics
    ) as process:
        _check_a_record(deployed)
        assert process.stop() == 0


def test_bare_root(single_file: Path, tmp_path: Path) -> None:
    """All components run in a root directory without C library, shell or /proc."""
    if os.geteuid() != 0:
        pytest.skip("changing the root needs root")
    deployed = Jailed(tmp_path, file=single_file)
    seconds = []
    for _ in range(2):
        began = time.monotonic()
        with _running(deployed) as process:
            seconds.append(time.monotonic() - began)
            if len(seconds) == 1:
                _check_a_record(deployed)
            assert process.stop() == 0
    size = single_file.stat().st_size / 2**20
    print(f"{size:.0f} MiB, ready after {seconds[0]:.1f} s, unpacked before {seconds[1]:.1f} s")


def _version(file: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [file, "--version"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_line(single_file: Path, tmp_path: Path) -> None:
    """A link named `stream` runs the command line, whose libraries are included."""
    link = tmp_path / "stream"
    link.symlink_to(single_file)
    environment = {"STREAM_BUNDLE_DIR": str(tmp_path / "unpacked")}
    for arguments, expected in ((["--help"], "Usage: stream "), (["push", "--help"], "SOURCE")):
        done = subprocess.run(
            [link, *arguments], env=environment, capture_output=True, text=True, check=True
        )
        assert expected in done.stdout


def test_the_documented_commands(single_file: Path) -> None:
    """The commands of the page print what it shows; the task is the one that built the file."""
    for block in blocks(ROOT / "docs" / "single-file.md"):
        if not block.text.startswith("make "):
            command = ["bash", "-euc", block.text]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            assert matches(block.printed or "", done.stdout)


def test_concurrent_first_starts(single_file: Path, tmp_path: Path) -> None:
    """Processes that start concurrently unpack the file once, and each of them runs."""
    started = [_version(single_file, STREAM_BUNDLE_DIR=str(tmp_path)) for _ in range(3)]
    for process in started:
        output, errors = process.communicate(timeout=60)
        assert output.startswith("stream ") and not errors
        assert process.returncode == 0
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_foreign_modules_are_not_used(single_file: Path, tmp_path: Path) -> None:
    """The working directory and PYTHON… variables don't affect the included Python."""
    (tmp_path / "stream").mkdir()
    (tmp_path / "stream" / "__init__.py").write_text("raise SystemExit('not ours')")
    done = subprocess.run(
        [single_file, "--version"],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(tmp_path),
            "PYTHONHOME": str(tmp_path),
            "STREAM_BUNDLE_DIR": str(tmp_path / "unpacked"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("stream ")


def test_damaged_file(single_file: Path, tmp_path: Path) -> None:
    """A changed or truncated file is refused, and unpacks nothing that could run."""
    content = bytearray(single_file.read_bytes())
    content[len(content) // 2] ^= 1
    changed, cut = tmp_path / "changed", tmp_path / "cut"
    changed.write_bytes(content)
    cut.write_bytes(content[:-1000])
    for path in (changed, cut):
        path.chmod(0o755)
        process = _version(path, STREAM_BUNDLE_DIR=str(tmp_path / "unpacked"))
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert errors.startswith("Error: ")
    unpacked = tmp_path / "unpacked"
    assert not unpacked.exists() or not [path for path in unpacked.iterdir() if path.is_dir()]


def test_a_directory_that_others_can_write_to(single_file: Path, tmp_path: Path) -> None:
    """A directory that others can write to isn't used."""
    own = tmp_path / f"stream-service-{os.geteuid()}"
    own.mkdir()
    own.chmod(0o777)
    process = _version(single_file, TMPDIR=str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "can be changed by others" in errors


@pytest.mark.parametrize("place", [".", "above", "above/own"])
def test_a_chosen_directory_that_others_can_write_to(
    place: str, single_file: Path, tmp_path: Path
) -> None:
    """Only the owner may be able to write to STREAM_BUNDLE_DIR and its parents."""
    own = tmp_path / "above" / "own"
    own.mkdir(parents=True)
    (tmp_path / place).chmod(0o777)
    process = _version(single_file, STREAM_BUNDLE_DIR=str(own))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f'"{(tmp_path / place).resolve()}" can be changed by others' in errors
    assert list(own.iterdir()) == []
    (tmp_path / place).chmod(0o1777 if place != "above/own" else 0o755)
    process = _version(single_file, STREAM_BUNDLE_DIR=str(own))
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "") and output.startswith("stream ")


def test_no_directory_to_unpack_to(single_file: Path, tmp_path: Path) -> None:
    """The error names the directory, the reason and a solution."""
    (tmp_path / "file").touch()
    process = _version(single_file, STREAM_BUNDLE_DIR=str(tmp_path / "file" / "below"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == (
        f'Error: cannot unpack to "{tmp_path}/file/below": mkdir {tmp_path}/file: not a directory;'
        " STREAM_BUNDLE_DIR may name another directory.\n"
    )


def test_killed_while_unpacking(single_file: Path, tmp_path: Path) -> None:
    """An incomplete directory is unpacked again, also by a waiting process."""
    first = _version(single_file, STREAM_BUNDLE_DIR=str(tmp_path))
    wait_for(lambda: list(tmp_path.glob("*.partial/lib")), "the beginning of the unpacking")
    second = _version(single_file, STREAM_BUNDLE_DIR=str(tmp_path))
    first.kill()
    first.communicate()
    output, errors = second.communicate(timeout=60)
    assert (second.returncode, errors) == (0, "")
    assert output.startswith("stream ")
    assert not list(tmp_path.glob("*.partial"))
