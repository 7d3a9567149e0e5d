"""Caching and merging of token verifications."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from stream.authority import TokenInfo
from stream.authority.remembered import MAX_ASKED, MAX_QUEUED, REFUSED_SECONDS
from stream.errors import UserError
from stream.target.keboola import StorageApi, StorageApiError, TokenVerifier
from stream.values.token import Token

INFO = TokenInfo("1", "", True, 123, "P")


class FakeApi:
    """Records the requests, and answers on demand."""

    def __init__(self) -> None:
        self.asked: list[Deferred[TokenInfo]] = []

    async def verify_token(self, token: Token) -> TokenInfo:
        self.asked.append(Deferred())
        return await self.asked[-1]


class Setup:
    def __init__(self, **options: Any) -> None:
        self.clock, self.api = Clock(), FakeApi()
        self.verifier = TokenVerifier(self.clock, cast(StorageApi, self.api), **options)

    def verify(self, token: str = "a") -> Deferred[TokenInfo]:
        return Deferred.fromCoroutine(self.verifier.verify(token))

    def known(self, token: str) -> bool:
        """Return whether the answer for *token* is cached."""
        before = len(self.api.asked)
        asking = self.verify(token)
        asking.addErrback(lambda _failure: None)
        for asked in self.api.asked[before:]:
            asked.callback(INFO)
        return len(self.api.asked) == before


def result(deferred: Deferred[TokenInfo]) -> TokenInfo:
    results: list[TokenInfo] = []
    deferred.addCallback(results.append)
    return results[0]


def failure(deferred: Deferred[TokenInfo]) -> BaseException:
    failures: list[Any] = []
    deferred.addErrback(failures.append)
    return cast(BaseException, failures[0].value)


def test_concurrent_verifications_share_a_call() -> None:
    """Concurrent requests verify each token once."""
    s = Setup()
    first, second, other = s.verify("a"), s.verify("a"), s.verify("b")
    assert len(s.api.asked) == 2
    s.api.asked[0].callback(INFO)
    assert result(first) is result(second) is INFO
    assert not other.called
    other.addErrback(lambda _failure: None).cancel()


def test_answers_are_cached() -> None:
    """A token is verified again after 30 seconds."""
    s = Setup()
    s.verify().addErrback(lambda _failure: None)
    s.api.asked[0].callback(INFO)
    s.clock.advance(29.9)
    assert s.known("a")
    s.clock.advance(0.1)
    assert not s.known("a")


def refusal(status: int = 401, *, answered: bool = True) -> StorageApiError:
    return StorageApiError(
        "no", method="GET", url="https://x/tokens/verify", status=status, answered=answered
    )


def test_refusals_are_shared_and_cached() -> None:
    """A refused token is refused without a call for some seconds."""
    s = Setup()
    first, second = s.verify(), s.verify()
    s.api.asked[0].errback(refusal())
    assert str(failure(first)) == str(failure(second))
    for _ in range(3):
        assert cast(StorageApiError, failure(s.verify())).status == 401
    assert len(s.api.asked) == 1
    s.clock.advance(REFUSED_SECONDS)
    assert not s.known("a")
    assert s.known("a")


def test_a_refusal_replaces_an_earlier_answer() -> None:
    """A token that is refused is no longer valid, and then waits like any other wrong token."""
    s = Setup()
    assert not s.known("a")
    s.clock.advance(30)
    asking = s.verify()
    s.api.asked[-1].errback(refusal())
    failure(asking)
    assert cast(StorageApiError, failure(s.verify())).status == 401
    s.clock.advance(REFUSED_SECONDS)
    waiting = [s.verify(f"wrong-{number}") for number in range(MAX_ASKED)]
    waiting.append(s.verify())
    assert len(s.api.asked) == 2 + MAX_ASKED
    for each in waiting:
        each.addErrback(lambda _failure: None).cancel()


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), refusal(502, answered=False), refusal(503), refusal(429)]
)
def test_failures_are_not_cached(error: Exception) -> None:
    """An unavailable API says nothing about the token."""
    s = Setup()
    asking = s.verify()
    s.api.asked[0].errback(error)
    failure(asking)
    assert not s.known("a")


def test_a_flood_of_invalid_tokens() -> None:
    """Invalid tokens share a few calls; further ones wait or are refused.

    Valid tokens don't wait.
    """
    s = Setup()
    assert not s.known("good")
    s.clock.advance(30)
    flood = [s.verify(f"wrong-{number}") for number in range(MAX_ASKED + MAX_QUEUED)]
    assert len(s.api.asked) == 1 + MAX_ASKED
    assert cast(UserError, failure(s.verify("one-more"))).status == 503
    good = s.verify("good")
    s.api.asked[-1].callback(INFO)
    assert result(good) is INFO
    for asked in s.api.asked:  # the cache grows during the loop
        if not asked.called:
            asked.errback(refusal())
    assert len(s.api.asked) == 2 + MAX_ASKED + MAX_QUEUED
    assert {cast(StorageApiError, failure(each)).status for each in flood} == {401}


def test_cancelled_verifications_are_not_sent() -> None:
    """A waiting token whose callers have all disconnected needs no call."""
    s = Setup()
    busy = [s.verify(f"wrong-{number}") for number in range(MAX_ASKED)]
    gone = s.verify("gone")
    gone.addErrback(lambda _failure: None).cancel()
    s.api.asked[0].errback(refusal())
    failure(busy[0])
    assert len(s.api.asked) == MAX_ASKED
    assert not s.known("gone")
    for each in busy[1:]:
        each.addErrback(lambda _failure: None)


def test_one_cancelled_caller_does_not_affect_others() -> None:
    """The other callers wait for the same answer."""
    s = Setup()
    first, second = s.verify(), s.verify()
    first.cancel()
    assert isinstance(failure(first), CancelledError)
    s.api.asked[0].callback(INFO)
    assert result(second) is INFO


def test_the_cache_is_limited() -> None:
    """The oldest answers are evicted."""
    s = Setup(entries=2)
    for token in "abc":
        assert not s.known(token)
    assert s.known("b")
    assert s.known("c")
    assert not s.known("a")


def test_the_cache_contains_no_tokens() -> None:
    """The keys of the cache are hashes."""
    s = Setup()
    s.known("very-secret")
    assert "very-secret" not in repr(vars(s.verifier))


def test_an_invalid_token_is_refused_without_a_call() -> None:
    """A token that can't be sent in a header is never sent to the API."""
    s = Setup()
    assert "invalid access token" in str(failure(s.verify("a\nb")))
    assert s.api.asked == []
