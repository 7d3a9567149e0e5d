"""Worker processes of a lake: reuse, replacement, cancellation, stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.task import deferLater

from stream.errors import UserError
from stream.staging import StagingError
from stream.target.lake.workers import Workers

reactor: Any = _reactor


@pytest_twisted.async_yield_fixture()
async def workers() -> AsyncIterator[Workers]:
    running = Workers(reactor, "tests.target.lake.toy", 1)
    running.startService()
    yield running
    if running.running:
        await running.stopService()


def _slice(size: int) -> Any:
    return lambda: iter([b"x" * size])


@pytest_twisted.ensureDeferred
async def test_a_process_is_reused(workers: Workers) -> None:
    """The process runs one job after another, reads its input, and ends with the service."""
    first = await workers.run({"do": "count"}, [_slice(3_000_000), _slice(0), _slice(5)])
    assert first["found"] == [3_000_000, 0, 5]
    both = [ensureDeferred(workers.run({"do": "count"}, [_slice(n)])) for n in (1, 2)]
    assert [(await each)["found"] for each in both] == [[1], [2]]
    secret = await workers.run({"do": "secret", "credentials": "hidden"})
    assert secret["pid"] == first["pid"]
    assert "hidden" not in secret["command"]
    await workers.stopService()
    assert not Path(f"/proc/{first['pid']}").exists()
    with pytest.raises(RuntimeError, match="stopping"):
        await workers.run({"do": "count"})


@pytest_twisted.ensureDeferred
async def test_an_error_with_unread_rows_ends_the_process(workers: Workers) -> None:
    """Unread rows are never treated as rows of the next job."""
    pid = (await workers.run({"do": "count"}))["pid"]
    with pytest.raises(UserError, match="refused"):
        await workers.run({"do": "error"})
    assert (await workers.run({"do": "count"}))["pid"] == pid
    for size in (10, 10_000_000):
        with pytest.raises(UserError, match="refused"):
            await workers.run({"do": "error"}, [_slice(size)])
        assert (await workers.run({"do": "count"}, [_slice(7)]))["found"] == [7]


@pytest_twisted.ensureDeferred
async def test_faults_are_logged(workers: Workers) -> None:
    """A process that ends during a job is a fault too; the next job has another process."""
    with pytest.raises(RuntimeError, match=r"ZeroDivisionError: of ours \(toy"):
        await workers.run({"do": "fault"})
    with pytest.raises(RuntimeError, match=r"ended: .* exit code 3"):
        await workers.run({"do": "exit"}, [_slice(10_000_000)])
    assert (await workers.run({"do": "count"}, [_slice(1)]))["found"] == [1]


@pytest_twisted.ensureDeferred
async def test_the_error_of_an_unreadable_slice(workers: Workers) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise StagingError("cannot read it")

    with pytest.raises(StagingError, match="cannot read it"):
        await workers.run({"do": "count"}, [broken])
    assert (await workers.run({"do": "count"}, [_slice(1)]))["found"] == [1]


@pytest_twisted.ensureDeferred
async def test_projects_take_turns(workers: Workers) -> None:
    """The job of another project runs before older jobs of the first one."""
    ended: list[int] = []

    def run(project_id: int) -> Deferred[Any]:
        done = ensureDeferred(workers.run({"do": "count"}, project_id=project_id))
        return done.addCallback(lambda _: ended.append(project_id))

    await DeferredList([run(project_id) for project_id in (1, 1, 1, 2)])
    assert ended == [1, 1, 2, 1]


@pytest_twisted.ensureDeferred
async def test_a_cancelled_job_ends_its_process(workers: Workers) -> None:
    """The place of the job is given to a waiting job; a job cancelled while waiting uses
    no place.
    """
    pid = (await workers.run({"do": "count"}))["pid"]
    hanging = ensureDeferred(workers.run({"do": "hang"}, [_slice(10_000_000)]))
    waiting = ensureDeferred(workers.run({"do": "count"}))
    impatient = ensureDeferred(workers.run({"do": "count"}))
    for each in (impatient, hanging):
        each.addErrback(lambda _: None)
    await deferLater(reactor, 0)
    impatient.cancel()
    hanging.cancel()
    assert (await waiting)["pid"] != pid
    ended: Deferred[None] = ensureDeferred(workers.stopService())
    await ended
    assert not Path(f"/proc/{pid}").exists()
