"""Lines of the log in JSON and as text."""

from __future__ import annotations

import io
import json
from datetime import datetime
from typing import Any, cast

import pytest
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from stream.ops.logging.lines import Form, LineObserver, form_for


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _logger(
    *, form: Form = "json", minimum: Any = LogLevel.info, namespace: str = "stream.etcd.client"
) -> tuple[Logger, io.StringIO]:
    stream = io.StringIO()
    observer = LineObserver(stream, form=form, minimum=minimum)
    return Logger(namespace=namespace, observer=observer), stream


def _line(stream: io.StringIO) -> dict[str, Any]:
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return json.loads(text)  # type: ignore[no-any-return]


def test_json_line() -> None:
    """A line has time, level, formatted message, all fields and the component."""
    log, stream = _logger()
    log.warn("opened volume {volume_id}", volume_id="v1", count=3, node_id="n", sizes=(1, 2))
    line = _line(stream)
    assert list(line)[:3] == ["time", "level", "message"]
    assert datetime.fromisoformat(line.pop("time")).utcoffset() is not None
    assert line == {
        "level": "warn",
        "message": "opened volume v1",
        "volume.id": "v1",
        "count": 3,
        "nodeId": "n",
        "sizes": [1, 2],
        "component": "etcd.client",
    }


def test_time_has_milliseconds() -> None:
    """Times are in UTC with three digits after the point."""
    stream = io.StringIO()
    LineObserver(stream)({"log_time": 1738324800.1239, "log_format": "x"})
    assert _line(stream)["time"] == "2025-01-31T12:00:00.123Z"


@pytest.mark.parametrize(
    ("level", "name"), [("info", "info"), ("error", "error"), ("critical", "error")]
)
def test_there_are_four_levels(level: str, name: str) -> None:
    """There are four levels; a critical event is an error."""
    log, stream = _logger()
    log.emit(LogLevel.levelWithName(level), "x")
    assert _line(stream)["level"] == name


def test_name_of_the_node() -> None:
    """The name is in each line if configured; a node named in the event takes precedence."""
    stream = io.StringIO()
    observer = LineObserver(stream, node="n-w1")
    observer({"log_format": "x"})
    observer({"log_format": "x", "node_id": "other"})
    assert [json.loads(line)["nodeId"] for line in stream.getvalue().splitlines()] == [
        "n-w1",
        "other",
    ]


def test_minimum_level() -> None:
    """Events below the minimum aren't written."""
    log, stream = _logger()
    log.debug("quiet")
    assert stream.getvalue() == ""
    log, stream = _logger(minimum=LogLevel.debug)
    log.debug("loud")
    assert _line(stream)["level"] == "debug"


@pytest.mark.parametrize(
    "text",
    [
        f"/stream/1/s/{'aB3' * 16}",
        "http://user:hunter2@host/",
        '{"password": "hunter2"}',
        "Bearer hunter2-hunter2",
    ],
)
def test_secrets_in_any_text(text: str) -> None:
    """Secrets are masked in the message, in fields, in nested values, and in an exception's
    message.
    """
    log, stream = _logger()
    log.warn("got {text}", text=text, inside=[{"a": text}])
    try:
        raise ValueError(text)
    except ValueError:
        log.failure("failed")
    assert "hunter2" not in stream.getvalue()
    assert "aB3aB3" not in stream.getvalue()


def test_a_secret_where_a_text_is_truncated() -> None:
    """The beginning of the secret isn't shown either."""
    log, stream = _logger()
    log.warn("got", text="x" * (32 * 1024 - 10) + " " + "aB3" * 16)
    assert "aB3" not in stream.getvalue()


@pytest.mark.parametrize(
    "name",
    [
        *("token", "password", "secret", "etcd_password", "storageApiToken", "Authorization"),
        *("secret_key", "secretKey", "X-StorageApi-Token", "cookie", "connection_string"),
    ],
)
def test_secret_fields_are_masked(name: str) -> None:
    """A value with the name of a secret is masked in fields, messages and nested values."""
    log, stream = _logger()
    log.info("sent", **{name: "hunter2"}, nested={"deep": [{name: "hunter2"}]})
    text = stream.getvalue()
    assert "hunter2" not in text
    assert _line(stream)[name] == "***"
    log, stream = _logger()
    log.info("got {token}", token="hunter2")
    assert _line(stream)["message"] == "got ***"


@pytest.mark.parametrize("name", ["token_id", "key", "secrets_count", "tokenize"])
def test_names_that_only_resemble_secrets(name: str) -> None:
    """Ids and keys of records aren't masked."""
    log, stream = _logger()
    log.info("x", **{name: "v"})
    assert _line(stream)[name] == "v"


