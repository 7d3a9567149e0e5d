"""A headless Chromium that shows pages, controlled over a pipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["NAMES", "Browser", "browser", "find_chromium"]

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""Possible names of the program."""
_LOADED = """new Promise(done => {
  const ready = () => document.fonts.ready.then(() => done(document.title));
  document.readyState === "complete" ? ready() : addEventListener("load", ready);
})"""


def find_chromium() -> str | None:
    """Return the path of the program, if it is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in Chromium.

    :param send: the file descriptor that commands are written to.
    :param receive: the file descriptor that answers are read from.
    """

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._number = 0
        self._buffer = b""
        self._session = ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self._call("Page.enable")
        # A page stores its colour scheme, and would no longer follow the system's.
        self._call("Page.addScriptToEvaluateOnNewDocument", source="localStorage.clear()")

    def show(self, path: Path, width: int, *, is_dark: bool = False) -> None:
        """Open the file of a page, and wait until it is loaded.

        :param width: of the window in pixels; below 600 it is a phone's.
        """
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=path.absolute().as_uri())
        self.evaluate(_LOADED)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript in the page."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self) -> str:
        """Return the whole page as a PNG, in base64."""
        data: str = self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        return data

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._send, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            received = os.read(self._receive, 1 << 20)
            assert received, "Chromium has ended"
            self._buffer += received
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


@contextmanager
def browser(chromium: str, folder: Path) -> Iterator[Browser]:
    """A Chromium that ends with the block.

    :param chromium: the program.
    :param folder: where it keeps its profile.
    """
    commands, send = os.pipe()
    receive, answers = os.pipe()

    # Chromium reads commands from descriptor 3, and writes answers to 4.
    shell = f'exec "$@" 3<&{commands} 4>&{answers}'
    command = ["bash", "-c", shell, "bash", chromium, "--headless", "--no-sandbox"]
    command += ["--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
    command += [f"--user-data-dir={folder}", "--allow-file-access-from-files"]
    process = subprocess.Popen(
        command,
        pass_fds=(commands, answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        os.close(commands)
        os.close(answers)
        yield Browser(send, receive)
    finally:
        process.kill()
        process.wait(10)
        os.close(send)
        os.close(receive)
