from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from stream.etcd import Compacted, EtcdClient, EtcdUnavailable, LeaseNotFound
from stream.etcd.errors import NotReached
from stream.etcd.request import put_operation
from tests.conftest import free_port
from tests.etcd.servers import EtcdServer, Proxy, reactor
from tests.waiting import until


@pytest_twisted.ensureDeferred
async def test_put_get_delete(etcd: EtcdClient) -> None:
    """A key exists between its put and its deletion, with the revisions of etcd."""
    assert await etcd.get("a") is None
    first = await etcd.put("a", b"one\x00\xff")
    second = await etcd.put("a", b"two")
    found = await etcd.get("a")
    assert found is not None
    assert (found.key, found.value, found.version) == ("a", b"two", 2)
    assert (found.create_revision, found.mod_revision, found.lease) == (first, second, 0)
    past = await etcd.get("a", revision=first)
    assert past is not None and past.value == b"one\x00\xff"
    assert await etcd.delete("a")
    assert not await etcd.delete("a")
    assert await etcd.get("a") is None


@pytest_twisted.ensureDeferred
async def test_namespaces_are_separate(etcd: EtcdClient, etcd_url: str) -> None:
    """Clients with different namespaces don't see each other's keys, even if one is a prefix of the
    other.
    """
    name = etcd.namespace.rstrip("/")
    other = EtcdClient(reactor, [etcd_url], f"{name}2")
    inner = EtcdClient(reactor, [etcd_url], f"/{name}/inner/")
    await gatherResults([ensureDeferred(c.startService()) for c in (other, inner)])
    await etcd.put("k", b"1")
    await other.put("k", b"2")
    await inner.put("k", b"3")
    assert [kv.key for kv in (await etcd.range("")).kvs] == ["inner/k", "k"]
    assert await etcd.delete_prefix("") == 2
    assert await inner.get("k") is None
    left = await other.get("k")
    assert left is not None and left.value == b"2"
    await other.delete_prefix("")
    await gatherResults([ensureDeferred(c.stopService()) for c in (other, inner)])


@pytest_twisted.ensureDeferred
async def test_no_namespace(server: EtcdServer) -> None:
    """Without a namespace the whole store can be read, watched and deleted."""
    client = EtcdClient(reactor, [server.url], "")
    await client.startService()
    revision = await client.put("x/y", b"1")
    await client.put("\x7f", b"2")
    assert [kv.key for kv in (await client.range("")).kvs] == ["x/y", "\x7f"]
    stream = await client.watch("", revision)
    assert [event.key for event in (await stream.next()).events] == ["x/y", "\x7f"]
    stream.cancel()
    assert await client.delete_prefix("") == 2
    assert (await client.range("")).kvs == ()
    await client.stopService()


async def _fill(client: EtcdClient, prefix: str, count: int) -> list[str]:
    keys = [f"{prefix}{i:05}" for i in range(count)]
    for start in range(0, count, 100):
        puts = [
            put_operation(client.namespace + key, key.encode()) for key in keys[start : start + 100]
        ]
        await client.commit([], puts)
    return keys


@pytest_twisted.ensureDeferred
async def test_pages_have_one_revision(etcd: EtcdClient, monkeypatch: Any) -> None:
    """A range of many pages shows the keys as they were at the first page."""
    keys = await _fill(etcd, "p/", 2100)
    await etcd.put("q/other", b"")
    pages = []
    call = etcd.call

    async def disturbed(method: str, body: Any, **options: Any) -> Any:
        answer = await call(method, body, **options)
        pages.append(len(answer["kvs"]))
        if len(pages) == 1:
            await etcd.put("p/01500", b"changed")
            await etcd.delete("p/02000")
        return answer

    monkeypatch.setattr(
        etcd, "call", lambda m, b, **o: disturbed(m, b, **o) if m == "kv/range" else call(m, b, **o)
    )
    found = await etcd.range("p/")
    assert pages == [100, 1000, 1000]
    assert [kv.key for kv in found.kvs] == keys
    assert found.kvs[1500].value == b"p/01500"
    assert (found.count, found.more) == (2100, False)
    limited = await etcd.range("p/", limit=1001)
    assert [kv.key for kv in limited.kvs] == keys[:1001]
    assert limited.more


