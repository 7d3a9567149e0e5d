"""Every public module, class and function says in the first line of its docstring what it is."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import attrs
import pytest

from tests.docs.blocks import ROOT

FOLDERS = ("stream", "tools", "benchmarks")

Function = ast.FunctionDef | ast.AsyncFunctionDef

_OF_LIBRARY = re.compile(r"[a-z]+[A-Z]|render_[A-Z]+$")
"""Names of methods that Twisted calls. The repository's own names have no capitals."""

_ERRORS_AS_FIELD = re.compile(
    r"(?m)^\s*(:(raises?|except(ion)?)\b[^:\n]*:|Raises:$|Raises\n\s*-+$)",
)
"""Field lists and sections for errors, which docstrings must not use."""


@attrs.define
class Tree:
    """The parsed modules below a folder."""

    root: Path
    folders: tuple[str, ...] = FOLDERS

    @cached_property
    def modules(self) -> dict[Path, ast.Module]:
        """Return the modules by path."""
        paths = sorted(path for each in self.folders for path in (self.root / each).rglob("*.py"))
        return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}

    @cached_property
    def classes(self) -> dict[str, list[ast.ClassDef]]:
        """Return all classes by name; several modules may have one of the same name."""
        found = defaultdict(list)
        for module in self.modules.values():
            for node in ast.walk(module):
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(node)
        return found

    @cached_property
    def protocols(self) -> list[dict[str, Function]]:
        """Return the methods of each protocol."""
        return [
            self.methods(each)
            for named in self.classes.values()
            for each in named
            if "Protocol" in _bases(each)
        ]

    def methods(self, cls: ast.ClassDef) -> dict[str, Function]:
        """Return the methods of a class, with those of its bases in the tree."""
        found: dict[str, Function] = {}
        for base in reversed(_bases(cls)):
            for each in self.classes.get(base, ()):
                if each is not cls:
                    found |= self.methods(each)
        return found | {node.name: node for node in cls.body if isinstance(node, Function)}

    def is_documented_elsewhere(self, cls: ast.ClassDef, name: str) -> bool:
        """Return whether the method overrides or implements one that is documented.

        It may be a library's, or that of a base class or a protocol. A class implements a protocol
        if it has all methods of the protocol.
        """
        if _OF_LIBRARY.match(name):
            return True
        for base in _bases(cls):
            for each in self.classes.get(base, ()):
                method = self.methods(each).get(name)
                if method is not None and not _fault(method):
                    return True
        own = self.methods(cls).keys()
        return "Protocol" not in _bases(cls) and any(
            name in methods and not _fault(methods[name]) and methods.keys() <= own
            for methods in self.protocols
        )

    def faults(self) -> list[str]:
        """Return missing summaries, and those that aren't one sentence on one line."""
        return [
            f"{path.relative_to(self.root)}:{getattr(node, 'lineno', 1)}: {name} {fault}"
            for path, module in self.modules.items()
            for name, node, owner in _public(module)
            if (fault := _fault(node))
            and not (owner and self.is_documented_elsewhere(owner, name.rpartition(".")[2]))
        ]

    def errors_as_fields(self) -> list[str]:
        """Return docstrings with errors in a field or a section."""
        return [
            f"{path.relative_to(self.root)}:{node.lineno}: {node.name}"
            for path, module in self.modules.items()
            for node in ast.walk(module)
            if isinstance(node, ast.ClassDef | Function)
            and _ERRORS_AS_FIELD.search(ast.get_docstring(node) or "")
        ]


