"""Prose uses the terms of the glossary, and none of the words that it lists as not to be used."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs
import pytest

from tests.docs.blocks import ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"

HELD = (
    "docs",
    "stream",
    "tests",
    "benchmarks",
    "bundle",
    "tools",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
)
"""Folders and files whose prose is checked against the list."""

_ROW = re.compile(r"^\| (?P<words>[^|]+) \| [^|]+ \|$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")


@attrs.frozen
class Prose:
    """A docstring, a comment, a text or a page.

    :ivar line: number of its first line in the file.
    """

    path: Path
    line: int
    text: str


@cache
def _unwanted() -> re.Pattern[str]:
    """Return a pattern of the words in the glossary's list."""
    table = GLOSSARY.read_text(encoding="utf-8").partition("| not | but |\n|---|---|\n")[2]
    words = [word.strip() for row in _ROW.finditer(table) for word in row["words"].split(",")]
    assert len(words) > 20
    found = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in words)
    return re.compile(rf"\b(?:{found})\b", re.IGNORECASE)


def _faults(prose: Iterator[Prose]) -> list[str]:
    found = []
    for part in prose:
        for match in _unwanted().finditer(part.text):
            line = part.line + part.text.count("\n", 0, match.start())
            found.append(f'{part.path.relative_to(ROOT)}:{line}: "{match[0]}"')
    return found


def _files(place: str) -> list[Path]:
    path = ROOT / place
    found = [path] if path.is_file() else [*path.rglob("*.md"), *path.rglob("*.py")]
    return sorted(file for file in found if file not in (GLOSSARY, Path(__file__)))


def _prose(path: Path) -> Iterator[Prose]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        # Fenced code is replaced by empty lines, so that line numbers stay correct.
        for pattern in (_FENCED, _CODE):
            text = pattern.sub(lambda match: "\n" * match[0].count("\n"), text)
        yield Prose(path, 1, text)
        return
    yield from _strings(path, text)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield Prose(path, token.start[0], _CODE.sub("", token.string))


def _strings(path: Path, text: str) -> Iterator[Prose]:
    """Yield docstrings and texts. A string without a blank is a name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield Prose(path, node.lineno, _CODE.sub("", node.value))


@pytest.mark.parametrize("place", HELD)
def test_words(place: str) -> None:
    """Pages, docstrings, comments, messages and descriptions contain none of the listed words."""
    files = _files(place)
    assert files, f"{place} has no prose"
    faults = _faults(part for path in files for part in _prose(path))
    assert not faults, "docs/glossary.md lists better words:\n" + "\n".join(faults)


def test_what_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words in any case are found in docstrings, comments and texts, also across lines, but not in
    code.
    """
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    module = tmp_path / "module.py"
    module.write_text(
        '"""Is told."""\n# Mended.\ntold = "mend"\nx = "is set\\naside"\ny = "`told` here"\n'
    )
    page = tmp_path / "page.md"
    page.write_text("One\nstands still, `told`.\n\n```sh\ntold\n```\n\nAnew.\n")
    assert _faults(_prose(module)) == [
        'module.py:1: "told"',
        'module.py:4: "set\naside"',
        'module.py:2: "Mended"',
    ]
    assert _faults(_prose(page)) == ['page.md:2: "stands still"', 'page.md:8: "Anew"']


def test_spelling() -> None:
    """codespell finds no misspelt word; known words are in `setup.cfg`."""
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "codespell_lib",
            "docs",
            "stream",
            "README.md",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "tests",
            "benchmarks",
            "bundle",
            "tools",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
