"""A writer's answers about requests with idempotency keys, and the rows that it accepts."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock

from stream.definition.key import SinkKey
from stream.storage.model.marks import Mark, marked, source_digest
from stream.storage.network.interface import Enquiry, StoredRows, Superseded
from stream.storage.writer.marked_files import marked_groups
from stream.storage.writer.requests import Requests

SINK = SinkKey(1, 2, "source", "sink")
OTHER = SinkKey(1, 2, "source", "other")
KEY = b"k" * 16
CONTENT = b"c" * 8


def mark(attempt: int, key: bytes = KEY) -> Mark:
    return Mark(key, CONTENT, b"%08d" % attempt)


def enquiry(attempt: int, key: bytes = KEY) -> Enquiry:
    return Enquiry(key, b"%08d" % attempt)


class Asked:
    """The register of a writer's requests, and a clock."""

    def __init__(self, max_keys: int = 10) -> None:
        self.clock = Clock()
        self.requests = Requests(60.0, max_keys, self.clock.seconds)

    def begin(self, attempt: int, key: bytes = KEY) -> Deferred[list[list[StoredRows]]]:
        return ensureDeferred(self.requests.enquire([enquiry(attempt, key)]))

    def ask(self, attempt: int, key: bytes = KEY) -> list[StoredRows]:
        answers: list[list[list[StoredRows]]] = []
        self.begin(attempt, key).addCallback(answers.append)
        [[stored]] = answers
        return stored


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_rows_of_an_earlier_attempt_are_known(asked: Asked) -> None:
    """Each sink that has rows of the request is returned."""
    assert asked.ask(1) == []
    asked.requests.appending("a", SINK, 100, [mark(1)])(True)
    asked.requests.appending("b", OTHER, 50, [mark(1)])(True)
    assert asked.ask(2) == [StoredRows(SINK, CONTENT), StoredRows(OTHER, CONTENT)]
    assert asked.ask(3, b"o" * 16) == []


def test_an_earlier_attempt_writes_nothing_after_a_later_enquiry(asked: Asked) -> None:
    """An attempt without an enquiry, or with one at another writer, writes nothing either."""
    with pytest.raises(Superseded):
        asked.requests.appending("a", SINK, 100, [mark(1)])
    asked.ask(1)
    asked.ask(2)
    with pytest.raises(Superseded):
        asked.requests.appending("a", SINK, 100, [mark(1)])
    asked.requests.appending("a", SINK, 100, [mark(2)])(True)


def test_a_superseded_request_stops_its_group(asked: Asked) -> None:
    """The group is appended as a whole, so none of it is recorded; the error names the request."""
    asked.ask(1)
    asked.ask(1, b"o" * 16)
    asked.ask(2)
    with pytest.raises(Superseded) as refused:
        asked.requests.appending("a", SINK, 100, [mark(1, b"o" * 16), mark(1)])
    assert refused.value.keys == {KEY}
    assert asked.ask(3, b"o" * 16) == []


def test_an_enquiry_waits_for_running_appends(asked: Asked) -> None:
    """The answer depends on their outcome."""
    for is_stored, expected in ((False, []), (True, [StoredRows(SINK, CONTENT)])):
        asked.ask(1)
        ended = asked.requests.appending("a", SINK, 100, [mark(1)])
        answers: list[list[list[StoredRows]]] = []
        asked.begin(2).addCallback(answers.append)
        assert answers == []
        ended(is_stored)
        assert answers == [[expected]]


def test_truncated_rows_are_not_stored(asked: Asked) -> None:
    """Earlier rows are still recorded."""
    asked.ask(1)
    asked.ask(1, b"o" * 16)
    asked.requests.appending("a", SINK, 100, [mark(1)])(True)
    asked.requests.appending("a", SINK, 200, [mark(1, b"o" * 16)])(True)
    asked.requests.cut("a", 100)
    asked.requests.cut("b", 0)
    assert asked.ask(2) == [StoredRows(SINK, CONTENT)]
    assert asked.ask(2, b"o" * 16) == []


def test_rows_needed_by_another_attempt_are_not_truncated(asked: Asked) -> None:
    """The other attempt may have got the answer that they are stored."""
    asked.ask(1)
    asked.requests.appending("a", SINK, 100, [mark(1)])(True)
    assert asked.ask(2)
    with pytest.raises(Superseded):
        asked.requests.cut("a", 0)
    assert asked.ask(3) == [StoredRows(SINK, CONTENT)]


def test_rows_needed_by_another_attempt_outlive_their_request(asked: Asked) -> None:
    """The request has expired, but another node may have answered that they are stored."""
    asked.ask(1)
    asked.requests.appending("a", SINK, 100, [mark(1)])(True)
    assert asked.ask(2)
    asked.ask(1, b"o" * 16)
    asked.requests.appending("b", SINK, 100, [mark(1, b"o" * 16)])(True)
    asked.clock.advance(61)
    asked.ask(1, b"n" * 16)
    assert len(asked.requests) == 1
    with pytest.raises(Superseded):
        asked.requests.cut("a", 99)
    asked.requests.cut("a", 100)
    asked.requests.cut("b", 0)


