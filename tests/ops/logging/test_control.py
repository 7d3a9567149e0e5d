"""The output and the levels of the log."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import Logger

import stream
from stream.errors import UserError
from stream.ops.logging.control import LogControl, check_namespace, parse_levels


def _messages(path: Path) -> list[str]:
    return [json.loads(line)["message"] for line in path.read_text().splitlines()]


def _logger(control: LogControl, namespace: str) -> Any:
    return Logger(namespace=namespace, observer=control.observer)


def test_levels_change_at_runtime(tmp_path: Path) -> None:
    """The level of a namespace applies to the namespaces below it; others keep theirs."""
    path = tmp_path / "log"
    control = LogControl(str(path), levels={"twisted": "warn"})
    watch, other = (_logger(control, f"stream.{n}") for n in ("etcd.watch", "sink.router"))
    watch.debug("before")
    control.set_level("etcd", "debug")
    watch.debug("seen")
    other.debug("not seen")
    _logger(control, "twisted.web").info("not seen")
    control.set_level("etcd", "error")
    watch.warn("too low")
    control.set_level("", "debug")
    other.debug("all are seen")
    assert _messages(path) == ["seen", "all are seen"]
    assert control.levels() == {"": "debug"}


def test_unknown_level(tmp_path: Path) -> None:
    """An unknown level changes nothing."""
    control = LogControl(str(tmp_path / "log"))
    with pytest.raises(UserError, match='unknown level "loud", expected one of debug, info'):
        control.set_level("etcd", "loud")
    assert control.levels() == {"": "info"}


def test_levels_of_the_settings() -> None:
    """The setting is a list of namespace=level."""
    assert parse_levels(["etcd=debug", " sink.router = warn"]) == {
        "etcd": "debug",
        "sink.router": "warn",
    }
    for item in ("etcd", "=debug", "etcd=loud"):
        with pytest.raises(UserError, match="invalid log level"):
            parse_levels([item])


@pytest.mark.parametrize("name", ["etcd", "stream.etcd", "etcd.client"])
def test_settings_expand_names_like_the_console(name: str, tmp_path: Path) -> None:
    """The name of a component, as shown in lines, is enough."""
    path = tmp_path / "log"
    control = LogControl(str(path), levels=parse_levels([f"{name}=debug"]))
    _logger(control, "stream.etcd.client").debug("seen")
    _logger(control, "stream.sink.router").debug("not seen")
    assert _messages(path) == ["seen"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("etdc", "etcd"), ("sink.ruoter", "sink.router"), ("qqqq", "field component")],
)
def test_unknown_namespaces(name: str, meant: str, tmp_path: Path) -> None:
    """An unknown namespace is refused, since nothing logs there."""
    with pytest.raises(UserError, match=f'unknown component of the log "{name}".*{meant}'):
        parse_levels([f"{name}=debug"])
    with pytest.raises(UserError, match=f'unknown component of the log "{name}".*{meant}'):
        LogControl(str(tmp_path / "log")).set_level(name, "debug")


def test_every_logger_has_a_known_name() -> None:
    """Loggers that aren't named after their module are included."""
    package = Path(stream.__file__).parent
    found = {
        name
        for path in package.rglob("*.py")
        for name in re.findall(r'Logger\(namespace="([^"]+)"\)', path.read_text())
    }
    found |= {f"stream.{path.stem}" for path in package.glob("*.py")}
    assert len(found) > 20
    for name in found - {"stream.__init__", "stream.__main__"}:
        check_namespace(name)


def test_a_rotated_file_is_reopened(tmp_path: Path) -> None:
    """After a rename, lines go to the old file until the log is reopened, then to a new one."""
    path, old = tmp_path / "log", tmp_path / "log.1"
    control = LogControl(str(path))
    log = _logger(control, "stream.x")
    log.info("one")
    path.rename(old)
    log.info("two")
    control.reopen()
    log.info("three")
    assert _messages(old) == ["one", "two"]
    assert _messages(path) == ["three"]


def test_a_file_that_can_not_be_reopened(tmp_path: Path) -> None:
    """The log continues in the old file, and no line is lost."""
    folder = tmp_path / "logs"
    folder.mkdir()
    control = LogControl(str(folder / "log"))
    log = _logger(control, "stream.x")
    log.info("one")
    folder.rename(tmp_path / "elsewhere")
    control.reopen()
    log.info("two")
    assert _messages(tmp_path / "elsewhere" / "log") == ["one", "two"]


def test_a_file_that_can_not_be_opened(tmp_path: Path) -> None:
    """At start the error is reported as the user's."""
    with pytest.raises(UserError, match="cannot open the log file"):
        LogControl(str(tmp_path / "no" / "log"))


def test_the_text_format_is_a_setting(tmp_path: Path) -> None:
    """The setting selects lines for people, with the node's name."""
    path = tmp_path / "log"
    control = LogControl(str(path), "text", node="n1")
    _logger(control, "stream.x").info("hello {token}", token="secret")
    (line,) = path.read_text().splitlines()
    assert "INFO  [x] hello ***" in line
    assert "secret" not in line
    assert "nodeId=n1" in line
