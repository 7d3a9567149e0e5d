"""Repairs plain slice files of the original service with a torn row in the middle. Blocks.

If a writer of the original was killed while it wrote a row, the beginning of the row remains in the
file. The next rows are written directly after it and are acknowledged. Every value is quoted, so
after a torn row the quoted and the unquoted text seem to be swapped: the rest of the file would be
read as one unfinished row.

So the next row is searched for that has as many values as most rows of the file. The text before it
was never acknowledged, and is omitted from the file that replaces this one; the unrepaired file is
kept. If the text can be read in two ways, the longer row is used.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from itertools import chain, islice
from pathlib import Path
from typing import Any

from stream.ops.durable import sync_directory, sync_file
from stream.storage.volumes.quarantine import link_quarantined

__all__ = ["drop_torn_rows", "whole_rows"]

_VALUE = rb'"[^"]*+(?:""[^"]*+)*+"'
_ROW = re.compile(_VALUE + rb"(?:," + _VALUE + rb")*+\n")
_VALUES = re.compile(_VALUE)
_QUOTE = ord('"')
_CLOSED_INSIDE = re.compile(rb'(?<!")""++(?=[,\n])')
"""Quotes within a value that could be a complete value or the end of one."""
_COUNTED_ROWS = 1_000
_COPIED_BYTES = 1024 * 1024


def whole_rows(data: Any) -> list[tuple[int, int]]:
    """Return the parts of a plain file that are complete rows; adjacent rows form one part.

    :param data: the content, as bytes or a memory map.
    """
    count = _usual_values(data)
    if not count:
        return []
    repeated = rb"(?:," + _VALUE + rb"){%d}+\n" % (count - 1)
    usual = re.compile(_VALUE + repeated)
    parts: list[tuple[int, int]] = []
    position = 0
    while position < len(data):
        row = usual.match(data, position)
        if row is not None:
            start, end = position, row.end()
        else:
            start, end = _next_row(data, position, usual, count)
            if end < 0:
                break
        if parts and parts[-1][1] == start:
            parts[-1] = (parts[-1][0], end)
        else:
            parts.append((start, end))
        position = end
    return parts


def _usual_values(data: Any) -> int:
    """Return the number of values that most rows have; 0 if there are none.

    Rows before the first torn row can't be misread. Later rows count only if there are no rows
    before it.
    """
    counts = Counter(_counted(_leading_rows(data))) or Counter(_counted(_any_rows(data)))
    return counts.most_common(1)[0][0] if counts else 0


def _leading_rows(data: Any) -> Iterator[re.Match[bytes]]:
    position = 0
    while (row := _ROW.match(data, position)) is not None:
        yield row
        position = row.end()


def _any_rows(data: Any) -> Iterator[re.Match[bytes]]:
    start, end = _found(data, 0, _ROW)
    while end >= 0:
        row = _ROW.match(data, start)
        assert row is not None
        yield row
        start, end = _found(data, end, _ROW)


def _counted(rows: Iterable[re.Match[bytes]]) -> Iterator[int]:
    return (len(_VALUES.findall(row[0])) for row in islice(rows, _COUNTED_ROWS))


def _next_row(data: Any, position: int, usual: re.Pattern[bytes], count: int) -> tuple[int, int]:
    """Return where the row after a torn row begins and ends; -1 and -1 if none follows."""
    odd = _ROW.match(data, position)
    if odd is not None:
        values = [value.start() for value in _VALUES.finditer(odd[0])]
        # The torn row ends with a comma, so its values look like the first values of this row. A
        # row with fewer values isn't torn.
        return position + values[max(0, len(values) - count)], odd.end()
    return _found(data, position + 1, usual)


def _found(data: Any, position: int, rows: re.Pattern[bytes]) -> tuple[int, int]:
    """Return where the first match of *rows* begins and ends; -1 and -1 if there is none.

    The result is that of ``rows.search``, but not every quote is tried. A torn JSON object of one
    megabyte contains a hundred thousand quotes. A value could begin at half of them, and all of
    those values would end at the same quote. If the first of them doesn't begin a row, the others
    don't either, except those whose value ends earlier.
    """
    at = data.find(b'"', position)
    while at >= 0:
        row = rows.match(data, at)
        if row is not None:
            return row.span()
        value = _VALUES.match(data, at)
        last = len(data) if value is None else value.end() - 1
        inside = (closed.start() for closed in _CLOSED_INSIDE.finditer(data, at + 1, last))
        for start in chain([at + 1], inside):
            row = rows.match(data, start)
            if row is not None:
                return row.span()
        if value is None:
            break
        # Go back to the first quote at the end of the value, since it may begin another value.
        while last - 1 > at and data[last - 1] == _QUOTE:
            last -= 1
        at = last
    return -1, -1


def drop_torn_rows(path: Path) -> Path | None:
    """Replace a plain file that has torn rows in the middle with a file without them.

    The file is either unchanged or replaced, however often the function is interrupted.

    A file that the disk can't read remains unchanged; see `stream.storage.volumes.recovery`.

    :returns: the path of the unrepaired file; ``None`` if nothing was changed.
    """
    if not path.stat().st_size:
        return None
    with path.open("rb", buffering=0) as file:
        if not _is_readable(file):
            return None
        kept = _without_torn_rows(path, file)
    if kept is not None:
        sync_directory(path.parent)
    return kept


def _is_readable(file: FileIO) -> bool:
    """Read the file once, because an unreadable page of a mapped file would kill the process."""
    try:
        while file.read(_COPIED_BYTES):
            pass
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False
    return True


def _without_torn_rows(path: Path, file: FileIO) -> Path | None:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        parts = whole_rows(data)
        if not parts or (len(parts) == 1 and parts[0][0] == 0):
            return None
        return _write(path, data, parts)


def _write(path: Path, data: Any, parts: Sequence[tuple[int, int]]) -> Path:
    """Write *parts* into a file that replaces *path*; return the new path of the old file."""
    replacing = path.with_name(f".{path.name}.finished")
    replacing.unlink(missing_ok=True)
    mode = path.stat().st_mode & 0o777
    descriptor = os.open(replacing, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as target:
            for start, end in parts:
                for at in range(start, end, _COPIED_BYTES):  # most of a slice may be one part
                    target.write(data[at : min(end, at + _COPIED_BYTES)])
            target.flush()
            sync_file(target.fileno())
        kept = link_quarantined(path)
        replacing.replace(path)
    except BaseException:
        replacing.unlink(missing_ok=True)
        raise
    return kept
