"""Pushes that are interrupted at any point and repeated."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.cli.push import sending
from stream.cli.push.records import ndjson_lines
from stream.cli.push.sending import Pushed, Rejection, TooManyRejected, push_records
from stream.cli.push.state import StateFault, load, new_state, save
from stream.client.answers import Refusal
from stream.client.delivery import Delivered
from stream.client.errors import DeliveryFailed


class Killed(BaseException):
    """Raised when the process is killed."""


@attrs.define
class Window:
    """A source that never forgets keys.

    :ivar stored: records by key.
    :ivar lives: attempts until it is killed; before the records are stored if ``is_early``.
    """

    stored: dict[str, tuple[bytes, ...]] = attrs.Factory(dict)
    lives: int = 10**9
    is_early: bool = False
    closed: bool = False
    _lock: threading.Lock = attrs.Factory(threading.Lock)

    def send(self, records: Sequence[bytes], key: str) -> Delivered:
        with self._lock:
            self.lives -= 1
            if self.lives < 0 and self.is_early:
                raise Killed
            # The source refuses a key with another body.
            assert self.stored.setdefault(key, tuple(records)) == tuple(records)
            if self.lives < 0:
                raise Killed
        bad = tuple(i for i, record in enumerate(records) if record == b"bad")
        refusals = (Refusal(bad, "x", "Bad."),) if bad else ()
        return Delivered(len(records) - len(bad), refusals, len(bad))

    def close(self) -> None:
        self.closed = True


def _push(content: bytes, window: Window, path: Path, **options: Any) -> Pushed:
    state = load(path) or new_state(
        source="s", head="", format="ndjson", batch_records=3, batch_bytes=40, place=1
    )
    pushed = Pushed(state)
    size = 7 if len(content) < 1000 else 1 << 16
    parts = [content[i : i + size] for i in range(state.offset, len(content), size)]
    push_records(
        ndjson_lines(parts, line=state.place, offset=state.offset),
        window,
        pushed,
        stop=threading.Event(),
        state_path=path,
        **options,
    )
    return pushed


@given(
    lines=st.lists(st.sampled_from([b"1", b"22", b"", b"bad", b"4" * 20]), max_size=40),
    kills=st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=4),
    saves=st.booleans(),
    parallel=st.integers(1, 4),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_kills(
    lines: list[bytes],
    kills: list[tuple[int, bool]],
    saves: bool,
    parallel: int,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each record is stored once and each invalid one is reported, whenever the push is killed and
    repeated.
    """
    monkeypatch.setattr(sending, "_SAVE_SECONDS", 0.0 if saves else 1e9)
    path = tmp_path_factory.mktemp("push") / "state"
    content, window = b"\n".join(lines), Window()
    for lives, is_early in kills:
        window.lives, window.is_early = lives, is_early
        try:
            _push(content, window, path, parallel=parallel)
        except Killed:
            assert window.closed
        kept = load(path)
        assert kept is not None
        assert all(int(key.rpartition("-")[2]) < kept.sent for key in window.stored)
    window.lives = 10**9
    pushed = _push(content, window, path, parallel=parallel)
    sent = [record for records in window.stored.values() for record in records]
    assert sorted(sent) == sorted(line for line in lines if line)
    assert pushed.state.rejected == lines.count(b"bad")
    assert pushed.state.accepted == sum(1 for line in lines if line not in (b"", b"bad"))


def test_rejected_records(tmp_path: Path) -> None:
    """Each rejected record is reported with its line, also one that can't be sent at all."""
    found: list[Rejection] = []
    content = b"1\n\nbad\n" + b"x" * (1 << 21) + b"\nbad"
    pushed = _push(content, Window(), tmp_path / "state", on_rejected=found.append)
    assert [(rejection.place, rejection.record) for rejection in found] == [
        (4, b""),
        (3, b"bad"),
        (5, b"bad"),
    ]
    assert (pushed.accepted, pushed.rejected) == (1, 3)
    assert pushed.report.lines("line")[:2] == ["2 records: Bad.", "    lines 3, 5"]


def test_too_many_rejected(tmp_path: Path) -> None:
    """The push stops, so that an unsuitable file doesn't fill the service with rejected records."""
    window = Window()
    with pytest.raises(TooManyRejected):
        _push(b"bad\n" * 1000, window, tmp_path / "state", max_rejected=10)
    assert len(window.stored) < 30


def test_a_refusal_ends_the_push(tmp_path: Path) -> None:
    """The results of earlier batches are reported, and are in the state."""

    class Refusing(Window):
        def send(self, records: Sequence[bytes], key: str) -> Delivered:
            if b"22" in records:
                raise DeliveryFailed("No.")
            return super().send(records, key)

    with pytest.raises(DeliveryFailed):
        _push(b"1\n" * 9 + b"22\n", Refusing(), tmp_path / "state")
    state = load(tmp_path / "state")
    assert state is not None
    assert (state.accepted, state.place, state.batch) == (9, 10, 3)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The push ends with the older state, and everything after it is sent with the same keys."""
    monkeypatch.setattr(sending, "_SAVE_SECONDS", 0.0)
    path, window, synced = tmp_path / "state", Window(), 0

    def fail(_: int) -> None:
        nonlocal synced
        synced += 1
        if synced > 4:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("os.fsync", fail)
        with pytest.raises(StateFault, match="No space left"):
            _push(b"1\n" * 60, window, path)
    assert load(path) is not None
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    _push(b"1\n" * 60, window, path)
    assert sum(map(len, window.stored.values())) == 60


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"version": 9}', '{"version": 1, "run": "x"}', "\0", "null"]
)
def test_an_invalid_state(content: str, tmp_path: Path) -> None:
    """A file that isn't a state is reported instead of overwritten."""
    (tmp_path / "state").write_text(content)
    with pytest.raises(StateFault):
        load(tmp_path / "state")
    assert (tmp_path / "state").read_text() == content


def test_a_state_that_can_not_be_written(tmp_path: Path) -> None:
    """The error is reported before anything is sent."""
    state = new_state(source="", head="", format="csv", batch_records=1, batch_bytes=1)
    with pytest.raises(StateFault, match="No such file"):
        save(tmp_path / "no" / "state", state)
    window = Window()
    with pytest.raises(StateFault):
        _push(b"1\n", window, tmp_path / "no" / "state")
    assert not window.stored
    assert load(tmp_path / "none") is None


def test_the_header_of_csv_is_kept(tmp_path: Path) -> None:
    """The state has the header, since a resumed push can't read it from the input."""
    state = new_state(source="", head="", format="csv", batch_records=1, batch_bytes=1)
    state = attrs.evolve(state, header=("a", "b"))
    save(tmp_path / "state", state)
    assert load(tmp_path / "state") == state