def test_a_failure_has_its_type_and_stack() -> None:
    """A failure is logged with its type and its stack."""
    log, stream = _logger()
    try:
        raise LookupError("nothing there")
    except LookupError:
        log.failure("cannot open", Failure())
    line = _line(stream)
    assert line["level"] == "error"
    assert line["message"] == "cannot open"
    assert line["error.type"] == "LookupError"
    assert "nothing there" in line["error.stack"]
    assert "test_lines.py" in line["error.stack"]


def test_legacy_events() -> None:
    """Events of the old log have their text as message, without their internal fields."""
    stream = io.StringIO()
    LineObserver(stream)(
        {
            "log_format": "{log_text}",
            "log_text": "Starting factory",
            "log_namespace": "log_legacy",
            "system": "-",
            "isError": 0,
            "message": ("Starting factory",),
            "time": 1.0,
        }
    )
    line = _line(stream)
    line.pop("time")
    assert line == {"level": "info", "message": "Starting factory"}


def test_reserved_fields_are_not_overwritten() -> None:
    """A field can't replace one of the fields that every line has."""
    stream = io.StringIO()
    LineObserver(stream)({"log_format": "real", "level": "fake", "message": "fake", "time": "fake"})
    line = _line(stream)
    assert (line["level"], line["message"]) == ("info", "real")
    assert line["time"] != "fake"


def test_any_value_can_be_logged() -> None:
    """Values that JSON doesn't support, or that can't be printed, don't lose the line."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    log, stream = _logger()
    log.info("x", broken=Broken(), big=2**80, raw=b"\xff", lone="\ud800", nan=float("nan"))
    line = _line(stream)
    assert line["broken"] == "<unprintable Broken>"
    assert line["big"] == str(2**80)


def test_line_feeds_are_escaped() -> None:
    """A message can't forge another line."""
    log, stream = _logger()
    log.info("a\n{b}", b='"\n{"level":"error"}')
    assert _line(stream)["message"] == 'a\n"\n{"level":"error"}'


def test_text_form() -> None:
    """On a terminal a line has no JSON and no control characters, and the stack follows it."""
    log, stream = _logger(form="text")
    log.info("opened \x1b[31m{volume_id}\n", volume_id="v1")
    text = stream.getvalue()
    assert text.endswith("INFO  [etcd.client] opened \\x1b[31mv1\\n\n")
    log, stream = _logger(form="text")
    try:
        raise LookupError("nothing there")
    except LookupError:
        log.failure("cannot open", Failure())
    first, *stack = stream.getvalue().splitlines()
    assert first.endswith("cannot open error.type=LookupError")
    assert all(part.startswith("    ") for part in stack)
    assert any("nothing there" in part for part in stack)


def test_the_form_of_an_output() -> None:
    """A terminal gets the short form, and every other output JSON."""
    assert form_for(io.StringIO()) == "json"
    assert form_for(_Terminal()) == "terminal"


@pytest.mark.parametrize(
    ("message", "fields", "shown"),
    [
        ("opened {volume_id}", {"volume_id": "v", "count": 3}, "opened v count=3"),
        ("{a.real} {b[0]} {c!r}", {"a": 1, "b": [2], "c": "x", "d": 4}, "1 2 'x' d=4"),
        ("closed {file_id}", {"file_id": "1/2/s/k/t", "n": 1}, "closed 1/2/s/k/t n=1"),
        ("closed", {"file_id": "1/2/s/k/t"}, "closed file.id=1/2/s/k/t"),
        ("a {brace", {"x": 1}, "x=1"),
    ],
)
def test_no_field_is_shown_twice(message: str, fields: dict[str, Any], shown: str) -> None:
    """The text form omits fields that the message contains; JSON has every field."""
    log, stream = _logger(form="text", namespace="")
    log.info(message, **fields)
    assert stream.getvalue().rstrip("\n").endswith(shown)
    log, stream = _logger(namespace="")
    log.info(message, **fields)
    assert len(_line(stream)) >= 3 + len(fields)


def test_the_template_for_a_terminal() -> None:
    """A terminal shows the template instead of the message; other outputs don't."""
    for form, shown in (("terminal", "t +4 rows"), ("text", "imported f"), ("json", "imported f")):
        log, stream = _logger(form=cast(Form, form))
        log.info(
            "imported {file}", file="f", table="t", rows=4, log_terminal="{table} +{rows} rows"
        )
        assert shown in stream.getvalue()
        assert "log_terminal" not in stream.getvalue()


def test_long_texts_are_truncated() -> None:
    """A line has a maximum length, however long a received text is."""
    log, stream = _logger()
    log.info("refused: {error}", error="x" * 10_000_000, items=["y" * 1_000_000])
    text = stream.getvalue()
    assert len(text) < 200_000
    line = _line(stream)
    assert line["error"].endswith("x… (10000000 characters)")
    assert line["message"].startswith("refused: xxx")
