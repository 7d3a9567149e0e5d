"""The protocol between a node and its engine processes: frames of bytes. Pure.

A frame consists of its length in four bytes, a letter, and the content:

    node            engine
                    H               ready
    P plan          templates with a number, for use by later batches
    D number        a plan that is no longer needed
    B batch         records to evaluate, each with the number of a plan
                    R results       results of some records, sent as soon as they are available
                    E               end of the batch: its other records are postponed
    C templates     templates to parse without running them
                    K faults        what is wrong with each template

The engine is trusted less than the node, because it runs users' code. So its frames are parsed with
limits, and an invalid frame is treated like the end of the process.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any

import attrs
import orjson

from stream.errors import NestedError, UserError
from stream.mapping.plan import CellTooBig, Evaluated, PlannedPath, PlannedTemplate, TemplatePlan
from stream.record.context import UNPARSED, RecordContext
from stream.record.headers import BodyKind, RecordHeaders

__all__ = [
    "MAX_FRAME_BYTES",
    "BatchItem",
    "BatchReader",
    "FrameBuffer",
    "ProtocolError",
    "decode_plan",
    "decode_results",
    "encode_batch",
    "encode_plan",
    "encode_result",
    "encode_results",
    "error_from_plain",
    "error_to_plain",
    "frame",
]

MAX_FRAME_BYTES = 128 * 1024 * 1024
MAX_MESSAGE_CHARACTERS = 2000
"""Maximum length of a failure's message; the template may choose the message."""

MAX_CHILDREN = 20

_LENGTH = Struct(">I")
_SERIAL = Struct("<Q")
_RESULT = Struct("<IBdII")
_NO_HEADERS = -1


class ProtocolError(Exception):
    """The other side sent an invalid frame."""


def frame(letter: bytes, data: bytes = b"") -> bytes:
    """Return a frame."""
    return _LENGTH.pack(1 + len(data)) + letter + data


class FrameBuffer:
    """A buffer that splits received bytes into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Return the letter and the content of each complete frame. Raises ProtocolError."""
        buffer = self._data
        buffer += data
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer, start)
            if not 0 < size <= MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {size} bytes")
            begin = start + _LENGTH.size
            if len(buffer) - begin < size:
                break
            start = begin + size
            with memoryview(buffer) as view:  # slicing the buffer itself would make another copy
                letter, rest = bytes(view[begin : begin + 1]), bytes(view[begin + 1 : start])
            yield letter, rest
        del buffer[:start]


# From the node to the engine.


def encode_plan(number: int, plan: TemplatePlan) -> bytes:
    """Return the frame of a plan."""
    templates = [
        [type(template) is PlannedPath, *attrs.astuple(template)] for template in plan.templates
    ]
    return frame(b"P", _dumps([number, plan.limit, templates]))


def decode_plan(data: bytes) -> tuple[int, TemplatePlan]:
    """Return the number and the plan in a frame."""
    number, limit, templates = json.loads(data)
    planned = [(PlannedPath if is_path else PlannedTemplate)(*item) for is_path, *item in templates]
    return number, TemplatePlan(tuple(planned), limit)


@attrs.frozen(eq=False)
class BatchItem:
    """A record in a batch for an engine process.

    :ivar plan: the number of `record`'s plan.
    """

    plan: int
    needs_body: bool
    needs_headers: bool
    record: RecordContext


def encode_batch(serial: int, seconds: float, items: Sequence[BatchItem]) -> list[bytes]:
    """Return the frame of a batch in parts, because a copy of large bodies takes milliseconds.

    :param serial: number of the batch.
    :param seconds: time after which the remaining records are postponed.
    """
    headers: dict[int, int] = {}
    all_headers: list[Any] = []
    records = []
    bodies = []
    for item in items:
        record = item.record
        place = _NO_HEADERS
        if item.needs_headers:
            of_record = record.headers
            known = headers.get(id(of_record))
            if known is None:
                known = headers[id(of_record)] = len(all_headers)
                all_headers.append(_plain_headers(of_record))
            place = known
        body = record.body if item.needs_body else b""
        bodies.append(body)
        records.append(
            (item.plan, record.timestamp_ms, record.client_ip, record.signal, place, len(body))
        )
    head = _dumps([serial, seconds, all_headers, records])
    start = _LENGTH.pack(len(head)) + head
    size = len(start) + sum(map(len, bodies))
    return [_LENGTH.pack(1 + size) + b"B" + start, *bodies]


def _plain_headers(headers: RecordHeaders) -> Any:
    raw = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers.raw]
    return [headers.kind.value, raw]