def test_requests_expire(asked: Asked) -> None:
    """Requests expire by age, and the oldest are evicted above a limit."""
    asked.ask(1)
    asked.requests.appending("a", SINK, 100, [mark(1)])(True)
    asked.clock.advance(61)
    assert asked.ask(2) == []
    assert len(asked.requests) == 1
    for number in range(20):
        key = b"%016d" % number
        asked.ask(1, key)
        asked.requests.appending("a", SINK, 100 * number, [mark(1, key)])(True)
    assert len(asked.requests) == 10
    assert asked.ask(2, b"%016d" % 19)
    assert asked.ask(2, b"%016d" % 3) == []


def test_each_source_has_a_share_of_the_requests() -> None:
    """Of another project, or of the same one; an owner that isn't known is one, too."""
    asked = Asked(max_keys=12)
    other = SinkKey(2, 1, "source", "sink")
    kept = {b"known": SINK, b"other": other}
    for name, sink in kept.items():
        key = name.ljust(16)
        owner = (sink.project_id, source_digest(sink.source_id))
        ensureDeferred(asked.requests.enquire([Enquiry(key, b"%08d" % 1, owner)]))
        asked.requests.appending("a", sink, 100, [mark(1, key)])(True)
    for number in range(100):
        key = b"%016d" % number
        asked.ask(1, key)
        flood = SinkKey(3, 1, f"source-{number % 2}", "sink")
        asked.requests.appending("b", flood, 100 * number, [mark(1, key)])(True)
    assert len(asked.requests) == 12
    for name, sink in kept.items():
        assert asked.ask(2, name.ljust(16)) == [StoredRows(sink, CONTENT)]


def test_a_starting_writer_reads_marks_of_recent_files(tmp_path: Path) -> None:
    """Files older than the keys' retention and torn groups are ignored."""
    groups = [marked(gzip.compress(b"%d\n" % n, mtime=0), [mark(n)]) for n in range(3)]
    latest = tmp_path / "1/2/source/sink/file/slice/slice-node.csv.gz"
    older = tmp_path / "1/2/source/sink/file/older/slice-node.csv.gz"
    for path in (latest, older):
        path.parent.mkdir(parents=True)
    latest.write_bytes(groups[0] + gzip.compress(b"x\n") + groups[1] + groups[2][:-1])
    (latest.parent / "slice-empty.csv.gz").touch()
    (latest.parent / "other").write_bytes(groups[0])
    older.write_bytes(groups[0])
    os.utime(older, (1000, 1000))
    found = marked_groups(tmp_path, since=2000, max_marks=10)
    assert [(group.sink, group.marks) for group in found] == [
        (SINK, (mark(0),)),
        (SINK, (mark(1),)),
    ]
    assert found[1].end == len(groups[0] + gzip.compress(b"x\n") + groups[1])
    assert {group.file for group in found} == {str(latest)}
    assert len(marked_groups(tmp_path, since=0, max_marks=10)) == 3


def test_the_latest_of_too_many_marks_are_kept(tmp_path: Path) -> None:
    """The latest marks are recorded last, so that they are also evicted last."""
    for number in range(6):
        path = tmp_path / f"1/2/source/sink/file/{number}/slice-node.csv.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(
            b"".join(
                marked(gzip.compress(b"x\n"), [mark(number, b"%015d%d" % (number, place))])
                for place in range(2)
            )
        )
        os.utime(path, (1000 + number, 1000 + number))
    found = marked_groups(tmp_path, since=0, max_marks=4)
    keys = [group.marks[0].key for group in found]
    assert keys == [b"%015d%d" % (number, place) for number in (4, 5) for place in range(2)]


def test_rows_with_recovered_marks_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer's former life may have been killed between write and sync."""
    synced: list[int] = []
    monkeypatch.setattr(
        "stream.storage.writer.marked_files.sync_file", lambda file: synced.append(file)
    )
    for name, content in (("a", marked(gzip.compress(b"x\n"), [mark(1)])), ("b", b"x\n")):
        path = tmp_path / f"1/2/source/sink/file/{name}/slice-node.csv.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    assert len(marked_groups(tmp_path, since=0, max_marks=10)) == 1
    assert len(synced) == 1


def test_marks_are_found_across_read_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of a block has no effect."""
    path = tmp_path / "1/2/source/sink/file/slice/slice-node.csv.gz"
    path.parent.mkdir(parents=True)
    groups = [marked(gzip.compress(b"%d\n" % n), [mark(n)]) for n in range(3)]
    path.write_bytes(b"".join(groups))
    for size in (8, 9, 50, 1000):
        monkeypatch.setattr("stream.storage.writer.marked_files._READ_BYTES", size)
        found = marked_groups(tmp_path, since=0, max_marks=10)
        assert [group.marks for group in found] == [(mark(n),) for n in range(3)]
        assert found[-1].end == path.stat().st_size
