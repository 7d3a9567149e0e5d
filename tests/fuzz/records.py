"""``python -m tests.fuzz records``: random bodies on their way from the request to the row.

They pass the listener's handler, with batches, compression and OTLP in both encodings, to sinks
with columns of every type. Any body results in rows, or in a 4xx that names the error. Every row is
CSV with one cell per column, and copied columns equal decoded ones. Bodies are random combinations
of fragments, and valid ones with some bytes changed. Templates are single calls; others have a
separate engine with its own tests.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
from collections import Counter
from typing import Any

import zstandard
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import implementer

from stream.definition.key import SourceKey
from stream.mapping.columns import (
    BodyColumn,
    Column,
    DatetimeColumn,
    HeadersColumn,
    IpColumn,
    PathColumn,
    Template,
    TemplateColumn,
    UuidColumn,
)
from stream.source.dispatcher import SourceEntry
from stream.source.otlp.decode import Encoding, Signal
from tests.source.http.test_handler import KEY, PATH, SECRET, FakeSink, Listener
from tests.source.otlp.test_flatten import _encoded

__all__ = ["search"]

OTLP_KEY = SourceKey(123, 111, "otel")


def _template(content: str, raw_string: bool = False) -> TemplateColumn:
    return TemplateColumn("t", template=Template("jsonnet", content), raw_string=raw_string)


_PLAIN: tuple[Column, ...] = (
    UuidColumn("u"),
    DatetimeColumn("d"),
    IpColumn("i"),
    BodyColumn("b"),
    HeadersColumn("h"),
    _template("BodyStr()"),
    _template("HeaderStr()", True),
    _template("Header('x', 'none')"),
)
_LENIENT: tuple[Column, ...] = (
    PathColumn("p", path="v", default_value='a"b'),
    PathColumn("q", path="v", raw_string=True, default_value=""),
    PathColumn("r", path="k\ufffd[0].v", default_value=""),
    PathColumn("s", path='k".1', default_value=""),
    PathColumn("w", path="", raw_string=True),
)
_SINKS: dict[str, tuple[Column, ...]] = {
    "plain": _PLAIN,
    "lenient": (*_LENIENT, BodyColumn("b")),
    "strict": (PathColumn("p", path="v"), PathColumn("q", path="v.v[1]", raw_string=True)),
    "templates": (
        _template("Body()"),
        _template("Body('v', null)", True),
        _template("Body('v.v', 'none')", True),
    ),
}

_TEXTS = (
    *(
        '"v"',
        '"k\\ud83d"',
        '"k\\""',
        '""',
        '"\\ud83d\\ude00"',
        '"\\udc00"',
        '"\\\\ud83d"',
        '"é\\n"',
    ),
    *('"a;b,c"', '"\\u0000"', '"\x7f"', '"' + "x" * 300 + '"', '"\ufeff"', '"\u2028"', '"'),
)
_VALUES = (
    *("1", "-0", "1.0", "1e5", "1e400", "-1E+400", "9" * 400, "18446744073709551616", "1.5e-400"),
    *("0.1", "123456789012345678901234567890", "true", "false", "null", "{}", "[]", "NaN", "01"),
    *_TEXTS,
)
_FORM = (
    *("v=1", "v", "=", "=x", "v[]=1", "v[0]=1", "v[v][1]=x", "v[", "v]=1", "[v]=1", "v=a;b", ";"),
    *("v=%", "v=%4", "v=%zz", "v=%u00e9", "v=%FC", "v=%ED%A0%BD", "k%EF%BF%BD[0][v]=1", "v=+"),
    *("charset=windows-1252", "_charset_=latin1", "charset=klingon", "v[9999]=x", "v[99999]=x"),
    *("v[-1]=x", 'k"[1]="x"', "v=\ud83d", "v=\x00", "v=\xfc", "&", "v[a]=1", "v=<&>"),
)
_TYPES = (
    *("application/json", "application/json; charset=utf-8", "application/json; charset=latin1"),
    *("application/json; charset=utf-16", "text/json", "application/csp-report", "a/b+json"),
    *("application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=shift_jis"),
    *("application/x-www-form-urlencoded; charset=klingon", "application/x-ndjson", "text/plain"),
    *("application/cloudevents-batch+json", "", "multipart/form-data; boundary=x"),
)
_QUERIES = ("", "", "", "?batch=true", "?batch=false", "?batch=1", "?batch=", "?verbose=true")
_ENCODINGS = ("", "", "", "gzip", "x-gzip", "zstd", "identity, gzip", "gzip, zstd", "br")
_INTERNALS = re.compile(
    r"codec can't|Traceback|NoneType|object has no|<class|object at 0x|__|\bstr\b object|KeyError"
)
_BLANKS = ("", "", "", " ", "\n", "\r\n", "\t")


def _json(chance: random.Random, depth: int = 0) -> str:
    kind = chance.random()
    if depth > 3 or kind < 0.4:
        return chance.choice(_VALUES)
    blank = chance.choice(_BLANKS)
    items = range(chance.randrange(4))
    if kind < 0.6:
        return f"[{blank}" + ",".join(_json(chance, depth + 1) + blank for _ in items) + "]"
    members = [f"{chance.choice(_TEXTS)}:{blank}{_json(chance, depth + 1)}" for _ in items]
    if chance.random() < 0.7:
        members.append(f'"v":{blank}{_json(chance, depth + 1)}')
    chance.shuffle(members)
    return "{" + f",{blank}".join(members) + "}"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _body(chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.3:
        body = _bytes(_json(chance))
    elif kind < 0.5:
        body = _bytes("&".join(chance.choices(_FORM, k=chance.randrange(1, 6))))
    elif kind < 0.7:
        body = b"\n".join(_bytes(_json(chance)) for _ in range(chance.randrange(5)))
    elif kind < 0.9:
        body = b"[" + b",".join(_bytes(_json(chance)) for _ in range(chance.randrange(5))) + b"]"
    else:
        body = chance.randbytes(chance.randrange(40))
    if chance.random() < 0.1:
        body = b"\xef\xbb\xbf" + body
    if chance.random() < 0.03:
        body = body.decode("utf-8", "replace").encode(
            chance.choice(("utf-16", "utf-16-be", "cp1252")), "replace"
        )
    return _damaged(chance, body) if chance.random() < 0.3 else body


def _damaged(chance: random.Random, body: bytes) -> bytes:
    data = bytearray(body)
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(data) + 1)
        data[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
    return bytes(data)


def _compressed(chance: random.Random, encoding: str, body: bytes) -> bytes:
    for name in encoding.split(", "):
        if "gzip" in name:
            middle = chance.randrange(len(body) + 1)
            body = gzip.compress(body[:middle], 1) + gzip.compress(body[middle:], 1)
            body += bytes(chance.choice((0, 0, 0, 7)))
        elif name == "zstd":
            body = zstandard.compress(body)
    return _damaged(chance, body) if encoding and chance.random() < 0.1 else body


class _Way:
    """The listener with its sinks."""

    def __init__(self) -> None:
        self.listener = Listener()
        self.listener.otlp_dispatcher.put(SourceEntry(OTLP_KEY, "otlp", True, SECRET))
        self._otlp = {
            (signal, encoding): _encoded(signal, encoding)
            for signal in Signal
            for encoding in Encoding
        }

    def send(
        self, chance: random.Random
    ) -> tuple[str, bytes, str, bytes, tuple[Column, ...], FakeSink]:
        """Send one request; return its outcome."""
        name = chance.choice(tuple(_SINKS))
        columns = _SINKS[name]
        sink = FakeSink(columns=columns)
        encoding = chance.choice(_ENCODINGS)
        if chance.random() < 0.25:
            signal, otlp = chance.choice(tuple(self._otlp))
            body = self._otlp[signal, otlp]
            if otlp is Encoding.JSON and chance.random() < 0.5:
                text = chance.choice((b'"a"', b"1", b'"7"', b"[", b"}", b"null", b":"))
                body = body.replace(text, _bytes(_json(chance)), 1)
            if chance.random() < 0.7:
                body = _damaged(chance, body)
            target = f"/otlp/123/otel/{SECRET}/v1/{signal.value}"
            content_type = otlp.value
            key = OTLP_KEY
        else:
            body, key = _body(chance), KEY
            target = PATH + chance.choice(_QUERIES)
            content_type = chance.choice(_TYPES)
        body = _compressed(chance, encoding, body)
        headers = f"Content-Type: {content_type}\r\n" if content_type else ""
        headers += f"Content-Encoding: {encoding}\r\n" if encoding else ""
        if chance.random() < 0.1:
            headers += "X: " + chance.choice(("", '"', "a, b", "<&>")) + "\r\n"
        listener = self.listener
        listener.router.sinks = {key: [("k", sink)]}
        listener.router.signals.clear()
        answer = listener.send(target, body, headers=headers)
        _pass_time(listener.clock)
        if answer is None:
            raise AssertionError("no answer")
        return target, body, headers, answer, columns, sink


def _pass_time(clock: Clock) -> None:
    """Run the work postponed to the next turn."""
    clock.advance(0)


def _check(answer: bytes, columns: tuple[Column, ...], sink: FakeSink) -> str:
    """Check the outcome. Raises AssertionError."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head[9:12])
    assert 200 <= status < 500, f"status {status}"
    rows = sink.rows + [row for rows, _ in sink.blocks for row in rows.splitlines(keepends=True)]
    if sink.blocks:
        rows = [rows for rows, _ in sink.blocks]
    expected = len(sink.rows) + sum(count for _, count in sink.blocks)
    text = b"".join(rows).decode("utf-8", "replace").replace("\0", "")
    found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert len(found) == expected, f"{len(found)} rows instead of {expected}"
    assert all(len(row) == len(columns) for row in found), "another number of cells"
    if columns[:1] == _LENIENT[:1]:
        for row in found:
            _check_row(row)
    if status >= 400 or (status == 200 and b"rejected" in body):
        message = _message(body)
        assert message, "no reason"
        assert not _INTERNALS.search(message), f"internals: {message}"
    return f"{status}"


