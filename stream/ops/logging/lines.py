"""The log: events of `twisted.logger` as lines, JSON for machines or text for a terminal.

Code logs a template and fields, ``_log.info("opened volume {volume_id}", volume_id=…)``. A line has
the finished message and every field, so that nothing must be parsed out of a message again. Fields
whose name says that they hold a secret are masked, also in the message and inside of fields, and so
is what looks like a secret in any text (`stream.values.redaction`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, cast

import orjson
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from stream.ops.tracing.spans import log_ids
from stream.values.redaction import MASK, hide_secrets, is_secret_name
from stream.values.utctime import format_time, from_timestamp

__all__ = ["Form", "LineObserver", "form_for"]

Form = Literal["json", "text"]

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
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# What the legacy log adds to an event, and what is in a line under another name.
_NO_FIELDS = frozenset(
    {"component", "format", "isError", "message", "printed", "system", "time", "why", "failure"}
)
_DEFAULT_NAMESPACES = frozenset({"<unknown>", "log_legacy", "stdout", "stderr"})
_PACKAGE = "stream."
_MAX_DEPTH = 6
_MAX_CHARS = 32 * 1024
_LONGEST_SECRET_CHARS = 4096
"""What is read behind the shown part of a text, lest the cut leave the beginning of a secret."""
# Fields by which logs are searched have the names that those searches know.
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
"""Keys of these fields begin with the ids that a search goes by."""
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
    """Text if a person is looking, else JSON."""
    return "text" if stream.isatty() else "json"


@implementer(ILogObserver)
class LineObserver:
    """Writes one line for each event.

    :param node: name of the node in each line, if lines of several nodes come together.
    :ivar minimum: events below this level are dropped.
    """

    def __init__(
        self, stream: TextIO, *, form: Form = "json", minimum: Any = LogLevel.info, node: str = ""
    ) -> None:
        self._stream = stream
        self._node = node
        self._format = _json_line if form == "json" else _text_lines
        self.minimum = minimum

    def redirect(self, stream: TextIO) -> None:
        """Write to *stream* from now on."""
        self._stream = stream

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level") or LogLevel.info
        if _LEVEL_ORDER.index(level) < _LEVEL_ORDER.index(self.minimum):
            return
        line = _line(event, level)
        if self._node:
            line.setdefault("nodeId", self._node)
        self._stream.write(self._format(line))
        self._stream.flush()


def _line(event: LogEvent, level: Any) -> dict[str, Any]:
    """The members of a line, in their order."""
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
            if name in _DOTTED:
                yield name.replace("_", ".", 1), _value(value)
            else:
                yield _RENAMED.get(name, name), _value(value)


def _value(value: Any, depth: int = 0) -> Any:
    """*value* as JSON knows it, with secrets inside of it masked."""
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
        # A log line must come out whatever is in it.
        return f"<unprintable {type(value).__name__}>"


def _short(text: str) -> str:
    """*text* without secrets. What others send may be quoted in a line, but doesn't make it as
    long as they like.
    """
    if len(text) <= _MAX_CHARS:
        return hide_secrets(text)
    shown = hide_secrets(text[: _MAX_CHARS + _LONGEST_SECRET_CHARS])[:_MAX_CHARS]
    return f"{shown}… ({len(text)} characters)"


def _component(namespace: str | None) -> str:
    """The part of the product that a logger belongs to: its module, without the package."""
    if not namespace or namespace in _DEFAULT_NAMESPACES:
        return ""
    return namespace.removeprefix(_PACKAGE)


def _json_line(line: dict[str, Any]) -> str:
    try:
        return orjson.dumps(line).decode() + "\n"
    except orjson.JSONEncodeError:
        # Text that isn't Unicode, for one.
        plain = {_clean(name): _clean(str(value)) for name, value in line.items()}
        return orjson.dumps(plain).decode() + "\n"


def _text_lines(line: dict[str, Any]) -> str:
    rest = dict(line)
    head = [rest.pop("time"), rest.pop("level").upper().ljust(5)]
    component = rest.pop("component", "")
    if component:
        head.append(f"[{component}]")
    head.append(_visible(_clean(rest.pop("message"))))
    stack = rest.pop("error.stack", "")
    fields = [f"{name}={_visible(_clean(str(value)))}" for name, value in rest.items()]
    text = " ".join([*head, *fields]) + "\n"
    return text + "".join(f"    {_visible(_clean(part))}\n" for part in stack.splitlines())


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _visible(text: str) -> str:
    """*text* on one line and without commands to the terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
