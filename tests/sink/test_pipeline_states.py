"""The table of a slice pipeline's states."""

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


def test_the_whole_table() -> None:
    """Each event in each state; a dash is an event that is ignored."""
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
def test_a_pipeline_that_closes_takes_no_rows_again(events: list[PipelineEvent]) -> None:
    """A closing pipeline closes after any events."""
    assert _after(_S.READY, [_E.CLOSE, *events]) in (_S.CLOSING, _S.CLOSED)
    assert _after(_S.READY, [_E.CLOSE, *events, _E.EMPTY]) is _S.CLOSED


@given(st.lists(st.sampled_from(_EVENTS)))
def test_rows_are_taken_only_with_an_open_file(events: list[PipelineEvent]) -> None:
    """`READY` is entered by an opened file, and left when it is lost."""
    before = _after(_S.OPENING, events)
    for event in _EVENTS:
        if TRANSITIONS[before].get(event) is _S.READY:
            assert event is _E.OPENED
    assert TRANSITIONS[_S.READY][_E.LOST] is _S.STALLED


def test_every_state_but_the_last_can_be_left() -> None:
    """And each one is reached from the first."""
    reached = {_S.OPENING}
    for _ in PipelineState:
        reached |= {
            TRANSITIONS[state][event]
            for state, event in itertools.product(reached, _EVENTS)
            if event in TRANSITIONS[state]
        }
    assert reached == set(PipelineState)
    assert [state for state in PipelineState if not TRANSITIONS[state]] == [_S.CLOSED]
