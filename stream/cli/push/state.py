"""The progress of a push, in a crash-safe file.

The file is replaced atomically: a new one is written, synced and renamed. So after a crash, or if
the disk is full, the previous state remains, and the push repeats a few batches under the same
keys.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import attrs

__all__ = ["State", "StateFault", "load", "new_state", "save", "source_digest"]

_VERSION = 1
_MAX_BYTES = 1024 * 1024


class StateFault(Exception):
    """An unusable state; the message says why and what to do."""


@attrs.frozen
class State:
    """The progress of a run, from which a later run resumes.

    :ivar run: random prefix of all keys.
    :ivar source: a digest of the URL of the source.
    :ivar head: digest of the beginning of the input; see `Input.head`.
    :ivar batch_records, batch_bytes: limits of batches; with other limits, the keys would belong
        to other records.
    :ivar batch: number of the next batch.
    :ivar offset: number of decided bytes of the input.
    :ivar place: line number or index of the next record.
    :ivar header: header of a CSV file.
    :ivar sent: number of the first batch that was certainly not sent.
    :ivar saved_at: time at which the state was written, seconds since the epoch.
    """

    run: str
    source: str
    head: str
    format: str
    batch_records: int
    batch_bytes: int
    batch: int = 0
    offset: int = 0
    place: int = 0
    header: tuple[str, ...] | None = None
    accepted: int = 0
    rejected: int = 0
    sent: int = 0
    saved_at: float = attrs.field(default=0.0, eq=False)

    @property
    def in_doubt(self) -> int:
        """How many records, starting at `place`, may have been sent without an answer."""
        return max(0, self.sent - self.batch) * self.batch_records


def source_digest(url: str) -> str:
    """Return a digest of the URL of a source, which doesn't reveal its secret."""
    return blake2b(url.encode(), digest_size=16).hexdigest()


def new_state(**members: Any) -> State:
    """Return a new state with its own keys."""
    return State(run=secrets.token_hex(12), **members)


def load(path: Path) -> State | None:
    """Return the state in *path*, or ``None``. Raises StateFault if it is unreadable."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateFault(f"The state {path} can't be read: {error.strerror}.") from None
    try:
        members = json.loads(content)
        if members.pop("version") != _VERSION:
            raise StateFault(f"The state {path} was written by another version of `stream`.")
        state = State(**members)
        if state.header is not None:
            state = attrs.evolve(state, header=tuple(map(str, state.header)))
        numbers = [state.batch_records, state.batch_bytes, state.batch, state.offset, state.place]
        numbers.append(state.sent)
        if not isinstance(state.saved_at, int | float) or not all(
            isinstance(number, int) and number >= 0 for number in numbers
        ):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise StateFault(
            f"{path} is not the state of a push. Use another file, or remove it to start again."
        ) from None
    return state


def save(path: Path, state: State) -> None:
    """Write *state* durably. If that fails, keep the old state and raise StateFault."""
    members = attrs.asdict(attrs.evolve(state, saved_at=time.time()))
    text = json.dumps({"version": _VERSION, **members}) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StateFault(f"The state {path} can't be written: {error.strerror}.") from None


def _sync_directory(path: Path) -> None:
    if os.name != "posix":
        return
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
