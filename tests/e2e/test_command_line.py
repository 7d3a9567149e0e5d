"""The command `stream` and the producer with one deployment of the real service."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import zstandard

from stream.client import Producer
from tests.e2e.processes import ALL, TOKEN, Deployment, deployment, wait_for

_ROOT = Path(__file__).parents[2]


@attrs.frozen
class Person:
    """A user of the command.

    :ivar directory: directory of files.
    """

    deployed: Deployment
    directory: Path

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start the command."""
        environ = {
            **os.environ,
            "STREAM_API_URL": self.deployed.api,
            "STREAM_API_TOKEN": TOKEN,
            "XDG_CONFIG_HOME": str(self.directory),
            "PYTHONPATH": str(_ROOT),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "stream.cli", *arguments],
            env=environ,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A parent that runs in the background ignores SIGINT, and its children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **options,
        )

    def call(self, *arguments: str, code: int = 0) -> str:
        """Run the command until it ends, and return its output."""
        process = self.start(*arguments)
        printed, errors = process.communicate(timeout=120)
        assert process.returncode == code, (arguments, printed, errors)
        return printed + errors

    def document(self, *arguments: str, code: int = 0) -> Any:
        """Run the command and return its output as JSON."""
        process = self.start(*arguments, "--output", "json")
        printed, errors = process.communicate(timeout=120)
        assert process.returncode == code, (arguments, printed, errors)
        return json.loads(printed)

    def numbers(self, table: str) -> list[int]:
        """Return the column ``id`` of the rows in *table*."""
        if not self.deployed.rows(table):
            return []
        return [int(row[0]) for row in self.deployed.query(f'SELECT id FROM "{table}"')]


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    directory = tmp_path_factory.mktemp("person")
    with deployment(tmp_path_factory.mktemp("deployed")) as deployed:
        deployed.start(*ALL)
        yield Person(deployed, directory)


def _define(person: Person, name: str) -> str:
    """Create a source with a sink; return the name of its table."""
    table = f"in.c-cli.{name}"
    person.call("source", "create", name, "--id", name)
    person.call("sink", "create", name, "Rows", "--table", table, "--column", "id:path=id")
    return table


def test_two_concurrent_applies(person: Person) -> None:
    """Both succeed, each object is created once, and a third apply has nothing to do."""
    columns = [{"type": "uuid", "name": "id"}]
    sources = [
        {
            "sourceId": f"both-{number}",
            "type": "http",
            "name": f"Both {number}",
            "sinks": [
                {
                    "sinkId": "rows",
                    "type": "table",
                    "name": "Rows",
                    "table": {
                        "type": "keboola",
                        "tableId": f"in.c-both.rows{number}",
                        "mapping": {"columns": columns},
                    },
                }
            ],
        }
        for number in range(3)
    ]
    # YAML is a superset of JSON.
    (person.directory / "both.yaml").write_text(json.dumps({"sources": sources}))
    apply = ("apply", "-f", "both.yaml", "--yes")
    processes = [person.start(*apply) for _ in range(2)]
    for process in processes:
        printed, errors = process.communicate(timeout=120)
        assert process.returncode == 0, printed + errors
    assert person.call(*apply) == "No changes.\n"
    assert person.call("apply", "-f", "both.yaml", "--dry-run") == "No changes.\n"
    for source in sources:
        shown = person.document("source", "show", str(source["sourceId"]))
        assert shown["version"]["number"] == 1


def test_an_interrupted_push(person: Person) -> None:
    """The push is killed, interrupted and repeated, and each record is in the table once."""
    table, count = _define(person, "push"), 24_000
    with (person.directory / "numbers.ndjson").open("w") as file:
        for number in range(count):
            file.write(f'{{"id":{number}}}\n')
            if not number % 8_000:
                file.write("rubbish\n")
    # small batches in sequence, so that the push takes some seconds
    pace = ("--batch-records", "20", "--parallel", "1")
    push = ("push", "push", "numbers.ndjson", "--state", "state", *pace)
    state = person.directory / "state"

    def batch() -> int:
        return int(json.loads(state.read_text())["batch"]) if state.exists() else 0

    process = person.start(*push)
    wait_for(lambda: batch() > 5, "the first state")
    process.kill()
    process.communicate()
    process = person.start(*push)
    before = batch()
    wait_for(lambda: batch() > before, "the next state")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "The same command continues from line" in errors
    printed = person.document(*push, code=7)
    assert printed["rejected"] <= 3
    assert printed["accepted"] < count
    kept = json.loads(state.read_text())
    assert (kept["accepted"], kept["rejected"]) == (count, 3)
    wait_for(lambda: len(person.numbers(table)) >= count, "the rows")
    assert sorted(person.numbers(table)) == list(range(count))


