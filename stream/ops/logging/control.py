"""The log of the process: its output and its levels, which can be changed at run time.

Note [Reopening]: a log rotation renames the file, and SIGHUP makes the process open a new file
under the old name. The file is opened for appending, so several processes may share it, and a
truncated file is written again from its beginning.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, TextIO

from twisted.logger import (
    FilteringLogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    globalLogPublisher,
)

import stream
from stream.errors import UserError
from stream.ops.logging.lines import Form, LineObserver, form_for

__all__ = ["LEVELS", "LogControl", "check_namespace", "known_namespaces", "parse_levels"]

_log = Logger()

LEVELS = {
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warn": LogLevel.warn,
    "error": LogLevel.error,
}
_FILE_MODE = 0o600
_PACKAGE = "stream."
_LIBRARIES = frozenset({"twisted", "klein", "treq", "log_legacy", "opentelemetry"})
_OWN_NAMES = (
    *("stream.debug", "stream.tracing", "stream.manhole", "stream.metrics", "stream.tail"),
    *("stream.http-source", "http-source", "otlp-source", "supervisor", "api"),
    *(
        f"storage.node.operator.{operator}"
        for operator in ("slice.rotation", "file.rotation", "file.import", "slice.upload")
    ),
)
"""Names of loggers that aren't modules."""
_CLOSE = 0.6
_BUFFER_BYTES = 1024 * 1024
"""A line up to this size is written by one call, so that lines of processes don't interleave."""


def parse_levels(levels: Sequence[str]) -> dict[str, str]:
    """Parse ``namespace=level`` items into a mapping.

    Raises UserError: an item is invalid, or a namespace has no loggers.
    """
    parsed = {}
    for item in levels:
        namespace, _, level = item.partition("=")
        if not namespace.strip() or level.strip() not in LEVELS:
            raise UserError(
                f'invalid log level "{item}", expected namespace=level '
                f"with a level of {', '.join(LEVELS)}"
            )
        check_namespace(namespace.strip())
        parsed[namespace.strip()] = level.strip()
    return parsed


def check_namespace(namespace: str) -> None:
    """Check that *namespace* has loggers. Raises UserError, which suggests the nearest name."""
    known = known_namespaces()
    if not known.isdisjoint(_names(namespace)) or namespace.split(".")[0] in _LIBRARIES:
        return
    shown = [name.removeprefix(_PACKAGE) for name in known]
    # Imported here, because it is needed only after a mistake.
    import difflib

    found = difflib.get_close_matches(namespace, sorted(shown), 1, _CLOSE)
    meant = f', did you mean "{found[0]}"?' if found else ", see the field component of the log"
    raise UserError(f'unknown component of the log "{namespace}"{meant}')


@cache
def known_namespaces() -> frozenset[str]:
    """Return the names of the service's loggers and of their parents."""
    names = {*_OWN_NAMES, "stream"}
    names |= {module.name for module in walk_packages(stream.__path__, _PACKAGE, onerror=_ignore)}
    return frozenset(
        ".".join(parts[:length])
        for parts in (name.split(".") for name in names)
        for length in range(1, len(parts) + 1)
    )


def _ignore(name: str) -> None:
    """Ignore a package that a missing library makes unimportable, because it has no loggers."""


