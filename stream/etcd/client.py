"""Reading and writing keys below the service's namespace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from inspect import CORO_RUNNING, getcoroutinestate
from typing import Any, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from stream.concurrency.hedged import Attempts
from stream.concurrency.waiters import Waiters
from stream.etcd.errors import EtcdUnavailable, InvalidToken, TxnTooLarge
from stream.etcd.request import (
    KeyValue,
    compare_created,
    delete_operation,
    encoded,
    get_operation,
    key_set,
    key_value,
    put_operation,
    require_key,
    require_prefix,
    transaction,
)
from stream.etcd.transport import Transport
from stream.etcd.watch import WatchStream

__all__ = ["EtcdClient", "RangeResult", "TxnResult"]

_log = Logger()
T = TypeVar("T")

FIRST_PAGE_KEYS, PAGE_KEYS = 100, 1000
PAGE_BYTES = 8 * 1024 * 1024
"""The target size of a page of a range, in bytes.

The number of keys in a page is computed from the mean size of earlier keys.
"""
READS_PER_REQUEST = 100
"""Maximum number of reads in one transaction; etcd accepts 128 operations by default."""
_CONNECT_RETRY_SECONDS = 0.25
DOUBTED_SECONDS = 1.0
"""Seconds without etcd after which watches are replaced, even if they seem to work."""
REPLACE_AGAIN_SECONDS = 30.0
"""Minimum interval between such replacements.

