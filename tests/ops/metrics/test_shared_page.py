"""A page that is rendered once for all concurrent requests."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from stream.ops.metrics.shared_page import MIN_PAUSE_SECONDS, SharedPage


class Maker:
    """Renders pages on request.

    :ivar begun: the pages that are being rendered.
    """

    def __init__(self) -> None:
        self.begun: list[Deferred[bytes]] = []

    def __call__(self) -> Deferred[bytes]:
        self.begun.append(Deferred())
        return self.begun[-1]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def page(clock: Clock, maker: Maker) -> SharedPage:
    return SharedPage(clock, maker)


def _got(page: SharedPage) -> list[Any]:
    found: list[Any] = []
    page.get().addBoth(found.append)
    return found


def test_the_first_request(page: SharedPage, maker: Maker) -> None:
    """The first request doesn't wait for others."""
    found = _got(page)
    maker.begun[0].callback(b"one")
    assert found == [b"one"]


def test_concurrent_requests_share_the_next_page(
    page: SharedPage, maker: Maker, clock: Clock
) -> None:
    """The next page is started after all of its requests."""
    first = _got(page)
    others = [_got(page) for _ in range(50)]
    assert (len(maker.begun), page.waiting) == (1, 50)
    maker.begun[0].callback(b"one")
    assert (first, others[0], len(maker.begun)) == ([b"one"], [], 1)
    clock.advance(MIN_PAUSE_SECONDS / 2)
    others.append(_got(page))
    assert len(maker.begun) == 1
    clock.advance(MIN_PAUSE_SECONDS / 2)
    assert (len(maker.begun), page.waiting) == (2, 0)
    maker.begun[1].callback(b"two")
    assert others == [[b"two"]] * 51


def test_a_request_after_a_pause(page: SharedPage, maker: Maker, clock: Clock) -> None:
    """Rare requests don't wait."""
    _got(page)
    maker.begun[0].callback(b"one")
    clock.advance(MIN_PAUSE_SECONDS)
    _got(page)
    assert len(maker.begun) == 2


def test_a_slow_page(page: SharedPage, maker: Maker, clock: Clock) -> None:
    """At most half of the time is spent on rendering."""
    _got(page)
    clock.advance(5 * MIN_PAUSE_SECONDS)
    maker.begun[0].callback(b"one")
    _got(page)
    clock.advance(4.9 * MIN_PAUSE_SECONDS)
    assert len(maker.begun) == 1
    clock.advance(0.1 * MIN_PAUSE_SECONDS)
    assert len(maker.begun) == 2


def test_a_cancelled_request(page: SharedPage, maker: Maker, clock: Clock) -> None:
    """A cancelled request doesn't delay others; a page without requests isn't started."""
    going = page.get()
    going.addErrback(lambda failure: failure.trap(CancelledError))
    going.cancel()
    maker.begun[0].callback(b"one")
    going = page.get()
    going.addErrback(lambda failure: failure.trap(CancelledError))
    going.cancel()
    assert page.waiting == 0


def test_a_failure_is_shared(page: SharedPage, maker: Maker, clock: Clock) -> None:
    """All waiting requests fail, and the next page is rendered as usual."""
    found = _got(page)
    maker.begun[0].errback(Failure(ZeroDivisionError()))
    assert isinstance(found[0], Failure)
    again = _got(page)
    clock.advance(MIN_PAUSE_SECONDS)
    maker.begun[1].callback(b"two")
    assert again == [b"two"]


def test_drained(page: SharedPage, maker: Maker, clock: Clock) -> None:
    """Waiting requests get the page at once, and nothing is rendered afterwards."""
    done: list[Any] = []
    page.drained().addCallback(done.append)
    assert done == [None]
    first = _got(page)
    second = _got(page)
    page.drained().addCallback(done.append)
    maker.begun[0].callback(b"one")
    assert (first, second, len(done)) == ([b"one"], [], 1)
    maker.begun[1].callback(b"two")
    assert (second, len(done)) == ([b"two"], 2)
    _got(page)
    page.drained()
    assert len(maker.begun) == 3
    assert not clock.getDelayedCalls()
