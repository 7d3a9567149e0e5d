"""The answers of the Storage API as values.

Each ``from_reply`` and each function for a value of `stream.authority` converts decoded JSON. It
raises ValueError, KeyError, TypeError or AttributeError if the JSON is invalid; the client converts
these into one error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from stream.authority import Admin, Branch, ProjectToken, TokenInfo
from stream.errors import UserError
from stream.staging.upload import FileUpload, parse_iso_time
from stream.values.codec import Record
from stream.values.token import Token

__all__ = [
    "Bucket",
    "FileUpload",
    "Index",
    "Job",
    "JobError",
    "SinkToken",
    "Table",
    "TableMetadata",
    "branch",
    "project_token",
    "token_info",
]


@attrs.frozen
class Index:
    """The index of the API."""

    features: frozenset[str]

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> Index:
        """Return the index of the Storage API from its reply."""
        return cls(features=frozenset(map(str, reply.get("features") or ())))


def token_info(reply: Mapping[str, Any]) -> TokenInfo:
    """Return the owner and rights of a token."""
    admin, owner = reply.get("admin"), reply["owner"]
    return TokenInfo(
        id=str(reply["id"]),
        description=str(reply.get("description") or ""),
        is_master=reply.get("isMasterToken") is True,
        project_id=int(owner["id"]),
        project_name=str(owner.get("name") or ""),
        admin=Admin(
            id=int(admin["id"]),
            name=str(admin.get("name") or ""),
            role=str(admin.get("role") or ""),
        )
        if admin
        else None,
    )


def project_token(reply: Mapping[str, Any]) -> ProjectToken:
    """Return a token of a project that was issued for a program."""
    expires_at = reply.get("expiresAt")
    try:
        token = Token(str(reply["storageToken"]))
    except UserError as error:
        raise ValueError("the token contains characters that a header can't contain") from error
    return ProjectToken(
        token=token,
        info=token_info(reply["tokenDetail"]),
        expires_at=parse_iso_time(str(expires_at)) if expires_at else None,
    )


def branch(reply: Mapping[str, Any]) -> Branch:
    """Return a development branch of a project."""
    return Branch(
        id=int(reply["id"]),
        name=str(reply.get("name") or ""),
        is_default=reply.get("isDefault") is True,
    )


@attrs.frozen
class Bucket:
    """A bucket of tables."""

    id: str

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> Bucket:
        """Return a bucket from its reply."""
        return cls(id=str(reply["id"]))


@attrs.frozen
class SinkToken(Record):
    """A token created for one sink, stored with all members of the reply.

    :param token: the secret.
    """

    id: str
    description: str = ""
    token: str = attrs.field(repr=False, kw_only=True)

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> SinkToken:
        """Return a sink's token from its reply."""
        return cls(
            id=str(reply["id"]),
            description=str(reply.get("description") or ""),
            token=str(reply["token"]),
            unknown={
                name: member
                for name, member in reply.items()
                if name not in ("id", "description", "token")
            },
        )


@attrs.frozen
class TableMetadata:
    """One entry of a table's metadata."""

    key: str
    value: str
    provider: str


@attrs.frozen
class Table:
    """A table.

    :param columns: names of the columns, in order.
    :param primary_key: names of the key columns, in order; empty if there are none.
    """

    id: str
    columns: tuple[str, ...]
    primary_key: tuple[str, ...]
    metadata: tuple[TableMetadata, ...] = ()

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> Table:
        """Return a table from its reply."""
        return cls(
            id=str(reply["id"]),
            columns=tuple(map(str, reply["columns"])),
            primary_key=tuple(map(str, reply.get("primaryKey") or ())),
            metadata=tuple(
                TableMetadata(
                    key=str(entry["key"]),
                    value=str(entry.get("value") or ""),
                    provider=str(entry.get("provider") or ""),
                )
                for entry in reply.get("metadata") or ()
            ),
        )

    def metadata_value(self, key: str) -> str | None:
        """Return the value stored under *key*, or ``None``."""
        return next((entry.value for entry in self.metadata if entry.key == key), None)


@attrs.frozen
class JobError:
    """Why a job failed."""

    message: str
    code: str = ""
    exception_id: str = ""


@attrs.frozen
class Job:
    """A storage job.

    :param status: ``waiting``, ``processing``, ``success`` or ``error``.
    :param results: results of the job; ``{}`` if there are none.
    :param error: the error; set if the status is ``error``.
    :param file_id: ID of the file that the job imports; ``None`` for other jobs.
    """

    id: int
    status: str
    results: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    error: JobError | None = None
    file_id: int | None = None

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> Job:
        """Return a job from its reply."""
        status, results = str(reply["status"]), reply.get("results")
        problem = reply.get("error") or {}
        return cls(
            id=int(reply["id"]),
            status=status,
            # The API sends an empty object as an empty list.
            results=dict(results) if isinstance(results, Mapping) else {},
            error=JobError(
                message=str(problem.get("message") or "no reason given"),
                code=str(problem.get("code") or ""),
                exception_id=str(problem.get("exceptionId") or ""),
            )
            if status == "error"
            else None,
            file_id=_imported_file(reply.get("operationParams")),
        )

    @property
    def is_finished(self) -> bool:
        """Return whether the job has succeeded or failed."""
        return self.status in ("success", "error")


def _imported_file(parameters: object) -> int | None:
    """Return the ID of the imported file, from the request or from the source of the import."""
    if not isinstance(parameters, Mapping):
        return None
    source = parameters.get("source")
    found = parameters.get("dataFileId") or (
        source.get("fileId") if isinstance(source, Mapping) else None
    )
    return int(found) if found else None
