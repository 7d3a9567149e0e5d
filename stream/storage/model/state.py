"""The states of files and slices, their levels, and the valid combinations.

```
file    writing → closing → importing → imported
slice   writing → closing → uploading → uploaded → imported
```

One transition goes back: while its file is closing, an uploaded slice is uploaded again if the file
gets other staging storage (`check_upload_again`).
"""

from __future__ import annotations

import enum

from stream.errors import UserError

__all__ = [
    "FILE_LEVEL",
    "SLICE_LEVEL",
    "FileState",
    "InvalidCombination",
    "InvalidFileState",
    "InvalidSliceState",
    "Level",
    "SliceState",
    "check_combination",
    "check_file_transition",
    "check_slice_transition",
    "check_upload_again",
]


class FileState(enum.Enum):
    """The states of a file."""

    WRITING = "writing"
    CLOSING = "closing"
    IMPORTING = "importing"
    IMPORTED = "imported"


class SliceState(enum.Enum):
    """The states of a slice."""

    WRITING = "writing"
    CLOSING = "closing"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    IMPORTED = "imported"


class Level(enum.Enum):
    """The location of data: on a volume, in staging storage, in the target table."""

    LOCAL = "local"
    STAGING = "staging"
    TARGET = "target"


FILE_LEVEL = {
    FileState.WRITING: Level.LOCAL,
    FileState.CLOSING: Level.LOCAL,
    FileState.IMPORTING: Level.STAGING,
    FileState.IMPORTED: Level.TARGET,
}

SLICE_LEVEL = {
    SliceState.WRITING: Level.LOCAL,
    SliceState.CLOSING: Level.LOCAL,
    SliceState.UPLOADING: Level.LOCAL,
    SliceState.UPLOADED: Level.STAGING,
    SliceState.IMPORTED: Level.TARGET,
}

_FILE_NEXT = {
    FileState.WRITING: FileState.CLOSING,
    FileState.CLOSING: FileState.IMPORTING,
    FileState.IMPORTING: FileState.IMPORTED,
}

_SLICE_NEXT = {
    SliceState.WRITING: SliceState.CLOSING,
    SliceState.CLOSING: SliceState.UPLOADING,
    SliceState.UPLOADING: SliceState.UPLOADED,
    SliceState.UPLOADED: SliceState.IMPORTED,
}

_ALLOWED = {
    FileState.WRITING: {
        SliceState.WRITING,
        SliceState.CLOSING,
        SliceState.UPLOADING,
        SliceState.UPLOADED,
    },
    FileState.CLOSING: {SliceState.CLOSING, SliceState.UPLOADING, SliceState.UPLOADED},
    FileState.IMPORTING: {SliceState.UPLOADED, SliceState.IMPORTED},
    FileState.IMPORTED: {SliceState.IMPORTED},
}


class InvalidFileState(UserError):
    """The file is not in the expected state: another node has changed it first."""

    name = "invalidFileState"


class InvalidSliceState(UserError):
    """The slice is not in the expected state: another node has changed it first."""

    name = "invalidSliceState"


class InvalidCombination(UserError):
    """The states of a file and one of its slices can't occur together, or not yet."""

    name = "invalidCombination"


def check_file_transition(
    file: object, found: FileState, expected: FileState, to: FileState
) -> None:
    """Check that the transition is allowed, and that the file is in the state *expected*.

    :param file: key of the file, for the error message.
    :param found: current state of the file.
    """
    if _FILE_NEXT.get(expected) is not to:
        raise UserError(
            f'unexpected file "{file}" state transition from "{expected.value}" to "{to.value}"'
        )
    if found is not expected:
        raise InvalidFileState(
            f'invalid file state transition: file "{file}" is in "{found.value}" state, '
            f'expected "{expected.value}"'
        )


def check_slice_transition(
    slice_: object, found: SliceState, expected: SliceState, to: SliceState
) -> None:
    """Check that the transition is allowed, and that the slice is in the state *expected*.

    :param slice_: key of the slice, for the error message.
    :param found: current state of the slice.
    """
    if _SLICE_NEXT.get(expected) is not to:
        raise UserError(
            f'unexpected slice "{slice_}" state transition from "{expected.value}" to "{to.value}"'
        )
    if found is not expected:
        raise InvalidSliceState(
            f'slice "{slice_}" is in "{found.value}" state, expected "{expected.value}"'
        )


def check_upload_again(slice_: object, file: FileState, found: SliceState) -> None:
    """Check that a slice may go back from ``uploaded`` to ``uploading``.

    :param slice_: key of the slice, for the error message.
    :param file: current state of the slice's file.
    """
    if file is not FileState.CLOSING:
        raise InvalidFileState(
            f'slice "{slice_}" cannot be uploaded again, its file is in "{file.value}" state'
        )
    if found is not SliceState.UPLOADED:
        raise InvalidSliceState(
            f'slice "{slice_}" is in "{found.value}" state, expected "{SliceState.UPLOADED.value}"'
        )


def check_combination(file: FileState, slice_: SliceState) -> None:
    """Check that a file in state *file* may hold a slice in state *slice_*."""
    if slice_ not in _ALLOWED[file]:
        raise InvalidCombination(
            f'unexpected combination: file state "{file.value}" and slice state "{slice_.value}"'
        )
