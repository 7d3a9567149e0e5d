"""The engine as a real process, and the fake used in tests of the pool."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.task import Clock, LoopingCall

from stream.mapping import engine_process
from stream.mapping.engine_protocol import FrameBuffer, decode_results
from stream.mapping.plan import Evaluated, TemplatePlan
from stream.record.context import RecordContext
from stream.templates.interface import Cause, End, TemplateEngine
from stream.templates.process import ProcessEngine, ProcessEngines
from tests.templates.fakes import (
    CRASHES,
    FAILS,
    NEVER_ENDS,
    FakeEngines,
    plan,
    record,
    takes,
)
from tests.waiting import until

reactor: Any = _reactor
SECONDS = 0.2
GOOD = plan(takes(0))


@attrs.define
class Job:
    plan: TemplatePlan
    record: RecordContext


@attrs.define(eq=False)
class Listener:
    """Records events in their order."""

    said: list[tuple[Any, ...]] = attrs.Factory(list)
    has_ended: bool = False

    def ready(self, engine: TemplateEngine, /) -> None:
        self.said.append(("ready",))

    def answered(
        self, engine: TemplateEngine, serial: int, index: int, result: Evaluated, /
    ) -> None:
        error = None if result.error is None else str(result.error)
        self.said.append(("answered", serial, index, list(result.cells), error))

    def finished(self, engine: TemplateEngine, serial: int, *, is_full: bool) -> None:
        self.said.append(("finished", serial))

    def checked(self, engine: TemplateEngine, serial: int, faults: Sequence[str | None], /) -> None:
        self.said.append(("checked", serial, list(faults)))

    def ended(self, engine: TemplateEngine, end: End, /) -> None:
        assert not self.has_ended
        self.has_ended = True
        self.said.append(("ended", end))


class Contract:
    """A ready engine and its listener."""

    def __init__(self, engine: TemplateEngine, listener: Listener) -> None:
        self.engine = engine
        self.listener = listener
        self.serial = 0

    async def next(self, count: int = 1) -> list[tuple[Any, ...]]:
        """Return the next event."""
        said = self.listener.said
        await until(lambda: len(said) >= count)
        given, self.listener.said[:] = said[:count], said[count:]
        return given

    def evaluate(self, *jobs: tuple[TemplatePlan, bytes], seconds: float = 5.0) -> int:
        self.serial += 1
        self.engine.evaluate(self.serial, seconds, [Job(each, record(body)) for each, body in jobs])
        return self.serial

    @property
    def is_real(self) -> bool:
        return isinstance(self.engine, ProcessEngine)


@pytest_twisted.async_yield_fixture(params=["fake", "process"])
async def contract(request: pytest.FixtureRequest) -> AsyncIterator[Contract]:
    listener = Listener()
    clock = Clock()
    ticking = LoopingCall(clock.advance, 0.01)
    start: Callable[[Listener], TemplateEngine]
    if request.param == "fake":
        ticking.start(0.001)
        start = FakeEngines(clock, SECONDS)
    else:
        start = ProcessEngines(reactor, seconds=SECONDS, memory=64 * 1024 * 1024)
    engine = start(listener)
    contract = Contract(engine, listener)
    assert await contract.next() == [("ready",)]
    yield contract
    engine.kill()
    await until(lambda: listener.has_ended)
    if ticking.running:
        ticking.stop()


@pytest_twisted.ensureDeferred
async def test_batches_in_order(contract: Contract) -> None:
    """Each record has a result, for any plan; then the end of the batch is reported."""
    two = plan(takes(0), "std.length(BodyStr()) + 1 + 0" if contract.is_real else takes(0))
    first = contract.evaluate((GOOD, b"1"), (two, b"22"), (GOOD, b"333"))
    second = contract.evaluate((GOOD, b""))
    said = await contract.next(6)
    assert sorted(said[:3]) == [
        ("answered", first, 0, [b"2"], None),
        ("answered", first, 1, [b"3", b"3"], None),
        ("answered", first, 2, [b"4"], None),
    ]
    assert said[3:] == [
        ("finished", first),
        ("answered", second, 0, [b"1"], None),
        ("finished", second),
    ]


@pytest_twisted.ensureDeferred
async def test_a_failure_ends_only_the_record(contract: Contract) -> None:
    """The cells of the columns before the failed one are returned."""
    failing = plan(takes(0), FAILS, takes(0))
    serial = contract.evaluate((failing, b"1"), (GOOD, b"2"))
    assert await contract.next(3) == [
        ("answered", serial, 0, [b"2"], "failed1"),
        ("answered", serial, 1, [b"2"], None),
        ("finished", serial),
    ]


@pytest.mark.parametrize("content", [NEVER_ENDS, CRASHES])
@pytest_twisted.ensureDeferred
async def test_the_end_of_an_engine_names_the_record(contract: Contract, content: str) -> None:
    """The named record is one of the running batch, not of a waiting one."""
    bad = plan(takes(0), content)
    first = contract.evaluate((GOOD, b"1"))
    await contract.next(2)
    second = contract.evaluate((GOOD, b"1"), (bad, b"2"), (GOOD, b"3"))
    contract.evaluate((GOOD, b"4"))
    said: list[tuple[Any, ...]] = []
    while not said or said[-1][0] != "ended":
        said += await contract.next()
    cause = Cause.PROCESSOR if content == NEVER_ENDS else Cause.CRASH
    assert said[-1] == ("ended", End(cause, second, 1, 1))
    assert all(item == ("answered", second, 0, [b"2"], None) for item in said[:-1])
    assert first != second


@pytest_twisted.ensureDeferred
async def test_the_time_limit_of_a_batch(contract: Contract) -> None:
    """After the limit the remaining records are skipped; at least one record is evaluated."""
    serial = contract.evaluate((GOOD, b"1"), (GOOD, b"2"), seconds=5.0)
    await contract.next(3)
    slow = (
        "std.foldl(function(a, b) a + b, std.range(1, 3000), 0) * 0 + std.length(BodyStr()) + 1"
        if contract.is_real
        else takes(0.02)
    )
    serial = contract.evaluate(*[(plan(slow), b"1")] * 200, seconds=0.02)
    said: list[tuple[Any, ...]] = []
    while not said or said[-1] != ("finished", serial):
        said += await contract.next()
    assert 1 <= len(said) - 1 < 200
    assert [item[2] for item in said[:-1]] == list(range(len(said) - 1))


@pytest_twisted.ensureDeferred
async def test_templates_are_checked_without_evaluation(contract: Contract) -> None:
    """The first error of each template is returned."""
    contract.engine.check(7, [NEVER_ENDS.replace("f(99)", "f(98)"), "[", CRASHES])
    assert await contract.next() == [
        ("checked", 7, [None, '1:2 expected "]" to close the "[" at 1:1', None])
    ]


@pytest_twisted.ensureDeferred
async def test_a_kill(contract: Contract) -> None:
    """A kill is reported once, and no event follows."""
    contract.evaluate((GOOD, b"1"))
    await contract.next(2)
    contract.engine.kill()
    contract.evaluate((GOOD, b"1"))
    [ended] = await contract.next()
    assert ended[0] == "ended"
    assert ended[1].cause is Cause.OUTSIDE


async def _process() -> tuple[ProcessEngine, Contract]:
    listener = Listener()
    engine = ProcessEngines(reactor, seconds=SECONDS, memory=64 * 1024 * 1024)(listener)
    contract = Contract(engine, listener)
    await contract.next()
    return engine, contract


@pytest_twisted.ensureDeferred
async def test_an_external_signal() -> None:
    """An external signal isn't attributed to a template."""
    for number in (signal.SIGKILL, signal.SIGTERM):
        engine, contract = await _process()
        os.kill(engine.pid, number)
        [(_, end)] = await contract.next()
        assert end.cause is Cause.OUTSIDE