class LogControl:
    """The log's output and levels, which can be changed while the process runs.

    :param path: path of the log file; empty for standard output.
    :param form: form of the lines; ``None``: the short form on a terminal, otherwise JSON.
    :param default: level of namespaces that have no level of their own.
    :param levels: levels by namespace; the level of ``a`` also applies to ``a.b``.
    :param node: name in each line, if several processes write to one output.

    Raises UserError if the file can't be opened.

    :ivar on_reopen: called when the file is reopened, to notify other writers.
    """

    def __init__(
        self,
        path: str = "",
        form: Form | None = None,
        default: str = "info",
        levels: Mapping[str, str] | None = None,
        node: str = "",
    ) -> None:
        self.on_reopen: list[Callable[[], None]] = []
        # The runner may change the working directory before the file is reopened.
        self._path = str(Path(path).absolute()) if path else ""
        self._stream: TextIO = self._open()
        form = form or ("json" if path else form_for(self._stream))
        self._is_terminal = form == "terminal"
        self._observer = LineObserver(
            self._stream,
            form=form,
            minimum=LogLevel.debug,  # the predicate decides
            node=node,
            has_colour="NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb",
        )
        self._default = default
        self._levels: dict[str, str] = dict(levels or {})
        self._predicate = LogLevelFilterPredicate(defaultLogLevel=LEVELS[default])
        for namespace, level in self._levels.items():
            self._apply(namespace, level)

    @property
    def observer(self) -> Any:
        """The observer that receives log events."""
        predicates: list[Any] = [self._predicate]
        if self._is_terminal:
            predicates.append(self._is_for_people)
        return FilteringLogObserver(self._observer, predicates)

    def _is_for_people(self, event: LogEvent) -> Any:
        """Return an event's level on a terminal: debug if the event has no text for people."""
        is_info = event.get("log_level") is LogLevel.info and not event.get("log_terminal")
        namespace = event.get("log_namespace") or ""
        if is_info and self._predicate.logLevelForNamespace(namespace) is not LogLevel.debug:
            return PredicateResult.no
        return PredicateResult.maybe

    def install(self) -> None:
        """Replace the observers that Twisted's runner has set up."""
        for old in list(globalLogPublisher._observers):
            globalLogPublisher.removeObserver(old)
        globalLogPublisher.addObserver(self.observer)

    def levels(self) -> Mapping[str, str]:
        """Return the effective levels by namespace; the empty namespace has the default level."""
        return {"": self._default, **self._levels}

    def set_level(self, namespace: str, level: str) -> None:
        """Set the level of *namespace* and its children until the process ends.

        Raises UserError: the level is unknown, or the namespace has no loggers.

        :param namespace: as in the field ``component`` of a line (``etcd.client``) or as in the
            code (``stream.etcd.client``); empty for the default.
        """
        if level not in LEVELS:
            raise UserError(f'unknown level "{level}", expected one of {", ".join(LEVELS)}')
        if namespace:
            check_namespace(namespace)
            self._apply(namespace, level)
            self._levels[namespace] = level
        else:
            self._predicate.defaultLogLevel = LEVELS[level]
            self._predicate.clearLogLevels()
            self._levels, self._default = {}, level
        _log.warn(
            'log level of "{namespace}" is now {new_level}', namespace=namespace, new_level=level
        )

    def _apply(self, namespace: str, level: str) -> None:
        for name in _names(namespace):
            self._predicate.setLogLevelForNamespace(name, LEVELS[level])

    def reopen(self) -> None:
        """Reopen the file; see Note [Reopening]. If that fails, the old one is kept."""
        if not self._path:
            return
        for tell in self.on_reopen:
            tell()
        try:
            stream = self._open()
        except UserError as error:
            _log.error("cannot reopen the log: {reason}", reason=str(error))
            return
        old, self._stream = self._stream, stream
        self._observer.redirect(stream)
        old.close()
        _log.info("reopened the log file {path}", path=self._path)

    def _open(self) -> TextIO:
        if not self._path:
            return sys.__stdout__ or sys.stdout  # the runner has replaced stdout by its log
        try:
            path = Path(self._path)
            if not path.exists():
                path.touch(_FILE_MODE)
            return path.open("a", buffering=_BUFFER_BYTES, encoding="utf-8")
        except OSError as error:
            raise UserError(f'cannot open the log file "{self._path}": {error.strerror}') from None


def _names(namespace: str) -> tuple[str, ...]:
    """Return the possible names of the logger: *namespace*, with and without the package."""
    if namespace == "stream" or namespace.startswith("stream."):
        return (namespace,)
    return namespace, f"stream.{namespace}"