If etcd is slow, each call that times out looks like an outage, and new watches would be an
additional load. After an outage, a watch reports changes late by at most the length of the outage,
so the interval hardly delays any.
"""


@attrs.frozen
class RangeResult:
    """The result of reading a range of keys.

    :ivar revision: revision of the store when the range was read.
    :ivar count: number of keys in the range, regardless of the limit.
    """

    kvs: tuple[KeyValue, ...]
    revision: int
    count: int
    more: bool


@attrs.frozen
class TxnResult:
    """The result of a transaction.

    :ivar reads: results of the get operations in the branch that was executed, in order.
    :ivar deleted: number of keys that each delete operation of that branch deleted, in order.
    """

    succeeded: bool
    revision: int
    reads: tuple[tuple[KeyValue, ...], ...]
    deleted: tuple[int, ...]


class EtcdClient(Service):
    """A client of an etcd cluster: reads, writes, transactions and watches.

    :param endpoints: ``host:port`` or URLs.
    :param namespace: prefix of every key; ends with a slash.
    :param connect_timeout: seconds to wait for the cluster at startup.
    :param request_timeout: seconds for one request.
    :param log_operations: whether to log each request at level debug, with its keys but without
        values.

    :ivar mirrors: the running mirrors, for inspection.
    """

    def __init__(
        self,
        reactor: Any,
        endpoints: Sequence[str],
        namespace: str,
        *,
        username: str = "",
        password: str = "",
        connect_timeout: float = 30.0,
        request_timeout: float = 10.0,
        log_operations: bool = False,
    ) -> None:
        self.namespace = namespace.strip("/") + "/" if namespace.strip("/") else ""
        self.reactor = reactor
        self.mirrors: set[Any] = set()
        self._away_since: float | None = None
        self._failed_at = 0.0
        self._doubted_since: float | None = None
        self._replace_at = 0.0
        self._back = Waiters[None]()
        self._endpoints = ", ".join(endpoints)
        self._connect_timeout = connect_timeout
        self._request_timeout = request_timeout
        self._transport = Transport(
            reactor, endpoints, username, password, request_timeout, log_operations
        )

    async def startService(self) -> None:
        """Connect to the cluster, and wait until it has answered.

        Raises EtcdUnavailable: there was no answer within the timeout.
        """
        super().startService()
        deadline = self.reactor.seconds() + self._connect_timeout
        _log.info("connecting to etcd", etcd_endpoints=self._endpoints)
        while True:
            try:
                await self.read("connect")
            except EtcdUnavailable as error:
                if self.reactor.seconds() >= deadline or not self.running:
                    raise EtcdUnavailable(
                        f'cannot connect to etcd "{self._endpoints}": {error}'
                    ) from None
                await deferLater(self.reactor, _CONNECT_RETRY_SECONDS)
            else:
                _log.info(
                    'connected to etcd cluster "{etcd_endpoints}"', etcd_endpoints=self._endpoints
                )
                return

    async def stopService(self) -> None:
        super().stopService()
        _log.info("closing etcd connection")
        await self._transport.close()
        _log.info("closed etcd connection")

    async def call(
        self,
        method: str,
        body: dict[str, Any],
        *,
        repeatable: bool = False,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Call any method of the gateway, e.g. ``lease/grant``; keys include the namespace.

        :param repeatable: the request may be sent again if it is unknown whether etcd has applied
            it.
        :param timeout: seconds; by default the timeout of all requests.
        """
        try:
            answer = await self._transport.call(
                method, body, repeatable=repeatable, timeout=timeout
            )
        except EtcdUnavailable:
            self._failed_at = self.reactor.seconds()
            if self._away_since is None:
                self._away_since = self._failed_at
            raise
        if self._away_since is not None:
            since, self._away_since = self._away_since, None
            if self.reactor.seconds() - since >= DOUBTED_SECONDS:
                self._doubted_since = self._failed_at
            self._back.fire(None)
        if self._doubted_since is not None:
            self._replace_watches(self._doubted_since)
        return answer

    def _replace_watches(self, since: float) -> None:
        """Replace the watches that have been silent *since* then, at once or with a later call."""
        now = self.reactor.seconds()
        if now < self._replace_at:
            return
        self._doubted_since, self._replace_at = None, now + REPLACE_AGAIN_SECONDS
        for mirror in list(self.mirrors):
            mirror.doubt(since)

    def doubt(self, since: float) -> None:
        """Treat etcd as unavailable, because a request has had no answer for too long.

        The request itself may still be answered. The next request goes to another endpoint; its
        answer ends the delays of all callers, like after a call that has failed.

        :param since: when the request was sent.
        """
        self._failed_at = self.reactor.seconds()
        if self._away_since is None:
            self._away_since = since
        self._transport.avoid_endpoint()

    async def pause(self, seconds: float) -> None:
        """Wait *seconds* before another attempt, or until etcd answers another caller again.

        So the caller that retries most often, for example a session without a lease, ends the
        delays of all callers.
        """
        waiting = self._back.wait()
        waiting.addTimeout(seconds, self.reactor)
        with suppress(TimeoutError):
            await waiting

    async def insist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return the result of *attempt*; repeat it if etcd returns before it has an answer.

        The connection of the first attempt may never answer, although etcd has answered other
        callers. So *attempt* must be harmless if it takes effect twice, or late. It is repeated
        only once. If etcd kept coming and going, more repetitions would never end, and their
        requests would pile up.
        """
        made: Coroutine[Any, Any, T]

        def start() -> Deferred[T]:
            nonlocal made
            made = _awaited(attempt)
            return ensureDeferred(made)

        attempts = Attempts(start)
        outcome = attempts.begin()
        if not outcome.called:
            _replace_at(
                self._back, attempts, outcome, lambda: getcoroutinestate(made) == CORO_RUNNING
            )
        return await outcome

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        found = await self.read(require_key(key), revision=revision)
        return found.kvs[0] if found.kvs else None

    async def read(self, key: str, *, revision: int = 0, **options: Any) -> RangeResult:
        """Read a key, or all keys below a prefix that ends with a slash, in one request."""
        body = {**key_set(self.namespace + key)._marshal(), **options}
        if revision:
            body["revision"] = revision
        return self._range_result(await self.call("kv/range", body, repeatable=True))

    async def range(
        self,
        prefix: str,
        *,
        limit: int = 0,
        revision: int = 0,
        start_after: str = "",
        end: str | None = None,
        descending: bool = False,
        keys_only: bool = False,
    ) -> RangeResult:
        """Read all keys below *prefix*, in pages but at one revision.

        :param prefix: ends with a slash.
        :param limit: maximum number of keys to return; 0 for all.
        :param start_after: return only keys after this one; relative to *prefix*.
        :param end: return only keys before this one; relative to *prefix*.
        """
        wanted = self._bounds(prefix, start_after, end)
        options: dict[str, Any] = {"keys_only": True} if keys_only else {}
        if descending:
            options |= {"sort_order": "DESCEND", "sort_target": "KEY"}
            page = limit
        else:
            most = PAGE_KEYS if keys_only else FIRST_PAGE_KEYS
            page = min(limit, most) if limit else most
        kvs: list[KeyValue] = []
        count = 0
        while True:
            body = {**wanted, **options}
            if page:
                body["limit"] = page
            if revision:
                body["revision"] = revision
            result = self._range_result(await self.call("kv/range", body, repeatable=True))
            revision = revision or result.revision
            count = count or result.count
            kvs += result.kvs
            if not result.more or not result.kvs or (limit and len(kvs) >= limit):
                return RangeResult(tuple(kvs), revision, count, result.more)
            wanted["key"] = encoded(f"{self.namespace}{kvs[-1].key}\0")
            if not keys_only:
                size = sum(len(kv.value) for kv in result.kvs)
                page = max(1, min(PAGE_KEYS, PAGE_BYTES * len(result.kvs) // max(1, size)))
            if limit:
                page = min(limit - len(kvs), page)

    def _bounds(self, prefix: str, start_after: str, end: str | None) -> dict[str, Any]:
        wanted: dict[str, Any] = key_set(self.namespace + require_prefix(prefix))._marshal()
        if start_after:
            wanted["key"] = encoded(f"{self.namespace}{prefix}{start_after}\0")
        if end is not None:
            wanted["range_end"] = encoded(f"{self.namespace}{prefix}{end}")
        return wanted

    def _range_result(self, answer: dict[str, Any]) -> RangeResult:
        return RangeResult(
            kvs=tuple(key_value(kv, self.namespace) for kv in answer.get("kvs", ())),
            revision=int(answer["header"]["revision"]),
            count=int(answer.get("count", 0)),
            more=bool(answer.get("more", False)),
        )

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Put a key; return the revision of the put."""
        body = put_operation(self.namespace + require_key(key), value, lease)._marshal()[
            "request_put"
        ]
        answer = await self.call("kv/put", body)
        return int(answer["header"]["revision"])

    async def delete(self, key: str) -> bool:
        """Delete a key; return whether it existed."""
        return await self._delete(require_key(key)) > 0

    async def delete_prefix(self, prefix: str) -> int:
        """Delete all keys below *prefix*, which ends with a slash; return their number."""
        return await self._delete(require_prefix(prefix))

    async def _delete(self, key: str) -> int:
        body = delete_operation(self.namespace + key)._marshal()["request_delete_range"]
        answer = await self.call("kv/deleterange", body)
        return int(answer.get("deleted", 0))

    async def commit(
        self, compare: list[Any], success: list[Any], failure: list[Any] | None = None
    ) -> TxnResult:
        """Run a transaction, whose comparisons and operations use keys with the namespace."""
        answer = await self.call("kv/txn", transaction(compare, success, failure))
        responses = answer.get("responses", ())
        return TxnResult(
            succeeded=bool(answer.get("succeeded", False)),
            revision=int(answer["header"]["revision"]),
            reads=tuple(
                tuple(key_value(kv, self.namespace) for kv in item["response_range"].get("kvs", ()))
                for item in responses
                if "response_range" in item
            ),
            deleted=tuple(
                int(item["response_delete_range"].get("deleted", 0))
                for item in responses
                if "response_delete_range" in item
            ),
        )

    async def put_and_unlock(self, key: str, value: bytes, lock: str, created: int) -> None:
        """Put *key* and delete *lock* in one transaction, unless *lock* is a later one.

        :param created: the create revision of *lock*. A later lock with the same key is kept, even
            if the request reaches etcd long after its caller has given up.
        """
        put = put_operation(self.namespace + require_key(key), value)
        held = self.namespace + require_key(lock)
        await self.commit(
            [compare_created(held, "==", created)], [put, delete_operation(held)], [put]
        )

    async def takes_operations(self, count: int) -> bool:
        """Return whether etcd accepts *count* operations in one transaction (``--max-txn-ops``)."""
        reads = [get_operation(self.namespace + "max-txn-ops")] * count
        try:
            await self.call("kv/txn", transaction([], reads), repeatable=True)
        except TxnTooLarge:
            return False
        return True

    async def snapshot(
        self, keys: Sequence[str], prefixes: Sequence[str], *, revision: int = 0
    ) -> tuple[dict[str, KeyValue | None], dict[str, tuple[KeyValue, ...]], int]:
        """Read keys and everything below prefixes at one revision, usually in one request.

        :returns: the values by key, the values by prefix, and the revision.
        """
        if len(keys) + len(prefixes) > READS_PER_REQUEST:
            found, revision = await self.get_many(keys, revision=revision)
            ranges = {
                prefix: (await self.range(prefix, revision=revision)).kvs for prefix in prefixes
            }
            return found, ranges, revision
        at = {"revision": revision} if revision else {}
        reads = [get_operation(self.namespace + require_key(key), **at) for key in keys]
        reads += [
            get_operation(self.namespace + require_prefix(prefix), limit=FIRST_PAGE_KEYS, **at)
            for prefix in prefixes
        ]
        answer = await self.call("kv/txn", transaction([], reads), repeatable=True)
        revision = revision or int(answer["header"]["revision"])
        results = [item["response_range"] for item in answer["responses"]]
        values = [
            tuple(key_value(kv, self.namespace) for kv in result.get("kvs", ()))
            for result in results
        ]
        found = {key: kvs[0] if kvs else None for key, kvs in zip(keys, values, strict=False)}
        ranges = {}
        for prefix, kvs, result in zip(
            prefixes, values[len(keys) :], results[len(keys) :], strict=True
        ):
            if result.get("more"):
                after = kvs[-1].key.removeprefix(prefix)
                rest = await self.range(prefix, revision=revision, start_after=after)
                kvs = (*kvs, *rest.kvs)
            ranges[prefix] = kvs
        return found, ranges, revision

    async def get_many(
        self, keys: Sequence[str], *, revision: int = 0, keys_only: bool = False
    ) -> tuple[dict[str, KeyValue | None], int]:
        """Read several keys at one revision, in as few requests as possible.

        Returns the values and the revision.

        :param keys_only: whether values are omitted, for a check of which keys exist.
        """
        found: dict[str, KeyValue | None] = {}
        for start in range(0, len(keys), READS_PER_REQUEST):
            some = keys[start : start + READS_PER_REQUEST]
            body = transaction(
                [], [get_operation(self.namespace + require_key(key)) for key in some]
            )
            for operation in body["success"]:
                if revision:
                    operation["request_range"]["revision"] = revision
                if keys_only:
                    operation["request_range"]["keys_only"] = True
            answer = await self.call("kv/txn", body, repeatable=True)
            for key, item in zip(some, answer.get("responses", ()), strict=True):
                kvs = item["response_range"].get("kvs", ())
                found[key] = key_value(kvs[0], self.namespace) if kvs else None
            revision = revision or int(answer["header"]["revision"])
        return found, revision

    async def count_many(
        self, prefixes: Sequence[str], *, revision: int = 0
    ) -> tuple[dict[str, int], int]:
        """Return the number of keys below each of a few prefixes, and the revision."""
        at = {"revision": revision} if revision else {}
        reads = [
            get_operation(self.namespace + require_prefix(prefix), count_only=True, **at)
            for prefix in prefixes
        ]
        answer = await self.call("kv/txn", transaction([], reads), repeatable=True)
        counts = [int(item["response_range"].get("count", 0)) for item in answer["responses"]]
        revision = revision or int(answer["header"]["revision"])
        return dict(zip(prefixes, counts, strict=True)), revision

    async def watch(self, key: str, start_revision: int) -> WatchStream:
        """Watch a key, or all keys below a prefix, from *start_revision* on.

        The Deferred fires when etcd has accepted the watch.

        Raises EtcdError: etcd refused the watch or is unavailable.
        """
        request = {
            "create_request": {
                **key_set(self.namespace + key)._marshal(),
                "start_revision": start_revision,
                "progress_notify": True,
            }
        }
        try:
            return await self._open_watch(request)
        except InvalidToken:
            self._transport.forget_token()
            return await self._open_watch(request)

    async def _open_watch(self, request: dict[str, Any]) -> WatchStream:
        response = await self._transport.stream("watch", request)
        stream = WatchStream(self.namespace, self.reactor.seconds)
        response.deliverBody(stream)
        stream.created.addTimeout(self._request_timeout, self.reactor)
        try:
            await stream.created
        except TimeoutError:
            stream.cancel()
            raise EtcdUnavailable("etcd does not respond to a watch request") from None
        except BaseException:
            stream.cancel()
            raise
        return stream


def _replace_at(
    event: Waiters[None],
    attempts: Attempts[Any],
    outcome: Deferred[Any],
    is_running: Callable[[], bool],
) -> None:
    """Replace an attempt at the next *event*, unless it has an outcome by then.

    :param is_running: returns whether the attempt itself is running, and has thus caused the event.
    """

    def replace(_: None) -> None:
        if is_running():
            _replace_at(event, attempts, outcome, is_running)
        else:
            attempts.replace()

    def stop_waiting(result: T) -> T:
        waiting.cancel()
        return result

    waiting = event.wait()
    waiting.addCallbacks(replace, lambda failure: failure.trap(CancelledError))
    outcome.addBoth(stop_waiting)


async def _awaited(attempt: Callable[[], Awaitable[T]]) -> T:
    return await attempt()
