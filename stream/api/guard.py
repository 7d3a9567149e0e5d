"""From a request to a checked and authorised call.

The order of the checks is a part of the API: body, then path, query and header together, then the
token, the branch, and the role. What the entity itself says comes after that, in the handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from stream.api.auth import Branches, authenticate, check_role, token_of
from stream.api.body import read_body
from stream.api.call import Call, Identity
from stream.api.operation import Operation
from stream.api.schema import missing, problems_error
from stream.keboola import TokenVerifier

__all__ = ["Guard", "Incoming"]

_TOKEN_HEADER = "X-StorageApi-Token"


@attrs.frozen(kw_only=True)
class Incoming:
    """A request as it came.

    :ivar path: parameters of the path.
    :ivar query: first values by name.
    :ivar headers: names and values in their order.
    """

    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: tuple[tuple[bytes, bytes], ...] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    client_ip: str
    request_id: str

    def header(self, name: str) -> str:
        """The first value, empty if there is none.

        :param name: in lower case.
        """
        wanted = name.encode()
        for header, value in self.headers:
            if header.lower() == wanted:
                return value.decode("utf-8", "replace")
        return ""


class Guard:
    """:param branches: resolves the branch in the path."""

    def __init__(self, verifier: TokenVerifier, branches: Branches) -> None:
        self._verifier = verifier
        self._branches = branches

    async def admit(
        self,
        operation: Operation,
        incoming: Incoming,
        on_caller: Callable[[Identity], None] = lambda identity: None,
    ) -> Call:
        """:param on_caller: told who calls as soon as the token is verified.

        Raises UserError if the request is wrong or not allowed.
        """
        body = {}
        if operation.body is not None:
            body = read_body(operation.body, incoming.body, incoming.header("content-type"))
        parameters, problems = operation.read_parameters(incoming.path, incoming.query)
        token, promoted = token_of(
            incoming.header("x-storageapi-token"), incoming.header("authorization")
        )
        if not operation.public and not token:
            problems.append(missing(_TOKEN_HEADER, "header"))
        if problems:
            raise problems_error(problems)
        call = Call(
            operation=operation,
            parameters=parameters,
            request_id=incoming.request_id,
            body=body,
            client_ip=incoming.client_ip,
        )
        if operation.raw_body:
            call = attrs.evolve(
                call,
                raw_body=incoming.body,
                raw_headers=_record_headers(incoming.headers, promoted),
            )
        if operation.public:
            return call
        return await self._authorise(call, incoming, token, on_caller)

    async def _authorise(
        self,
        call: Call,
        incoming: Incoming,
        token: str,
        on_caller: Callable[[Identity], None],
    ) -> Call:
        project = incoming.header("x-kbc-projectid")
        identity = await authenticate(self._verifier, token, project)
        on_caller(identity)
        branch = None
        if "branchId" in call.parameters:
            branch = await self._branches.resolve(identity, call.parameters["branchId"])
        if call.operation.admin:
            check_role(identity)
        return attrs.evolve(call, identity=identity, branch=branch)


def _record_headers(
    headers: tuple[tuple[bytes, bytes], ...], promoted: bool
) -> tuple[tuple[bytes, bytes], ...]:
    """Headers without those that carry the caller's token."""
    tokens = {b"x-storageapi-token", b"authorization"} if promoted else {b"x-storageapi-token"}
    return tuple((name, value) for name, value in headers if name.lower() not in tokens)
