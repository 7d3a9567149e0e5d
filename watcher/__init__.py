"""Runs a command, and again when a file of the source changes: for ``make run-stream-service``.

``python -m watcher --watch FOLDER [--watch …] -- COMMAND`` watches with inotify, waits until no
file has changed for a while (`watcher.debounce`), interrupts the command and starts it anew
(`watcher.restarter`). Ctrl-C ends both.
"""
