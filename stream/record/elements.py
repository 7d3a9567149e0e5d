"""The records in the body of one request, which is a single record or a batch. Pure.

The listener parses large batches in steps. Other callers, such as the test of a mapping, parse them
in one call with the same result.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import repeat
from typing import Any

import orjson

from stream.errors import UserError
from stream.record.body import ready_body
from stream.record.charset import BOM, without_bom
from stream.record.context import UNPARSED, RecordContext
from stream.record.encoding import decode_body
from stream.record.errors import BatchTooLarge
from stream.record.headers import BodyKind, RecordHeaders
from stream.record.jsontree import array_items, check_bounds, check_steps, parse_json
from stream.record.steps import result_of

__all__ = [
    "MAX_LINES_PER_RECORD",
    "Element",
    "array_elements",
    "array_steps",
    "batch_option",
    "is_batch",
    "line_elements",
    "line_steps",
    "read_records",
]

MAX_LINES_PER_RECORD = 10
"""Maximum number of blank lines per record; blank lines are skipped."""

LINE_BYTES_AT_ONCE = 32 * 1024
"""Number of bytes of a batch that are split into lines in one step, at least a whole line."""

ITEMS_AT_ONCE = 64
BYTES_AT_ONCE = 128 * 1024
"""Number of bytes of an array's items that are found or parsed in one step."""

MAX_ITEM_BYTES = 1024 * 1024
"""Maximum size of an array item, because an item is parsed in one step for validation."""

KEPT_BYTES = 1024 * 1024
"""Maximum size of an array whose parsed values are kept.

The values of a larger array are parsed again for rendering, because values can take fifty times the
memory of their text.
"""


_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "y", "on", "t"), True),
    **dict.fromkeys(("false", "0", "no", "n", "off", "f"), False),
}

Element = tuple[int, bytes, Any]
"""One record of a batch: its position, its source text, and its document or `UNPARSED`.

The position is a line number, starting at 1, or an array index, starting at 0.
"""


def line_elements(body: bytes, max_records: int) -> list[Element]:
    """Return the lines of *body* that aren't blank; see `line_steps`."""
    return result_of(line_steps(body, max_records))


def line_steps(body: bytes, max_records: int) -> Generator[None, None, list[Element]]:
    """Return the lines of *body* that aren't blank, in small steps. Raises BatchTooLarge."""
    max_lines = MAX_LINES_PER_RECORD * max_records
    elements: list[Element] = []
    ends = start = 0
    while start < len(body):
        end = body.find(b"\n", start + LINE_BYTES_AT_ONCE - 1) + 1 or len(body)
        piece = body[start:end]
        # A line may have megabytes, so it is searched for single bytes only, which is fast.
        *lines, last = piece.split(b"\n")
        if b"\r" in piece:
            lines = [line.removesuffix(b"\r") for line in lines]
        lines.append(last)
        if BOM[:1] in piece:  # concatenated files contain BOMs
            lines = [without_bom(line) for line in lines]
        elements += [
            (place, line, UNPARSED)
            for place, line in enumerate(lines, ends + 1)
            if line and not line.isspace()
        ]
        ends += len(lines) - 1
        if ends > max_lines:
            raise BatchTooLarge(
                f"the batch has more than {max_lines} lines, the maximum of records is "
                f"{max_records}, please split it"
            )
        start = end
        yield
    if len(elements) > max_records:
        raise BatchTooLarge(
            f"the batch has {len(elements)} records, the maximum is {max_records}, please split it"
        )
    return elements


def array_elements(body: bytes, max_records: int) -> list[Element]:
    """Return the items of the JSON array *body*; see `array_steps`."""
    return result_of(array_steps(body, max_records))


def array_steps(body: bytes, max_records: int) -> Generator[None, None, list[Element]]:
    """Parse the JSON array in small steps. Raises InvalidJson, BatchTooLarge.

    The items are counted before any of them is parsed, and are parsed a few at a time.
    """
    texts: list[bytes] = []
    for text in array_items(body, MAX_ITEM_BYTES):
        if text is None:
            yield
            continue
        if len(texts) >= max_records:
            raise BatchTooLarge(
                f"the batch has more records than the maximum of {max_records}, please split it"
            )
        if len(text) > MAX_ITEM_BYTES:
            raise BatchTooLarge(
                f"item {len(texts)} of the batch has more than {MAX_ITEM_BYTES} bytes, "
                "please send it as a separate record"
            )
        texts.append(text)
        if not len(texts) % ITEMS_AT_ONCE:
            yield
    keeps_values = len(body) <= KEPT_BYTES
    elements: list[Element] = []
    start = 0
    while start < len(texts):
        end, size = start, 0
        while end < len(texts) and end - start < ITEMS_AT_ONCE:
            size += len(texts[end])
            if size > BYTES_AT_ONCE and end > start:
                break  # a large item is checked alone
            end += 1
        is_checked = False
        if end - start == 1:
            is_checked = yield from check_steps(texts[start])
        values: Sequence[Any] = [UNPARSED] if is_checked else _parse_items(texts[start:end])
        elements += zip(
            range(start, end),
            texts[start:end],
            values if keeps_values else repeat(UNPARSED),
            strict=False,
        )
        start = end
        yield
    return elements


def _parse_items(texts: Sequence[bytes]) -> Sequence[Any]:
    """Return the documents in *texts*. Raises InvalidJson."""
    for text in texts:
        check_bounds(text)
    try:
        values: list[Any] = orjson.loads(b"[%b]" % b",".join(texts))
        if len(values) == len(texts):
            return values
    except orjson.JSONDecodeError:
        pass
    return [parse_json(text) for text in texts]


def batch_option(text: str | None) -> bool | str | None:
    """Return the value of the parameter ``batch``; an invalid value is returned as text."""
    return None if text is None else _BOOLEANS.get(text.lower(), text)


def is_batch(option: bool | str | None, headers: RecordHeaders) -> bool:
    """Return whether the body is a batch.

    :param option: see `batch_option`.

    Raises UserError: it is ambiguous whether it is one, or the boundaries of records are unknown.
    """
    if isinstance(option, str):
        raise UserError(
            f'invalid value "{option}" of the parameter "batch", please use true or false'
        )
    if option is None:
        return headers.is_batch
    if option and headers.kind not in (BodyKind.JSON, BodyKind.JSON_LINES):
        raise UserError(
            f'unsupported content type "{headers.content_type}" of a batch, '
            "supported types: application/json and application/x-ndjson",
            status=415,
            name="unsupportedMediaType",
        )
    return option


def read_records(
    request: RecordContext,
    encoding: bytes,
    option: bool | str | None,
    *,
    max_bytes: int,
    max_records: int,
) -> list[RecordContext]:
    """Return the records of a request, as the listener would accept them.

    Raises UserError: the listener would refuse the request.

    :param request: record that contains the body as received.
    :param encoding: lower-case value of ``Content-Encoding``.
    :param option: see `batch_option`.
    :param max_bytes: maximum size of the decoded body.
    """
    headers = request.headers
    body = ready_body(headers, decode_body(encoding, request.body, max_bytes))

    def record(headers: RecordHeaders, body: bytes) -> RecordContext:
        return RecordContext(request.timestamp_ms, request.client_ip, headers, body)

    if not is_batch(option, headers):
        return [record(headers, body)]
    read = line_elements if headers.kind is BodyKind.JSON_LINES else array_elements
    return [record(headers.of_json, text) for _, text, _ in read(body, max_records)]
