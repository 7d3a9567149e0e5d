"""Detection of undefined variables in Jsonnet snippets.

The engine detects an unknown variable only when it is evaluated. So a misspelled name in a branch
that is rarely taken would first fail in production. A name that is defined in any part of the
snippet counts as known in the whole snippet. Errors that this check misses are found when the
template runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from stream.errors import UserError

__all__ = ["Use", "check_brackets", "first_import", "unknown_variable", "without_tailstrict"]

_TOKEN = re.compile(
    r"""
    (?P<skip>\s+|//[^\n]*|\#[^\n]*|/\*.*?\*/)
  | (?P<text>\|\|\|-?[ \t]*\n.*?\n[ \t]*\|\|\| | @'(?:[^']|'')*' | @"(?:[^"]|"")*"
      | '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*")
  | (?P<number>\d[\w.]*(?:(?<=[eE])[+-]\d+)?)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<sign>==|=|[{}\[\](),;.] | [^\s\w])
    """,
    re.VERBOSE | re.DOTALL,
)
_KEYWORDS = frozenset(
    (
        *("assert", "else", "error", "false", "for", "function", "if", "import", "importbin"),
        *("importstr", "in", "local", "null", "self", "super", "tailstrict", "then", "true"),
    )
)
_OPENING = {"{", "[", "("}
_CLOSING = {"}", "]", ")"}
_PARTNERS = {"{": "}", "[": "]", "(": ")"}
_IMPORTS = {"import", "importbin", "importstr"}

MAX_NESTING = 200
"""Maximum nesting of brackets; more than people write, and few enough for a parser's stack."""


@attrs.frozen
class Use:
    """The position of a variable. Lines and columns start at 1; `end` is just after the name."""

    name: str
    line: int
    start: int
    end: int


@attrs.frozen
class _Token:
    kind: str
    text: str
    position: int


def check_brackets(content: str) -> None:
    """Check the brackets. Raises UserError with the position of one that is unmatched or too deep.

    This must be called before *content* is parsed. The engine tries all ways to parse open
    brackets, and each additional bracket triples the time.
    """
    open_brackets: list[_Token] = []
    for token in _tokens(content):
        if token.kind != "sign":
            continue
        if token.text in _OPENING:
            open_brackets.append(token)
            if len(open_brackets) > MAX_NESTING:
                raise UserError(
                    f"{_place(content, token.position)} brackets are nested deeper than "
                    f"{MAX_NESTING} levels"
                )
        elif token.text in _CLOSING:
            partner = open_brackets.pop() if open_brackets else None
            if partner is None:
                raise UserError(
                    f'{_place(content, token.position)} found "{token.text}", but no bracket is '
                    "open"
                )
            if _PARTNERS[partner.text] != token.text:
                raise UserError(
                    f'{_place(content, token.position)} expected "{_PARTNERS[partner.text]}" to '
                    "close "
                    f'the "{partner.text}" at {_place(content, partner.position)}, '
                    f'found "{token.text}"'
                )
    if open_brackets:
        last = open_brackets[-1]
        raise UserError(
            f'{_place(content, len(content))} expected "{_PARTNERS[last.text]}" to close '
            f'the "{last.text}" at {_place(content, last.position)}'
        )


def _place(content: str, position: int) -> str:
    """Return line and column, starting at 1, as text."""
    before = content[:position]
    return f"{before.count(chr(10)) + 1}:{position - (before.rfind(chr(10)) + 1) + 1}"


def first_import(content: str) -> Use | None:
    """Return the first import of a file, whatever its kind."""
    previous = ""
    for token in _tokens(content):
        if token.kind == "name" and token.text in _IMPORTS and previous != ".":
            return _use(content, token)
        previous = token.text
    return None


def _use(content: str, token: _Token) -> Use:
    before = content[: token.position]
    column = token.position - (before.rfind("\n") + 1) + 1
    return Use(token.text, before.count("\n") + 1, column, column + len(token.text))


def unknown_variable(content: str, known: set[str]) -> Use | None:
    """Return the first use of a variable that is neither *known* nor defined in *content*."""
    defined, used = _Names(list(_tokens(content))).read()
    for token in used:
        if token.text not in defined and token.text not in known:
            return _use(content, token)
    return None


def without_tailstrict(content: str) -> str:
    """Return *content* with spaces instead of each ``tailstrict``.

    The engine doesn't count the stack frames of such calls, so an endless recursion would overflow
    the stack of the process. It counts the frames of ordinary calls, which return the same results.
    """
    if "tailstrict" not in content:
        return content
    for token in _tokens(content):
        if token.kind == "name" and token.text == "tailstrict":
            end = token.position + len(token.text)
            content = content[: token.position] + " " * len(token.text) + content[end:]
    return content


def _tokens(content: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(content):
        if match.lastgroup and match.lastgroup != "skip":
            yield _Token(match.lastgroup, match[0], match.start())


class _Names:
    """The names that a snippet defines and uses.

    :ivar _brackets: open brackets; the ``(`` of a parameter list is ``params``.
    :ivar _locals: number of brackets that were open at each unfinished ``local``.
    """

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._brackets: list[str] = []
        self._locals: list[int] = []
        self._defined: set[str] = set()
        self._used: list[_Token] = []

    def read(self) -> tuple[set[str], list[_Token]]:
        previous = ""
        names_follow_parameters = False  # the previous token was a name that is being defined
        for index, token in enumerate(self._tokens):
            following = self._tokens[index + 1].text if index + 1 < len(self._tokens) else ""
            if token.kind == "name" and token.text not in _KEYWORDS:
                names_follow_parameters = self._name(token, previous, following)
            else:
                if token.kind == "sign":
                    is_parameters = names_follow_parameters or previous == "function"
                    self._sign(token.text, is_parameters)
                elif token.text == "local" and not self._starts_member(previous):
                    self._locals.append(len(self._brackets))
                names_follow_parameters = False
            previous = token.text if token.kind in ("name", "sign") else ""
        return self._defined, self._used

    def _starts_member(self, previous: str) -> bool:
        return self._top() == "{" and previous in ("{", ",")

    def _top(self) -> str:
        return self._brackets[-1] if self._brackets else ""

    def _name(self, token: _Token, previous: str, following: str) -> bool:
        """Record a name; return whether its parameters may follow."""
        if previous == "." or (previous in ("(", ",") and following == "=" and self._top() == "("):
            return False  # a field of an object, or a named argument
        continues_local = (
            previous == "," and self._locals and self._locals[-1] == len(self._brackets)
        )
        if previous == "local" or continues_local:
            self._defined.add(token.text)
            return True
        if self._starts_member(previous):
            return True  # a field's name
        if previous == "for" or (self._top() == "params" and previous in ("(", ",")):
            self._defined.add(token.text)
            return False
        self._used.append(token)
        return False

    def _sign(self, sign: str, is_parameters: bool) -> None:
        if sign in _OPENING:
            self._brackets.append("params" if sign == "(" and is_parameters else sign)
        elif sign in _CLOSING:
            if self._brackets:
                self._brackets.pop()
            while self._locals and self._locals[-1] > len(self._brackets):
                self._locals.pop()
        elif sign == ";" and self._locals and self._locals[-1] == len(self._brackets):
            self._locals.pop()
