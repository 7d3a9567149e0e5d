"""The process in which templates run; see `stream.mapping.engine`, which starts it as a script.

It stands alone: only the standard library and the engine are imported. Of what it gets and gives
each message is a frame: four bytes of length, a letter, and JSON or text.

    parent          process
                    H               ready
    E id, known     evaluate a template for the next record; known results of native functions
                    U               unknown, send it first
    T template                      (id, snippet, native functions with their parameters)
                    C call          name and arguments of a native function, if not known
    V value, or X                   what it gives, or that it failed
                    R text          the result as JSON
                    F text          the failure

Note [Compiled once]: the engine reads a snippet whenever it evaluates one, and makes its standard
library anew. So a snippet here is a loop: an array each of whose items first waits for a record,
then evaluates the template, then hands out the result. The loop stays where it is, in a thread of
its own, until the next record comes; it is begun anew after some records, to give its memory back,
and after a failure. The thread that has answered also reads the next frame: mostly it is for the
same template, and then no other thread has to wake up.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import secrets
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import rjsonnet

MAX_TEMPLATES = 32
"""Kept waiting; the one that was used least recently gives way."""

RECORDS_PER_LOOP = 1000
MAX_STACK = 500
"""Frames of a template."""

OWN_FRAMES = 10
"""Those of the loop around it."""

STACK_BYTES = 16 * 1024 * 1024
MEMORY_BYTES = 2 * 1024 * 1024 * 1024

_LOOP = """{definitions}
local template_{token}(record_{token}) =
{content}
;
local value_{token}(record_{token}) =
  local value = template_{token}(record_{token});
  if std.isFunction(value) then value() else value;
[
  std.native('emit_{token}')(
    if std.native('next_{token}')(record_{token})
    then std.manifestJsonMinified(value_{token}(record_{token}))
  )
  for record_{token} in std.range(1, {records})
]"""


Frame = tuple[bytes, bytes]


class Channel:
    """Frames to and from the parent. Only one thread at a time has a part in it.

    When the parent has ended, so does the process, whichever thread notices it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb")

    def send(self, kind: bytes, text: str = "") -> None:
        data = kind + text.encode("utf-8", "replace")
        try:
            self._connection.sendall(len(data).to_bytes(4, "big") + data)
        except OSError:
            os._exit(0)

    def receive(self) -> Frame:
        """The next frame's letter and the rest."""
        try:
            head = self._reader.read(4)
            data = self._reader.read(int.from_bytes(head, "big"))
        except OSError:
            os._exit(0)
        if not data:
            os._exit(0)
        return data[:1], data[1:]

    def call(self, call: str) -> Any:
        """Have the parent call a native function."""
        self.send(b"C", call)
        kind, data = self.receive()
        if kind != b"V":
            raise RuntimeError("the function has failed")
        return json.loads(data)


class Template(threading.Thread):
    """A template, ready for its next record.

    :param others: where it puts a frame that isn't for itself.
    """

    def __init__(
        self, channel: Channel, plain: dict[str, Any], others: queue.SimpleQueue[Frame]
    ) -> None:
        super().__init__(daemon=True)
        self._channel = channel
        self._id = b"%d" % plain["id"]
        self._known: dict[str, Any] = {}
        self._others = others
        self._records: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._is_reading = False
        self._stopping = False
        token = secrets.token_hex(16)  # so that no template can call what isn't for it
        self._snippet = _LOOP.format(
            definitions=plain["definitions"],
            content=plain["content"],
            token=token,
            records=RECORDS_PER_LOOP,
        )
        self._natives: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
            name: (tuple(parameters), self._native(name))
            for name, parameters in plain["natives"].items()
        }
        self._natives[f"next_{token}"] = (("record",), self._next)
        self._natives[f"emit_{token}"] = (("text",), self._emit)
        self.start()

    def _native(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            text = json.dumps([name, *arguments])
            return self._known[text] if text in self._known else self._channel.call(text)

        return call

    def evaluate(self, known: bytes) -> None:
        """Evaluate for one record, send the result or the failure, and read what comes next.

        :param known: results of native functions by their calls.
        """
        self._records.put(known)

    def stop(self) -> None:
        """End the thread."""
        self._records.put(None)

    def run(self) -> None:
        while self._wait():
            try:
                rjsonnet.evaluate_snippet(
                    "template",
                    self._snippet,
                    max_stack=MAX_STACK + OWN_FRAMES,
                    import_callback=_refuse_import,
                    native_callbacks=self._natives,
                )
            except BaseException as error:
                if self._stopping:
                    return
                self._fail(error)

    def _wait(self) -> bool:
        """Whether there is a record to evaluate, rather than the end."""
        if self._is_reading:
            kind, data = self._channel.receive()
            identifier, _, known = data.partition(b" ")
            if kind == b"E" and identifier == self._id:
                self._known = json.loads(known) if known else {}
                return True
            self._others.put((kind, data))
            self._is_reading = False
        given = self._records.get()
        if given is None:
            return False
        self._known = json.loads(given) if given else {}
        self._is_reading = True
        return True

    def _next(self, record: float) -> bool:
        # The first record of a loop is why it was begun.
        if record > 1 and not self._wait():
            self._stopping = True
            raise RuntimeError("stopped")
        return True

    def _emit(self, text: str) -> None:
        self._channel.send(b"R", text)

    def _fail(self, error: BaseException) -> None:
        text = str(error)
        if type(error).__name__ == "PanicException":
            text = "the template uses a value where it can't be used"
        self._channel.send(b"F", text)


def _refuse_import(directory: str, name: str) -> Any:
    raise RuntimeError("imports are not enabled")


def _serve(channel: Channel) -> None:
    templates: OrderedDict[int, Template] = OrderedDict()
    others: queue.SimpleQueue[Frame] = queue.SimpleQueue()
    kind, data = channel.receive()
    while True:
        known = b""
        if kind == b"T":
            plain = json.loads(data)
            identifier = plain["id"]
            templates[identifier] = Template(channel, plain, others)
            if len(templates) > MAX_TEMPLATES:
                templates.popitem(last=False)[1].stop()
        else:
            text, _, known = data.partition(b" ")
            identifier = int(text)
        template = templates.get(identifier)
        if template is None:
            channel.send(b"U")
            kind, data = channel.receive()
        else:
            templates.move_to_end(identifier)
            template.evaluate(known)
            kind, data = others.get()


def main() -> None:
    """Serve the parent at the socket that is the standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    channel = Channel(socket.socket(fileno=sys.stdin.fileno()))
    channel.send(b"H")
    _serve(channel)


if __name__ == "__main__":
    main()
