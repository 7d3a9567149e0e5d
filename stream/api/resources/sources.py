"""Operations on sources: create, show, change, delete, disable, enable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from stream.api.http.call import Call, Handler, json_answer, json_body, json_list
from stream.api.resources.change_tasks import ChangeTasks, SourceEvent
from stream.api.resources.views import Urls, page_view
from stream.api.spec.schema import quoted
from stream.definition import errors, lifecycle
from stream.definition.change import sources as source_changes
from stream.definition.change.making import DefinitionChange
from stream.definition.entity import Sink, Source
from stream.definition.live import KnownPage, LiveDefinitions
from stream.definition.prefix import SOURCE_ACTIVE
from stream.definition.reads import DefinitionReads
from stream.definition.secret import new_secret
from stream.definition.size import AtLimit
from stream.definition.slug import MAX_ID_LENGTH, made_id, slug
from stream.errors import UserError
from stream.target.registry import Targets
from stream.task.errors import ObjectExists

__all__ = ["Sources", "entity_id"]


def _list_head(call: Call, total: int, last: str) -> dict[str, Any]:
    return {
        "projectId": call.branch.project_id,
        "branchId": call.branch.branch_id,
        "page": page_view(call.parameters["limit"], total, call.parameters["afterId"], last),
    }


def entity_id(body: Any, member: str) -> str:
    """Return the requested id, or one made from the name.

    Raises UserError: the requested id is invalid.
    """
    given = body.get(member)
    if given is None:
        return made_id(body["name"], member.removesuffix("Id"))
    made = slug(given)
    if not made:
        raise UserError(
            f'"{member}" must not be empty',
            param=f"body.{member}",
            detail=f"{quoted(given)} has none of the characters of an id: letters from a to z, "
            f"digits and dashes",
        )
    if len(made) > MAX_ID_LENGTH:
        raise UserError(
            f'"{member}" must not be longer than {MAX_ID_LENGTH} characters',
            param=f"body.{member}",
            detail=f"the id would be {quoted(made)}, which has {len(made)} characters",
        )
    return made


class Sources:
    """The operations on sources.

    :param storage_api: deletes the tables when a source is deleted with ``cascade``.
    """

    def __init__(
        self,
        *,
        reads: DefinitionReads,
        live: LiveDefinitions,
        tasks: ChangeTasks,
        urls: Urls,
        targets: Targets,
    ) -> None:
        self._reads = reads
        self._live = live
        self._tasks = tasks
        self._urls = urls
        self._targets = targets

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {
            "CreateSource": self.create,
            "ListSources": self.list,
            "ListDeletedSources": self.list_deleted,
            "GetSource": self.get,
            "UpdateSource": self.update,
            "DeleteSource": self.delete,
            "DisableSource": self.disable,
            "EnableSource": self.enable,
            "UndeleteSource": self.undelete,
            "RotateSourceSecret": self.rotate_secret,
        }

    async def create(self, call: Call) -> Any:
        """Create a source, in a task."""
        body = call.body
        key = call.branch.source(entity_id(body, "sourceId"))
        if await self._reads.find_source(key) is not None:
            raise errors.source_exists(key)
        creation = source_changes.create(
            key,
            type=body["type"],
            name=body["name"],
            description=body.get("description", ""),
            secret=new_secret(),
        )
        try:
            return await self._tasks.start(
                call,
                creation,
                "Source has been created successfully.",
                event=SourceEvent("create", body["name"]),
                absent=f"{SOURCE_ACTIVE}{key}",
            )
        except ObjectExists:
            raise errors.source_exists(key) from None

    async def get(self, call: Call) -> Any:
        """Return a source with the URL that receives its records."""
        known = self._live.source(call.source_key)
        if known is not None:
            known.value.check_complete()
            return json_answer(known.shown(self._show))
        source = await self._reads.source(call.source_key)
        source.check_complete()
        return self._urls.source_view(source)

    def _show(self, source: Source) -> bytes:
        return json_body(self._urls.source_view(source))

    def _show_page(self, call: Call, page: KnownPage[Source]) -> bytes:
        shown = (entry.shown(self._show) for entry in page.items)
        return json_list(_list_head(call, page.total, page.last), "sources", shown)

    async def list(self, call: Call) -> Any:
        """Return a page of the sources of a branch."""
        return await self._list(call, deleted=False)

    async def list_deleted(self, call: Call) -> Any:
        """Return a page of the deleted sources of a branch."""
        return await self._list(call, deleted=True)

    async def _list(self, call: Call, *, deleted: bool) -> Any:
        after, limit = call.parameters["afterId"], call.parameters["limit"]
        known = None if deleted else self._live.sources_page(call.branch, after, limit)
        if known is not None:
            return json_answer(known.shown(lambda page: self._show_page(call, page)))
        page = await self._reads.sources_page(call.branch, after, limit, deleted=deleted)
        head = _list_head(call, page.total, page.last)
        return head | {"sources": [self._urls.source_view(source) for source in page.items]}

    async def update(self, call: Call) -> Any:
        """Change members of a source, in a task."""
        body, key = call.body, call.source_key
        await self._reads.source(key)
        secret = new_secret()

        def patch(source: Source) -> Source:
            given = {name: body[name] for name in ("name", "description") if name in body}
            patched: Source = attrs.evolve(source, **given)
            type = body.get("type", source.type)
            return patched if type == source.type else lifecycle.with_secret(patched, type, secret)

        update = source_changes.update(key, body.get("changeDescription", "Updated."), patch)
        return await self._tasks.start(call, update, "Source has been updated successfully.")

    async def rotate_secret(self, call: Call) -> Any:
        """Replace the secret in the URL of a source, in a task."""
        key, secret = call.source_key, new_secret()
        rotation = source_changes.update(
            key,
            "Rotated secret.",
            lambda source: lifecycle.with_secret(source, source.type, secret),
            at_limit=AtLimit.ALLOW,
        )
        return self._urls.source_view(await self._tasks.apply(call, rotation))

    async def delete(self, call: Call) -> Any:
        """Delete a source, in a task; with ``cascade``, delete its tables as well."""
        key = call.source_key
        source = await self._reads.source(key)
        if not call.parameters["cascade"]:
            return await self._switch(call, source, "delete", source_changes.delete(key))

        async def delete_tables(sinks: Sequence[Sink]) -> None:
            await self._targets.delete_tables(sinks, token=call.identity.token.value)

        return await self._tasks.start(
            call,
            source_changes.purge(key, delete_tables),
            "Source and its destination tables and bucket have been deleted.",
            event=SourceEvent("delete", source.name),
        )

    async def disable(self, call: Call) -> Any:
        """Disable a source and its sinks, in a task."""
        source = await self._reads.source(call.source_key)
        return await self._switch(call, source, "disable", source_changes.disable(source.key))

    async def enable(self, call: Call) -> Any:
        """Enable a source and the sinks that were disabled with it, in a task."""
        source = await self._reads.source(call.source_key)
        return await self._switch(call, source, "enable", source_changes.enable(source.key))

    async def undelete(self, call: Call) -> Any:
        """Restore a deleted source and the sinks deleted with it, in a task."""
        deleted = await self._reads.deleted_source(call.source_key)
        return await self._switch(call, deleted, "undelete", source_changes.undelete(deleted.key))

    async def _switch(
        self, call: Call, source: Source, verb: str, change: DefinitionChange[Source]
    ) -> Any:
        return await self._tasks.start(
            call,
            change,
            f"Source has been {verb.removesuffix('e')}ed successfully.",
            event=SourceEvent(verb, source.name),
        )
