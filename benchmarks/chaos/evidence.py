"""Evidence of a run: errors in the logs, and the locations of a record."""

from __future__ import annotations

import csv
import io
import json
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

__all__ = ["complaints", "rows_of", "unhandled", "whereabouts"]

_NEVER_RIGHT = re.compile(r"Unhandled [Ee]rror|never awaited|AssertionError|log observer")
_PARTICULARS = re.compile(r'"[^"]*"|\S*/\S+|\b\d{4}-\d\d-\d\dT\S+|\b[0-9a-f]{8,}\b|\d+(\.\d+)?')
_GZIP = 31


def complaints(logs: Iterable[Path]) -> Counter[str]:
    """Return the logged errors, including unhandled ones, by component and without details."""
    found: Counter[str] = Counter()
    for log in logs:
        for line in _lines(log):
            if line.startswith("{"):
                event = json.loads(line)
                if event["level"] == "error":
                    text = _PARTICULARS.sub("…", event["message"].partition("\n")[0])[:160]
                    kind = event.get("error.type", "")
                    found[f"{_source(log)}: {text} {kind}".strip()] += 1
    return found


def unhandled(logs: Iterable[Path]) -> list[str]:
    """Return unhandled errors: defects of the service in any circumstances."""
    found = []
    for log in logs:
        is_trace = False
        for line in _lines(log):
            is_outside = not line.startswith("{") and line.startswith("Traceback")
            if (is_outside and not is_trace) or _NEVER_RIGHT.search(line):
                found.append(f"{log.name}: {line[:600]}")
            is_trace = is_outside
    return found


def _lines(log: Path) -> Iterator[str]:
    with log.open(errors="replace") as text:
        for line in text:
            # A killed process may have left an incomplete line.
            if not line.startswith("{") or line.endswith("}\n"):
                yield line.rstrip("\n")


def _source(log: Path) -> str:
    return log.stem.partition("-")[2]


def whereabouts(root: Path, numbers: Collection[int]) -> dict[int, list[str]]:
    """Return the slice files and staged objects with these records, and the number in each."""
    wanted = {str(number) for number in numbers}
    found: dict[int, list[str]] = defaultdict(list)
    files = [*root.glob("volumes-*/*/*/**/*slice-*"), *root.glob("sandbox/*/staging/**/*")]
    for path in files:
        if not path.is_file():
            continue
        times = Counter(row[0] for row in rows_of(path.read_bytes()) if row and row[0] in wanted)
        for number, count in times.items():
            found[int(number)].append(f"{path.relative_to(root)} ×{count}")
    return found


def rows_of(data: bytes) -> Iterator[list[str]]:
    """Iterate over the rows of a slice, compressed or not, up to its last whole part."""
    if data[:2] == b"\x1f\x8b":
        data = b"".join(_members(data))
    return csv.reader(io.StringIO(data.decode(errors="replace"), newline=""))


def _members(data: bytes) -> Iterator[bytes]:
    while data:
        member = zlib.decompressobj(_GZIP)
        try:
            yield member.decompress(data)
        except zlib.error:
            return
        data = member.unused_data