@pytest_twisted.ensureDeferred
async def test_pages_are_limited_by_bytes(etcd: EtcdClient, monkeypatch: Any) -> None:
    """The larger the values, the fewer keys are in a page; no key is skipped."""
    monkeypatch.setattr("stream.etcd.client.FIRST_PAGE_KEYS", 10)
    monkeypatch.setattr("stream.etcd.client.PAGE_BYTES", 100_000)
    keys = [f"p/{number:03}" for number in range(150)]
    sizes = [10] * 50 + [60_000] * 10 + [5_000] * 90
    values = {key: b"x" * size for key, size in zip(keys, sizes, strict=True)}
    for start in range(0, 150, 15):
        some = keys[start : start + 15]
        await etcd.commit([], [put_operation(etcd.namespace + key, values[key]) for key in some])
    pages: list[list[int]] = []
    call = etcd.call

    async def watched(method: str, body: Any, **options: Any) -> Any:
        answer = await call(method, body, **options)
        pages.append([len(kv.get("value", "")) * 3 // 4 for kv in answer["kvs"]])
        return answer

    monkeypatch.setattr(etcd, "call", watched)
    found = await etcd.range("p/")
    assert [kv.key for kv in found.kvs] == keys
    assert len(pages[0]) == 10
    # Where values grow, a page may exceed the limit, which the next page corrects.
    assert all(sum(page) <= 100_000 or len(page) == 1 for page in pages[2:])
    pages.clear()
    assert [kv.key for kv in (await etcd.range("p/", limit=70)).kvs] == keys[:70]
    assert [kv.key for kv in (await etcd.range("p/", keys_only=True)).kvs] == keys
    assert len(pages[-1]) == 150


@pytest_twisted.ensureDeferred
async def test_range_bounds(etcd: EtcdClient) -> None:
    """A range can start after a key, end before one, be in descending order, and omit the
    values.
    """
    await _fill(etcd, "p/", 6)

    async def names(**options: Any) -> list[str]:
        return [kv.key.removeprefix("p/0000") for kv in (await etcd.range("p/", **options)).kvs]

    assert await names(start_after="00001") == ["2", "3", "4", "5"]
    assert await names(end="00003") == ["0", "1", "2"]
    assert await names(start_after="00001", end="00005", limit=2) == ["2", "3"]
    assert await names(descending=True) == ["5", "4", "3", "2", "1", "0"]
    assert await names(descending=True, end="00004", limit=2) == ["3", "2"]
    bare = await etcd.range("p/", keys_only=True)
    assert all(kv.value == b"" for kv in bare.kvs) and bare.kvs[0].mod_revision > 0


@pytest_twisted.ensureDeferred
async def test_key_or_prefix(etcd: EtcdClient) -> None:
    """Calls for a single key refuse a prefix, which would affect more keys than intended."""
    for bad in ("", "a/"):
        with pytest.raises(ValueError, match="not the name of one key"):
            await etcd.delete(bad)
        with pytest.raises(ValueError, match="not the name of one key"):
            await etcd.get(bad)
        with pytest.raises(ValueError, match="not the name of one key"):
            await etcd.put(bad, b"")
    with pytest.raises(ValueError, match="no slash at the end"):
        await etcd.delete_prefix("a")
    with pytest.raises(ValueError, match="no slash at the end"):
        await etcd.range("a")


@pytest_twisted.ensureDeferred
async def test_get_many(etcd: EtcdClient) -> None:
    """More keys than etcd's default limit of a transaction are read at one revision."""
    keys = await _fill(etcd, "p/", 250)
    found, revision = await etcd.get_many([*keys, "p/none"])
    assert [kv.value.decode() for kv in found.values() if kv] == keys
    assert found["p/none"] is None
    await etcd.put("p/00249", b"later")
    past, same = await etcd.get_many(keys, revision=revision)
    assert same == revision
    assert past["p/00249"] == found["p/00249"]


@pytest_twisted.ensureDeferred
async def test_errors_of_leases_and_compactions(
    etcd: EtcdClient,
) -> None:
    """An expired lease and a compacted revision have specific errors."""
    with pytest.raises(LeaseNotFound):
        await etcd.put("a", b"", lease=12345)
    first = await etcd.put("a", b"")
    second = await etcd.put("a", b"")
    await etcd.call("kv/compaction", {"revision": second})
    with pytest.raises(Compacted):
        await etcd.get("a", revision=first)


@pytest_twisted.ensureDeferred
async def test_a_dead_endpoint_is_skipped(etcd: EtcdClient, etcd_url: str) -> None:
    """One working endpoint is enough for requests and watches, at any position of the list."""
    dead = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    client = EtcdClient(reactor, [*dead, etcd_url], etcd.namespace)
    await client.startService()
    revision = await client.put("a", b"1")
    stream = await client.watch("a", revision)
    assert (await stream.next()).revision == revision
    stream.cancel()
    await client.stopService()


@pytest_twisted.ensureDeferred
async def test_unreachable_at_start() -> None:
    """The start fails after the connect timeout, and the error lists the endpoints."""
    endpoint = f"127.0.0.1:{free_port()}"
    client = EtcdClient(reactor, [endpoint], "x", connect_timeout=0.3)
    with pytest.raises(EtcdUnavailable, match=f'cannot connect to etcd "{endpoint}".*refused'):
        await client.startService()
    with pytest.raises(NotReached):
        await client.put("a", b"")
    await client.stopService()


@pytest_twisted.ensureDeferred
async def test_no_answer_within_the_timeout(proxied: EtcdClient, proxy: Proxy) -> None:
    """A request without answer fails after the request timeout, and names the endpoint."""
    proxy.is_blackhole = True
    began = reactor.seconds()
    with pytest.raises(EtcdUnavailable, match=f"{proxy.port}: no answer within 1 s"):
        await proxied.get("a")
    assert 0.9 < reactor.seconds() - began < 4
    with pytest.raises(EtcdUnavailable, match="no answer"):
        await proxied.watch("a", 0)
    await until(lambda: not proxy.connections)


@pytest_twisted.ensureDeferred
async def test_reads_survive_a_closed_connection(
    etcd: EtcdClient, proxied: EtcdClient, proxy: Proxy
) -> None:
    """A read whose kept connection is closed is retried; a write isn't, since it might be
    repeated.
    """
    await etcd.put("a", b"1")
    proxy.cut_after = 10
    found = await proxied.get("a")
    assert found is not None and found.value == b"1"
    proxy.cut_after = 10
    with pytest.raises(EtcdUnavailable) as caught:
        await proxied.put("a", b"2")
    assert not isinstance(caught.value, NotReached)
    found = await etcd.get("a")
    assert found is not None and found.version == 2


@pytest_twisted.ensureDeferred
async def test_etcd_restarted(server: EtcdServer) -> None:
    """Kept connections from before the restart don't fail the first request after it."""
    client = EtcdClient(reactor, [server.url], "x")
    await client.startService()
    await gatherResults([ensureDeferred(client.put(f"k{i}", b"")) for i in range(10)])
    server.kill()
    await server.start()
    await client.put("k", b"")
    assert (await client.range("")).count == 11
    await client.stopService()


@pytest_twisted.ensureDeferred
async def test_cancelled_requests(proxied: EtcdClient, proxy: Proxy) -> None:
    """Cancelling a request or a watch closes its connection."""
    proxy.is_deaf = True
    for waiting in (proxied.get("a"), proxied.watch("a/", 0)):
        called: Deferred[Any] = ensureDeferred(waiting)
        before = proxy.accepted
        await until(lambda before=before: proxy.connections and proxy.accepted >= before)
        called.cancel()
        with pytest.raises(CancelledError):
            await called
        await until(lambda: not proxy.connections)


@pytest_twisted.ensureDeferred
async def test_a_cancelled_transaction_is_not_cut(proxied: EtcdClient, proxy: Proxy) -> None:
    """Some versions of etcd crash when the client of a read-only transaction disconnects."""
    proxy.is_deaf = True
    called: Deferred[Any] = ensureDeferred(proxied.get_many(["a"]))
    await until(lambda: bool(proxy.connections))
    called.cancel()
    with pytest.raises(CancelledError):
        await called
    (kept,) = proxy.connections
    other: Deferred[Any] = ensureDeferred(proxied.get("a"))
    await until(lambda: len(proxy.connections) == 2)
    other.cancel()
    with pytest.raises(CancelledError):
        await other
    await until(lambda: len(proxy.connections) == 1)
    assert list(proxy.connections) == [kept]


@pytest_twisted.ensureDeferred
async def test_operations_are_logged_on_request(
    etcd: EtcdClient, etcd_url: str, logged: list[dict[str, Any]]
) -> None:
    """Each operation is logged with its keys and its outcome, but never with a value."""
    client = EtcdClient(reactor, [etcd_url], etcd.namespace, log_operations=True)
    await client.startService()
    del logged[:]
    await client.put("a", b"hunter2")
    await client.get("a")
    with pytest.raises(LeaseNotFound):
        await client.call("lease/revoke", {"ID": 12345})
    await client.stopService()
    lines = [event for event in logged if event["log_namespace"] == "stream.etcd.transport"]
    assert all(event["log_level"] is LogLevel.debug for event in lines)
    assert lines[0]["keys"].startswith(f"{etcd.namespace}a") or "put" in lines[0]["keys"]
    assert lines[0]["outcome"].startswith("revision ")
    assert lines[-1]["method"] == "lease/revoke"
    assert "not found" in lines[-1]["outcome"]
    assert "hunter2" not in str([{k: str(v) for k, v in event.items()} for event in logged])


def test_a_doubt_is_like_a_failed_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request goes to another endpoint, and its answer ends the delays of all callers."""
    clock = Clock()
    client = EtcdClient(clock, ["one:1", "two:2"], "n")
    transport = client._transport
    asked: list[str] = []

    async def call(endpoint: str, *_: object) -> dict[str, Any]:
        asked.append(endpoint)
        return {}

    monkeypatch.setattr(transport, "_call_authenticated", call)
    ensureDeferred(client.call("lease/keepalive", {}))
    pausing = ensureDeferred(client.pause(10.0))
    clock.advance(3.0)
    client.doubt(0.0)
    assert not pausing.called
    ensureDeferred(client.call("lease/keepalive", {}))
    assert pausing.called
    assert asked[0] != asked[1]


def test_a_pause_ends_when_etcd_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting caller retries once etcd has answered another one; else after its delay."""
    clock = Clock()
    client = EtcdClient(clock, ["127.0.0.1:1"], "test")
    answers: list[Any] = []

    async def call(*_: Any, **__: Any) -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {}

    monkeypatch.setattr(client._transport, "call", call)
    answers += [{}, EtcdUnavailable("away"), EtcdUnavailable("away"), {}]
    first = ensureDeferred(client.pause(5.0))
    ensureDeferred(client.call("kv/range", {}))
    assert not first.called  # etcd was never away
    clock.advance(5.0)
    assert first.called
    second = ensureDeferred(client.pause(5.0))
    for _ in range(2):
        ensureDeferred(client.call("kv/range", {})).addErrback(lambda f: f.trap(EtcdUnavailable))
    assert not second.called
    ensureDeferred(client.call("kv/range", {}))
    assert second.called
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_a_request_without_an_answer_ends_the_kept_connections(
    proxied: EtcdClient, proxy: Proxy
) -> None:
    """The path to etcd may have lost them, too: each would cost another timeout."""
    await gatherResults([ensureDeferred(proxied.get("a")) for _ in range(3)])
    await until(lambda: len(proxy.connections) == 3)
    proxy.is_blackhole = True
    with pytest.raises(EtcdUnavailable):
        await proxied.call("maintenance/status", {}, timeout=0.05)
    await until(lambda: not proxy.connections)


class _Attempts:
    """Attempts without an answer, and the outcomes of `EtcdClient.insist`."""

    def __init__(self) -> None:
        self.client = EtcdClient(Clock(), ["127.0.0.1:1"], "test")
        self.made: list[Deferred[str]] = []
        self.outcomes: list[Any] = []

    async def attempt(self) -> str:
        self.made.append(Deferred())
        return await self.made[-1]

    def insist(self, attempt: Callable[[], Awaitable[str]] | None = None) -> Deferred[Any]:
        insisting: Deferred[Any] = ensureDeferred(self.client.insist(attempt or self.attempt))
        insisting.addErrback(lambda failure: failure.type)
        return insisting.addCallback(self.outcomes.append)

    def etcd_is_back(self) -> None:
        self.client._back.fire(None)


def test_an_attempt_is_made_again_when_etcd_comes_back() -> None:
    """It may wait for a connection that never answers; its own cancellation and errors count."""
    attempts = _Attempts()
    attempts.insist()
    assert len(attempts.made) == 1
    attempts.etcd_is_back()
    assert len(attempts.made) == 2
    attempts.made[0].callback("late")
    attempts.made[1].callback("stored")
    attempts.insist()
    attempts.made[-1].errback(EtcdUnavailable("away"))
    attempts.insist().cancel()
    assert attempts.outcomes == ["stored", EtcdUnavailable, CancelledError]
    attempts.etcd_is_back()
    assert len(attempts.made) == 4


def test_an_attempt_is_made_again_once() -> None:
    """With an etcd that comes and goes, the second attempt runs to its own end."""
    attempts = _Attempts()
    attempts.insist()
    for _ in range(5):
        attempts.etcd_is_back()
    assert len(attempts.made) == 2
    attempts.made[1].errback(EtcdUnavailable("away"))
    insisting = attempts.insist()
    attempts.etcd_is_back()
    insisting.cancel()
    assert attempts.outcomes == [EtcdUnavailable, CancelledError]
    assert len(attempts.made) == 4 and len(attempts.client._back) == 0


def test_an_attempt_that_hears_first_that_etcd_is_back() -> None:
    """It goes on; a later cancellation is passed on, and another return of etcd counts."""
    attempts = _Attempts()
    answered: Deferred[None]

    async def attempt() -> str:
        await answered
        attempts.etcd_is_back()
        return await attempts.attempt()

    answered = Deferred()
    insisting = attempts.insist(attempt)
    answered.callback(None)
    assert len(attempts.made) == 1
    insisting.cancel()
    assert attempts.outcomes == [CancelledError] and len(attempts.made) == 1

    answered = Deferred()
    attempts.insist(attempt)
    answered.callback(None)
    attempts.made[-1].callback("stored")
    assert attempts.outcomes[1:] == ["stored"]

    answered = Deferred()
    attempts.insist(attempt)
    answered.callback(None)
    attempts.etcd_is_back()
    attempts.made[-1].callback("stored again")
    assert attempts.outcomes[2:] == ["stored again"]
    assert len(attempts.client._back) == 0


def test_no_reference_cycle_remains_after_an_attempt() -> None:
    """One is made for each slice that is closed."""
    attempts = _Attempts()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        attempts.insist()
        attempts.made.pop().callback("stored")
        gc.collect()
        assert not [each for each in gc.garbage if isinstance(each, Deferred)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert attempts.outcomes == ["stored"]


class _Watching:
    """A mirror that notes when its watch is doubted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.doubts: list[tuple[float, float]] = []

    def doubt(self, since: float) -> None:
        self.doubts.append((self._clock.seconds(), since))


def test_watches_are_replaced_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a slow etcd, each call that times out looks like an outage."""
    clock = Clock()
    client = EtcdClient(clock, ["127.0.0.1:1"], "test")
    watching = _Watching(clock)
    client.mirrors.add(watching)
    is_away = False

    async def answer(*_: Any, **__: Any) -> dict[str, Any]:
        if is_away:
            raise EtcdUnavailable("no answer within 2.5 s")
        return {}

    def call(away: bool) -> None:
        nonlocal is_away
        is_away = away
        ensureDeferred(client.call("kv/range", {})).addErrback(lambda f: f.trap(EtcdUnavailable))

    monkeypatch.setattr(client._transport, "call", answer)
    for _ in range(40):
        call(away=True)
        clock.advance(2)
        call(away=False)
    assert watching.doubts == [(2.0, 0.0), (32.0, 30.0), (62.0, 60.0)]
    clock.advance(11)
    call(away=False)
    clock.advance(1)
    call(away=False)
    assert watching.doubts[3:] == [(92.0, 78.0)]
    clock.advance(100)
    call(away=False)
    assert len(watching.doubts) == 4


@pytest_twisted.ensureDeferred
async def test_kept_connections_that_answer_are_not_closed_again(
    proxied: EtcdClient, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a slow etcd, each further request without an answer ends only its own connection."""
    monkeypatch.setattr("stream.etcd.transport._CLOSE_AGAIN_SECONDS", 1000.0)
    for _ in range(2):
        await gatherResults([ensureDeferred(proxied.get("a")) for _ in range(3)])
        await until(lambda: len(proxy.connections) == 3)
        accepted = proxy.accepted
        proxy.is_blackhole = True
        with pytest.raises(EtcdUnavailable):
            await proxied.call("maintenance/status", {}, timeout=0.05)
        proxy.is_blackhole = False
    await gatherResults([ensureDeferred(proxied.get("a")) for _ in range(2)])
    assert proxy.accepted == accepted


@pytest_twisted.ensureDeferred
async def test_leases_have_connections_of_their_own(proxied: EtcdClient, proxy: Proxy) -> None:
    """So a keep-alive never waits for an answer that the process takes long to handle."""
    await proxied.get("a")
    before = proxy.accepted
    lease = await proxied.call("lease/grant", {"TTL": 60})
    assert proxy.accepted == before + 1
    await proxied.get("a")
    await proxied.call("lease/keepalive", {"ID": lease["ID"]}, repeatable=True)
    await proxied.put("a", b"")
    await proxied.call("lease/revoke", {"ID": lease["ID"]})
    assert proxy.accepted == before + 1
