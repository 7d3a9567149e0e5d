"""A real writer process that is killed during an append."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from stream.storage.volumes.recovery import readable_prefix
from stream.storage.writer.disk import open_disk_file


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("round_", range(2))
def test_acknowledged_data_survives_a_kill(tmp_path: Path, compression: str, round_: int) -> None:
    """All acknowledged data can be read, and the file is continued after it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.storage.writer.killed", str(tmp_path), compression],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        wanted = random.Random(f"{compression}{round_}").randint(5, 60)
        lines = [child.stdout.readline() for _ in range(wanted)]
    finally:
        child.kill()
    lines += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    whole = [int(line) for line in lines if line.endswith(b"\n")]
    (path,) = tmp_path.rglob("slice-*")
    file = open_disk_file(path, tmp_path, life=1, resume=-1, compression=compression, reserve=0)
    assert file.length >= whole[-1] > 0
    file.close()
    assert path.stat().st_size == file.length
    with path.open("rb") as stored:
        readable = readable_prefix(stored, compression)
    assert readable.length == file.length
    assert readable.rows >= len(whole) * 50
