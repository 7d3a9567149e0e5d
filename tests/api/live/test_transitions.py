from __future__ import annotations

from datetime import timedelta

import attrs
import pytest

from stream.api.live.transitions import FileInPipeline, Followed, SliceInPipeline, transition
from stream.definition.key import SinkKey
from stream.storage.model.key import FileKey
from stream.storage.model.retry import NO_RETRY
from stream.storage.model.state import FileState, SliceState
from stream.values.utctime import parse_time

AT = parse_time("2026-01-01T00:00:00.000Z")
LATER = AT + timedelta(seconds=5)
FILE_KEY = FileKey.of(SinkKey(1, 2, "s", "k"), AT)
FILE = FileInPipeline(key=FILE_KEY, state=FileState.WRITING)
SLICE = SliceInPipeline(key=FILE_KEY.slice("v", AT), state=SliceState.WRITING)
PLACE = {"sourceId": "s", "sinkId": "k", "fileId": "2026-01-01T00:00:00.000Z"}
OF_SLICE = PLACE | {"sliceId": "v/2026-01-01T00:00:00.000Z"}
T0, T5 = "2026-01-01T00:00:00.000Z", "2026-01-01T00:00:05.000Z"


def file(state: FileState, **times: object) -> FileInPipeline:
    return attrs.evolve(FILE, state=state, **times)  # type: ignore[arg-type]


def slice_(state: SliceState, **times: object) -> SliceInPipeline:
    return attrs.evolve(SLICE, state=state, **times)  # type: ignore[arg-type]


CLOSING = file(FileState.CLOSING, closing_at=LATER)
IMPORTING = file(FileState.IMPORTING, closing_at=AT, importing_at=AT)
IMPORTED = attrs.evolve(IMPORTING, state=FileState.IMPORTED, imported_at=LATER)
UPLOADED = slice_(SliceState.UPLOADED, closing_at=AT, uploading_at=AT, uploaded_at=LATER)


@pytest.mark.parametrize(
    ("now", "before", "state", "previous", "time"),
    [
        (FILE, None, "writing", None, T0),
        (CLOSING, FILE, "closing", "writing", T5),
        (IMPORTING, None, "importing", "closing", T0),
        (IMPORTED, IMPORTING, "imported", "importing", T5),
        (None, CLOSING, "deleted", "closing", "2026-01-01T01:00:00.000Z"),
        (SLICE, None, "writing", None, T0),
        (slice_(SliceState.UPLOADING, uploading_at=LATER), SLICE, "uploading", "writing", T5),
        (UPLOADED, None, "uploaded", "uploading", T5),
        # a second time, with other staging storage
        (slice_(SliceState.UPLOADING, uploading_at=LATER), None, "uploading", "uploaded", T5),
    ],
)
def test_a_step(
    now: Followed | None, before: Followed | None, state: str, previous: str | None, time: str
) -> None:
    """A transition has the state, the previous state and the time."""
    shown = transition(now, before, AT + timedelta(hours=1))
    assert shown is not None
    shown.pop("seconds", None)
    place = OF_SLICE if isinstance(now or before, SliceInPipeline) else PLACE
    assert shown == place | {"state": state, "previousState": previous, "time": time}


def test_the_duration_of_an_import() -> None:
    """The transition after an import has its duration."""
    shown = transition(IMPORTED, IMPORTING, AT)
    assert shown is not None
    assert shown["seconds"] == 5


def test_a_failed_attempt() -> None:
    """After a failed attempt the state is the same, with the error and the time of the next
    attempt.
    """
    retry = NO_RETRY.failed(LATER, "no luck", delay=timedelta(minutes=2))
    failed = attrs.evolve(CLOSING, retry=retry)
    assert transition(failed, CLOSING, AT) == PLACE | {
        "state": "closing",
        "previousState": "closing",
        "time": T5,
        "retry": {"attempt": 1, "reason": "no luck", "after": "2026-01-01T00:02:05.000Z"},
    }
    assert transition(failed, failed, AT) is None
    shown = transition(CLOSING, failed, AT)
    assert shown is not None
    assert "retry" not in shown


def test_records_without_an_event() -> None:
    """Changes that users don't see produce no event."""
    assert transition(CLOSING, attrs.evolve(CLOSING, closing_at=AT), AT) is None
    assert transition(None, None, AT) is None
