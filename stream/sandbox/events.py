"""Events, of which the newest `KEPT_EVENTS` are kept for people and tests."""

from __future__ import annotations

import sqlite3
import uuid
from typing import Any

import orjson

from stream.sandbox.body import Body
from stream.sandbox.http import Call, Reply, Route, json_reply
from stream.sandbox.project import Project

__all__ = ["Events"]

KEPT_EVENTS = 10_000
MAX_TEXT_CHARS = 256 * 1024
_COLUMNS = (
    "id", "uuid", "component", "message", "type", "duration", "run_id", "params", "results",
    "token_id", "created",
)  # fmt: skip


class Events:
    """The operations on events of the project."""

    def __init__(self, project: Project) -> None:
        self._store = project.store

    def routes(self) -> list[Route]:
        """Return the routes of this part of the API."""
        return [
            Route("createEvent", "POST", "/v2/storage/events", self.create),
            Route("listEvents", "GET", "/v2/storage/events", self.list_newest),
        ]

    async def create(self, call: Call) -> Reply:
        """Store an event."""
        body = call.body()
        event_uuid = str(uuid.uuid4())
        values = (
            event_uuid,
            body.text("component", max_chars=200),
            body.text("message", max_chars=4000),
            body.text("type", "info", max_chars=50),
            body.number("duration", 0, least=0, most=1e12),
            body.text("runId", "", max_chars=200),
            _json_text(body, "params"),
            _json_text(body, "results"),
            call.token.id,
            self._store.now_iso(),
        )
        event_id = await self._store.meta.write(_add, values)
        return json_reply({"id": event_id, "uuid": event_uuid}, 201)

    async def list_newest(self, call: Call) -> Reply:
        """List events, newest first; ``?component=`` filters them.

        A token that isn't a master token sees only its own events.
        """
        limit = call.query_number("limit", 100, least=1, most=1000)
        owner = None if call.token.is_master else call.token.id
        events = await self._store.meta.read(_newest, limit, call.query("component"), owner)
        return json_reply(events)


def _json_text(body: Body, name: str) -> str:
    """Return a member that contains JSON as text; other text is stored as a JSON string."""
    text = body.text(name, "null", max_chars=MAX_TEXT_CHARS) or "null"
    try:
        return orjson.dumps(orjson.loads(text)).decode()
    except orjson.JSONDecodeError:
        return orjson.dumps(text).decode()


def _add(meta: sqlite3.Connection, values: tuple[Any, ...]) -> int:
    names = _COLUMNS[1:-2]
    event_id = meta.execute(
        f"INSERT INTO events ({', '.join(names)}, token_id, created)"
        f" VALUES ({', '.join('?' * len(values))})",
        values,
    ).lastrowid
    assert event_id is not None
    meta.execute("DELETE FROM events WHERE id <= ?", (event_id - KEPT_EVENTS,))
    return event_id


def _newest(
    meta: sqlite3.Connection, limit: int, component: str | None, owner: str | None
) -> list[dict[str, Any]]:
    found = meta.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM events WHERE (?1 IS NULL OR component = ?1)"
        " AND (?2 IS NULL OR token_id = ?2) ORDER BY id DESC LIMIT ?3",
        (component, owner, limit),
    )
    events = []
    for row in found:
        event = dict(zip(_COLUMNS, row, strict=True))
        event["runId"] = event.pop("run_id")
        event["token"] = {"id": event.pop("token_id")}
        event["params"] = orjson.loads(event["params"])
        event["results"] = orjson.loads(event["results"])
        events.append(event)
    return events
