"""User-facing errors, with their status, machine-readable name, message and layout.

Every layer raises `UserError` (or a subclass) for a caller's mistake. Any other exception is a bug;
its answer is a 500 with only an exception id in the body. The API, the HTTP source and startup
errors share the layout of nested texts (``Prefix:`` and bullets).
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
"""Maximum number of faults that are listed for one request."""

_ONE_LINE_LIMIT = 60
_SHOWN_CHARACTERS = 100
_RECORD_PREFIX = "stream.in."
_ENDS_LIKE_A_WORD = re.compile(r"[a-zA-Z0-9'\"]$")
_WORD_BREAK = re.compile(r"[_\s-]+(\w)")


@attrs.frozen
class Fault:
    """One thing that is wrong with a request.

    :ivar name: machine-readable name, as in `UserError`.
    :ivar message: the message, without capital letter and full stop.
    :ivar param: the part of the request: ``body.name``, ``limit``, ``X-StorageApi-Token``.
    :ivar detail: additional information, such as what is allowed here, or what to do.
    """

    name: str
    message: str
    param: str = ""
    detail: str = ""


class UserError(Exception):
    """A caller's mistake.

    Clients compare the members that they know. So further explanations are in separate members
    (`explained`), which are present only if the message isn't sufficient.

    :param message: what is wrong, without capital letter and full stop (`sentence` adds them).
    :param status: the HTTP status of the answer.
    :param name: machine-readable name in lowerCamelCase, without the listener's prefix. A name with
        a dot comes from another API and is passed through unchanged.
    :param exception_id: the id under which another API logged the failure, if it returned one.
    :param param: the invalid part of the request: ``body.name``, ``limit``.
    :param detail: additional information, such as what is allowed, or what to do.
    :param faults: everything that is wrong, if there are several faults; at most `MAX_FAULTS` are
        shown.

    :ivar hint: the caller's probable intention, if it can be guessed. It is in a separate member,
        because clients may rely on the message.
    :ivar column: the column without a value, if the problem is in a record.
    :ivar unquoted: the message without quotations from a record, for users who may not see records;
        empty if the message quotes nothing.
    :ivar unreachable: name of the unavailable service, if that is the failure; the answer asks the
        caller to retry later.
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
    """Several problems, or one problem with a context, formatted with `format_nested`."""

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
        """Return the message in the same layout, as sentences; only the prefix has no full stop.

        :param quoting: whether to include quotations from a record.
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

    :param prefix: the listener's prefix for names, such as ``stream.api.``.
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

    Frames refer to the request with its body. If they also refer to the object that keeps the
    error, there is a reference cycle. It would stay in memory until the garbage collector runs,
    which is rare under load.
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
    """Return *text* with a capital first letter, and with a full stop if it ends like a word."""
    text = text.rstrip(" ")
    if text:
        text = text[0].upper() + text[1:]
    return text + "." if _ENDS_LIKE_A_WORD.search(text) else text


def record_error_name(name: str) -> str:
    """Return an error's *name* for answers to producers, with the listener's prefix."""
    return name if "." in name else _RECORD_PREFIX + name


def record_message(error: UserError, *, quoting: bool = True) -> str:
    """Return the message of *error* for a producer, as sentences unless its text is fixed.

    :param quoting: whether to include quotations from the record.
    """
    if getattr(error, "verbatim", False):
        return str(error)
    return _sentences(error, quoting)


def format_nested(prefix: str, children: Sequence[str]) -> str:
    """Return *prefix* and its causes: one short cause on the same line, otherwise bullets.

    If *prefix* is empty, the result is the only child, or only the bullets.
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
    """Return *name* in lowerCamelCase, for example ``missingField`` for ``missing_field``."""
    return _WORD_BREAK.sub(lambda match: match[1].upper(), name)
