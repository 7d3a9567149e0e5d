"""The state table of a slice pipeline."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from stream.sink.pipeline_states import TRANSITIONS, PipelineEvent, PipelineState

_S, _E = PipelineState, PipelineEvent
_EVENTS = list(PipelineEvent)

EXPECTED = """
            opened   grace over  draining  lost     sealed  close    empty
opening     ready    stalled     -         opening  closed  closing  -
ready       -        -           stalled   stalled  closed  closing  -
stalled     ready    -           -         stalled  closed  closing  -
closing     closing  -           -         closing  closed  closing  closed
closed      -        -           -         -        -       -        -
"""


def test_all_transitions() -> None:
    """Each event in each state is tested; a dash is an event that is ignored."""
    _, *rows = EXPECTED.strip("\n").splitlines()
    assert [row.split()[0] for row in rows] == [state.value for state in PipelineState]
    for state, row in zip(PipelineState, rows, strict=True):
        found = [TRANSITIONS[state].get(event) for event in _EVENTS]
        assert [each.value if each else "-" for each in found] == row.split()[1:]


def _after(state: PipelineState, events: list[PipelineEvent]) -> PipelineState:
    for event in events:
        state = TRANSITIONS[state].get(event, state)
    return state


@given(st.lists(st.sampled_from(_EVENTS)))
def test_closing_is_final(events: list[PipelineEvent]) -> None:
    """A closing pipeline accepts no rows, whatever events follow."""
    assert _after(_S.READY, [_E.CLOSE, *events]) in (_S.CLOSING, _S.CLOSED)
    assert _after(_S.READY, [_E.CLOSE, *events, _E.EMPTY]) is _S.CLOSED


@given(st.lists(st.sampled_from(_EVENTS)))
def test_rows_need_an_open_file(events: list[PipelineEvent]) -> None:
    """An opened file leads to `READY`, and a lost file to another state."""
    before = _after(_S.OPENING, events)
    for event in _EVENTS:
        if TRANSITIONS[before].get(event) is _S.READY:
            assert event is _E.OPENED
    assert TRANSITIONS[_S.READY][_E.LOST] is _S.STALLED


def test_every_state_is_reachable() -> None:
    """Every state is reached from the first one, and every state except the last can be left."""
    reached = {_S.OPENING}
    for _ in PipelineState:
        reached |= {
            TRANSITIONS[state][event]
            for state, event in itertools.product(reached, _EVENTS)
            if event in TRANSITIONS[state]
        }
    assert reached == set(PipelineState)
    assert [state for state in PipelineState if not TRANSITIONS[state]] == [_S.CLOSED]
