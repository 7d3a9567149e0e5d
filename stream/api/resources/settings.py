"""Settings of a single source or sink."""

from __future__ import annotations

from typing import Any

from stream.api.http.call import Call, Handler
from stream.api.resources.change_tasks import ChangeTasks
from stream.definition import lifecycle
from stream.definition.change import sinks as sink_changes
from stream.definition.change import sources as source_changes
from stream.definition.entity import Sink, Source
from stream.definition.reads import DefinitionReads
from stream.settings import Settings
from stream.settings.overrides import SettingItem, check_patch, describe, patched

__all__ = ["EntitySettings"]


class EntitySettings:
    """The operations on the settings of one source or sink.

    :param settings: the settings of the service, which are the defaults of each entity.
    """

    def __init__(self, *, reads: DefinitionReads, tasks: ChangeTasks, settings: Settings) -> None:
        self._reads = reads
        self._tasks = tasks
        self._settings = settings

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {
            "GetSourceSettings": self.get_of_source,
            "UpdateSourceSettings": self.update_source,
            "GetSinkSettings": self.get_of_sink,
            "UpdateSinkSettings": self.update_sink,
        }

    async def get_of_source(self, call: Call) -> Any:
        """Return the settings of a source, with the level that each value comes from."""
        return self._result(await self._reads.source(call.source_key))

    async def get_of_sink(self, call: Call) -> Any:
        """Return the settings of a sink, with the level that each value comes from."""
        return self._result(await self._reads.sink(call.sink_key))

    async def update_source(self, call: Call) -> Any:
        """Change settings of a source, in a task."""
        key = call.source_key
        await self._reads.source(key)
        patch, description = _patch(call), _description(call)
        update = source_changes.update(
            key,
            description,
            lambda source: lifecycle.with_overrides(source, patched(_overrides(source), patch)),
        )
        return await self._tasks.start(
            call, update, "Source settings have been updated successfully."
        )

    async def update_sink(self, call: Call) -> Any:
        """Change settings of a sink, in a task."""
        key = call.sink_key
        await self._reads.sink_in_source(key)
        patch, description = _patch(call), _description(call)
        update = sink_changes.update(
            key,
            description,
            lambda sink: lifecycle.with_overrides(sink, patched(_overrides(sink), patch)),
            makes_tables=False,
        )
        return await self._tasks.start(
            call, update, "Sink settings have been updated successfully."
        )

    def _result(self, entity: Source | Sink) -> Any:
        return {"settings": [_item(item) for item in describe(self._settings, _overrides(entity))]}


def _overrides(entity: Source | Sink) -> list[tuple[str, object]]:
    return [(override.key, override.value) for override in entity.config]


def _patch(call: Call) -> list[tuple[str, object]]:
    """Return the checked patch of the request. Raises UserError."""
    patch = [(item["key"], item.get("value")) for item in call.body.get("settings", ())]
    check_patch(patch)
    return patch


def _description(call: Call) -> str:
    description: str = call.body.get("changeDescription", "Updated settings.")
    return description


def _item(item: SettingItem) -> dict[str, Any]:
    view: dict[str, Any] = {
        "key": item.key,
        "type": item.type,
        "description": item.description,
        "value": item.value,
        "defaultValue": item.default_value,
        "overwritten": item.overwritten,
        "protected": item.protected,
    }
    if item.validation is not None:
        view["validation"] = item.validation
    return view
