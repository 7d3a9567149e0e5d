"""Components and settings from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from stream.errors import UserError
from stream.plugin import NAMES, Options, check_components


def _parse(monkeypatch: pytest.MonkeyPatch, *argv: str) -> Options:
    monkeypatch.setenv("STREAM_ETCD_ENDPOINT", "127.0.0.1:2379")
    options = Options()
    options.parseOptions(list(argv))
    return options


def test_components_are_flags_or_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Components are named by a flag or as arguments, in any order, also repeatedly."""
    expected = ("storage-writer", "storage-coordinator")
    volumes = "--storage-volumes-path=/v"
    for argv in (
        ["--components=storage-coordinator,storage-writer"],
        ["--components", "storage-writer", "storage-coordinator"],
        ["storage-writer", "storage-coordinator", "storage-writer"],
    ):
        options = _parse(monkeypatch, *argv, volumes, "--storage-api-host=example.com")
        assert options.components == expected
        assert options.settings.storage.volumes_path == "/v"


@pytest.mark.parametrize("chosen", [set(), {"foo"}, {"api", "foo", "bar"}])
def test_unknown_components(chosen: set[str]) -> None:
    """The message quotes unknown names, and the detail lists the valid ones."""
    with pytest.raises(UserError) as refused:
        check_components(chosen)
    for name in NAMES:
        assert name in refused.value.detail
    for name in chosen - set(NAMES):
        assert f'"{name}"' in str(refused.value)


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["--dump-config=yaml"]])
def test_options_that_print_information(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    """The options need no component, and the exit code is 0."""
    needed = [
        "--storage-api-host=example.com",
        "--storage-volumes-path=/v",
        "--source-http-public-url=http://x",
        "--etcd-namespace=n",
    ]
    with pytest.raises(SystemExit) as ended:
        _parse(monkeypatch, *argv, *needed)
    assert ended.value.code == 0
    assert capsys.readouterr().out


def _printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *argv: str
) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        _parse(monkeypatch, *argv)
    output = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, output.out, output.err


def test_a_dump_of_invalid_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The settings and their errors are printed; the exit code reports the failure."""
    code, dumped, errors = _printed(monkeypatch, capsys, "--dump-config=json", "--node-id=n")
    assert code == 1
    assert json.loads(dumped)["nodeID"] == "n"
    assert errors.startswith("Writing configuration dump.\n\nError:\n- Configuration is not valid:")
    code, dumped, errors = _printed(monkeypatch, capsys, "--dump-config=toml", "etcd")
    assert (code, dumped) == (1, "")
    assert errors.endswith(
        'Error:\n- Unexpected dump format "toml": expected "json", "yml" or "yaml".\n'
    )


def test_a_dump_for_components(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dump with components shows the settings of a process with these components."""
    code, dumped, _ = _printed(monkeypatch, capsys, "--dump-config=json", "etcd", "sandbox")
    assert code == 0
    assert json.loads(dumped)["etcd"]["namespace"] == "stream/"


def test_settings_are_checked_before_components(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An invalid setting is reported first, then an invalid component."""
    assert _printed(monkeypatch, capsys, "foo", "--api-task-ttl-seconds=x")[2].startswith(
        'Error:\n- Decode error:\n  - Invalid "api.task.ttlSeconds"'
    )
    code, _, errors = _printed(monkeypatch, capsys, "foo", "--debug-log")
    assert code == 1
    first, second = errors.splitlines()
    assert first == 'Error: Unexpected service component: "foo".'
    assert second.startswith("Valid components: api, http-source, ")
    _, _, errors = _printed(monkeypatch, capsys, "foo", "bar", "foo")
    assert errors.startswith('Error: Unexpected service component: "foo", "bar".\n')
    _, _, errors = _printed(monkeypatch, capsys)
    assert errors.startswith(
        "Error:\n- Specify at least one service component as a positional argument.\n"
    )


@pytest.mark.parametrize(
    ("runner", "flags", "file"),
    [
        ({"nodaemon": 1, "logfile": None}, [], ""),
        ({"nodaemon": 1, "logfile": "-"}, [], ""),
        ({"nodaemon": 1, "logfile": "a.log"}, [], "a.log"),
        ({"nodaemon": 0, "logfile": None}, [], "twistd.log"),
        ({"nodaemon": 0, "logfile": "a.log"}, [], "a.log"),
        ({"nodaemon": 0, "logfile": "a.log"}, ["--log-file=b.log"], "b.log"),
        ({}, [], ""),
    ],
)
def test_flags_of_twistd(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    runner: dict[str, object],
    flags: list[str],
    file: str,
) -> None:
    """The log file of twistd is used; a daemon without other output logs to twistd's
    default file.
    """
    monkeypatch.chdir(tmp_path)
    options = Options()
    cast(Any, options).parent = runner
    monkeypatch.setenv("STREAM_ETCD_ENDPOINT", "127.0.0.1:2379")
    options.parseOptions(["etcd", *flags])
    named = options.settings.log.file
    assert named == (file if file in {"", "b.log"} else str(tmp_path / file))
    assert not options.logs_elsewhere


@pytest.mark.parametrize("flag", ["logger", "syslog"])
def test_other_log_options_of_twistd(flag: str) -> None:
    """An observer or syslog option of twistd is used."""
    options = Options()
    cast(Any, options).parent = {"nodaemon": 1, flag: "given"}
    options.parseOptions(["etcd", "--etcd-endpoint=127.0.0.1:2379"])
    assert options.logs_elsewhere


def test_the_time_limit_of_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Components with data on disks have a longer default."""
    rest = ["--storage-volumes-path=/v", "--storage-api-host=example.com"]
    assert str(_parse(monkeypatch, "http-source").settings.stop_timeout) == "55s"
    assert str(_parse(monkeypatch, "storage-reader", *rest).settings.stop_timeout) == "9m50s"
    rest.append("--stop-timeout=5s")
    assert str(_parse(monkeypatch, "storage-writer", *rest).settings.stop_timeout) == "5s"


def test_an_unknown_flag_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error suggests the most similar flag, and the exit code reports the failure."""
    with pytest.raises(SystemExit) as ended:
        _parse(monkeypatch, "api", "--api-listn=x")
    assert ended.value.code == 1
    assert "--api-listen" in capsys.readouterr().err


def test_a_sandbox_in_the_process_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox needs no address if it runs with the other components."""
    options = _parse(monkeypatch, "sandbox", "storage-coordinator", "--sandbox-listen=127.0.0.1:9")
    assert options.settings.storage_api_host == "http://127.0.0.1:9"
    options = _parse(monkeypatch, "etcd")
    assert options.components == ("etcd",)
