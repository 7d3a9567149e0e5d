"""Runs templates in a process of their own, which may be killed at any time.

A template is a program of some user. Whatever it does, it must not take the node down: a few
characters are enough to overflow the stack, to fill the memory or to never end. So the engine runs
in a child process, with a limit on its memory; if it doesn't answer in time it is killed, and the
next record gets a new one. While a template runs the caller waits, as with any other column.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import rjsonnet

from stream.errors import UserError
from stream.mapping import engine_process

__all__ = ["Engine", "EngineError", "Program"]

EVALUATION_SECONDS = 2.0
"""For one record; a template takes a fraction of a millisecond."""

START_SECONDS = 30.0
PAUSE_SECONDS = 30.0
"""After its first failure of that kind; twice as long after each further one."""

MAX_PAUSE_SECONDS = 3600.0
MAX_KNOWN_CALLS = 16
MAX_CALL_BYTES = 256
MAX_KNOWN_BYTES = 16 * 1024
MAX_RESULT_BYTES = 16 * 1024 * 1024

_ENVIRONMENT = {
    "PYTHONPATH": str(Path(rjsonnet.__file__).parent.parent),
    # A heap for each thread would use up the limit of the memory.
    "MALLOC_ARENA_MAX": "1",
}
"""Nothing of ours, which may hold secrets."""

_ids = itertools.count(1)

Call = Callable[[str, Sequence[Any]], Any]


class EngineError(Exception):
    """The template has failed; the engine's words."""


@attrs.define(eq=False)
class Program:
    """A template as the engine reads it.

    :ivar definitions: what is put before it.
    :ivar natives: native functions and the names of their parameters.
    :ivar pause: seconds that it isn't run after it had to be killed once more.
    :ivar paused_until: in the time of `time.monotonic`.
    :ivar fault: why.
    :ivar calls: what it called before, as the process spells it: it will do so again, and to ask
        takes longer than to answer. The value is whether the answer is worth being sent at once.
    """

    definitions: str
    content: str
    natives: Mapping[str, Sequence[str]]
    id: int = attrs.field(factory=lambda: next(_ids))
    pause: float = PAUSE_SECONDS
    paused_until: float = 0.0
    fault: str = ""
    calls: dict[bytes, bool] = attrs.Factory(dict)


class Engine:
    """One child process, started when it is needed.

    :param clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def evaluate(self, program: Program, call: Call) -> str:
        """The result for one record, as JSON.

        :param call: calls a native function.

        Raises EngineError: the template fails; UserError: it had to be killed; and what *call*
        raises.
        """
        if program.paused_until > self._clock():
            raise UserError(f"{program.fault}, it is not run for a while")
        with self._lock:
            child = self._child
            if child is None or not child.is_mine:
                child = self._child = _Child.start()
            try:
                return child.evaluate(program, call)
            except _Lost as error:
                self._child = None
                child.kill()
                program.paused_until = self._clock() + program.pause
                program.pause = min(2 * program.pause, MAX_PAUSE_SECONDS)
                program.fault = str(error)
                raise UserError(program.fault) from None

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            child, self._child = self._child, None
            if child is not None and child.is_mine:
                child.kill()


class _Lost(Exception):
    """The process can't be used any more; the text is for the user."""


class _Child:
    def __init__(self) -> None:
        ours, its = socket.socketpair()
        self._pid = os.getpid()
        self._socket = ours
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", str(Path(engine_process.__file__))],
                stdin=its.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        self._deadline = time.monotonic() + START_SECONDS

    @classmethod
    def start(cls) -> _Child:
        """A process that is ready. Raises OSError."""
        child = cls()
        try:
            child._receive()
        except _Lost as error:
            child.kill()
            raise OSError("the process for templates doesn't start") from error
        return child

    @property
    def is_mine(self) -> bool:
        """Whether it was started by this process, and not by one that this is a fork of."""
        return self._pid == os.getpid()

    def kill(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def evaluate(self, program: Program, call: Call) -> str:
        self._deadline = time.monotonic() + EVALUATION_SECONDS
        self._send(b"E%d " % program.id + _known(program, call))
        kind, data = self._receive()
        if kind == b"U":
            self._send(b"T" + _plain(program))
            kind, data = self._receive()
        failure: Exception | None = None
        while kind == b"C":
            answer = b"X"
            if failure is None:
                try:
                    answer = b"V" + _answer(call, data)
                    if len(program.calls) < MAX_KNOWN_CALLS and len(data) <= MAX_CALL_BYTES:
                        program.calls.setdefault(data, True)
                except Exception as error:
                    failure = error
            self._send(answer)
            kind, data = self._receive()
        if failure is not None:
            raise failure
        text = data.decode("utf-8", "replace")
        if kind == b"R":
            return text
        raise EngineError(text)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._remaining())
            self._socket.sendall(len(data).to_bytes(4, "big") + data)
        except TimeoutError:
            raise _too_slow() from None
        except OSError:
            raise _crashed() from None

    def _receive(self) -> tuple[bytes, bytes]:
        size = int.from_bytes(self._read(4), "big")
        if size > MAX_RESULT_BYTES:
            raise _Lost("the template's result is too large")
        data = self._read(size)
        return data[:1], data[1:]

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                self._socket.settimeout(self._remaining())
                piece = self._socket.recv(size - len(data))
            except TimeoutError:
                raise _too_slow() from None
            except OSError:
                raise _crashed() from None
            if not piece:
                raise _crashed()
            data += piece
        return bytes(data)

    def _remaining(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)


def _answer(call: Call, data: bytes) -> bytes:
    name, *arguments = json.loads(data)
    return json.dumps(call(name, arguments)).encode()


def _known(program: Program, call: Call) -> bytes:
    """Answers to the calls that the program will make, as a JSON object."""
    members = []
    for data, is_worth in program.calls.items():
        if is_worth:
            try:
                answer = _answer(call, data)
            except UserError:
                continue  # whether it matters shows when the program asks
            if len(answer) > MAX_KNOWN_BYTES:
                program.calls[data] = False
            members.append(json.dumps(data.decode()).encode() + b":" + answer)
    return b"{%b}" % b",".join(members) if members else b""


def _plain(program: Program) -> bytes:
    return json.dumps(
        {
            "id": program.id,
            "definitions": program.definitions,
            "content": program.content,
            "natives": {name: list(names) for name, names in program.natives.items()},
        }
    ).encode()


def _too_slow() -> _Lost:
    return _Lost(f"the template takes longer than {EVALUATION_SECONDS:g} s")


def _crashed() -> _Lost:
    return _Lost("the template needs more memory or a deeper stack than it may have")
