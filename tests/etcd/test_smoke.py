import pytest_twisted
from stream.etcd import *
from stream.etcd.mirror import Mirror
from twisted.internet import reactor
from twisted.internet.defer import gatherResults, ensureDeferred

@pytest_twisted.ensureDeferred
async def test_all(etcd):
    assert await etcd.get("a") is None
    await etcd.put("a", b"1")
    assert (await etcd.get("a")).value == b"1"
    seen=[]
    m = Mirror(etcd, "p/", lambda kv: kv.value, on_change=seen.append)
    await m.startService()
    rev = await etcd.put("p/x", b"1")
    await m.wait_revision(rev, 5)
    assert m.items == {"p/x": b"1"}
    await etcd.delete("p/x"); rev = await etcd.put("p/y", b"2")
    await m.wait_revision(rev, 5)
    assert m.items == {"p/y": b"2"}, m.items
    async def inc(txn):
        kv = await txn.get("n")
        n = int(kv.value) if kv else 0
        txn.put("n", str(n+1).encode())
        await txn.range("p/")
    await gatherResults([ensureDeferred(atomic(etcd, inc)) for _ in range(10)])
    assert (await etcd.get("n")).value == b"10"
    s = Session(etcd, ttl=5, reactor=reactor)
    await s.startService()
    r = await s.register("reg/x", b"v")
    l = await s.lock("name", timeout=2)
    assert await s.try_lock("name") is None
    async def body(txn):
        txn.put("locked", b"1")
    await atomic(etcd, body, lock=l)
    s2 = Session(etcd, ttl=5, reactor=reactor)
    await s2.startService()
    assert await s2.try_lock("name") is None
    d = ensureDeferred(s2.lock("name", timeout=5))
    await l.release()
    l2 = await d
    await l2.release()
    try:
        await atomic(etcd, body, lock=l); assert 0
    except LockLost: pass
    g = Group(etcd, s, "g", "n1", grouping_interval=0.1, reactor=reactor)
    await g.startService(); assert g.is_owner("k")
    await g.stopService()
    await m.stopService(); await s.stopService(); await s2.stopService()
    assert await etcd.get("reg/x") is None