def _bases(cls: ast.ClassDef) -> list[str]:
    found = []
    for base in cls.bases:
        node = base.value if isinstance(base, ast.Subscript) else base
        found.append(node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", ""))
    return found


_Public = tuple[str, ast.Module | ast.ClassDef | Function, ast.ClassDef | None]


def _public(module: ast.Module) -> Iterator[_Public]:
    """Yield name, definition and, of a method, the class."""
    if module.body:
        yield "the module", module, None
    yield from _members(module, "")


def _members(owner: ast.Module | ast.ClassDef, above: str) -> Iterator[_Public]:
    for node in owner.body:
        if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
            continue
        is_method = isinstance(owner, ast.ClassDef) and isinstance(node, Function)
        if any(isinstance(each, ast.Attribute) and each.attr == "setter" for each in _decor(node)):
            continue
        yield above + node.name, node, owner if is_method else None  # type: ignore[misc]
        if isinstance(node, ast.ClassDef):
            yield from _members(node, f"{above}{node.name}.")


def _decor(node: ast.ClassDef | Function) -> list[ast.expr]:
    return node.decorator_list


def _fault(node: ast.Module | ast.ClassDef | Function) -> str:
    """Return the fault of a summary, or an empty string."""
    first = (ast.get_docstring(node) or "").partition("\n")[0]
    if not first:
        return "has no docstring"
    if first.startswith(":"):
        return "begins with a parameter"
    return "" if first.endswith(".") else "has a first line that doesn't end with a full stop"


def test_first_lines() -> None:
    """Every public module, class and function has a summary of one line."""
    tree = Tree(ROOT)
    assert len(tree.modules) > 500
    faults = tree.faults()
    assert not faults, "say in the first line what it is:\n" + "\n".join(faults)


def test_errors_are_sentences() -> None:
    """Docstrings say in a sentence which errors a function raises: "Raises UserError: …"."""
    found = Tree(ROOT, (*FOLDERS, "tests", "bundle")).errors_as_fields()
    assert not found, "write a sentence instead of a field:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("F.\n\n    Raises KeyError: it is missing.", False),
        ("F. It raises: nothing.", False),
        ("F.\n\n    :raises KeyError: it is missing.", True),
        ("F.\n\n    :param x: y.\n    :raise KeyError: no.", True),
        ("F.\n\n    Raises:\n        KeyError: no.", True),
        ("F.\n\n    Raises\n    ------\n    KeyError", True),
    ],
    ids=["sentence", "verb", "field", "short field", "section", "underlined section"],
)
def test_which_forms_of_errors_are_found(tmp_path: Path, text: str, is_found: bool) -> None:
    """The sentence is accepted, and the other forms are found."""
    (tmp_path / "m.py").write_text(f'def f():\n    """{text}\n    """\n')
    assert Tree(tmp_path, (".",)).errors_as_fields() == (["m.py:1: f"] if is_found else [])


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ('"""A module."""', []),
        ("", []),
        ("x = 1", ["m.py:1: the module has no docstring"]),
        (
            '"""A module"""',
            ["m.py:1: the module has a first line that doesn't end with a full stop"],
        ),
        ('"""M."""\ndef f(): ...', ["m.py:2: f has no docstring"]),
        ('"""M."""\nasync def f(): ":param x: y."', ["m.py:2: f begins with a parameter"]),
        ('"""M."""\ndef _f(): ...\nclass _C:\n  def f(self): ...', []),
        ('"""M."""\nclass C:\n  "C."\n  def f(self): ...', ["m.py:4: C.f has no docstring"]),
        ('"""M."""\nclass C:\n  "C."\n  def startService(self): ...', []),
        ('"""M."""\nclass C:\n  "C."\n  @x.setter\n  def x(self, y): ...', []),
        (
            '"""M."""\nclass C:\n  "C."\n  def f(self): "F."\n'
            'class D(C):\n  "D."\n  def f(self): 1',
            [],
        ),
        (
            '"""M."""\nclass P(Protocol):\n  "P."\n  def f(self): "F."\n  def g(self): "G."\n'
            'class A:\n  "A."\n  def f(self): 1\n  def g(self): 1\n'
            'class B:\n  "B."\n  def f(self): 1\n',
            ["m.py:12: B.f has no docstring"],
        ),
    ],
    ids=[
        "summary",
        "empty module",
        "module without",
        "no full stop",
        "function without",
        "parameter first",
        "private",
        "method without",
        "library's method",
        "setter",
        "of a base class",
        "of a protocol",
    ],
)
def test_what_is_found(tmp_path: Path, text: str, faults: list[str]) -> None:
    """Missing and incomplete summaries are found, except for methods documented elsewhere."""
    (tmp_path / "m.py").write_text(text)
    found = Tree(tmp_path, (".",)).faults()
    assert found == faults