@pytest_twisted.ensureDeferred
async def test_stacks_are_not_memory_of_templates() -> None:
    """A single template can't use the space of stacks, but many templates together can."""
    engine, contract = await _process()
    templates = [f"std.length(BodyStr()) + {number} - {number}" for number in range(40)]
    for template in templates:
        serial = contract.evaluate((plan(template), b"1"))
        assert await contract.next(2) == [
            ("answered", serial, 0, [b"1"], None),
            ("finished", serial),
        ]
    engine.kill()
    await contract.next()
    engine, contract = await _process()
    serial = contract.evaluate((plan("std.length(std.repeat('x', 150000000))"), b"1"))
    assert await contract.next() == [("ended", End(Cause.CRASH, serial, 0, 0))]
    assert not engine.is_running


@pytest_twisted.ensureDeferred
async def test_pauses_do_not_count() -> None:
    """Pauses of the process or of the host don't count as time of the template."""
    engine, contract = await _process()
    serial = contract.evaluate((GOOD, b"1"))
    await contract.next(2)
    os.kill(engine.pid, signal.SIGSTOP)
    status = Path(f"/proc/{engine.pid}/stat")
    await until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")
    serial = contract.evaluate((GOOD, b"1"))
    rounds: list[int] = []
    stopped = LoopingCall(lambda: rounds.append(1))
    stopped.start(0.01)
    await until(lambda: len(rounds) > 10)  # the kernel accounts the last microseconds later
    before = engine.progress()
    await until(lambda: len(rounds) > 100 * SECONDS + 20)  # more than the limit of a record
    stopped.stop()
    assert contract.listener.said == []
    assert engine.progress() == before
    os.kill(engine.pid, signal.SIGCONT)
    assert (await contract.next(2))[1] == ("finished", serial)
    engine.kill()
    await contract.next()


