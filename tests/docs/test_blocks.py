"""Blocks and links of the pages."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import blocks as blocks_module
from tests.docs.blocks import ROOT, Block, blocks, matches, pages

ALL = [block for page in pages() for block in blocks(page)]


def test_blocks_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are found with their line and their output; other blocks aren't."""
    monkeypatch.setattr(blocks_module, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```sh\na\nb\n```\n\n```text\nprinted\n```\n\n```sh\nc\n```\nprose\n\n"
        "```text\nnot printed\n```\n```json\n{}\n```\n"
    )
    assert blocks(page) == [
        Block("page.md", 4, "sh", "a\nb", "printed"),
        Block("page.md", 13, "sh", "c"),
    ]


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("OK", "OK\n", True),
        ("a … c\nd", "a b\nb c\nd\n", True),
        ("a … c", "a b d", False),
        ("(1)", "1", False),
    ],
)
def test_expected_output(expected: str, output: str, same: bool) -> None:
    """An ellipsis matches anything, and other characters match themselves."""
    assert matches(expected, output) is same


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        (
            '{"id": "01a22747-575b-726e-a285-bb8253618a49", "at": "2026-11-29T12:28:36.532Z"}',
            '{"id": "01a22748-d36d-72e2-9b64-2e6b16012153", "at": "2027-01-01T00:00:00.000Z"}',
            True,
        ),
        ('{"at": "2026-11-29T12:28:36.532Z"}', '{"at": ""}', False),
        ('"compressedSize": 314, "count": 3', '"compressedSize": 7, "count": 3', True),
        ('"compressedSize": 314, "count": 3', '"compressedSize": 314, "count": 4', False),
        ("ID  NAME\na   b", "ID    NAME\na     b", True),
    ],
    ids=["ids and times", "no time", "sizes", "counts", "widths of columns"],
)
def test_what_differs_from_run_to_run(expected: str, output: str, same: bool) -> None:
    """Times, ids and sizes may differ from the page; nothing else may."""
    assert matches(expected, output) is same


CUT = {
    "docs/backup.md": "etcdctl writes its log between the lines",
    "docs/rejected.md": "the header with the version of curl differs between machines",
    "docs/tutorial-lake.md": "the message itself contains three dots",
    "docs/tutorial-postgres.md": "the message itself contains three dots",
}
"""Pages with three dots in what a command prints, and the reason."""


def test_examples_are_whole() -> None:
    """The output of each command is shown as a whole."""
    cut = {block.page for block in ALL if "…" in (block.printed or "")}
    assert cut == set(CUT)


@pytest.mark.parametrize("block", ALL, ids=str)
def test_shell_syntax(block: Block) -> None:
    """Each block is valid for a shell."""
    checked = subprocess.run(
        ["bash", "-n"], input=block.text, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def _make_commands() -> Iterator[tuple[str, str]]:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"(?:^ *|`)make ([a-z][a-z0-9-]+)", text, re.MULTILINE):
            yield str(page.relative_to(ROOT)), target


@pytest.mark.parametrize(("page", "target"), sorted(set(_make_commands())))
def test_make_targets_exist(page: str, target: str) -> None:
    """Each target that a page names is in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:.* ## ", makefile, re.MULTILINE), f"{page}: make {target}"


def test_help_lists_every_target() -> None:
    """`make help` lists every target."""
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    printed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    listed = {line.split()[0] for line in printed.splitlines() if line.startswith("  ")}
    assert listed == phony
    for task in sorted(phony):
        dry = ["make", "--dry-run", task]
        assert subprocess.run(dry, cwd=ROOT, capture_output=True, check=False).returncode == 0


LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_links_of_the_readme() -> None:
    """Files that the README links to exist; `make docs` checks the links of the site."""
    for target in LINK.findall((ROOT / "README.md").read_text()):
        if "://" not in target:
            assert (ROOT / target.partition("#")[0]).exists(), target
