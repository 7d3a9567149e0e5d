"""The command line without a service: start, help, credentials, exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from stream.cli import main
from stream.cli.credentials import Credentials, credentials, credentials_path, forget, keep
from stream.cli.main import run
from stream.cli.output import age_text, bytes_text, dump_json, dump_yaml, visible
from stream.client.errors import ClientError
from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "cli.md"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration directory of the test, separate from the caller's."""
    for name in ("URL", "TOKEN", "BRANCH"):
        monkeypatch.delenv(f"STREAM_API_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def _imported(program: str) -> set[str]:
    """Return the packages that *program* imports."""
    code = f"{program}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(ended.stdout.split("\n")[-2].split())


def test_imports() -> None:
    """No command imports Twisted, and slow imports happen only where they are needed."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("cli", "client")
        for path in (ROOT / "stream" / room).rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    ]
    assert len(modules) > 20
    everything = _imported(f"import {', '.join(modules)}")
    assert not everything & {"twisted", "klein", "treq", "txaioetcd", "orjson", "cattrs"}
    at_start = _imported("from stream.cli.main import run\nrun(['--help'])")
    assert not at_start & {"twisted", "httpx", "httpcore", "rich", "yaml", "attr", "zstandard"}
    assert "click" in at_start
    assert "rich" not in _imported("import stream.client.api")


def _commands() -> dict[str, list[str]]:
    """Return all commands by name, with their options."""
    context = click.Context(main.cli)
    found = {}

    def visit(group: click.Group, before: str) -> None:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                visit(command, f"{before}{name} ")
            else:
                found[f"{before}{name}"] = [
                    option
                    for parameter in command.params
                    for option in parameter.opts
                    if option.startswith("--")
                ]

    visit(main.cli, "")
    return found


def test_the_page_has_every_command() -> None:
    """The documentation names each command as it is called."""
    page = PAGE.read_text(encoding="utf-8")
    missing = [name for name in _commands() if f"stream {name}" not in page]
    assert not missing


def test_the_page_has_no_other_options() -> None:
    """Each documented option belongs to a command."""
    page = PAGE.read_text(encoding="utf-8")
    known = {option for options in _commands().values() for option in options}
    known |= {"--help", "--version", "--no-compress"}
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    assert found <= known


@pytest.mark.parametrize("name", _commands())
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of each command says what it does."""
    assert run([*name.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"Usage: stream {name}" in printed
    assert len(printed) > 100


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shell has a completion script, whose command lists the commands."""
    assert run(["completion", shell]) == 0
    assert "_STREAM_COMPLETE" in capsys.readouterr().out
    words = {"COMP_WORDS": "stream so", "COMP_CWORD": "1", "_STREAM_COMPLETE": f"{shell}_complete"}
    command = [sys.executable, "-m", "stream.cli"]
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **words}, capture_output=True, text=True, check=False
    )
    if shell != "fish":
        assert "source" in ended.stdout


@pytest.mark.parametrize(
    ("library", "module"), [("click", "stream.cli.main"), ("httpx", "stream.client.producer")]
)
def test_missing_libraries(library: str, module: str) -> None:
    """The error says what to install."""
    code = f"import sys; sys.modules[{library!r}] = None; import {module}"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "pip install 'stream-service[cli]'" in ended.stderr


def test_every_command_has_output_for_programs() -> None:
    """Only the script for a shell has one form."""
    without = [name for name, options in _commands().items() if "--output" not in options]
    assert without == ["completion"]


def test_the_output_is_also_an_option_of_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """The command's own option takes precedence."""
    assert run(["--output", "json", "logout"]) == 0
    assert json.loads(capsys.readouterr().out) == {"deleted": False}
    assert run(["--output", "json", "logout", "--output", "yaml"]) == 0
    assert capsys.readouterr().out == "deleted: false\n"


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["source", "delete", "shop"], "use --yes"),
        (["sink", "delete", "shop", "orders"], "use --yes"),
        (["source", "rotate-secret", "shop"], "use --yes"),
        (["rejected", "delete", "shop", "orders", "--all"], "use --yes"),
        (["login"], "--token-stdin"),
        (["login", "--url", "http://127.0.0.1:1"], "--token-stdin"),
    ],
)
def test_questions_without_a_terminal(
    arguments: list[str],
    advice: str,
    is_closed: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the end of the input the error says which option to use, and nothing is changed."""
    monkeypatch.setattr(sys, "stdin", None if is_closed else io.StringIO(""))
    assert run(arguments) == 2
    assert advice in capsys.readouterr().err


def test_a_change_that_is_not_confirmed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer may come through a pipe."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert run(["source", "delete", "shop"]) == 1
    assert "Nothing was changed." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["push", "http://127.0.0.1:1", "-"], "There is no standard input"),
        (["apply", "-f", "-"], "There is no standard input"),
        (["login", "--url", "http://127.0.0.1:1", "--token-stdin"], "There is no standard input."),
    ],
)
def test_a_closed_input(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is an error that says so."""
    monkeypatch.setattr(sys, "stdin", None)
    assert run(arguments) in (1, 2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "token", "arguments", "message"),
    [
        ("http://[::1", "t", ["source", "list"], "is not the URL of an API"),
        ("http://x:99999", "t", ["source", "list"], "is not the URL of an API"),
        ("http://127.0.0.1:1", "\u017e", ["source", "list"], "The token contains characters"),
        ("http://127.0.0.1:1", "t", ["source", "show", "\udcff"], '"\\udcff" is not a valid ID'),
        ("http://127.0.0.1:1", "t", ["source", "create", "\udcff"], "An argument is not UTF-8"),
        ("", "", ["push", "http://[::1", os.devnull], "the URL of a source must begin with"),
        ("", "", ["push", "http://127.0.0.1:99999", os.devnull], "the URL of a source must begin"),
    ],
)
def test_invalid_texts(
    url: str,
    token: str,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Addresses, tokens and arguments that can't be sent are errors."""
    monkeypatch.setenv("STREAM_API_URL", url)
    monkeypatch.setenv("STREAM_API_TOKEN", token)
    assert run(arguments) == 1
    assert message in capsys.readouterr().err


def test_nobody_reads_the_output() -> None:
    """The command ends without a message, as behind ``| head``."""
    code = "import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1); from stream.cli import main"
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}; main.main(['completion', 'bash'])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (1, "")


