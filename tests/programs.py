"""Replacements of programs that the scripts under test call, for a machine without them.

They are `jq` and `envsubst`. The package `jq` of PyPI is the library without its command line,
which is here. Installed programs take precedence.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["envsubst", "jq", "with_programs"]

_SCRIPT = """\
#!{0}
import runpy, sys
sys.exit(runpy.run_path({1!r})[{2!r}](sys.argv[1:]))
"""
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")
_SHORT = {"r": "raw-output", "e": "exit-status", "c": "compact-output", "n": "null-input"}
_SHORT |= {"s": "slurp"}
_FLAGS = frozenset(_SHORT.values())


@contextmanager
def with_programs() -> Iterator[None]:
    """Put `jq` and `envsubst` on the PATH of this process and of its children."""
    missing = [program for program in (jq, envsubst) if shutil.which(program.__name__) is None]
    if not missing:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="stream-programs-") as folder:
        for program in missing:
            script = Path(folder, program.__name__)
            script.write_text(_SCRIPT.format(sys.executable, __file__, program.__name__))
            script.chmod(0o755)
        before = os.environ.get("PATH", "")
        os.environ["PATH"] = f"{before}{os.pathsep}{folder}" if before else folder
        try:
            yield
        finally:
            os.environ["PATH"] = before


def jq(arguments: Sequence[str]) -> int:
    """Run jq with the options that the scripts use, and return the exit code."""
    import jq as library  # type: ignore[import-not-found]

    flags: set[str] = set()
    given: dict[str, Any] = {}
    words: list[str] = []
    left = iter(arguments)
    for word in left:
        if word in ("--arg", "--argjson"):
            name, value = next(left), next(left)
            given[name] = json.loads(value) if word == "--argjson" else value
        elif word.startswith("--"):
            flags.add(word.removeprefix("--"))
        elif word.startswith("-") and len(word) > 1:
            flags |= {_SHORT[letter] for letter in word[1:]}
        else:
            words.append(word)
    if flags - _FLAGS or not words:
        print(f"jq: not supported here: {' '.join(sorted(flags - _FLAGS))}", file=sys.stderr)
        return 2
    program = library.compile(words[0], args=given)
    text = "".join(Path(name).read_text() for name in words[1:]) if words[1:] else ""
    if not words[1:] and "null-input" not in flags:
        text = sys.stdin.read()
    try:
        if "null-input" in flags:
            found = list(program.input_value(None))
        elif not text.strip():
            found = []
        else:
            found = list(program.input_text(text, slurp="slurp" in flags))
    except ValueError as error:
        print(f"jq: error: {error}", file=sys.stderr)
        return 5
    for value in found:
        print(_printed(value, flags))
    if "exit-status" in flags:
        return 4 if not found else int(found[-1] in (None, False))
    return 0


def envsubst(arguments: Sequence[str]) -> int:
    """Replace the variables named in the argument, or all without one, in the standard input."""
    named = {a or b for word in arguments for a, b in _VARIABLE.findall(word)}

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return os.environ.get(name, "") if not arguments or name in named else match[0]

    sys.stdout.write(_VARIABLE.sub(value, sys.stdin.read()))
    return 0


def _printed(value: Any, flags: set[str]) -> str:
    if "raw-output" in flags and isinstance(value, str):
        return value
    if "compact-output" in flags:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(value, ensure_ascii=False, indent=2)