def _check_row(row: list[str]) -> None:
    """Check that the copied row equals the decoded one."""
    copied, decoded = row[0], row[1]
    value = json.loads(copied, parse_constant=float)
    if isinstance(value, str) and copied != '"a\\"b"':
        pairs = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        plain = re.sub("[\ud800-\udfff]", "\ufffd", pairs).replace("\0", "")
        assert decoded == plain, f"{copied} differs from {decoded}"


def _message(body: bytes) -> str:
    try:
        document: Any = json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")  # protobuf has the text unescaped
    texts = [json.dumps(document, ensure_ascii=False)] if document else []
    return " ".join(texts)


def search(inputs: int, seed: int) -> Counter[str]:
    """Return counts of the outcomes; those that begin with a capital letter are faults."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    logged: list[str] = []

    @implementer(ILogObserver)
    def observe(event: Any) -> None:
        if event.get("log_failure") is not None:
            logged.append(str(event["log_failure"]))

    way = _Way()
    globalLogPublisher.addObserver(observe)
    try:
        for _ in range(inputs):
            counts["inputs"] += 1
            state = chance.getstate()
            try:
                target, body, headers, answer, columns, sink = way.send(chance)
            except Exception as error:
                _fault(counts, f"Crash: {error!r}", ("state", hash(state)))
                way = _Way()
                continue
            if logged:
                _fault(counts, f"Failure logged: {logged.pop()[:500]}", (target, headers, body))
                logged.clear()
            try:
                counts[_check(answer, columns, sink)] += 1
            except (AssertionError, csv.Error, ValueError) as error:
                _fault(counts, f"Wrong: {error}", (target, headers, body, answer[-300:]))
    finally:
        globalLogPublisher.removeObserver(observe)
    return counts


def _fault(counts: Counter[str], what: str, of: object) -> None:
    kind = what.partition(":")[0]
    counts[kind] += 1
    if counts[kind] <= 5:
        print(what, of, sep="\n    ")
