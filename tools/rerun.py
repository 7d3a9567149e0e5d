"""Runs a command, and restarts it when a source file has changed.

``python -m tools.rerun --watch FOLDER [--watch …] -- COMMAND`` interrupts the command (SIGINT) when
no file has changed for a while, waits for its end and starts it again. Ctrl-C ends both.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from watchfiles import Change, watch

__all__ = ["SUFFIXES", "Rerun", "counts", "main"]

SUFFIXES = frozenset({".py", ".sql", ".yaml", ".yml", ".json"})
"""Suffixes of programs, statements and settings; editors and Python write other files next
to them.
"""

_LONGEST_CHANGE_MS = 60_000
_LOOK_MS = 200


def counts(_: Change, path: str) -> bool:
    """Return whether a changed file requires a restart."""
    return Path(path).suffix in SUFFIXES


class Rerun:
    """A command that runs until it is stopped, and again after each change.

    :param command: program and arguments.
    :param delay: seconds without a change before the restart.
    :param kill_after: seconds between SIGINT and SIGKILL.
    """

    def __init__(self, command: Sequence[str], delay: float, kill_after: float) -> None:
        self._command = list(command)
        self._delay_ms = max(1, round(delay * 1000))
        self._kill_after = kill_after
        self._is_stopped = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, folders: Sequence[str]) -> None:
        """Start the command and watch *folders* until `stop`; the command ends before this returns.

        Raises OSError: a folder can't be watched.
        """
        is_watching = has_ended = False
        self._start()
        try:
            for changes in watch(
                *folders,
                watch_filter=counts,
                debounce=_LONGEST_CHANGE_MS,
                step=self._delay_ms,
                rust_timeout=_LOOK_MS,
                yield_on_timeout=True,
                stop_event=self._is_stopped,
            ):
                if not is_watching:
                    is_watching = True
                    _say(f"watching {', '.join(folders)}")
                if changes:
                    self._again([path for _, path in changes])
                    has_ended = False
                elif not has_ended and not self._is_running():
                    has_ended = True
                    _say("the command has ended; the next change starts it again")
        finally:
            if not self._is_stopped.is_set():
                self._interrupt()
            self._end()

    def stop(self, *_: Any) -> None:
        """Interrupt the command and end `run`; a signal handler."""
        self._is_stopped.set()
        self._interrupt()

    def _start(self) -> None:
        if not self._is_stopped.is_set():
            # In a separate session it gets no Ctrl-C from the terminal in addition to ours.
            self._child = subprocess.Popen(self._command, start_new_session=True)

    def _is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def _again(self, paths: list[str]) -> None:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        _say(f"{os.path.relpath(min(paths))}{more} changed: starting again")
        self._interrupt()
        self._end()
        self._start()

    def _interrupt(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGINT)

    def _end(self) -> None:
        if self._child is None:
            return
        try:
            self._child.wait(self._kill_after)
        except subprocess.TimeoutExpired:
            _say(f"killed: it did not end within {self._kill_after:g} s")
            self._child.kill()
            self._child.wait()


def _say(line: str) -> None:
    print(f"rerun: {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Run until SIGINT, SIGTERM or SIGHUP."""
    parser = argparse.ArgumentParser(prog="python -m tools.rerun", description=__doc__)
    parser.add_argument("--watch", action="append", required=True, metavar="FOLDER")
    parser.add_argument("--delay", type=float, default=2.0, help="seconds without a change")
    parser.add_argument("--kill-after", type=float, default=60.0, help="seconds for its end")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    for folder in arguments.watch:
        if not Path(folder).is_dir():
            sys.exit(f"Error: cannot watch {folder}: it is no folder.")
    rerun = Rerun(arguments.command, arguments.delay, arguments.kill_after)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, rerun.stop)
    rerun.run(arguments.watch)


if __name__ == "__main__":
    main()
