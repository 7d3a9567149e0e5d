"""Shapes of requests and answers: their members and types, without values.

A shape is flat: ``{"owner.id": {"integer"}, "columns[]": {"string"}}``. `Recorder` records the
shapes of a client's requests and answers. `DOCUMENTED` has those that the Storage API promises, or
that we promise to send.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from stream.target.keboola import StorageApi
from stream.target.keboola.call_meter import path_template

__all__ = ["ALSO_ANSWERED", "DOCUMENTED", "Recorder", "lacks", "problems_of", "shape_of"]

Shape = dict[str, set[str]]
_NAMES_ARE_VALUES = frozenset({"bucketPermissions", "componentAccess"})
_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (type(None), "null"),
)


def shape_of(value: Any) -> Shape:
    """Return the shape of decoded JSON."""
    shape: Shape = {}
    for path, kind in _leaves(value, ""):
        shape.setdefault(path, set()).add(kind)
    return shape


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        yield path, "object"
        for name, member in value.items():
            # Ids used as names are values.
            is_value = path.rpartition(".")[2] in _NAMES_ARE_VALUES or "." in name
            yield from _leaves(member, f"{path}.{'*' if is_value else name}".lstrip("."))
    elif isinstance(value, list):
        yield path, "list"
        for item in value:
            yield from _leaves(item, f"{path}[]")
    else:
        yield path, next(kind for type_, kind in _TYPES if isinstance(value, type_))


def _merge(into: Shape, other: Shape) -> None:
    for path, kinds in other.items():
        into.setdefault(path, set()).update(kinds)


@attrs.define
class Seen:
    """Exchanged requests and answers of one kind of call.

    :ivar queries: names of the query parameters.
    :ivar replies: replies by status.
    """

    headers: set[str] = attrs.Factory(set)
    queries: set[str] = attrs.Factory(set)
    request: Shape = attrs.Factory(dict)
    replies: dict[int, Shape] = attrs.Factory(dict)
    media_types: set[str] = attrs.Factory(set)


@attrs.define
class Recorder:
    """Records shapes.

    :ivar seen: requests and answers by method and path, without ids.
    """

    seen: dict[str, Seen] = attrs.Factory(dict)

    def watch(self, api: StorageApi) -> None:
        """Record the requests and answers of *api* from now on."""
        transport: Any = api._transport
        exchange = transport.exchange

        async def noting(
            method: str, url: str, headers: Mapping[str, str], body: Any, **options: Any
        ) -> Any:
            reply = await exchange(method, url, headers, body, **options)
            path, _, query = url.partition("/v2/storage/")[2].partition("?")
            seen = self.seen.setdefault(f"{method} {path_template(path.split('/'))}", Seen())
            seen.headers |= set(headers)
            seen.queries |= {pair.partition("=")[0] for pair in query.split("&") if pair}
            if body is not None:
                _merge(seen.request, shape_of(body))
            if reply.json is not None:
                _merge(seen.replies.setdefault(reply.status, {}), shape_of(reply.json))
                seen.media_types.add(reply.headers["content-type"].partition(";")[0])
            return reply

        transport.exchange = noting

    def write(self, path: Path) -> None:
        """Write all shapes as JSON."""

        def plain(value: Any) -> Any:
            if isinstance(value, set):
                return sorted(value)
            if isinstance(value, dict):
                return {str(name): plain(value[name]) for name in sorted(value)}
            return value

        found = {call: plain(attrs.asdict(self.seen[call])) for call in sorted(self.seen)}
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


@attrs.frozen
class Documented:
    """A documented call.

    :param request: the exact shape of the request.
    :param reply: the minimal shape of a success. A member whose name ends with ``?`` may be
        missing, and so may those below it and the items of a list.
    """

    request: Mapping[str, str] = attrs.field(factory=dict)
    reply: Mapping[str, str] = attrs.field(factory=dict)
    queries: frozenset[str] = frozenset()
    is_public: bool = False


def problems_of(documented: Documented, seen: Seen) -> list[str]:
    """Return the differences between the exchanged and the documented calls."""
    problems = [
        f"the {what} {found} should be {expected}"
        for what, found, expected in (
            ("headers", seen.headers, _headers(documented)),
            ("queries", seen.queries, documented.queries),
            ("request", seen.request, {k: set(v.split()) for k, v in documented.request.items()}),
        )
        if found != expected
    ]
    if seen.media_types - {"application/json"}:
        problems.append(f"media types {seen.media_types}")
    for status, shape in seen.replies.items():
        expected = documented.reply if status < 300 else _ERROR
        problems += [f"{status}: {problem}" for problem in lacks(shape, expected)]
    return problems


def _headers(documented: Documented) -> set[str]:
    headers = {"User-Agent", "Accept"}
    return headers if documented.is_public else headers | {"X-StorageApi-Token"}


def lacks(shape: Shape, expected: Mapping[str, str]) -> Iterator[str]:
    """Return the differences between an answer's *shape* and the *expected* members."""
    for name, kinds in expected.items():
        path = name.replace("?", "")
        found = shape.get(path)
        if found is not None:
            if not found <= set(kinds.split()):
                yield f"{path} is {found}, not {kinds}"
        elif not _may_lack(shape, name):
            yield f"{path} is missing"


