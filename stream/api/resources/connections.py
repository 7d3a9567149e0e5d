"""The connections that a project may use, and whether they respond."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream.api.http.call import Call, Handler
from stream.errors import sentence
from stream.settings.connections import Connection
from stream.target.probes import ConnectionState, Probes
from stream.target.registry import Targets
from stream.values.utctime import format_time

__all__ = ["ConnectionsList"]


class ConnectionsList:
    """The operation that lists the connections that a project may use.

    :param connections: the connections declared by the operator, by name.
    """

    def __init__(
        self, *, connections: Mapping[str, Connection], targets: Targets, probes: Probes
    ) -> None:
        self._connections = connections
        self._targets = targets
        self._probes = probes

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {"ListConnections": self.list}

    async def list(self, call: Call) -> Any:
        """List the connections that the caller's project may use, sorted by name."""
        project = call.branch.project_id
        allowed = [each for _, each in sorted(self._connections.items()) if each.allows(project)]
        return {
            "connections": [_view(each) for each in await self._probes.states(allowed)],
            "tableTypes": self._targets.usable({each.type for each in allowed}),
        }


def _view(state: ConnectionState) -> dict[str, Any]:
    view: dict[str, Any] = {
        "name": state.connection.name,
        "type": state.connection.type,
        "isAvailable": state.is_available,
        "checkedAt": format_time(state.checked_at),
    }
    return view | ({"message": sentence(state.message)} if state.message else {})
