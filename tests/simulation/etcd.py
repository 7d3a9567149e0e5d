"""A simulated etcd: keys with revisions, transactions, leases and watches.

It answers the requests of the service's client in the format of etcd's gateway. Requests, answers
and watch events can be delayed; requests and answers can also be lost.
"""

from __future__ import annotations

import operator
from base64 import b64decode, b64encode
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import orjson
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from stream.etcd.errors import EtcdUnavailable, NotReached, error_from
from tests.simulation.network import Network
from tests.simulation.scheduler import Process, Scheduler

__all__ = ["Etcd", "EtcdTransport"]

_NAME = "etcd"
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "EQUAL": operator.eq,
    "LESS": operator.lt,
    "GREATER": operator.gt,
    "NOT_EQUAL": operator.ne,
}
_FIELDS = {
    "MOD": "mod_revision",
    "CREATE": "create_revision",
    "VERSION": "version",
    "LEASE": "lease",
}
_LEASE_NOT_FOUND = "etcdserver: requested lease not found"


@attrs.frozen
class _Value:
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@attrs.define(eq=False)
class _Lease:
    ttl: int
    ends_at: float
    keys: dict[bytes, None] = attrs.Factory(dict)


class Refused(Exception):
    """A request that etcd refuses."""


class Etcd:
    """The simulated etcd.

    :ivar is_away: whether it is unavailable.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.is_away = False
        self.revision = 1
        self.watches: dict[_Watch, None] = {}
        self._scheduler = scheduler
        self._keys: list[bytes] = []
        self._versions: dict[bytes, list[tuple[int, _Value | None]]] = {}
        self._changes: list[tuple[int, bytes, _Value | None]] = []
        self._leases: dict[int, _Lease] = {}
        self._lease_count = 0

    # requests

    def call(self, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Execute *method* of the gateway. Raises `Refused`."""
        answer = self._methods()[method](body)
        answer.setdefault("header", {})["revision"] = str(self.revision)
        return answer

    def _methods(self) -> dict[str, Callable[[Any], dict[str, Any]]]:
        return {
            "kv/range": self._range,
            "kv/put": lambda body: self._write([{"request_put": body}]),
            "kv/deleterange": self._delete,
            "kv/txn": self._transaction,
            "lease/grant": self._grant,
            "lease/keepalive": self._keep_alive,
            "lease/revoke": self._revoke,
        }

    def _delete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        count = len(self._selected(body))
        self._write([{"request_delete_range": body}])
        return {"deleted": str(count)}

    def _selected(self, body: Mapping[str, Any]) -> list[bytes]:
        """Return the keys selected by *body*, including deleted ones."""
        key = b64decode(body["key"])
        if "range_end" not in body:
            return [key] if self._current(key) is not None else []
        end = b64decode(body["range_end"])
        last = len(self._keys) if end == b"\0" else bisect_left(self._keys, end)
        found = self._keys[bisect_left(self._keys, key) : last]
        return [key for key in found if self._current(key) is not None]

    def _current(self, key: bytes) -> _Value | None:
        versions = self._versions.get(key)
        return versions[-1][1] if versions else None

    def _as_of(self, key: bytes, revision: int) -> _Value | None:
        found = None
        for changed, value in self._versions.get(key, ()):
            if changed > revision:
                break
            found = value
        return found

    def _range(self, body: Mapping[str, Any]) -> dict[str, Any]:
        revision = int(body.get("revision", 0)) or self.revision
        if "range_end" in body:
            start, end = b64decode(body["key"]), b64decode(body["range_end"])
            last = len(self._keys) if end == b"\0" else bisect_left(self._keys, end)
            keys = self._keys[bisect_left(self._keys, start) : last]
        else:
            keys = [b64decode(body["key"])]
        values = [(key, self._as_of(key, revision)) for key in keys]
        found = [(key, value) for key, value in values if value is not None]
        count = len(found)
        oldest = int(body.get("min_mod_revision", 0))
        youngest = int(body.get("max_create_revision", 0)) or revision
        found = [
            (key, value)
            for key, value in found
            if value.mod_revision >= oldest and value.create_revision <= youngest
        ]
        if body.get("sort_target") == "CREATE":
            found.sort(key=lambda item: item[1].create_revision)
        if body.get("sort_order") == "DESCEND":
            found.reverse()
        limit = int(body.get("limit", 0)) or len(found)
        return {
            "kvs": [_plain(key, value) for key, value in found[:limit]],
            "count": str(count),
            "more": len(found) > limit,
        }

    def _transaction(self, body: Mapping[str, Any]) -> dict[str, Any]:
        succeeded = all(self._holds(item) for item in body.get("compare", ()))
        operations = body.get("success" if succeeded else "failure", ())
        writes = [operation for operation in operations if "request_range" not in operation]
        deleted = [
            str(len(self._selected(operation["request_delete_range"])))
            for operation in writes
            if "request_delete_range" in operation
        ]
        if writes:
            self._write(writes)
        responses: list[dict[str, Any]] = []
        for operation in operations:
            if "request_range" in operation:
                responses.append({"response_range": self._range(operation["request_range"])})
            elif "request_delete_range" in operation:
                responses.append({"response_delete_range": {"deleted": deleted.pop(0)}})
            else:
                responses.append({"response_put": {}})
        return {"succeeded": succeeded, "responses": responses}

    def _holds(self, item: Mapping[str, Any]) -> bool:
        field = _FIELDS[item["target"]]
        compare = _COMPARE[item["result"]]
        wanted = int(item[field])
        keys = self._selected(item) if "range_end" in item else [b64decode(item["key"])]
        values = [self._current(key) for key in keys]
        return all(compare(getattr(value, field, 0), wanted) for value in values)

    def _write(self, operations: list[Mapping[str, Any]]) -> dict[str, Any]:
        changes: dict[bytes, tuple[bytes, int] | None] = {}
        for operation in operations:
            put = operation.get("request_put")
            if put is not None:
                lease = int(put.get("lease", 0))
                if lease and lease not in self._leases:
                    raise Refused(_LEASE_NOT_FOUND)
                changes[b64decode(put["key"])] = (b64decode(put.get("value", "")), lease)
            else:
                for key in self._selected(operation["request_delete_range"]):
                    changes[key] = None
        if changes:
            self._change(changes)
        return {}

    def _change(self, changes: Mapping[bytes, tuple[bytes, int] | None]) -> None:
        self.revision += 1
        events = []
        for key, new in changes.items():
            before = self._current(key)
            if before is not None and before.lease in self._leases:
                self._leases[before.lease].keys.pop(key, None)
            value = None
            if new is not None:
                created = before.create_revision if before else self.revision
                version = before.version + 1 if before else 1
                value = _Value(new[0], created, self.revision, version, new[1])
                if new[1]:
                    self._leases[new[1]].keys[key] = None
            if key not in self._versions:
                insort(self._keys, key)
            self._versions.setdefault(key, []).append((self.revision, value))
            events.append((self.revision, key, value))
        self._changes += events
        for watch in list(self.watches):
            watch.tell(events)

    # leases

    def _grant(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._lease_count += 1
        ttl = int(body["TTL"])
        self._leases[self._lease_count] = _Lease(ttl, self._scheduler.now + ttl)
        self._look_at(self._lease_count)
        return {"ID": str(self._lease_count), "TTL": str(ttl)}

    def _keep_alive(self, body: Mapping[str, Any]) -> dict[str, Any]:
        lease = self._leases.get(int(body["ID"]))
        if lease is None:
            return {"result": {"TTL": "0"}}
        lease.ends_at = self._scheduler.now + lease.ttl
        self._look_at(int(body["ID"]))
        return {"result": {"TTL": str(lease.ttl)}}

    def _revoke(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if int(body["ID"]) not in self._leases:
            raise Refused(_LEASE_NOT_FOUND)
        self._end(int(body["ID"]))
        return {}

    def _look_at(self, lease: int) -> None:
        moment = self._leases[lease].ends_at
        self._scheduler.at(moment, lambda: self._end_if_due(lease), "a lease is due")

    def _end_if_due(self, lease_id: int) -> None:
        lease = self._leases.get(lease_id)
        if lease is not None and not self.is_away and lease.ends_at <= self._scheduler.now:
            self._end(lease_id)

    def _end(self, lease_id: int) -> None:
        lease = self._leases[lease_id]
        if lease.keys:
            self._change(dict.fromkeys(lease.keys))
        del self._leases[lease_id]

    def leave(self) -> None:
        """Become unavailable and break all watches."""
        self.is_away = True
        for watch in list(self.watches):
            watch.cut()

    def come_back(self) -> None:
        """Become available. As after a leader election, every lease is renewed."""
        self.is_away = False
        for lease_id, lease in self._leases.items():
            lease.ends_at = self._scheduler.now + lease.ttl
            self._look_at(lease_id)

    def since(self, revision: int) -> list[tuple[int, bytes, _Value | None]]:
        """Return all changes from *revision* on."""
        return [change for change in self._changes if change[0] >= revision]


def _plain(key: bytes, value: _Value) -> dict[str, Any]:
    return {
        "key": b64encode(key).decode(),
        "value": b64encode(value.value).decode(),
        "create_revision": str(value.create_revision),
        "mod_revision": str(value.mod_revision),
        "version": str(value.version),
        "lease": str(value.lease),
    }


class EtcdTransport:
    """Replaces the client's transport."""

    def __init__(self, process: Process, etcd: Etcd, network: Network, timeout: float) -> None:
        self._process = process
        self._scheduler = process.scheduler
        self._etcd = etcd
        self._network = network
        self._timeout = timeout

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    def forget_token(self) -> None:
        """Do nothing: there is no token."""

    def avoid_endpoint(self) -> None:
        """Do nothing: there is one endpoint, and each request has its own connection."""

    async def call(
        self,
        method: str,
        body: Mapping[str, Any],
        *,
        repeatable: bool = False,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        answer: Deferred[dict[str, Any]] = Deferred(lambda _: None)

        def give(result: Any) -> None:
            if not answer.called:
                (answer.errback if isinstance(result, Exception) else answer.callback)(result)

        if self._etcd.is_away:
            self._later(0.001, lambda: give(NotReached("nobody listens")), "no etcd")
            return await answer
        seconds = self._timeout if timeout is None else timeout
        self._later(
            seconds, lambda: give(EtcdUnavailable("no answer in time")), f"{method} times out"
        )
        self._send(method, orjson.loads(orjson.dumps(body)), give)
        return await answer

    def _send(self, method: str, body: Mapping[str, Any], give: Callable[[Any], None]) -> None:
        there = self._network.delay(self._process.host, _NAME)
        if there is None:
            return

        def arrive() -> None:
            if self._etcd.is_away:
                return
            result: Any
            try:
                result = self._etcd.call(method, body)
            except Refused as error:
                result = error_from(9, str(error))
            back = self._network.delay(_NAME, self._process.host)
            if back is not None:
                self._later(back, lambda: give(result), f"{method} is answered")

        self._scheduler.after(there, arrive, f"etcd {method} of {self._process.name}")

    def _later(self, seconds: float, event: Callable[[], None], label: str) -> None:
        self._scheduler.after(seconds, event, label, self._process)

    async def stream(self, method: str, body: Mapping[str, Any]) -> _Watch:
        if self._etcd.is_away:
            raise NotReached("nobody listens")
        opened: Deferred[None] = Deferred(lambda _: None)
        there = self._network.late(self._process.host, _NAME)

        def arrived() -> None:
            if not opened.called:
                opened.callback(None)

        self._later(there, arrived, "watch")
        await opened
        if self._etcd.is_away:
            raise NotReached("nobody listens")
        return _Watch(self._process, self._etcd, self._network, body["create_request"])


class _Watch:
    """A watch: the body of the answer, and the transport of its reader."""

    def __init__(
        self, process: Process, etcd: Etcd, network: Network, request: Mapping[str, Any]
    ) -> None:
        self._process = process
        self._etcd = etcd
        self._network = network
        self._start = b64decode(request["key"])
        end = request.get("range_end")
        self._end = b64decode(end) if end else self._start + b"\0"
        self._revision = int(request["start_revision"])
        self._protocol: Any = None
        self._last = 0.0
        self._is_over = False
        process.on_death.append(self._forget)

    def deliverBody(self, protocol: Any) -> None:
        self._protocol = protocol
        protocol.makeConnection(self)
        self._etcd.watches[self] = None
        self._line({"created": True})
        missed: dict[int, list[tuple[int, bytes, _Value | None]]] = {}
        for change in self._etcd.since(self._revision):
            missed.setdefault(change[0], []).append(change)
        for changes in missed.values():
            self.tell(changes)

    def tell(self, changes: list[tuple[int, bytes, _Value | None]]) -> None:
        """Deliver the changes of one revision."""
        events = [
            {"type": "DELETE", "kv": {"key": b64encode(key).decode(), "mod_revision": revision}}
            if value is None
            else {"kv": _plain(key, value)}
            for revision, key, value in changes
            if self._start <= key < self._end
        ]
        if events:
            self._line({"events": events})

    def _line(self, result: dict[str, Any]) -> None:
        result["header"] = {"revision": str(self._etcd.revision)}
        line = orjson.dumps({"result": result}) + b"\n"
        delay = self._network.late(_NAME, self._process.host)
        scheduler = self._process.scheduler
        self._last = max(self._last, scheduler.now + delay)
        scheduler.at(
            self._last, lambda: self._deliver(line), f"watched {self._etcd.revision}", self._process
        )

    def _deliver(self, line: bytes) -> None:
        if not self._is_over:
            self._protocol.dataReceived(line)

    def cut(self) -> None:
        """Break the watch, and lose its pending events."""
        self._etcd.watches.pop(self, None)
        if not self._is_over:
            self._process.scheduler.after(0.01, self._broken, "a watch breaks", self._process)

    def _broken(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._protocol.connectionLost(Failure(ConnectionLost()))

    def _forget(self) -> None:
        self._is_over = True
        self._etcd.watches.pop(self, None)

    def loseConnection(self) -> None:
        if self._forget in self._process.on_death:
            self._process.on_death.remove(self._forget)
        self._etcd.watches.pop(self, None)
        self._process.scheduler.after(0.0, self._broken, "a watch ends", self._process)

    def pauseProducing(self) -> None:
        """Do nothing: the number of pending changes is small."""

    def resumeProducing(self) -> None:
        """Do nothing: the number of pending changes is small."""