@pytest_twisted.ensureDeferred
async def test_isolation_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has no environment and no open files of its parent, and ends with its node."""
    monkeypatch.setenv("STREAM_ETCD_PASSWORD", "secret")
    engine, contract = await _process()
    proc = Path(f"/proc/{engine.pid}")
    assert b"STREAM_" not in (proc / "environ").read_bytes()
    targets = [str(each.readlink()) for each in (proc / "fd").iterdir()]
    assert len(targets) == 4  # two pipes, /dev/null, and the page
    assert "/dev/null" in targets
    engine.transport.closeChildFD(0)  # type: ignore[union-attr]
    [(name, _)] = await contract.next()
    assert name == "ended"


@pytest_twisted.ensureDeferred
async def test_evicted_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evicted plans are sent again."""
    monkeypatch.setattr("stream.templates.process.MAX_PLANS", 3)
    engine, contract = await _process()
    plans = [plan(f"{number} + std.length(BodyStr())") for number in range(10)]
    for _ in range(2):
        for number, each in enumerate(plans):
            serial = contract.evaluate((each, b"1"), (GOOD, b"2"))
            assert await contract.next(3) == [
                ("answered", serial, 0, [b"%d" % (number + 1)], None),
                ("answered", serial, 1, [b"2"], None),
                ("finished", serial),
            ]
    engine.kill()
    await contract.next()


@pytest_twisted.ensureDeferred
async def test_invalid_messages_end_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A compromised process may send any bytes."""
    results = b"\0\0\0\x20R" + b"\xff" * 31
    for data in (b"\0\0\0\0", b"\xff" * 4, b"\0\0\0\1X", b"\0\0\0\1R", results):
        engine, contract = await _process()
        engine.childDataReceived(1, data)
        [(name, end)] = await contract.next()
        assert (name, end.cause) == ("ended", Cause.CRASH)


def test_a_batch_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The results and the end of the batch arrive together, even after a long idle time."""
    writes: list[bytes] = []

    def write(_: int, data: memoryview) -> int:
        writes.append(bytes(data))
        return len(data)

    monkeypatch.setattr(os, "write", write)
    output = engine_process.Output()
    output.begin(7)
    for index in range(3):
        output.result(index, Evaluated([b"x"], None, 0.0))
    output.end(is_full=False)
    frames = [list(FrameBuffer().feed(data)) for data in writes]
    assert [[letter for letter, _ in each] for each in frames] == [[b"R", b"E"]]
    serial, results = decode_results(frames[0][0][1])
    assert (serial, [index for index, _ in results]) == (7, [0, 1, 2])
    assert json.loads(frames[0][1][1]) == [7, False]
