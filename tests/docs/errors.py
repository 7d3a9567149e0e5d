"""The names of errors in the code, with the statuses of each.

They are collected from the syntax trees of the modules: attributes ``name`` of subclasses of
`UserError`, arguments ``name`` of their calls, the first argument of `Fault`, and strings with a
listener's prefix. An expression that isn't a string is listed in `COMPUTED`, with its possible
values.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import attrs

from tests.docs.blocks import ROOT

__all__ = ["COMPUTED", "Found", "collect", "modules"]

COMPUTED: Mapping[tuple[str, str], Sequence[str]] = {
    ("stream/api/http/errors.py", "failure.name"): (),
    ("stream/api/spec/schema.py", "first.name"): (),
    ("stream/definition/errors.py", "f'{what}CountLimitReached'"): (
        "branchCountLimitReached",
        "sourceCountLimitReached",
        "sinkCountLimitReached",
        "versionCountLimitReached",
    ),
    ("stream/mapping/engine_protocol.py", "name"): (),
    ("stream/mapping/render.py", "error.name"): (),
    ("stream/record/context.py", "error.name"): (),
    ("stream/source/otlp/decode.py", "error.name if error else None"): (),
    ("stream/target/keboola/call.py", "UNREACHABLE"): ("storageApiUnreachable",),
    ("stream/target/keboola/errors.py", "self.name"): (),
    ("stream/target/keboola/errors.py", "code or 'storageJobFailed'"): ("storageJobFailed",),
    ("stream/target/keboola/errors.py", "code or name or name_of_status(status)"): (
        "storageApiError",
    ),
    ("stream/templates/pool.py", "name"): ("overloaded", "templatesPaused"),
}
"""Module and expression, and the names that it adds; none if it only passes on a name."""

_PREFIXED = re.compile(r"stream\.(?:in|api)\.([a-z][A-Za-z]+)")
_NO_ERRORS = frozenset({"live", "server"})
"""Suffixes of a prefix in the names of loggers."""


@attrs.frozen
class Found:
    """The names found in the code.

    :ivar statuses: of each name, unless they are computed.
    :ivar computed: the expressions that result in a name, as keys of `COMPUTED`.
    """

    statuses: Mapping[str, frozenset[int]]
    computed: frozenset[tuple[str, str]]


def modules() -> dict[str, str]:
    """Return the text of each module with errors for users or operators, except the sandbox."""
    paths = sorted((ROOT / "stream").rglob("*.py"))
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in paths
        if "sandbox" not in path.parts
    }


def collect(texts: Mapping[str, str]) -> Found:
    """Return the names in *modules*, whose text is given by path."""
    trees = {path: ast.parse(text) for path, text in texts.items()}
    classes = _statuses_of_classes(list(trees.values()))
    statuses: defaultdict[str, set[int]] = defaultdict(set)
    computed = set()
    for path, tree in trees.items():
        for expression, status in _named(tree, classes):
            names, rest = _texts(expression)
            keys = [(path, ast.unparse(each)) for each in rest]
            computed.update(keys)
            for name in (*names, *(name for key in keys for name in COMPUTED.get(key, ()))):
                statuses[name] |= set() if status is None else {status}
    return Found({name: frozenset(each) for name, each in statuses.items()}, frozenset(computed))


def _statuses_of_classes(trees: Sequence[ast.Module]) -> dict[str, int]:
    """Return each subclass of `UserError` with the status of its instances."""
    nodes = [x for tree in trees for x in ast.walk(tree) if isinstance(x, ast.ClassDef)]
    found = {"UserError": 400, "NestedError": 400}
    size = 0
    while size < len(found):
        size = len(found)
        for node in nodes:
            base = next((found[x] for x in map(_last_name, node.bases) if x in found), None)
            if base is not None:
                found[node.name] = _number(_attribute(node, "status")) or base
    return found


def _named(tree: ast.Module, classes: Mapping[str, int]) -> Iterator[tuple[ast.expr, int | None]]:
    """Yield each expression that is a name, with the status if that is known."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in classes:
            name = _attribute(node, "name")
            if name is not None:
                yield name, classes[node.name]
        elif isinstance(node, ast.Call):
            yield from _named_by_call(node, classes)
        elif isinstance(node, ast.BinOp) and _last_name(node.left) == "_PREFIX":
            yield from ((each, None) for each in _constants(node.right))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = _PREFIXED.fullmatch(node.value)
            if match and match[1] not in _NO_ERRORS:
                yield ast.Constant(match[1]), None


def _named_by_call(
    call: ast.Call, classes: Mapping[str, int]
) -> Iterator[tuple[ast.expr, int | None]]:
    called = _last_name(call.func)
    keywords = {each.arg: each.value for each in call.keywords}
    if called == "Fault" and call.args:
        yield call.args[0], 400
    elif called == "_refused" and len(call.args) == 3:
        yield call.args[2], 503
    elif "name" in keywords and (called in classes or called == "__init__"):
        if called == "__init__" and ast.unparse(keywords["name"]) == "name":
            return  # the parameter of a class that derives from another
        status = keywords.get("status")
        yield keywords["name"], classes.get(called, 400) if status is None else _number(status)


def _texts(expression: ast.expr) -> tuple[list[str], list[ast.expr]]:
    """Return the names in *expression*, and its computed parts."""
    if isinstance(expression, ast.Constant):
        return ([expression.value] if isinstance(expression.value, str) else []), []
    if isinstance(expression, ast.IfExp) and "None" not in ast.unparse(expression):
        (first, rest), (second, others) = map(_texts, (expression.body, expression.orelse))
        return first + second, rest + others
    return [], [expression]


def _constants(node: ast.expr) -> list[ast.expr]:
    """Return the strings that *node* can evaluate to, without those it compares with."""
    if isinstance(node, ast.IfExp):
        return [*_constants(node.body), *_constants(node.orelse)]
    return [node] if isinstance(node, ast.Constant) else []


def _attribute(node: ast.ClassDef, name: str) -> ast.expr | None:
    for each in node.body:
        if isinstance(each, ast.Assign) and _last_name(each.targets[0]) == name:
            return each.value
    return None


def _number(node: ast.expr | None) -> int | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int) else None


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")