def _headers(plain: Any) -> RecordHeaders:
    kind, raw = plain
    headers = RecordHeaders(
        tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in raw)
    )
    headers.kind = BodyKind(kind)
    return headers


class BatchReader:
    """A batch as parsed by the engine.

    :ivar records: records, each with the number of its plan.
    """

    def __init__(self, data: bytes) -> None:
        (size,) = _LENGTH.unpack_from(data)
        start = _LENGTH.size + size
        self.serial, self.seconds, all_headers, records = json.loads(data[_LENGTH.size : start])
        headers = [_headers(plain) for plain in all_headers]
        none = RecordHeaders(())
        self.records: list[tuple[int, RecordContext]] = []
        for plan, timestamp_ms, client_ip, signal, place, length in records:
            body = data[start : start + length]
            start += length
            record = RecordContext(
                timestamp_ms,
                client_ip,
                none if place == _NO_HEADERS else headers[place],
                body,
                signal,
                # The body of an OTLP record is its content, formatted as JSON.
                json.loads(body) if signal and body else UNPARSED,
            )
            self.records.append((plan, record))


# From the engine to the node.


def encode_result(index: int, result: Evaluated) -> bytes:
    """Return the part of a frame of results that describes one record."""
    error = b"" if result.error is None else _dumps(error_to_plain(result.error))
    return b"".join(
        (
            _RESULT.pack(
                index, result.error is not None, result.seconds, len(result.cells), len(error)
            ),
            *[_LENGTH.pack(len(cell)) for cell in result.cells],
            *result.cells,
            error,
        )
    )


def encode_results(serial: int, results: Sequence[bytes]) -> bytes:
    """Return the content of a frame with *results* of one batch."""
    return b"".join([_SERIAL.pack(serial), *results])


def decode_results(data: bytes) -> tuple[int, Iterator[tuple[int, Evaluated]]]:
    """Return the batch's number, and the index and result of each record. Raises ProtocolError."""
    if len(data) < _SERIAL.size:
        raise ProtocolError("results without a batch")
    return _SERIAL.unpack_from(data)[0], _results(data)


def _results(data: bytes) -> Iterator[tuple[int, Evaluated]]:
    position = _SERIAL.size
    try:
        while position < len(data):
            index, has_error, seconds, count, error_size = _RESULT.unpack_from(data, position)
            position += _RESULT.size
            end = position + _LENGTH.size * count
            lengths = [_LENGTH.unpack_from(data, at)[0] for at in range(position, end, 4)]
            position = end
            cells = []
            for length in lengths:
                cells.append(data[position : position + length])
                position += length
            error = None
            if has_error:
                error = error_from_plain(json.loads(data[position : position + error_size]))
                position += error_size
            if position > len(data):
                raise ProtocolError("a result is truncated")
            yield index, Evaluated(cells, error, seconds)
    except (struct.error, ValueError, TypeError, KeyError, RecursionError) as problem:
        raise ProtocolError("a result can't be read") from problem


def error_to_plain(error: UserError) -> dict[str, Any]:
    """Return *error* as plain JSON values of limited size."""
    if isinstance(error, CellTooBig):
        return {"tooBig": True}
    plain: dict[str, Any] = {"status": error.status, "name": error.name}
    for flag in ("verbatim", "alone"):
        if getattr(error, flag, False):
            plain[flag] = True
    if isinstance(error, NestedError):
        plain["prefix"] = _short(error.prefix)
        plain["children"] = [
            error_to_plain(child) if isinstance(child, UserError) else _short(str(child))
            for child in error.children[:MAX_CHILDREN]
        ]
    else:
        plain["message"] = _short(str(error))
    return plain


def error_from_plain(plain: Any) -> UserError:
    """Return the error that *plain* describes. Raises ValueError, TypeError, KeyError."""
    if "tooBig" in plain:
        return CellTooBig()
    status, name = int(plain["status"]), str(plain["name"])
    if not 400 <= status < 600:
        raise ValueError("not the status of an error")
    error: UserError
    if "prefix" in plain:
        children = [
            child if isinstance(child, str) else error_from_plain(child)
            for child in plain["children"]
        ]
        error = NestedError(str(plain["prefix"]), children, status=status, name=name)
    else:
        error = UserError(str(plain["message"]), status=status, name=name)
    for flag in ("verbatim", "alone"):
        if plain.get(flag):
            setattr(error, flag, True)
    return error


def _short(text: str) -> str:
    if len(text) <= MAX_MESSAGE_CHARACTERS:
        return text
    return text[:MAX_MESSAGE_CHARACTERS] + "…"


def _dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # unpaired surrogates
        return json.dumps(value).encode()
