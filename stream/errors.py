"""User-facing errors: status, machine-readable name, precise message and layout.

Every layer raises `UserError` (or a subclass) for a caller's mistake; any other exception is a
defect and becomes a 500 with only an exception id in its body. The layout of nested texts
(``Prefix:`` and bullets) is shared by the API, the HTTP source and the start-up errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Self, TypeVar

import attrs

__all__ = [
    "MAX_FAULTS",
    "Fault",
    "NestedError",
    "UserError",
    "camel_case",
    "explained",
    "format_nested",
    "record_error_name",
    "record_message",
    "sentence",
    "shortened",
    "without_frames",
]

E = TypeVar("E", bound=BaseException)

MAX_FAULTS = 20
"""Maximum number of faults of one request that are listed."""

_ONE_LINE_LIMIT = 60
_SHOWN_CHARACTERS = 100
_RECORD_PREFIX = "stream.in."
_ENDS_LIKE_A_WORD = re.compile(r"[a-zA-Z0-9'\"]$")
_WORD_BREAK = re.compile(r"[_\s-]+(\w)")


@attrs.frozen
class Fault:
    """A fault of a request.

    :ivar name: machine-readable, as in `UserError`.
    :ivar message: without capital letter and full stop.
    :ivar param: its position: ``body.name``, ``limit``, ``X-StorageApi-Token``.
    :ivar detail: additional information: what is allowed here, or what to do.
    """

    name: str
    message: str
    param: str = ""
    detail: str = ""


class UserError(Exception):
    """A caller's mistake.

    Clients compare the members that they know, so further explanations are in separate members
    (`explained`), and only if the message isn't complete.

    :param message: the fault, without capital letter and full stop (`sentence` adds them).
    :param status: the HTTP status of the answer.
    :param name: machine-readable, lowerCamelCase, without the listener's prefix; a name with a dot
        comes from another API and is passed through unchanged.
    :param exception_id: the id under which another API logged the failure, if it returned one.
    :param param: the invalid part of the request: ``body.name``, ``limit``.
    :param detail: additional information: what is allowed, or what to do.
    :param faults: all faults, if there are several; at most `MAX_FAULTS` are shown.

    :ivar hint: the caller's probable intention, if it can be guessed; in a separate member, since
        clients may rely on the message.
    :ivar column: the column without a value, if the fault is in a record.
    :ivar unquoted: the message without quotes of a record, for users who may not see records; empty
        if it quotes nothing.
    :ivar unreachable: the unavailable service, if that is the failure; the answer asks for a later
        retry.
    """

    status = 400
    name = "badRequest"
    hint = ""
    column = ""
    unquoted = ""
    unreachable = ""
    param = ""
    detail = ""
    faults: tuple[Fault, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        name: str | None = None,
        exception_id: str | None = None,
        param: str = "",
        detail: str = "",
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        if param:
            self.param = param
        if detail:
            self.detail = detail
        if faults:
            self.faults = tuple(faults)
        if status is not None:
            self.status = status
        if name is not None:
            self.name = name
        self.exception_id = exception_id

    def copy(self) -> Self:
        """Return the same error without a traceback, which would keep its frames alive."""
        made = type(self).__new__(type(self), *self.args)
        made.__dict__.update(self.__dict__)
        return made


class NestedError(UserError):
    """Several problems, or one problem with a context, printed with `format_nested`."""

    def __init__(
        self,
        prefix: str,
        children: Sequence[Exception | str],
        *,
        status: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            format_nested(prefix, [str(child) for child in children]), status=status, name=name
        )
        self.prefix = prefix
        self.children = tuple(children)

    def sentences(self, *, quoting: bool = True) -> str:
        """Return the same layout with sentences; only the prefix has no full stop.

        :param quoting: include quotes of a record.
        """
        return format_nested(
            sentence(self.prefix), [_sentences(child, quoting) for child in self.children]
        )


def _sentences(error: Exception | str, quoting: bool) -> str:
    if isinstance(error, NestedError):
        return error.sentences(quoting=quoting)
    unquoted = error.unquoted if isinstance(error, UserError) and not quoting else ""
    return sentence(unquoted or str(error))


def explained(error: UserError, prefix: str) -> dict[str, Any]:
    """Return the members of an answer that explain *error* further; usually none.

    :param prefix: the listener's prefix of names: ``stream.api.``.
    """
    members: dict[str, Any] = {}
    if error.param:
        members["param"] = error.param
    if error.detail:
        members["detail"] = sentence(error.detail)
    if error.hint:
        members["hint"] = sentence(error.hint)
    if error.faults:
        members["errors"] = [
            dict(_fault_members(fault, prefix)) for fault in error.faults[:MAX_FAULTS]
        ]
    return members


def _fault_members(fault: Fault, prefix: str) -> Iterator[tuple[str, str]]:
    yield "error", fault.name if "." in fault.name else prefix + fault.name
    yield "message", sentence(fault.message)
    if fault.param:
        yield "param", fault.param
    if fault.detail:
        yield "detail", sentence(fault.detail)


def shortened(text: str, characters: int = _SHOWN_CHARACTERS) -> str:
    """Return *text* for a message: at most *characters* characters, then an ellipsis."""
    return text if len(text) <= characters else text[:characters] + "…"


def without_frames(error: E) -> E:
    """Return *error* without its context, its cause and its frames.

    Frames hold the request with its body. If they also hold the keeper of the error, all of it
    would stay in memory until the garbage collector looks for reference cycles, which is rare under
    load.
    """
    errors: list[BaseException] = [error]
    for each in errors:
        children = each.children if isinstance(each, NestedError) else ()
        for other in (each.__cause__, each.__context__, *children):
            if isinstance(other, BaseException) and not any(other is known for known in errors):
                errors.append(other)
        each.__traceback__ = each.__cause__ = each.__context__ = None
    return error


def sentence(text: str) -> str:
    """Return *text* with a capital first letter and, if it ends like a word, a full stop."""
    text = text.rstrip(" ")
    if text:
        text = text[0].upper() + text[1:]
    return text + "." if _ENDS_LIKE_A_WORD.search(text) else text


def record_error_name(name: str) -> str:
    """Return an error's *name* in answers to producers: with the listener's prefix."""
    return name if "." in name else _RECORD_PREFIX + name


def record_message(error: UserError, *, quoting: bool = True) -> str:
    """Return the message of *error* for a producer: sentences, unless it has a fixed text.

    :param quoting: include quotes of the record.
    """
    if getattr(error, "verbatim", False):
        return str(error)
    return _sentences(error, quoting)


def format_nested(prefix: str, children: Sequence[str]) -> str:
    """Return *prefix* and its causes: on one line for a single short cause, else as bullets.

    An empty *prefix* with one child is that child; with several, only the bullets.
    """
    if not prefix:
        return (
            children[0] if len(children) == 1 else "\n".join(_bullet(child) for child in children)
        )
    if not children:
        return prefix
    head = prefix.rstrip(".,:") + ":"
    if (
        len(children) == 1
        and "\n" not in children[0]
        and len(prefix) + len(children[0]) + 2 <= _ONE_LINE_LIMIT
    ):
        return f"{head} {children[0]}"
    return "\n".join([head, *(_bullet(child) for child in children)])


def _bullet(text: str) -> str:
    return "- " + text.replace("\n", "\n  ")


def camel_case(name: str) -> str:
    """Convert ``missing_field`` to ``missingField``, and ``deleted source not found`` likewise."""
    return _WORD_BREAK.sub(lambda match: match[1].upper(), name)
