"""Every transition of files and slices, allowed or not."""

from __future__ import annotations

from itertools import product

import pytest

from stream.errors import UserError
from stream.storage.model.state import (
    FileState,
    InvalidFileState,
    InvalidSliceState,
    SliceState,
    check_combination,
    check_file_transition,
    check_slice_transition,
    check_upload_again,
)

_FILE_STEPS = set(zip(list(FileState), list(FileState)[1:], strict=False))
_SLICE_STEPS = set(zip(list(SliceState), list(SliceState)[1:], strict=False))
_COMBINATIONS = {
    (FileState.WRITING, SliceState.WRITING),
    (FileState.WRITING, SliceState.CLOSING),
    (FileState.WRITING, SliceState.UPLOADING),
    (FileState.WRITING, SliceState.UPLOADED),
    (FileState.CLOSING, SliceState.CLOSING),
    (FileState.CLOSING, SliceState.UPLOADING),
    (FileState.CLOSING, SliceState.UPLOADED),
    (FileState.IMPORTING, SliceState.UPLOADED),
    (FileState.IMPORTING, SliceState.IMPORTED),
    (FileState.IMPORTED, SliceState.IMPORTED),
}


@pytest.mark.parametrize(("expected", "to"), list(product(FileState, FileState)))
def test_transitions_of_a_file(expected: FileState, to: FileState) -> None:
    """A file advances to the next state only; any other transition is an error of the caller."""
    if (expected, to) in _FILE_STEPS:
        check_file_transition("f", expected, expected, to)
    else:
        with pytest.raises(UserError, match='unexpected file "f" state transition from') as refused:
            check_file_transition("f", expected, expected, to)
        assert not isinstance(refused.value, InvalidFileState)


@pytest.mark.parametrize(("found", "step"), list(product(FileState, sorted(_FILE_STEPS, key=str))))
def test_a_file_in_another_state(found: FileState, step: tuple[FileState, FileState]) -> None:
    """A caller can detect that another one was faster."""
    if found is step[0]:
        check_file_transition("f", found, *step)
    else:
        with pytest.raises(InvalidFileState, match=f'is in "{found.value}" state, expected'):
            check_file_transition("f", found, *step)


@pytest.mark.parametrize(("expected", "to"), list(product(SliceState, SliceState)))
def test_transitions_of_a_slice(expected: SliceState, to: SliceState) -> None:
    """A slice advances to the next state only; any other transition is an error of the caller."""
    if (expected, to) in _SLICE_STEPS:
        check_slice_transition("s", expected, expected, to)
    else:
        with pytest.raises(UserError, match='unexpected slice "s" state transition from'):
            check_slice_transition("s", expected, expected, to)


@pytest.mark.parametrize(
    ("found", "step"), list(product(SliceState, sorted(_SLICE_STEPS, key=str)))
)
def test_a_slice_in_another_state(found: SliceState, step: tuple[SliceState, SliceState]) -> None:
    """A caller can detect that another one was faster."""
    if found is step[0]:
        check_slice_transition("s", found, *step)
    else:
        with pytest.raises(InvalidSliceState, match=f'is in "{found.value}" state, expected'):
            check_slice_transition("s", found, *step)


@pytest.mark.parametrize(("file", "slice_"), list(product(FileState, SliceState)))
def test_states_of_file_and_slice(file: FileState, slice_: SliceState) -> None:
    """A slice is never ahead of its file, or behind it where data would be missing."""
    if (file, slice_) in _COMBINATIONS:
        check_combination(file, slice_)
    else:
        with pytest.raises(UserError, match="unexpected combination"):
            check_combination(file, slice_)


@pytest.mark.parametrize(("file", "slice_"), list(product(FileState, SliceState)))
def test_when_a_slice_is_reset(file: FileState, slice_: SliceState) -> None:
    """A slice is reset only while its file is closing, when no import can read it."""
    if (file, slice_) == (FileState.CLOSING, SliceState.UPLOADED):
        check_upload_again("s", file, slice_)
        check_combination(file, SliceState.UPLOADING)
        return
    refusal = InvalidSliceState if file is FileState.CLOSING else InvalidFileState
    with pytest.raises(refusal, match=r'slice "s" (is|cannot be) .* state'):
        check_upload_again("s", file, slice_)
