"""``make fuzz``: random requests parsed by our parser and by two others, and random records.

This module is about requests; see `tests.fuzz.records`, `tests.fuzz.documents` and
`tests.fuzz.templates` for the others.

The other parsers must accept every request that we accept, and parse it to the same values: request
smuggling needs a request that two parsers read differently. Requests that only we refuse are no
fault. Inputs are random combinations of fragments, and valid and invalid requests with some bytes
changed, each sent as one packet and split at a random position.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable

import h11
import httptools

from stream.errors import UserError
from stream.source.http.head import HeadReader
from stream.source.http.parser import RequestParser
from tests.fuzz import documents, records, templates
from tests.source.http.test_parser import BODY_LIMIT, GOOD, HEAD_LIMIT, SMUGGLING, next_whole

__all__ = ["main", "search"]

Reading = tuple[bytes, bytes, bytes]
"""Method, target and body of a first request."""

REFUSED = "refused"
UNFINISHED = "unfinished"
Outcome = Reading | str

_LINES = (
    *(b"POST / HTTP/1.1\r\n", b"GET /a?b HTTP/1.1\r\n", b"PUT /x HTTP/1.0\r\n"),
    *(b"POST  / HTTP/1.1\r\n", b"POST x HTTP/1.1\r\n", b"GET http://x/y HTTP/1.1\r\n"),
    *(b"Host: x\r\n", b"host:y\r\n", b"Host : x\r\n", b"X: y\r\n", b" z\r\n"),
    *(b"X: a\tb\r\n", b"X\r\n", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n"),
    *(b"Content-Length: +3\r\n", b"Content-Length: 3, 3\r\n", b"Content-Length:\r\n"),
    *(b"Content-Length: 0x3\r\n", b"Content-Length: 99999999999999999999999\r\n"),
    *(b"content-length:3\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: chunked, identity\r\n"),
    *(b"Transfer-Encoding:\x0bchunked\r\n", b"\r\n", b"\n", b"\r", b"\x00", b"abc"),
    *(b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\n", b"3;e=f\r\nabc\r\n", b"03\r\nabc\r\n"),
    *(b'3;e="f;g"\r\nabc\r\n', b"-1\r\n", b"3 \r\nabc\r\n", b"ffffffffffffffffff\r\n"),
    b"T: r\r\n",
)
_METHODS = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH"})
"""The methods that httptools accepts; we and h11 accept any token."""
_BYTES = b'\x00\t\n\x0b\r :;,"\\aZ09\x7f\x80\xff'


def _ours(pieces: list[bytes]) -> Outcome:
    parser = RequestParser(HeadReader(), HEAD_LIMIT, BODY_LIMIT)
    try:
        for piece in pieces:
            parser.feed(piece)
            request = next_whole(parser)
            if request is not None:
                return request.head.method, request.head.target, request.body
    except UserError:
        return REFUSED
    return UNFINISHED


def _h11(data: bytes) -> Outcome:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * HEAD_LIMIT)
    # Empty lines before a request are to be ignored (RFC 9112, 2.2), which h11 doesn't do.
    while data.startswith(b"\r\n"):
        data = data[2:]
    connection.receive_data(data)
    method, target, body = b"", b"", b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method, target = event.method, event.target
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return method, target, body
            else:
                return UNFINISHED
    except h11.RemoteProtocolError:
        return REFUSED


class _Collected:
    """Collects the events of httptools."""

    def __init__(self) -> None:
        self.target = b""
        self.body = b""
        self.first: Reading | None = None
        self.method: Callable[[], bytes] = bytes

    def on_url(self, url: bytes) -> None:
        if self.first is None:
            self.target += url

    def on_body(self, body: bytes) -> None:
        if self.first is None:
            self.body += body

    def on_message_complete(self) -> None:
        if self.first is None:
            self.first = self.method(), self.target, self.body


def _httptools(data: bytes) -> Outcome:
    collected = _Collected()
    parser = httptools.HttpRequestParser(collected)
    collected.method = parser.get_method
    try:
        parser.feed_data(data)
    except httptools.HttpParserError:
        return collected.first or REFUSED
    return collected.first or UNFINISHED


def _input(chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        start = chance.choice((b"POST / HTTP/1.1\r\nHost: x\r\n", b""))
        return start + b"".join(chance.choices(_LINES, k=chance.randrange(1, 9)))
    data = bytearray(chance.choice((*GOOD.values(), *SMUGGLING.values())))
    for _ in range(chance.randrange(4)):
        place = chance.randrange(len(data) + 1)
        byte = chance.choice(_BYTES)
        if chance.random() < 0.5:
            data[place:place] = bytes([byte])
        else:
            data[place : place + 1] = bytes([byte]) if chance.random() < 0.7 else b""
    return bytes(data)


def search(inputs: int, seed: int) -> Counter[str]:
    """Return counts of the outcomes; those that begin with a capital letter are faults."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    for _ in range(inputs):
        data = _input(chance)
        cut = chance.randrange(len(data) + 1)
        counts["inputs"] += 1
        try:
            ours, in_two = _ours([data]), _ours([data[:cut], data[cut:]])
        except Exception as error:
            _fault(counts, f"Crash: {error!r}", data)
            continue
        if ours != in_two:
            _fault(counts, f"Cut at {cut}: {ours} or {in_two}", data)
        if isinstance(ours, str):
            counts[ours] += 1
            continue
        counts["accepted"] += 1
        others = {"h11": _h11(data)}
        # A tab may follow a value (RFC 9110, 5.6.3); httptools doesn't always allow it.
        if ours[0] in _METHODS and b"\t\r\n" not in data:
            others["httptools"] = _httptools(data)
        for name, theirs in others.items():
            if theirs != ours:
                _fault(counts, f"Differs from {name}: {ours}, there {theirs}", data)
    return counts


def _fault(counts: Counter[str], what: str, data: bytes) -> None:
    kind = what.partition(":")[0]
    counts[kind] += 1
    if counts[kind] <= 5:
        print(what, data, sep="\n    ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    searches = {
        "requests": search,
        "records": records.search,
        "documents": documents.search,
        "templates": templates.search,
    }
    parser.add_argument("what", nargs="?", choices=searches, default="requests")
    parser.add_argument("--inputs", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(2**32) if options.seed is None else options.seed
    counts = searches[options.what](options.inputs, seed)
    print(f"seed {seed}:", ", ".join(f"{number:,} {name}" for name, number in counts.items()))
    if any(name[0].isupper() for name in counts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
