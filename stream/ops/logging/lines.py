"""Log lines: events of `twisted.logger` as JSON for machines or text for people.

Code logs a template and fields, ``_log.info("opened volume {volume_id}", volume_id=…)``. A line has
the formatted message and every field, so that messages need not be parsed. Fields whose names
indicate a secret are masked, including in the message and inside other fields. So is any text that
has the form of a secret (`stream.values.redaction`).

A terminal shows less (`stream.ops.logging.terminal`). It shows an event at level info only if the
event has ``log_terminal``, a template for people: ``log_terminal="{count} rows"``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from string import Formatter
from typing import Any, Literal, TextIO, cast

import orjson
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from stream.ops.logging.terminal import encodable, terminal_lines, visible
from stream.ops.tracing.spans import log_ids
from stream.values.redaction import MASK, hide_secrets, is_secret_name
from stream.values.utctime import format_time, from_timestamp

__all__ = ["Form", "LineObserver", "form_for"]

Form = Literal["json", "text", "terminal"]
"""JSON lines; text lines with all fields; short lines for a person at a terminal."""

_LEVELS = {
    LogLevel.debug: "debug",
    LogLevel.info: "info",
    LogLevel.warn: "warn",
    LogLevel.error: "error",
    LogLevel.critical: "error",
}
_LEVEL_ORDER = (
    LogLevel.debug,
    LogLevel.info,
    LogLevel.warn,
    LogLevel.error,
    LogLevel.critical,
)
# Members that Twisted's legacy log adds to an event, and members renamed in a line.
_NO_FIELDS = frozenset(
    {"component", "format", "isError", "message", "printed", "system", "time", "why", "failure"}
)
_DEFAULT_NAMESPACES = frozenset({"<unknown>", "log_legacy", "stdout", "stderr"})
_PACKAGE = "stream."
_FORMATTER = Formatter()
_MAX_DEPTH = 6
_MAX_CHARS = 32 * 1024
_LONGEST_SECRET_CHARS = 4096
"""Characters read after the shown part of a text, so that no beginning of a secret is shown."""
# Fields with the names that existing log searches use.
_DOTTED = frozenset(
    {
        *("project_id", "branch_id", "source_id", "sink_id", "file_id", "slice_id", "job_id"),
        *("volume_id", "volume_type", "volume_label", "volume_path", "volumes_path"),
        *("lock_key", "distribution_group", "distribution_node", "etcd_endpoints"),
        *("error_name", "error_type", "error_stack"),
        *("http_status", "http_bytes", "http_time"),
    }
)
_KEYED = {"source_id", "sink_id", "file_id", "slice_id"}
_PARTS = ("project.id", "branch.id", "source.id", "sink.id")
"""IDs that people search for; they are hidden if a key on the same line begins with them."""
_LEAST_PARTS = 3
_RENAMED = {
    "node_id": "nodeId",
    "exception_id": "exceptionId",
    "request_id": "http.request_id",
    "http_request_id": "http.request_id",
    "client_ip": "http.client.ip",
    "user_agent": "http.client.agent",
}


def form_for(stream: TextIO) -> Form:
    """Return the form for a terminal if *stream* is a terminal, otherwise JSON."""
    return "terminal" if stream.isatty() else "json"


@implementer(ILogObserver)
class LineObserver:
    """Writes one line for each event.

    :param has_colour: whether the form for a terminal has colors.
    :param node: name of the node in each line, if the output is shared by several nodes.
    :ivar minimum: events below this level are dropped.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        form: Form = "json",
        minimum: Any = LogLevel.info,
        node: str = "",
        has_colour: bool = False,
    ) -> None:
        self._stream = stream
        self._node = node
        self._form = form
        self._has_colour = has_colour
        self.minimum = minimum

    def redirect(self, stream: TextIO) -> None:
        """Write to *stream* from now on."""
        self._stream = stream

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level") or LogLevel.info
        if _LEVEL_ORDER.index(level) < _LEVEL_ORDER.index(self.minimum):
            return
        template = event.get("log_terminal")
        if self._form == "terminal" and template:
            event = {**event, "log_format": template}
        line = _line(event, level)
        if self._node:
            line.setdefault("nodeId", self._node)
        self._stream.write(self._text(event, line))
        self._stream.flush()

    def _text(self, event: LogEvent, line: dict[str, Any]) -> str:
        if self._form == "json":
            return _json_line(line)
        shown = _without_repetition(event, line)
        if self._form == "text":
            return _text_lines(shown)
        return terminal_lines(shown, has_colour=self._has_colour)


