"""The source that belongs to a URL."""

from __future__ import annotations

from typing import Literal

import pytest

from stream.definition.key import SourceKey
from stream.errors import UserError
from stream.source.dispatcher import Dispatcher, SourceEntry

SECRET = "s" * 48


def _entry(
    branch: int = 1,
    source_id: str = "my-source",
    *,
    enabled: bool = True,
    secret: str = SECRET,
    kind: Literal["http", "otlp"] = "http",
) -> SourceEntry:
    return SourceEntry(SourceKey(7, branch, source_id), kind, enabled, secret)


def _dispatcher(*entries: SourceEntry) -> Dispatcher:
    dispatcher = Dispatcher("http")
    for entry in entries:
        dispatcher.put(entry)
    return dispatcher


def _refusal(
    dispatcher: Dispatcher, source_id: str = "my-source", secret: str = SECRET, project: int = 7
) -> tuple[int, str]:
    with pytest.raises(UserError) as caught:
        dispatcher.lookup(project, source_id, secret)
    return caught.value.status, caught.value.name


def test_a_source_in_several_branches() -> None:
    """A secret shared by branches opens all of them, sorted by the text of their ids."""
    dispatcher = _dispatcher(_entry(9), _entry(10), _entry(11, enabled=False))
    assert [key.branch_id for key in dispatcher.lookup(7, "my-source", SECRET)] == [10, 9]


def test_only_the_exact_source_is_found() -> None:
    """Another id, secret, project or type is not found, and neither is a prefix of an id."""
    dispatcher = _dispatcher(_entry(), _entry(2, "other", kind="otlp"))
    not_found = (404, "noSourceFound")
    assert _refusal(dispatcher, "my") == not_found
    assert _refusal(dispatcher, secret=SECRET[:-1]) == not_found
    assert _refusal(dispatcher, secret="é") == not_found
    assert _refusal(dispatcher, secret="") == not_found
    assert _refusal(dispatcher, project=8) == not_found
    assert _refusal(dispatcher, "other") == not_found


def test_a_source_disabled_in_all_branches() -> None:
    """Only a request with the right secret gets the answer that the source is disabled."""
    dispatcher = _dispatcher(_entry(enabled=False))
    assert _refusal(dispatcher) == (404, "disabledSource")
    assert _refusal(dispatcher, secret="x") == (404, "noSourceFound")


def test_changes_take_effect_at_once() -> None:
    """A rotated secret replaces the old one, a deleted source disappears, and a closed dispatcher
    refuses.
    """
    dispatcher = _dispatcher(_entry())
    dispatcher.put(_entry(secret="new"))
    assert _refusal(dispatcher) == (404, "noSourceFound")
    assert dispatcher.lookup(7, "my-source", "new")
    dispatcher.remove(_entry().key)
    dispatcher.remove(_entry().key)
    assert _refusal(dispatcher, secret="new") == (404, "noSourceFound")
    dispatcher.put(_entry())
    dispatcher.clear()
    assert _refusal(dispatcher) == (404, "noSourceFound")
    dispatcher.close()
    assert _refusal(dispatcher) == (503, "shutdown")


def test_the_secret_is_not_in_the_repr() -> None:
    """Log lines can't contain it."""
    assert SECRET not in repr(_entry())


def test_cached_results_follow_changes() -> None:
    """Disabled, changed and deleted sources aren't found, and none is after the close."""
    dispatcher = Dispatcher("http")
    key = SourceKey(1, 2, "source")

    def put(secret: str = "secret", enabled: bool = True) -> None:
        dispatcher.put(SourceEntry(key, "http", enabled, secret))
        for _ in range(2):
            if enabled:
                assert dispatcher.lookup(1, "source", secret) == (key,)

    def gone(secret: str = "secret") -> str:
        with pytest.raises(UserError) as caught:
            dispatcher.lookup(1, "source", secret)
        return caught.value.name

    put()
    put("another")
    assert gone() == "noSourceFound"
    put(enabled=False)
    assert gone() == "disabledSource"
    put()
    dispatcher.remove(key)
    assert gone() == "noSourceFound"
    put()
    dispatcher.clear()
    assert gone() == "noSourceFound"
    put()
    dispatcher.close()
    assert gone() == "shutdown"
