"""Resources used by processes so far: processor time and bytes written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = ["Usage", "below", "cpu_seconds", "is_etcd", "usage"]

_TICKS = os.sysconf("SC_CLK_TCK")
_NANOSECONDS = 10**9


@attrs.frozen
class Usage:
    """Resources used by some processes, including all their threads.

    :ivar cpu: seconds of processor time.
    :ivar written: bytes written to the disk; a page counts again if it is changed after it was
        written.
    """

    cpu: float
    written: int

    def __sub__(self, before: Usage) -> Usage:
        return Usage(self.cpu - before.cpu, self.written - before.written)


def below(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in below(int(child)))]


def cpu_seconds(pid: int) -> float:
    """Return the processor time of all threads, in user and kernel mode, in steps of a tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def is_etcd(pid: int) -> bool:
    """Return whether a process is etcd, by the name of its program."""
    program = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
    return program.rpartition(b"/")[2] == b"etcd"


def usage(pids: list[int]) -> Usage:
    """Return the resources used by the processes *pids* since they started."""
    return Usage(
        sum(nanoseconds for pid in pids for nanoseconds in _run_times(pid)) / _NANOSECONDS,
        sum(_written(pid) for pid in pids),
    )


def _run_times(pid: int) -> Iterator[int]:
    """Yield the run time of each thread in nanoseconds: a nearly idle process has no ticks."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            yield int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue  # the thread has ended meanwhile


def _written(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes:")).split()[1])
