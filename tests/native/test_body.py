"""The bytes of a large body, received without a copy."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from socket import SHUT_WR, socket, socketpair

import pytest

from stream import native
from tests.effort import examples

pytestmark = pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")

LARGE = 1 << 20


@pytest.fixture
def pair() -> Iterator[tuple[socket, socket]]:
    """Yield two connected, non-blocking sockets."""
    ours, theirs = socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def test_a_body_in_parts(pair: tuple[socket, socket]) -> None:
    """A body consists of the parts from the socket and from data, in order."""
    ours, theirs = pair
    for seed in range(examples(20)):
        random = Random(seed)
        expected = random.randbytes(random.choice([1, 2, 1000, 65536, 65537, 300_000, LARGE]))
        first = random.randrange(min(len(expected), 70_000))
        body = native.Body(len(expected), expected[:first])
        while len(body) < len(expected):
            start = len(body)
            part = expected[start : start + random.choice([20, 9000, 70_000])]
            if random.random() < 0.7:
                sent = theirs.send(part)
                while (missing := start + sent - len(body)) > 0:
                    limit = random.choice([missing, LARGE, max(1, missing - 1)])
                    assert 0 < body.receive(ours.fileno(), limit) <= min(limit, missing)
            else:
                body.feed(part)
        assert body.take() == expected


def test_bytes_after_a_body(pair: tuple[socket, socket]) -> None:
    """Bytes of the next request stay in the socket."""
    ours, theirs = pair
    body = native.Body(5, b"ab")
    theirs.send(b"cdefg")
    assert body.receive(ours.fileno(), LARGE) == 3
    assert body.take() == b"abcde"
    assert ours.recv(100) == b"fg"


def test_an_empty_socket_and_a_closed_connection(pair: tuple[socket, socket]) -> None:
    """The results for an empty socket and for a closed connection are different."""
    ours, theirs = pair
    body = native.Body(5, b"ab")
    assert body.receive(ours.fileno(), LARGE) == 0
    theirs.shutdown(SHUT_WR)
    assert body.receive(ours.fileno(), LARGE) == -1
    assert len(body) == 2


def test_a_body_is_returned_once() -> None:
    """An incomplete body is refused, and so is a second call."""
    body = native.Body(3, b"ab")
    with pytest.raises(ValueError, match="isn't whole"):
        body.take()
    with pytest.raises(ValueError, match="more than the body"):
        body.feed(b"cd")
    body.feed(b"c")
    assert body.take() == b"abc"
    with pytest.raises(ValueError, match="was taken"):
        body.take()
