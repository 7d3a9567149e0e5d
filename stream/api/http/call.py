"""A checked and authorized call of an operation, as handlers receive it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import attrs
import orjson

from stream.api.spec.operation import Operation, Parameters
from stream.authority import TokenInfo
from stream.authority.rights import Right, includes
from stream.definition.entity import By
from stream.definition.key import BranchKey, SinkKey, SourceKey
from stream.errors import Fault, sentence
from stream.task.entity import Task
from stream.values.token import Token

__all__ = [
    "Answer",
    "Call",
    "Handler",
    "Identity",
    "Send",
    "StartedTask",
    "StreamingResponse",
    "json_answer",
    "json_body",
    "json_list",
]


@attrs.frozen
class Identity:
    """The caller.

    :ivar token: token that the service sends to the project authority and to targets on behalf of
        the caller.
    """

    token: Token
    info: TokenInfo

    @property
    def by(self) -> By:
        """The caller, in the form that is recorded with changes."""
        admin = self.info.admin
        return By(
            "user",
            token_id=self.info.id,
            token_desc=self.info.description,
            user_id=str(admin.id) if admin else "",
            user_name=admin.name if admin else "",
        )

    def may(self, right: Right) -> bool:
        """Return whether the token has the *right*."""
        if self.info.rights is not None:
            return includes(self.info.rights, right)
        is_admin = self.info.admin is not None and self.info.admin.role == "admin"
        return is_admin or right in ("read", "tail")


@attrs.frozen(kw_only=True)
class Call:
    """One request of an operation: its parameters, its body and its caller.

    :ivar body: the body, if the operation declares one.
    :ivar unknown: unknown members of the body, listed as warnings in the answer.
    :ivar raw_body: the undecoded body, if the operation accepts any content.
    :ivar raw_headers: headers without the caller's token, if the operation accepts any content.
    :ivar client_ip: IP address of the peer.
    :ivar last_event_id: id of the last event that the caller received from an earlier event stream.
    :ivar wait: seconds that the caller waits for the task to end; 0 if it doesn't wait.
    :ivar preference: the applied part of the header ``Prefer``; empty if *wait* comes from
        elsewhere.
    :ivar header: returns the first value of a header; empty if the header is missing.
    """

    operation: Operation
    parameters: Parameters
    request_id: str
    body: Mapping[str, Any] = attrs.field(factory=dict)
    unknown: tuple[Fault, ...] = ()
    raw_body: bytes = b""
    raw_headers: tuple[tuple[bytes, bytes], ...] = attrs.field(default=(), repr=False)
    client_ip: str = ""
    last_event_id: str = ""
    wait: float = 0.0
    preference: str = ""
    header: Callable[[bytes], str] = attrs.field(default=lambda name: "", repr=False)
    _identity: Identity | None = None
    _branch: BranchKey | None = None

    @property
    def identity(self) -> Identity:
        """The caller of an operation that isn't public."""
        if self._identity is None:
            raise ValueError(f"{self.operation.id} has no caller")
        return self._identity

    @property
    def warnings(self) -> dict[str, Any]:
        """The member of an answer that lists unknown members of the body."""
        listed = [
            {"param": fault.param, "message": sentence(fault.message)} for fault in self.unknown
        ]
        return {"warnings": listed}

    @property
    def in_branch(self) -> bool:
        """Whether the operation has a branch in its path."""
        return self._branch is not None

    @property
    def branch(self) -> BranchKey:
        """The branch of an operation that has one in its path."""
        if self._branch is None:
            raise ValueError(f"{self.operation.id} has no branch")
        return self._branch

    @property
    def source_key(self) -> SourceKey:
        """The key of the source that the path names."""
        return self.branch.source(self.parameters["sourceId"])

    @property
    def sink_key(self) -> SinkKey:
        """The key of the sink that the path names."""
        return self.source_key.sink(self.parameters["sinkId"])


@attrs.frozen(kw_only=True)
class Answer:
    """An answer that isn't JSON or doesn't have the operation's status.

    :ivar content_type: media type of the body; empty if there is no body.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()


Send = Callable[[bytes], Awaitable[None]]
"""Writes a part of a body; resumes when the client accepts more."""


@attrs.frozen(kw_only=True)
class StreamingResponse:
    """An answer whose body is written in parts over time.

    :ivar write: writes the body; it is cancelled when the client has disconnected.
    """

    content_type: str
    write: Callable[[Send], Awaitable[None]]


@attrs.frozen
class StartedTask:
    """The answer of an operation that continues in a task.

    :ivar view: the plain value of the body for a caller that doesn't wait.
    """

    task: Task
    view: dict[str, Any]


Handler = Callable[[Call], Awaitable[Any]]
"""Returns an `Answer`, a `StreamingResponse`, a `StartedTask`, or the plain value of a JSON body.
"""


def json_body(value: Any) -> bytes:
    """Return the body of a plain value: compact JSON with a line feed at the end."""
    return orjson.dumps(value) + b"\n"


def json_list(head: dict[str, Any], name: str, items: Iterable[bytes]) -> bytes:
    """Return a body whose last member is a list of bodies.

    :param head: the other members.
    :param items: bodies as made by `json_body`.
    """
    listed = b",".join(item[:-1] for item in items)
    return orjson.dumps(head)[:-1] + b',"' + name.encode() + b'":[' + listed + b"]}\n"


def json_answer(body: bytes, status: int = 200) -> Answer:
    """Return an answer whose body is already JSON.

    :param body: JSON.
    """
    return Answer(status=status, body=body, content_type="application/json")
