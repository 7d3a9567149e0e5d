"""`stream rejected` with answers of the API that the test chooses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from stream.cli.commands import rejected
from stream.cli.main import run

_REPLAY = ["rejected", "replay", "shop", "orders"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Set the API's answers to successive calls, and return the bodies of the calls."""

    def answer(*answers: Any) -> list[Any]:
        left, made = list(answers), []

        def call(method: str, path: tuple[str, ...], **options: Any) -> Any:
            made.append(options.get("body", options))
            return left.pop(0)

        monkeypatch.setattr(rejected, "_call", call)
        return made

    return answer


def _outputs(stored: int, again: int, **more: Any) -> dict[str, Any]:
    results = [{"id": f"s{n}", "stored": True} for n in range(stored)]
    results += [{"id": f"r{n}", "stored": False, "reason": "x"} for n in range(again)]
    members = {"replayed": stored + again, "stored": stored, "rejected": again}
    return {"outputs": {**members, "results": results, **more}}


def test_a_replay_continues_while_there_are_more_records(
    calls: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each replay continues behind the one before, so their counts add up."""
    made = calls(_outputs(2, 1, hasMore=True), _outputs(0, 2, hasMore=True), _outputs(1, 1))
    assert run([*_REPLAY, "--all", "--output", "json"]) == 7
    found = json.loads(capsys.readouterr().out)
    assert made == [{}, {}, {}]
    counts = (found["replayed"], found["stored"], found["rejected"], found["hasMore"])
    assert counts == (7, 3, 4, False)
    assert len(found["results"]) == 7


def test_a_replay_that_replays_nothing_stops(
    calls: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Another one would not continue either; the output says that there are more records."""
    made = calls(_outputs(0, 0, hasMore=True))
    assert run([*_REPLAY, "--reason", "x"]) == 1
    assert made == [{"reason": "x"}]
    assert "There are more records" in capsys.readouterr().err
    made = calls(_outputs(1, 2, hasMore=True), _outputs(0, 0, hasMore=True))
    assert run([*_REPLAY, "a", "b"]) == 1
    assert made == [{"ids": ["a", "b"]}] * 2
    assert "3 replayed: 1 stored, 2 rejected again." in capsys.readouterr().out
    calls(_outputs(1, 2, hasMore=True), _outputs(0, 0, hasMore=True))
    assert run([*_REPLAY, "--all", "--output", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["hasMore"] is True


def test_a_service_that_begins_again_each_time_is_not_asked_forever(
    calls: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A service of an earlier version doesn't continue behind records that it rejects again."""
    again = _outputs(0, 3, hasMore=True)
    made = calls(_outputs(2, 3, hasMore=True), again, again, again)
    assert run([*_REPLAY, "--all"]) == 1
    assert len(made) == 3
    assert "the service does not continue with them" in capsys.readouterr().err


_AWAY = {"nodeId": "b", "available": False, "message": "it is gone"}


def test_an_incomplete_replay(
    calls: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The command names the missing node, and its exit code says that the replay is incomplete."""
    calls(_outputs(1, 1, nodes=[_AWAY], isComplete=False))
    assert run([*_REPLAY, "--all"]) == 6
    errors = capsys.readouterr().err
    assert "Without the records of the node b: it is gone" in errors
    assert "Replay again when these nodes are available." in errors
    # The next replay asks the node again, unless the service is of an earlier version.
    calls(_outputs(1, 0, nodes=[_AWAY], isComplete=False, hasMore=True), _outputs(2, 0))
    assert run([*_REPLAY, "--all"]) == 6
    answered = _outputs(2, 0, isComplete=True)
    calls(_outputs(1, 0, nodes=[_AWAY], isComplete=False, hasMore=True), answered)
    assert run([*_REPLAY, "--all"]) == 0


def test_records_that_a_stopped_node_may_keep_are_not_deleted(
    calls: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The command names the node."""
    delete = ["rejected", "delete", "shop", "orders", "--yes", "--all", "-o", "json"]
    calls({"deleted": 2, "nodes": [_AWAY]})
    assert run(delete) == 6
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"deleted": 2, "nodes": [_AWAY]}
    assert "the node b" in printed.err


def test_notes_are_shown(
    calls: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Notes are shown next to the table."""
    calls(_outputs(1, 0, notes=["The column reads a masked header."]))
    assert run([*_REPLAY, "--all"]) == 0
    assert "The column reads a masked header." in capsys.readouterr().err
    calls(_outputs(1, 0, hasMore=True, notes=["one", "two"]), _outputs(1, 0, notes=["two"]))
    assert run([*_REPLAY, "--all"]) == 0
    assert capsys.readouterr().err.count("two") == 1


def test_records_are_selected_in_one_way(
    calls: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Records are selected by ids or by properties; all of them only with an explicit option."""
    made = calls({}, {}, {})
    delete = ["rejected", "delete", "shop", "orders", "--yes"]
    assert run([*delete, "a", "--reason", "x"]) == 2
    assert "Use either IDs" in capsys.readouterr().err
    assert run(delete) == 2
    assert run([*delete, "a", "b"]) == run([*delete, "--of-column", "c", "--until", "2026"]) == 0
    assert run([*delete, "--all"]) == 0
    assert made == [{"ids": "a,b"}, {"column": "c", "until": "2026"}, {}]
