"""The checks that turn a request into an authorized call.

The order of the checks is a part of the API: path, query and header together, then the token, the
body, the branch, and the right. Handlers check the entity itself afterwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from stream.api.http.auth import Branches, authenticate, check_right, token_of
from stream.api.http.body import ReadBody, read_body
from stream.api.http.call import Call, Identity, StreamingResponse
from stream.api.http.lasting import while_valid
from stream.api.http.prefer import preferred_wait
from stream.api.spec.operation import Operation, Parameters
from stream.api.spec.schema import missing, problems_error
from stream.authority import ProjectAuthority
from stream.errors import UserError
from stream.values.duration import Duration

__all__ = ["Guard", "Incoming"]

_TOKEN_HEADER = "X-StorageApi-Token"


@attrs.frozen(kw_only=True)
class Incoming:
    """A received request, whose optional parts are read on demand.

    :ivar path: parameters of the path.
    :ivar query: first values by name.
    :ivar header: returns the first value of a header.
    :ivar headers: names and values of all headers, in the order received.
    :ivar body: reads the whole body; raises UserError.
    """

    path: Mapping[str, str]
    query: Mapping[str, str]
    header: Callable[[bytes], str]
    headers: Callable[[], tuple[tuple[bytes, bytes], ...]]
    body: Callable[[], Awaitable[bytes]]
    client_ip: str
    request_id: str


class Guard:
    """The checks that a request passes before its operation runs.

    :param branches: resolves the branch in the path.
    :param strict: whether a body with unknown members is refused.
    """

    def __init__(
        self,
        reactor: Any,
        authority: ProjectAuthority,
        branches: Branches,
        *,
        strict: bool = False,
    ) -> None:
        self._reactor = reactor
        self._authority = authority
        self._branches = branches
        self._strict = strict

    @property
    def challenge(self) -> str:
        """Return the value of ``WWW-Authenticate`` for a 401, empty for none."""
        return self._authority.challenge

    def lasting(self, call: Call, answer: StreamingResponse) -> StreamingResponse:
        """Return *answer*, wrapped so that it ends when the token of *call* is no longer valid."""
        return while_valid(self._reactor, self._authority, call, answer)

    async def admit(
        self,
        operation: Operation,
        incoming: Incoming,
        on_caller: Callable[[Identity], None] = lambda identity: None,
    ) -> Call:
        """Check token, parameters and body of a request; return its call.

        Raises UserError: the request is invalid or not allowed.

        :param on_caller: called with the caller as soon as the token is verified.
        """
        parameters, problems = operation.read_parameters(incoming.path, incoming.query)
        token, promoted = token_of(
            incoming.header(b"x-storageapi-token"), incoming.header(b"authorization")
        )
        if not operation.public and not token:
            if self._authority.challenge:
                raise _no_token()
            problems.append(missing(_TOKEN_HEADER, "header"))
        if problems:
            raise problems_error(problems)
        identity, branch = None, None
        if not operation.public:
            project = incoming.header(b"x-kbc-projectid")
            identity = await authenticate(self._authority, token, project)
            on_caller(identity)
        # Nothing is read from the connection before the caller is known. Even a body that isn't
        # needed is read, so that the connection can be reused.
        data = b"" if operation.public else await incoming.body()
        read = ReadBody({})
        if operation.body is not None:
            read = read_body(
                operation.body,
                data,
                incoming.header(b"content-type"),
                incoming.header(b"content-encoding"),
            )
            if read.unknown and self._strict:
                raise problems_error(read.unknown)
        if identity is not None:
            if "branchId" in parameters:
                branch = await self._branches.resolve(identity, parameters["branchId"])
            if operation.right is not None:
                check_right(identity, operation.right)
        is_record = operation.raw_body
        wait, preference = _wait(operation, parameters, incoming)
        return Call(
            operation=operation,
            parameters=parameters,
            request_id=incoming.request_id,
            body=read.value,
            unknown=read.unknown,
            raw_body=data if is_record else b"",
            raw_headers=_record_headers(incoming.headers(), promoted) if is_record else (),
            client_ip=incoming.client_ip,
            last_event_id=incoming.header(b"last-event-id"),
            wait=wait,
            preference=preference,
            header=incoming.header,
            identity=identity,
            branch=branch,
        )


def _wait(operation: Operation, parameters: Parameters, incoming: Incoming) -> tuple[float, str]:
    """Return how many seconds the caller waits for a task, and the preference that says so."""
    if not operation.waits:
        return 0.0, ""
    if parameters["wait"]:
        return Duration.parse(parameters["wait"]).seconds, ""
    if not incoming.header(b"prefer"):
        return 0.0, ""
    preferences = (value for name, value in incoming.headers() if name.lower() == b"prefer")
    seconds = preferred_wait(value.decode("latin-1") for value in preferences)
    return float(seconds), f"wait={seconds}" if seconds else ""


def _no_token() -> UserError:
    return UserError(
        f'send a token in the header "Authorization: Bearer …" or "{_TOKEN_HEADER}"',
        status=401,
        name="tokenMissing",
    )


def _record_headers(
    headers: tuple[tuple[bytes, bytes], ...], promoted: bool
) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers without those that carry the caller's token."""
    tokens = {b"x-storageapi-token", b"authorization"} if promoted else {b"x-storageapi-token"}
    return tuple((name, value) for name, value in headers if name.lower() not in tokens)
