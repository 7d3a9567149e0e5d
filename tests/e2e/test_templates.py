"""Templates that are slow, use much memory, or lose their process, in the whole service."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.processes import ALL, TABLE, Deployment, deployment, wait_for

# Four columns for each record; the record determines their cost.
LOOP = "std.foldl(function(a, b) a + b, std.range(1, Body('loops')), 0)"
COLUMNS: list[dict[str, Any]] = [
    {"type": "template", "name": "id", "template": "Body('id') + ''", "rawString": True},
    *[{"type": "template", "name": f"t{i}", "template": f"{LOOP} + {i}"} for i in range(13)],
    {"type": "template", "name": "room", "template": "std.length(std.repeat('x', Body('room')))"},
]
FOR_EVER = 3_000_000
LOST_LEASE = b"the lease has ended"


def _source(deployed: Deployment, name: str, columns: list[dict[str, Any]]) -> str:
    """Create a source with a sink; return the URL of the source."""
    sources = f"{deployed.api}/v1/branches/default/sources"
    url = deployed.task("POST", sources, {"type": "http", "name": name})["url"]
    deployed.task("POST", f"{url}/sinks", _sink(columns, f"in.c-{name}.t"))
    _, answer = deployed.call("GET", url)
    pushed: str = answer["http"]["url"]
    return pushed


def _sink(columns: list[dict[str, Any]], table: str = TABLE) -> dict[str, Any]:
    named = [
        {**column, "template": {"language": "jsonnet", "content": column["template"]}}
        if "template" in column
        else column
        for column in columns
    ]
    mapping = {"columns": named}
    return {
        "type": "table",
        "name": "My Sink",
        "table": {"type": "keboola", "tableId": table, "mapping": mapping},
    }


def _record(number: int, loops: int = 1, room: int = 1) -> dict[str, Any]:
    return {"id": str(number), "loops": loops, "room": room}


@contextmanager
def _in_threads(count: int, work: Any) -> Iterator[None]:
    """Run *work* (number) in threads until the block ends, and raise their errors."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(120)
    if errors:
        raise errors[0]


def _engines(deployed: Deployment) -> list[int]:
    """Return the processes for templates."""
    parent = deployed.running[-1].process.pid
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            status = (each / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == parent and b"engine_process" in (each / "cmdline").read_bytes():
                found.append(int(each.name))
    return found


@contextmanager
def _started(root: Path) -> Iterator[Deployment]:
    """A deployment that never loses its lease."""
    with deployment(root) as deployed:
        deployed.start(*ALL)
        yield deployed
    assert LOST_LEASE not in b"".join(running.log.read_bytes() for running in deployed.running)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment that the tests share."""
    with _started(tmp_path_factory.mktemp("deployed")) as deployed:
        yield deployed


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment that one test may stop."""
    with _started(tmp_path) as deployed:
        yield deployed


def test_slow_templates_delay_no_other_source(own: Deployment) -> None:
    """Other sources are answered during a slow record, which is refused; the next record isn't."""
    slow = _source(own, "slow", COLUMNS)
    good = _source(own, "good", [{"type": "body", "name": "body"}])
    wait_for(lambda: own.push(slow, _record(0))[0] == 200, "the first record")
    wait_for(lambda: own.push(good, b"{}")[0] == 200, "the first record")
    answers: list[tuple[int, str]] = []
    meanwhile: list[int] = []

    def push_slow(number: int) -> None:
        status, answer = own.push(slow, _record(number + 1, FOR_EVER))
        answers.append((status, answer.decode()))

    def push_good(_: int) -> None:
        while not answers:
            meanwhile.append(own.push(good, b"{}")[0])

    with _in_threads(4, push_slow), _in_threads(1, push_good):
        pass
    assert set(meanwhile) == {200}
    assert len(meanwhile) > 10
    # On a busy machine, some records have waited too long for their turn.
    assert {status for status, _ in answers} <= {400, 503}, answers
    reasons = [answer for status, answer in answers if status == 400]
    assert all("exceed the limit of 1 s of CPU time" in reason for reason in reasons)

    def good_again() -> bool:
        status, answer = own.push(slow, _record(10))
        assert status in (200, 503), answer
        return status == 200

    wait_for(good_again, "a good record")

    # A stop doesn't wait for them either.
    address = urlsplit(slow)
    with closing(http.client.HTTPConnection(address.netloc, timeout=60)) as connection:
        body = json.dumps(_record(20, FOR_EVER)).encode()
        connection.request("POST", address.path, body, {"Content-Type": "application/json"})
        assert own.running[-1].stop() == 0


def test_templates_that_use_much_memory(deployed: Deployment) -> None:
    """A template ends only its own process, and valid records are stored."""
    url = _source(deployed, "memory", COLUMNS)
    wait_for(lambda: deployed.push(url, _record(0))[0] == 200, "the first record")
    answers: list[set[int]] = [set(), set(), set()]

    def push(number: int) -> None:
        """Push one bad and several good records until each has the expected answer."""
        wanted = 200 if number else 400

        def pushed() -> bool:
            room = 1000 if number else 10**12
            status, _ = deployed.push(url, _record(1 + number, room=room))
            assert status in (wanted, 503)
            answers[number].add(status)
            return {400} <= answers[0] and all(200 in each for each in answers[1:])

        wait_for(pushed, f"an answer with {wanted}")

    with _in_threads(3, push):
        pass


def test_template_processes_that_are_killed_or_stopped(deployed: Deployment) -> None:
    """No record is rejected for it: a record is stored or must be retried, and stored ones are in
    the table.
    """
    url = _source(deployed, "killed", COLUMNS)
    wait_for(lambda: deployed.push(url, _record(0))[0] == 200, "the first record")
    statuses: Counter[int] = Counter()
    stored = {"0"}
    is_over = threading.Event()

    def push(number: int) -> None:
        place = 0
        while not is_over.is_set():
            place += 1
            identifier = 1 + number + 4 * place
            status, _ = deployed.push(url, _record(identifier))
            statuses[status] += 1
            if status == 200:
                stored.add(str(identifier))

    with _in_threads(4, push):
        try:
            for kill in range(8):
                enough = statuses[200] + 20
                for engine in _engines(deployed):
                    with suppress(ProcessLookupError):
                        os.kill(engine, signal.SIGSTOP if kill == 4 else signal.SIGKILL)
                _wait_for_more(statuses, enough)
        finally:
            is_over.set()
    assert set(statuses) <= {200, 503}, statuses

    def ids() -> set[str]:
        return {row[0] for row in deployed.rows("in.c-killed.t")}

    wait_for(lambda: stored <= ids(), "all records", 90)


def _wait_for_more(statuses: Counter[int], enough: int) -> None:
    wait_for(lambda: statuses[200] >= enough, "further records")


def test_invalid_templates(deployed: Deployment) -> None:
    """Each is refused with a reason, however expensive its parsing."""
    sources = f"{deployed.api}/v1/branches/default/sources"
    source = deployed.task("POST", sources, {"type": "http", "name": "bad"})["url"]
    for content, message in {
        "[" * 24: 'template is invalid: 1:25 expected "]" to close the "[" at 1:24',
        "import 'x'": "template is invalid: 1:1-7 imports are not enabled",
        "{a: Unknown}": "template is invalid: 1:5-12 Unknown variable: Unknown",
    }.items():
        columns = [{"type": "template", "name": "a", "template": content}]
        status, answer = deployed.call("POST", f"{source}/sinks", _sink(columns))
        assert status == 400
        assert message in json.dumps(answer, ensure_ascii=False).replace('\\"', '"')
