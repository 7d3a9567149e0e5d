"""Remembering and merging of token verifications."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from stream.keboola import StorageApi, Token, TokenInfo, TokenVerifier

INFO = TokenInfo("1", "", True, 123, "P")


class FakeApi:
    """Remembers who asks, and answers when the test says so."""

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
        """Whether the answer for *token* is remembered."""
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


def test_concurrent_verifications_are_one_call() -> None:
    """Requests that come together ask once for each token."""
    s = Setup()
    first, second, other = s.verify("a"), s.verify("a"), s.verify("b")
    assert len(s.api.asked) == 2
    s.api.asked[0].callback(INFO)
    assert result(first) is result(second) is INFO
    assert not other.called
    other.addErrback(lambda _failure: None).cancel()


def test_answers_are_remembered_for_their_time() -> None:
    """A token is asked for again after 30 seconds."""
    s = Setup()
    s.verify().addErrback(lambda _failure: None)
    s.api.asked[0].callback(INFO)
    s.clock.advance(29.9)
    assert s.known("a")
    s.clock.advance(0.1)
    assert not s.known("a")


def test_refusals_reach_everybody_and_are_not_remembered() -> None:
    """A refused token is asked for again at once."""
    s = Setup()
    first, second = s.verify(), s.verify()
    s.api.asked[0].errback(RuntimeError("no"))
    assert str(failure(first)) == str(failure(second)) == "no"
    assert not s.known("a")


def test_one_caller_that_leaves_does_not_disturb_the_others() -> None:
    """Cancelling one verification leaves the other waiting for the same answer."""
    s = Setup()
    first, second = s.verify(), s.verify()
    first.cancel()
    assert isinstance(failure(first), CancelledError)
    s.api.asked[0].callback(INFO)
    assert result(second) is INFO


def test_memory_is_bounded() -> None:
    """The oldest answers are forgotten."""
    s = Setup(entries=2)
    for token in "abc":
        assert not s.known(token)
    assert s.known("b")
    assert s.known("c")
    assert not s.known("a")


def test_the_cache_does_not_hold_tokens() -> None:
    """Answers are kept under a digest."""
    s = Setup()
    s.known("very-secret")
    assert "very-secret" not in repr(vars(s.verifier))


def test_a_bad_token_is_refused_without_asking() -> None:
    """A token that fits no header never reaches the API."""
    s = Setup()
    assert "invalid access token" in str(failure(s.verify("a\nb")))
    assert s.api.asked == []