def _without_repetition(event: LogEvent, line: dict[str, Any]) -> dict[str, Any]:
    """Return *line* without the fields that its message or a longer key contains."""
    template = event.get("log_format") or ""
    try:
        named = {
            re.split(r"[.\[(]", name)[0] for _, name, _, _ in _FORMATTER.parse(template) if name
        }
    except ValueError:
        named = set()
    hidden = {line_name(name) for name in named} - {"time", "level", "message", "component"}
    if _KEYED & event.keys():
        hidden |= set(_PARTS) - {line_name(name) for name in event if name not in _KEYED}
        hidden -= {line_name(name) for name in _KEYED & event.keys() - named}
    return {name: value for name, value in line.items() if name not in hidden}


def line_name(field: str) -> str:
    """Return the name that the *field* of an event has in a line."""
    return field.replace("_", ".", 1) if field in _DOTTED else _RENAMED.get(field, field)


def _line(event: LogEvent, level: Any) -> dict[str, Any]:
    """Return the members of a line, in order."""
    masked = {name: MASK if is_secret_name(name) else value for name, value in event.items()}
    moment = event.get("log_time")
    line: dict[str, Any] = {
        "time": format_time(from_timestamp(moment) if moment else datetime.now(UTC)),
        "level": _LEVELS[level],
        "message": _short(formatEvent(cast(LogEvent, masked))),
    }
    for name, value in _fields(masked):
        line.setdefault(name, value)
    component = event.get("component") or _component(event.get("log_namespace"))
    if component:
        line["component"] = component
    line.update(log_ids())
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        line["error.type"] = failure.type.__name__ if failure.type else "unknown"
        if not line["message"]:
            line["message"] = failure.getErrorMessage()
        line["error.stack"] = _short(failure.getTraceback())
    return line


def _fields(event: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in _KEYED & event.keys():
        parts = str(event[name]).split("/")
        if len(parts) >= _LEAST_PARTS:
            yield from zip(_PARTS, parts, strict=False)
    for name, value in event.items():
        if not name.startswith("log_") and name not in _NO_FIELDS:
            yield line_name(name), _value(value)


def _value(value: Any, depth: int = 0) -> Any:
    """Return *value* as JSON, with secrets masked."""
    if isinstance(value, str):
        return _short(value)
    if value is None or isinstance(value, bool | float):
        return value
    if type(value) is int and abs(value) < 2**63:
        return value
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {
                str(name): MASK if is_secret_name(str(name)) else _value(item, depth + 1)
                for name, item in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [_value(item, depth + 1) for item in value]
    try:
        return _short(str(value))
    except Exception:
        # A log line must be written, whatever it contains.
        return f"<unprintable {type(value).__name__}>"


def _short(text: str) -> str:
    """Return *text* without secrets, limited in length because it may come from other parties."""
    if len(text) <= _MAX_CHARS:
        return hide_secrets(text)
    shown = hide_secrets(text[: _MAX_CHARS + _LONGEST_SECRET_CHARS])[:_MAX_CHARS]
    return f"{shown}… ({len(text)} characters)"


def _component(namespace: str | None) -> str:
    """Return the component of a logger: its module, without the package."""
    if not namespace or namespace in _DEFAULT_NAMESPACES:
        return ""
    return namespace.removeprefix(_PACKAGE)


def _json_line(line: dict[str, Any]) -> str:
    try:
        return orjson.dumps(line).decode() + "\n"
    except orjson.JSONEncodeError:
        # For example, text that isn't valid Unicode.
        plain = {encodable(name): encodable(str(value)) for name, value in line.items()}
        return orjson.dumps(plain).decode() + "\n"


def _text_lines(line: dict[str, Any]) -> str:
    rest = dict(line)
    head = [rest.pop("time"), rest.pop("level").upper().ljust(5)]
    component = rest.pop("component", "")
    if component:
        head.append(f"[{component}]")
    head.append(visible(rest.pop("message")))
    stack = rest.pop("error.stack", "")
    fields = [f"{name}={visible(str(value))}" for name, value in rest.items()]
    text = " ".join([*head, *fields]) + "\n"
    return text + "".join(f"    {visible(part)}\n" for part in stack.splitlines())
