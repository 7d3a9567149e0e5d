"""``python -m watcher``: from the command line to the running watcher."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from twisted.internet import reactor as installed

from watcher.debounce import Debounce
from watcher.files import watch
from watcher.restarter import Restarter


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m watcher", description=__doc__)
    parser.add_argument("--watch", action="append", required=True, metavar="FOLDER")
    parser.add_argument("--delay", type=float, default=2.0, help="seconds without a change")
    parser.add_argument("--kill-after", type=float, default=60.0, help="seconds for its end")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def _say(line: str) -> None:
    print(f"watcher: {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Run until Ctrl-C."""
    arguments = _arguments()
    reactor: Any = installed

    def restart(name: str, count: int) -> None:
        more = f" and {count - 1} more" if count > 1 else ""
        restarter.restart(f"{os.path.relpath(name)}{more} changed")

    restarter = Restarter(reactor, arguments.command, _say, arguments.kill_after)
    debounce = Debounce(reactor, arguments.delay, restart)

    def start() -> None:
        restarter.startService()
        _say(f"watching {', '.join(arguments.watch)}")

    try:
        end_watch = watch(
            arguments.watch, lambda name: reactor.callFromThread(debounce.touch, name)
        )
    except OSError as error:
        sys.exit(f"Error: cannot watch {arguments.watch}: {error.strerror}.")
    reactor.callWhenRunning(start)
    reactor.addSystemEventTrigger("before", "shutdown", debounce.cancel)
    reactor.addSystemEventTrigger("before", "shutdown", restarter.stopService)
    reactor.run()
    end_watch()


main()
