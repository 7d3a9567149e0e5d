"""A streaming CSV parser with bounded memory, which converts bytes to batches of rows.

It reads RFC 4180: any mix of quoted and plain fields, LF or CRLF line ends, and separators and line
ends inside quotes. This includes the form that sinks write, in which every field is quoted and each
row ends with LF. To the standard library's strict reader it adds the limits, the check of the
number of fields, and two decisions:

* **Bytes that aren't UTF-8** become U+FFFD. A TEXT column can't hold such bytes, and a BLOB among
  texts would surprise every query; one damaged value must not refuse a whole load. NUL characters
  are kept.
* **An empty line** is a row with one empty field. It is valid in a table with one column, and has
  the wrong number of fields in any other table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO, cast

__all__ = ["MAX_ROW_CHARS", "CsvError", "row_batches"]

MAX_ROW_CHARS = 32 * 1024 * 1024
"""Maximum length of a row, including quotes, and therefore of a field."""

# The reader's limit of 128 KiB per field is global to the process, so it is only ever raised.
csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_CHARS))


class CsvError(Exception):
    """The bytes aren't CSV rows of the expected width.

    The message contains the number of the row, starting at 1, and the problem.
    """


class _Lines:
    """The physical lines of a stream; `taken` counts the characters since its last reset."""

    def __init__(self, stream: BinaryIO, max_chars: int) -> None:
        self.taken = 0
        self._max_chars = max_chars
        # With newline="\n", a line ends only at LF and nothing is translated, so CR and CRLF inside
        # quotes are preserved. The wrapper's decoder handles characters that are split between two
        # reads.
        self._text = io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="\n")

    def __iter__(self) -> Iterator[str]:
        readline, limit = self._text.readline, self._max_chars
        while line := readline(limit + 1):
            self.taken += len(line)
            if self.taken > limit:
                raise CsvError(f"is longer than {limit} characters")
            yield line

    def release(self) -> None:
        """Detach the stream without closing it."""
        self._text.detach()


def row_batches(
    stream: BinaryIO,
    fields: int,
    *,
    delimiter: str = ",",
    enclosure: str = '"',
    max_rows: int = 5000,
    max_chars: int = 4 * 1024 * 1024,
    max_row_chars: int = MAX_ROW_CHARS,
) -> Iterator[list[list[str]]]:
    """Yield the rows of *stream* in non-empty batches; the stream is left open.

    Raises CsvError: malformed quoting, a wrong number of fields, or a row that is too long. Rows
    before it may already have been yielded.

    :param stream: a readable binary file, positioned at its beginning.
    :param fields: required number of fields in each row.
    :param max_rows: maximum number of rows in a batch; a batch also ends when it exceeds
        *max_chars* characters.
    """
    lines = _Lines(stream, max_row_chars)
    reader = csv.reader(lines, delimiter=delimiter, quotechar=enclosure, strict=True)
    done, size = 0, 0
    batch: list[list[str]] = []
    try:
        for row in reader:
            if len(row) != fields:
                row = row or [""]
                if len(row) != fields:
                    raise CsvError(f"has {len(row)} fields, expected {fields}")
            batch.append(row)
            size += lines.taken
            lines.taken = 0
            if len(batch) >= max_rows or size >= max_chars:
                yield batch
                done += len(batch)
                batch, size = [], 0
    except (CsvError, csv.Error) as error:
        raise CsvError(f"row {done + len(batch) + 1} {_reason(error)}") from error
    finally:
        lines.release()
    if batch:
        yield batch


def _reason(error: Exception) -> str:
    if isinstance(error, CsvError):
        return str(error)
    # The reader's messages ("unexpected end of data") describe the parser and not the row.
    return f"is not valid CSV: {cast(str, error.args[0])}"