def test_formats(person: Person) -> None:
    """Each format is detected, regardless of the file name."""
    table = _define(person, "formats")
    lines = [f'{{"id":{number}}}\n'.encode() for number in range(400)]
    contents = (
        gzip.compress(b"".join(lines[:50])) + gzip.compress(b"".join(lines[50:100])),
        zstandard.compress(b"".join(lines[100:200])),
        b"id\n" + b"".join(b"%d\n" % number for number in range(200, 300)),
        json.dumps([{"id": number} for number in range(300, 400)], indent=1).encode(),
    )
    for number, content in enumerate(contents):
        name = "records.csv" if number == 2 else f"records-{number}"
        (person.directory / name).write_bytes(content)
        person.call("push", "formats", name)
    wait_for(lambda: len(person.numbers(table)) >= 400, "the rows")
    assert sorted(person.numbers(table)) == list(range(400))


def test_the_producer(person: Person) -> None:
    """A program that ends without closing the producer loses no record, and names the rejected
    ones.
    """
    table = _define(person, "producer")
    url = person.call("source", "url", "producer").strip()
    program = (
        "import sys\nfrom stream.client import Producer\nproducer = Producer(sys.argv[1])\n"
        "for number in range(5000): producer.send({'id': number})\n"
    )
    subprocess.run([sys.executable, "-c", program, url], cwd=_ROOT, check=True)
    names: list[str] = []
    with Producer(url, on_rejected=lambda rejected: names.append(rejected.sink_id)) as producer:
        producer.send({"id": 5000})
        producer.send({"none": 0})
    assert (producer.accepted, producer.rejected, names) == (1, 1, ["rows"])
    wait_for(lambda: len(person.numbers(table)) >= 5001, "the rows")
    assert sorted(person.numbers(table)) == list(range(5001))


def test_a_source_that_stores_nothing(person: Person) -> None:
    """A push to the source fails instead of losing the records."""
    (person.directory / "one.ndjson").write_text('{"id":1}\n{"id":2}\n')
    person.call("source", "create", "Empty")
    assert "no enabled sink" in person.call("push", "empty", "one.ndjson", code=1)
    person.call("source", "disable", "empty")
    assert "disabled" in person.call("push", "empty", "one.ndjson", code=1)


def test_tail_and_status(person: Person) -> None:
    """A record that matches the filter is shown as it arrives, and is counted."""
    _define(person, "watched")
    url = person.call("source", "url", "watched").strip()
    tail = person.start("tail", "watched", "--limit", "1", "--filter", ".id == 7")
    assert tail.stderr is not None
    assert "Watching watched" in tail.stderr.readline()
    ended = threading.Event()

    def send() -> None:
        with Producer(url, linger=0.0) as producer:
            while not ended.wait(0.1):
                producer.send({"id": 6})
                producer.send({"id": 7})

    sending = threading.Thread(target=send)
    sending.start()
    try:
        printed, _ = tail.communicate(timeout=60)
    finally:
        ended.set()
        sending.join()
    assert '{"id":7}' in printed
    assert '{"id":6}' not in printed
    [row] = wait_for(
        lambda: [x for x in person.document("status", "watched") if x["inTable"]], "the count"
    )
    assert row["records"] >= row["inTable"] >= 2
    assert row["recordsPerSecond"] is not None


def test_tasks(person: Person) -> None:
    """The newest tasks of all sources or of one are listed with their results."""
    _define(person, "changed")
    _define(person, "changed-too")
    lines = [line.split() for line in person.call("tasks", "changed").splitlines()]
    assert [line[1:4] for line in lines[1:]] == [
        ["create.sink", "changed/rows", "success"],
        ["create.source", "changed", "success"],
    ]
    listed = person.document("tasks", "--limit", "1")
    assert [task["type"] for task in listed] == ["api.create.sink"]
    assert listed[0]["outputs"]["sourceId"] == "changed-too"
    assert "not found" in person.call("tasks", "nowhere", code=4)