def _may_lack(shape: Shape, name: str) -> bool:
    """Return whether the member is optional, or inside a missing one."""
    if name.endswith("?"):
        return True
    path = name.replace("?", "")
    if path.endswith("[]"):
        return "list" in shape.get(path[:-2], set())
    parent = path.rpartition(".")[0]
    return bool(parent) and "object" not in shape.get(parent, set())


_ERROR = {"": "object", "error?": "string", "code?": "string integer", "exceptionId?": "string"}
_BRANCH = {
    "id": "integer",
    "name": "string",
    "description": "string",
    "isDefault": "boolean",
    "created": "string",
}
_TOKEN = {
    "": "object",
    "id": "string",
    "description": "string",
    "isMasterToken": "boolean",
    "canManageBuckets": "boolean",
    "canManageTokens": "boolean",
    "canReadAllFileUploads": "boolean",
    "canPurgeTrash": "boolean",
    "created": "string",
    "refreshed": "string",
    "expires": "string null",
    "isExpired": "boolean",
    "isDisabled": "boolean",
    "bucketPermissions": "object list",
    "bucketPermissions.*?": "string",
    "componentAccess?": "list",
    "componentAccess[]?": "string",
    "owner": "object",
    "owner.id": "integer",
    "owner.name": "string",
    "owner.features": "list",
    "owner.features[]?": "string",
    "owner.defaultBackend": "string",
    "owner.fileStorageProvider": "string",
    "organization": "object",
    "organization.id": "string",
    "admin?": "object",
    "admin?.id": "integer",
    "admin?.name": "string",
    "admin?.role": "string null",
    "creatorToken?": "object",
    "creatorToken?.id": "integer",
    "creatorToken?.description": "string",
}
_BUCKET = {
    "": "object",
    "id": "string",
    "uri": "string",
    "name": "string",
    "displayName": "string",
    "stage": "string",
    "description": "string",
    "created": "string",
    "lastChangeDate": "string null",
    "isReadOnly": "boolean",
    "dataSizeBytes": "integer null",
    "rowsCount": "integer null",
}
_FILE = {
    "": "object",
    "id": "integer",
    "name": "string",
    "created": "string",
    "provider": "string",
    "region": "string",
    "isSliced": "boolean",
    "isEncrypted": "boolean",
    "isPublic": "boolean",
    "maxAgeDays?": "integer null",
    "tags": "list",
    "tags[]?": "string",
    "creatorToken?": "object",
    "creatorToken?.id": "integer",
}
_JOB = {
    "": "object",
    "id": "integer",
    "status": "string",
    "url": "string",
    "operationName": "string",
    "operationParams": "object list",
    "results": "object list null",
    "createdTime": "string",
    "startTime": "string null",
    "endTime": "string null",
    "error?": "object null",
    "error?.message": "string",
    "error?.code?": "string integer",
    "error?.exceptionId?": "string",
}
_TABLE_BODY = {
    "": "object",
    "name": "string",
    "primaryKeysNames": "list",
    "primaryKeysNames[]": "string",
    "columns": "list",
    "columns[]": "object",
    "columns[].name": "string",
    "columns[].basetype": "string",
}
_METADATA = {
    "": "object",
    "metadata": "list",
    "metadata[]": "object",
    "metadata[].key": "string",
    "metadata[].value": "string",
}

