"""`stream apply` when others change the same sources at the same time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from stream.cli.commands import definitions
from stream.cli.main import run
from stream.client.errors import ServiceError, TaskFailed


class StubApi:
    """An API with one source.

    :ivar before: called before each change; what it raises is the answer.
    """

    def __init__(self) -> None:
        self.sources: dict[str, dict[str, Any]] = {}
        self.changes: list[str] = []
        self.before: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing is open."""

    def document(self) -> Any:
        return {}

    def pause(self, seconds: float) -> None:
        """Return at once."""

    def pages(self, member: str, *path: str) -> Iterator[dict[str, Any]]:
        return iter(self.sources.values() if path == ("sources",) else ())

    def change(self, method: str, *path: str, body: Any = None) -> dict[str, Any]:
        self.before()
        self.changes.append(f"{method} {'/'.join(path)}")
        if method == "POST":
            self.sources[body["sourceId"]] = dict(body)
        else:
            self.sources[path[1]] |= body
        return {}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StubApi:
    stub = StubApi()
    monkeypatch.setattr(definitions, "connect", lambda: stub)
    monkeypatch.chdir(tmp_path)
    _write({"sourceId": "shop", "type": "http", "name": "Shop"})
    return stub


def _write(*sources: dict[str, Any]) -> None:
    Path("stream.yaml").write_text(json.dumps({"sources": sources}))


_APPLY = ["apply", "-f", "stream.yaml"]
_EXISTS = ServiceError(409, "stream.api.sourceAlreadyExists", "Exists.")


def test_a_second_apply(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    """A second apply has nothing to do."""
    assert run([*_APPLY, "--yes"]) == 0
    assert 'source "shop" created' in capsys.readouterr().out
    assert run([*_APPLY, "--yes"]) == 0
    assert capsys.readouterr().out == "No changes.\n"
    assert api.changes == ["POST sources"]


def test_a_dry_run(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run changes nothing, and its exit code says whether there would be a change."""
    assert run([*_APPLY, "--dry-run"]) == 8
    assert "+ name: Shop" in capsys.readouterr().out
    assert run([*_APPLY, "--dry-run", "--output", "json"]) == 8
    [change] = json.loads(capsys.readouterr().out)
    assert (change["action"], change["before"]) == ("create", None)
    assert api.changes == []


def test_no_terminal(
    api: StubApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal and without `--yes` nothing is changed."""
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert run(_APPLY) == 2
    assert "--yes" in capsys.readouterr().err
    assert api.changes == []


def test_the_same_change_by_another_client(api: StubApi) -> None:
    """The same change by another client counts as applied."""

    def first() -> None:
        api.sources["shop"] = {"sourceId": "shop", "type": "http", "name": "Shop"}
        raise _EXISTS

    api.before = first
    assert run([*_APPLY, "--yes"]) == 0
    assert api.changes == []


def test_another_change_by_another_client(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    """A change that was not shown is not applied."""

    def first() -> None:
        api.sources["shop"] = {"sourceId": "shop", "type": "http", "name": "Other"}
        raise _EXISTS

    api.before = first
    assert run([*_APPLY, "--yes"]) == 5
    assert "Check the differences again" in capsys.readouterr().err
    assert api.sources["shop"]["name"] == "Other"


def test_a_temporary_failure(api: StubApi) -> None:
    """A change is retried a few times while another task holds the object."""
    failures = iter([TaskFailed("1", "Busy."), ServiceError(500, "", "Busy."), None])

    def fail() -> None:
        failure = next(failures)
        if failure is not None:
            raise failure

    api.before = fail
    assert run([*_APPLY, "--yes"]) == 0
    assert api.changes == ["POST sources"]


@pytest.mark.parametrize(("status", "code"), [(400, 1), (403, 3), (503, 6)])
def test_a_permanent_failure(
    api: StubApi, status: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints the reason and exits with a code for scripts."""
    api.before = lambda: _raise(ServiceError(status, "stream.api.x", "No."))
    assert run([*_APPLY, "--yes"]) == code
    assert "Error: No." in capsys.readouterr().err


def _raise(error: Exception) -> None:
    raise error


def test_an_export(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    """An export can be applied unchanged."""
    api.sources["shop"] = {"sourceId": "shop", "type": "http", "name": "Shop"}
    api.get = lambda *path: {"settings": []}  # type: ignore[attr-defined]
    assert run(["export"]) == 0
    Path("stream.yaml").write_text(capsys.readouterr().out)
    assert run([*_APPLY, "--yes"]) == 0
    assert capsys.readouterr().out == "No changes.\n"
