"""The branches of a project, and its tokens if this service makes them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from stream.api.http.call import Answer, Call, Handler
from stream.api.resources.views import token_view
from stream.authority import Branch, ProjectAuthority
from stream.authority.rights import RIGHTS, read_rights
from stream.authority.tokens import TokenKey, Tokens
from stream.errors import UserError, shortened

__all__ = ["Projects"]


class Projects:
    """The operations on branches and tokens of a project.

    :param now: returns the current time in UTC.
    """

    def __init__(self, *, authority: ProjectAuthority, now: Callable[[], datetime]) -> None:
        self._authority = authority
        self._now = now

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {
            "ListBranches": self.list_branches,
            "CreateBranch": self.create_branch,
            "GetCurrentToken": self.current_token,
            "ListTokens": self.list_tokens,
            "CreateToken": self.create_token,
            "RevokeToken": self.revoke_token,
        }

    async def list_branches(self, call: Call) -> Any:
        """List the branches that the caller's token can access."""
        branches = await self._authority.branches(call.identity.token)
        return {"branches": [_branch_view(branch) for branch in branches]}

    async def create_branch(self, call: Call) -> Any:
        """Create a branch in the caller's project."""
        identity = call.identity
        return _branch_view(
            await self._authority.create_branch(identity.token, call.body["name"], identity.by)
        )

    async def current_token(self, call: Call) -> Any:
        """Return the caller's token with all rights that it has."""
        info = call.identity.info
        return {
            "tokenId": info.id,
            "projectId": info.project_id,
            "name": info.description,
            "rights": [right for right in RIGHTS if call.identity.may(right)],
        }

    async def list_tokens(self, call: Call) -> Any:
        """List the tokens of the caller's project, without their secrets."""
        records = await self._tokens.list(call.identity.info.project_id)
        return {"tokens": [token_view(record, self._now()) for record in records]}

    async def create_token(self, call: Call) -> Any:
        """Create a token; only this answer contains its secret."""
        body = call.body
        record, text = await self._tokens.create(
            call.identity.info.project_id,
            body["name"],
            read_rights(body["rights"]),
            call.identity.by,
            expires_at=_time(body.get("expiresAt")),
        )
        return token_view(record, self._now()) | {"token": text}

    async def revoke_token(self, call: Call) -> Any:
        """Revoke a token of the caller's project."""
        key = TokenKey(call.identity.info.project_id, call.parameters["tokenId"])
        await self._tokens.revoke(key)
        return Answer(status=call.operation.status)

    @property
    def _tokens(self) -> Tokens:
        if self._authority.tokens is None:
            raise UserError(
                "tokens of this project are created in Keboola, not here",
                status=404,
                name="madeElsewhere",
            )
        return self._authority.tokens


def _branch_view(branch: Branch) -> dict[str, Any]:
    return {"branchId": branch.id, "name": branch.name, "isDefault": branch.is_default}


def _time(text: str | None) -> datetime | None:
    """Return the given time in UTC. Raises UserError."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UserError(
            f'"{shortened(text)}" is not a time with a zone, such as 2100-01-01T00:00:00Z',
            param="body.expiresAt",
        ) from None