def test_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the most similar command."""
    assert run(["sourcex"]) == 2
    assert 'Did you mean "source"?' in capsys.readouterr().err
    assert run(["--nothing"]) == 2


def test_without_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    """The error says how to get credentials."""
    assert run(["source", "list"]) == 1
    assert "stream login" in capsys.readouterr().err


def test_without_a_service(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the address, and the exit code is specific to it."""
    monkeypatch.setattr("stream.client.api._ATTEMPTS", 1)
    monkeypatch.setenv("STREAM_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("STREAM_API_TOKEN", "secret-token")
    assert run(["source", "list"]) == 6
    printed = capsys.readouterr().err
    assert "http://127.0.0.1:1 does not answer" in printed
    assert "secret-token" not in printed


def test_stored_credentials() -> None:
    """Only the owner can read stored credentials, even if they replace other ones."""
    for token in ("one", "two"):
        path = keep(Credentials("https://stream", token))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert credentials({}).token == token
    assert [file.name for file in path.parent.iterdir()] == ["credentials.json"]
    assert "two" not in repr(credentials({}))
    path.chmod(0o644)
    with pytest.raises(ClientError, match="chmod 600"):
        credentials({})
    path.chmod(0o600)
    path.write_text("{")
    with pytest.raises(ClientError, match="stream login"):
        credentials({})
    assert forget()
    assert not forget()


def test_the_environment_takes_precedence() -> None:
    """A stored token is only sent to the address that it was stored with."""
    keep(Credentials("https://stream", "kept", "7"))
    assert credentials({}) == Credentials("https://stream", "kept", "7")
    assert credentials({"STREAM_API_TOKEN": "x"}) == Credentials("https://stream", "x", "7")
    assert credentials({"STREAM_API_BRANCH": "9"}).branch == "9"
    with pytest.raises(ClientError, match="STREAM_API_TOKEN"):
        credentials({"STREAM_API_URL": "https://other"})
    both = {"STREAM_API_URL": "https://other", "STREAM_API_TOKEN": "x"}
    assert credentials(both) == Credentials("https://other", "x", "7")


def test_where_credentials_are_stored(home: Path) -> None:
    """Credentials are in the operating system's configuration directory."""
    assert credentials_path() == home / "stream" / "credentials.json"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["push", "shop"], "Missing argument"),
        (["push", "http://127.0.0.1:1/x", "/none"], "No such file"),
        (["apply", "-f", "/none"], "No such file"),
        (["sink", "create", "shop", "x", "--table", "in.c-a.b"], "needs columns"),
        (["sink", "create", "s", "x", "--table", "t", "--column", "id:uid"], 'mean "uuid"?'),
        (["source", "update", "shop"], "Nothing to change"),
        (["tail", "shop", "--filter", "user"], "begins with a dot"),
        (["rejected", "replay", "shop", "orders"], "Select the records with"),
        (["rejected", "delete", "shop", "orders", "1", "--all"], "not both"),
    ],
)
def test_usage_errors(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors are found before the service is called."""
    assert run(arguments) == 2
    assert text in capsys.readouterr().err


def test_control_characters() -> None:
    """Control characters in received texts aren't written to a terminal."""
    assert visible("\x1b[2Ja\nb\x85\u202e") == "\\x1b[2Ja\\nb\\x85\\u202e"
    assert visible("a\n\x07", lines=True) == "a\n\\x07"
    assert visible("Žluťoučký 東") == "Žluťoučký 東"
    assert visible("\ud800") == "\\ud800"


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x7f\x9b2J", "a\u202eb", "\u2066", "\ud800"], ids=ascii
)
def test_control_characters_in_machine_readable_formats(text: str) -> None:
    """Control characters are escaped, and parsed to the original text."""
    for value in (text, {text: [text]}):
        for shown, read in ((dump_json(value), json.loads), (dump_yaml(value), yaml.safe_load)):
            assert visible(shown, lines=True) == shown
            assert read(shown) == value


def test_units() -> None:
    """Ages and sizes are shown in common units."""
    assert [age_text(x) for x in (None, 3.2, 300, 10_000, 900_000)] == [
        *("", "3 s", "5 min", "3 h", "10 d")
    ]
    assert [bytes_text(x) for x in (None, 17, 2048, 5 << 20, 3 << 40)] == [
        *("", "17 B", "2.0 KB", "5.0 MB", "3.0 TB")
    ]
