"""Control for tests on this machine: fault injection and a reset."""

from __future__ import annotations

import sqlite3

from twisted.internet.defer import DeferredLock

from stream.sandbox import rows
from stream.sandbox.faults import Faults, parse_fault
from stream.sandbox.http import Access, Call, Reply, Route, json_reply
from stream.sandbox.project import Project
from stream.sandbox.runner import JobRunner
from stream.sandbox.store import remove_objects

__all__ = ["LocalControl"]


class LocalControl:
    """The routes ``/_local/…``, which are only available if no other machine can connect.

    :param fault_routes: names of the routes that support fault injection.
    """

    def __init__(
        self,
        project: Project,
        runner: JobRunner,
        faults: Faults,
        catalogue_lock: DeferredLock,
        fault_routes: frozenset[str],
    ) -> None:
        self._project = project
        self._runner = runner
        self._faults = faults
        self._lock = catalogue_lock
        self._fault_routes = fault_routes
        self._one_reset = DeferredLock()

    def routes(self) -> list[Route]:
        """Return the routes of this part of the API."""
        faults = "/_local/faults"
        return [
            Route("listFaults", "GET", faults, self.list_faults, Access.LOCAL),
            Route("addFault", "POST", faults, self.add_fault, Access.LOCAL),
            Route("clearFaults", "DELETE", faults, self.clear_faults, Access.LOCAL),
            Route("reset", "POST", "/_local/reset", self.reset, Access.LOCAL),
        ]

    async def list_faults(self, call: Call) -> Reply:
        """List the pending faults."""
        return json_reply({"faults": self._faults.waiting()})

    async def add_fault(self, call: Call) -> Reply:
        """Add a fault for the next matching requests."""
        fault, times = parse_fault(call.body(), self._fault_routes)
        self._faults.add(fault, times)
        return json_reply({"faults": self._faults.waiting()}, 201)

    async def clear_faults(self, call: Call) -> Reply:
        """Remove all faults."""
        self._faults.clear()
        return Reply(status=204)

    async def reset(self, call: Call) -> Reply:
        """Remove buckets, tables, files, jobs, events, sink tokens and pending faults.

        IDs continue from their current values, so that no ID is reused.
        """
        async with self._one_reset:
            await self._runner.stop()
            try:
                async with self._lock:
                    await self._empty()
            finally:
                self._runner.start()
        return Reply(status=204)

    async def _empty(self) -> None:
        store = self._project.store
        self._faults.clear()
        # The catalog first: rows without a known table are removed at the next startup, but a known
        # table without its rows would be an error for all callers.
        await store.meta.write(_empty_meta)
        await store.data.write(rows.drop_all)
        await store.in_thread(remove_objects, store.staging)


def _empty_meta(meta: sqlite3.Connection) -> None:
    for table in ("events", "jobs", "files", "table_metadata", "tables", "buckets", "tokens"):
        meta.execute(f"DELETE FROM {table}")