DOCUMENTED: Mapping[str, Documented] = {
    "GET /": Documented(
        reply={"": "object", "services": "list", "features": "list", "features[]": "string"},
        queries=frozenset({"exclude"}),
        is_public=True,
    ),
    "GET /tokens/verify": Documented(reply=_TOKEN),
    "GET /dev-branches": Documented(
        reply={
            "": "list",
            "[]": "object",
            **{f"[].{name}": kind for name, kind in _BRANCH.items()},
        }
    ),
    "GET /dev-branches/{id}": Documented(reply={"": "object", **_BRANCH}),
    "GET /branch/{id}/buckets/{id}": Documented(reply=_BUCKET),
    "POST /branch/{id}/buckets": Documented(
        request={"": "object", "description": "string", "stage": "string", "name": "string"},
        reply=_BUCKET,
    ),
    "DELETE /branch/{id}/buckets/{id}": Documented(
        reply=_JOB, queries=frozenset({"async", "force"})
    ),
    "POST /tokens": Documented(
        request={
            "": "object",
            "description": "string",
            "bucketPermissions": "object",
            "bucketPermissions.*": "string",
            "canManageBuckets": "boolean",
            "canReadAllFileUploads": "boolean",
            "canPurgeTrash": "boolean",
        },
        reply={**_TOKEN, "token": "string", "creatorToken": "object"},
    ),
    "DELETE /tokens/{id}": Documented(),
    "GET /branch/{id}/tables/{id}": Documented(
        reply={
            "": "object",
            "id": "string",
            "name": "string",
            "displayName": "string",
            "created": "string",
            "lastChangeDate": "string null",
            "lastImportDate": "string null",
            "rowsCount": "integer null",
            "dataSizeBytes": "integer null",
            "bucket": "object",
            "bucket.id": "string",
            "columns": "list",
            "columns[]": "string",
            "primaryKey": "list null",
            "primaryKey[]": "string",
            "metadata": "list",
            "metadata[]": "object",
            "metadata[].id": "string integer",
            "metadata[].key": "string",
            "metadata[].value": "string",
            "metadata[].provider": "string",
            "metadata[].timestamp": "string",
        }
    ),
    "POST /branch/{id}/buckets/{id}/tables-definition": Documented(request=_TABLE_BODY, reply=_JOB),
    "DELETE /branch/{id}/tables/{id}": Documented(),
    "POST /branch/{id}/tables/{id}/metadata": Documented(
        request={**_METADATA, "provider": "string"},
        reply={**_METADATA, "columnsMetadata?": "object list"},
    ),
    "POST /branch/{id}/files/prepare": Documented(
        request={
            "": "object",
            "name": "string",
            "federationToken": "boolean",
            "isEncrypted": "boolean",
            "isSliced": "boolean",
            "tags": "list",
            "tags[]": "string",
        },
        reply={
            **_FILE,
            "uploadParams?": "object",
            "uploadParams?.key": "string",
            "uploadParams?.bucket": "string",
            "uploadParams?.acl": "string",
            "uploadParams?.x-amz-server-side-encryption": "string",
            "uploadParams?.credentials": "object",
            "uploadParams?.credentials.AccessKeyId": "string",
            "uploadParams?.credentials.SecretAccessKey": "string",
            "uploadParams?.credentials.SessionToken": "string",
            "uploadParams?.credentials.Expiration": "string",
            "absUploadParams?": "object",
            "absUploadParams?.blobName": "string",
            "absUploadParams?.accountName": "string",
            "absUploadParams?.container": "string",
            "absUploadParams?.absCredentials": "object",
            "absUploadParams?.absCredentials.SASConnectionString": "string",
            "absUploadParams?.absCredentials.expiration": "string",
            "gcsUploadParams?": "object",
            "gcsUploadParams?.key": "string",
            "gcsUploadParams?.bucket": "string",
            "gcsUploadParams?.projectId": "string integer",
            "gcsUploadParams?.access_token": "string",
            "gcsUploadParams?.token_type": "string",
            "gcsUploadParams?.expires_in": "integer",
        },
    ),
    "DELETE /branch/{id}/files/{id}": Documented(),
    "POST /branch/{id}/tables/{id}/import-async": Documented(
        request={
            "": "object",
            "dataFileId": "integer",
            "incremental": "integer",
            "withoutHeaders": "integer",
            "columns": "list",
            "columns[]": "string",
        },
        reply=_JOB,
    ),
    "GET /jobs/{id}": Documented(reply=_JOB),
    "GET /jobs": Documented(
        reply={
            "": "list",
            "[]": "object",
            **{f"[].{name}": kind for name, kind in _JOB.items() if name},
        },
        queries=frozenset({"limit", "offset"}),
    ),
    "POST /events": Documented(
        request={
            "": "object",
            "component": "string",
            "message": "string",
            "type": "string",
            "duration": "integer",
            "runId": "string",
            "params": "string",
            "results": "string",
        },
        reply={"": "object", "uuid": "string"},
    ),
}
"""Documented calls by method and path, without ids."""

ALSO_ANSWERED: Mapping[str, Documented] = {
    "GET /branch/{id}/files": Documented(
        reply={
            "": "list",
            "[]": "object",
            **{f"[].{name}": kind for name, kind in _FILE.items() if name},
        },
        queries=frozenset({"limit"}),
    ),
    "GET /branch/{id}/files/{id}": Documented(reply=_FILE, queries=frozenset({"federationToken"})),
}
"""Answers of the Storage API that the service itself doesn't use."""
