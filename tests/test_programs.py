"""The replacements behave like the programs."""

from __future__ import annotations

import io
import os
import shutil
import subprocess

import pytest

from tests.programs import envsubst, jq, with_programs

_CASES = [
    ((".a",), '{"a": {"b": 1}}'),
    (("--raw-output", ".a"), '{"a": "x"}'),
    (("-r", ".[] | .a"), '[{"a": "x"}, {"a": 2}]'),
    (("--compact-output", "."), '{"a": [1, 2]} {"b": null}'),
    (("--exit-status", ".a"), '{"a": false}'),
    (("-e", ".a // empty"), "{}"),
    (("--null-input", "--compact-output", "--arg", "x", "1", "[$x]"), ""),
    (("--slurp", "--compact-output", "--argjson", "x", "2", "map(. * $x)"), "1 2 3"),
    ((".a",), "no JSON"),
]


@pytest.mark.skipif(shutil.which("jq") is None, reason="there is no jq to compare with")
@pytest.mark.parametrize(("arguments", "text"), _CASES)
def test_jq(
    arguments: tuple[str, ...],
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The output and the kind of exit code are the same."""
    real = subprocess.run(
        ["jq", *arguments], input=text, capture_output=True, text=True, check=False
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    code = jq(arguments)
    assert capsys.readouterr().out == real.stdout
    assert (code == 0) == (real.returncode == 0)


@pytest.mark.skipif(shutil.which("envsubst") is None, reason="there is no envsubst to compare with")
@pytest.mark.parametrize("arguments", [(), ("$A ${C}",)])
def test_envsubst(
    arguments: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Named or all variables are replaced; a variable without a value becomes empty."""
    text = "$A ${B} $C $(D) $5 $ ${A}x $$A"
    for name, value in (("A", "1"), ("B", "2"), ("C", "")):
        monkeypatch.setenv(name, value)
    command = ["envsubst", *arguments]
    real = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert envsubst(arguments) == 0
    assert capsys.readouterr().out == real.stdout


def test_programs_are_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts find the replacement if there is no other program."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with with_programs():
        told = subprocess.run(
            ["jq", "-r", ".a"],
            input='{"a":"b"}',
            capture_output=True,
            text=True,
            env=os.environ,
            check=True,
        )
        assert told.stdout == "b\n"
    assert os.environ["PATH"] == "/nonexistent"
