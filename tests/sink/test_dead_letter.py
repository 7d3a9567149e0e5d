"""Records that a sink can't render: noted, written once a second, rotated and removed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from stream.definition.key import SinkKey
from stream.errors import NestedError, UserError
from stream.mapping.render import RowTooBig
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.settings import DeadLetterSettings
from stream.sink import dead_letter
from stream.sink.dead_letter import DeadLetters
from stream.sink.dead_letter_files import DeadLetterFiles
from stream.sink.dead_letter_line import DeadRecord, time_of
from stream.storage.model.entity import DeadLetter
from stream.tail.shown_record import shown_record
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

NOW = 1714557600.123
KEY = SinkKey(123, 456, "my-source", "my-sink")
HOUR = DeadLetter(ByteSize(2000), Duration.of_seconds(3600))
ERROR = NestedError('cannot convert column "p" to CSV value', ['path "a" not found in the body'])


def _record(body: bytes = b'{"b":1}', at: float = NOW) -> RecordContext:
    headers = RecordHeaders(
        (
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer x"),
            (b"Cookie", b"a=b"),
            (b"proxy-authorization", b"Basic x"),
            (b"X-StorageApi-Token", b"x"),
            (b"user-agent", b"curl"),
        )
    )
    return RecordContext(int(at * 1000), "203.0.113.7", headers, body)


def _dead(body: bytes = b'{"b":1}', at: float = NOW, error: UserError = ERROR) -> DeadRecord:
    return DeadRecord.of("my-sink", _record(body, at), error)


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_line_has_all_of_the_record_but_its_credentials() -> None:
    """All that is known of the record, in the words of the answer and without credentials."""
    line = _dead().line()
    assert line == (
        b'{"time":"2024-05-01T10:00:00.123Z","sinkId":"my-sink","statusCode":400,'
        b'"error":"stream.in.badRequest",'
        b'"message":"Cannot convert column \\"p\\" to CSV value:\\n'
        b'- Path \\"a\\" not found in the body.",'
        b'"clientIp":"203.0.113.7",'
        b'"headers":{"Content-Type":"application/json","User-Agent":"curl"},'
        b'"bodyEncoding":"utf-8","body":"{\\"b\\":1}"}\n'
    )
    assert time_of(line[:64]) == NOW
    assert time_of(b"{}") is None and time_of(b"\n\xff") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "hunter2-hunter2") for name in ("X-Auth-Token", "Api_Key", "X-Hub-Signature-256")],
        *[(name, "hunter2-hunter2") for name in ("apikey", "SESSION", "x_client_secret", "X-Key")],
        ("X-Original-Uri", "/stream/123/my-source/hunter2-hunter2"),
        ("Referer", "https://me:hunter2-hunter2@host/"),
    ],
)
def test_dead_letters_hide_what_the_tail_hides(name: str, value: str) -> None:
    """It is one policy."""
    headers = RecordHeaders(((name.encode(), value.encode()), (b"X-Seen", b"hunter1")))
    record = RecordContext(int(NOW * 1000), "::1", headers, b"{}")
    for shown in (DeadRecord.of("my-sink", record, ERROR).line(), shown_record(record, 100)):
        assert b"hunter2" not in shown
        assert b"hunter1" in shown


def test_line_of_a_body_that_is_no_text() -> None:
    """It is base64; an error with a fixed text keeps it."""
    members = json.loads(_dead(b"\xff\x00", error=RowTooBig("b", 1024)).line())
    assert (members["bodyEncoding"], members["body"]) == ("base64", "/wA=")
    assert (members["statusCode"], members["error"]) == (413, "stream.in.payloadTooLarge")
    assert members["message"] == 'too big CSV row, column: "b", row limit: 1024 B'


@pytest.fixture
def files(tmp_path: Path) -> DeadLetterFiles:
    return DeadLetterFiles(tmp_path / "dead", "node-1")


def _put(files: DeadLetterFiles, *bodies: bytes, now: float = NOW) -> int:
    return files.append(KEY, HOUR, [_dead(body, now).line() for body in bodies], now)


def _previous(files: DeadLetterFiles) -> Path:
    return files.path(KEY).with_name("my-sink.previous.ndjson")


def test_files_are_private(files: DeadLetterFiles, tmp_path: Path) -> None:
    """Nobody else may read what producers sent."""
    previous_umask = os.umask(0o022)
    try:
        _put(files, b"1")
    finally:
        os.umask(previous_umask)
    path = files.path(KEY)
    assert path == tmp_path / "dead/node-1/123/456/my-source/my-sink.ndjson"
    assert path.stat().st_mode & 0o777 == 0o600
    for directory in list(path.parents)[:5]:
        assert directory.stat().st_mode & 0o777 == 0o700


def test_names_stay_below_the_directory(tmp_path: Path) -> None:
    """Whatever a node is called."""
    path = DeadLetterFiles(tmp_path, "../up/..").path(KEY)
    assert path.relative_to(tmp_path).parts[0] == "%2E%2E%2Fup%2F%2E%2E"


def test_a_link_is_not_followed(files: DeadLetterFiles, tmp_path: Path) -> None:
    """A file elsewhere isn't written to."""
    _put(files, b"1")
    other = tmp_path / "other"
    other.write_bytes(b"")
    files.path(KEY).unlink()
    files.path(KEY).symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"):
        _put(files, b"2")
    assert other.read_bytes() == b""


def test_rotation_by_size(files: DeadLetterFiles) -> None:
    """Two files hold the newest records, together never more than allowed."""
    for number in range(20):
        assert _put(files, b"%d" % number, b"x" * 100) == 0
        sizes = [p.stat().st_size for p in (files.path(KEY), _previous(files)) if p.exists()]
        assert max(sizes) <= 1000
    assert _lines(files.path(KEY))[-1]["body"] == "x" * 100
    kept = [*_lines(_previous(files)), *_lines(files.path(KEY))]
    numbers = [int(line["body"]) for line in kept if line["body"].isdigit()]
    assert numbers == list(range(numbers[0], 20)) and numbers[0] > 10


def test_a_record_larger_than_a_file_is_left_out(files: DeadLetterFiles) -> None:
    """The others are written."""
    assert _put(files, b"1", b"x" * 1000, b"2") == 1
    assert [line["body"] for line in _lines(files.path(KEY))] == ["1", "2"]


def test_rotation_by_age(files: DeadLetterFiles) -> None:
    """A file begins anew when its first record is too old."""
    _put(files, b"1")
    _put(files, b"2", now=NOW + 3600)
    assert not _previous(files).exists()
    _put(files, b"3", now=NOW + 3601)
    assert [line["body"] for line in _lines(_previous(files))] == ["1", "2"]
    assert [line["body"] for line in _lines(files.path(KEY))] == ["3"]


def test_half_a_line_stays_alone(files: DeadLetterFiles) -> None:
    """What a crash has left doesn't spoil the line after it."""
    _put(files, b"1")
    with files.path(KEY).open("ab") as file:
        file.write(b'{"time":"20')
    _put(files, b"2")
    first, half, second = files.path(KEY).read_bytes().splitlines()
    assert (json.loads(first)["body"], half, json.loads(second)["body"]) == (
        "1",
        b'{"time":"20',
        "2",
    )


def test_a_full_disk_leaves_no_half_line(
    files: DeadLetterFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could be written of a failed piece is cut off again."""
    _put(files, b"1")
    write = os.write

    def short_write(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", no_write)
        return write(descriptor, data[:5])

    def no_write(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", short_write)
    with pytest.raises(OSError, match="No space"):
        _put(files, b"2")
    assert [line["body"] for line in _lines(files.path(KEY))] == ["1"]


def test_removal_by_age(files: DeadLetterFiles, tmp_path: Path) -> None:
    """Files go when their last record is too old, and then the directories, of any node."""
    _put(files, b"1")
    gone_node = DeadLetterFiles(tmp_path / "dead", "gone")
    _put(gone_node, b"1")
    for path in (files.path(KEY), gone_node.path(KEY)):
        os.utime(path, (NOW, NOW))
    strange = tmp_path / "dead/node-1/a/b/c/d.ndjson"
    strange.parent.mkdir(parents=True)
    strange.write_bytes(b"")
    os.utime(strange, (0, 0))
    asked: list[SinkKey] = []

    def max_age(sink: SinkKey) -> float:
        asked.append(sink)
        return 3600

    assert files.remove_old(NOW + 3600, max_age) == 0
    assert files.remove_old(NOW + 3601, max_age) == 2
    assert set(asked) == {KEY}
    assert strange.exists()
    assert not (tmp_path / "dead/node-1/123").exists()
    assert (tmp_path / "dead/node-1").exists()
    _put(files, b"2")
    assert len(_lines(files.path(KEY))) == 1


class _NoThreads(ThreadPool):
    """Runs at once what a pool would run in a thread, unless it is held."""

    held: list[Callable[[], None]] | None = None

    def callInThreadWithCallback(  # type: ignore[override]
        self, done: Callable[[bool, object], None], work: Callable[..., object], *args: object
    ) -> None:
        def run() -> None:
            try:
                result = work(*args)
            except Exception:
                done(False, Failure())
            else:
                done(True, result)

        if self.held is None:
            run()
        else:
            self.held.append(run)


class _Reactor(Clock):
    def callFromThread(self, call: Callable[..., object], *args: object) -> None:
        call(*args)


@attrs.define(eq=False)
class _World:
    path: Path
    clock: _Reactor = attrs.Factory(_Reactor)
    pool: _NoThreads = attrs.Factory(_NoThreads)
    written: list[int] = attrs.Factory(list)
    dropped: list[int] = attrs.Factory(list)

    def service(self, path: str | None = None) -> DeadLetters:
        service = DeadLetters(
            str(self.path) if path is None else path,
            "node-1",
            DeadLetterSettings(),
            self.clock,
            self.pool,
            written=self.written.append,
            dropped=self.dropped.append,
        )
        self.run(service.startService)
        return service

    @staticmethod
    def run(call: Callable[[], Any]) -> None:
        failures: list[Failure] = []
        fired: list[object] = []
        ensureDeferred(call()).addCallbacks(fired.append, failures.append)
        if failures:
            failures[0].raiseException()
        assert fired == [None]

    @property
    def bodies(self) -> list[str]:
        path = DeadLetterFiles(self.path, "node-1").path(KEY)
        return [line["body"] for line in _lines(path)] if path.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[_World]:
    world = _World(tmp_path / "dead")
    world.clock.advance(NOW)
    yield world
    assert world.clock.getDelayedCalls() == []


LARGE = DeadLetter(ByteSize(64 * 1024 * 1024), Duration.of_seconds(3600))


def test_written_each_second_and_at_the_end(world: _World) -> None:
    """Nothing noted is lost when the service stops, and the next start goes on."""
    service = world.service()
    service.offer(KEY, LARGE, _record(b"1"), ERROR)
    assert world.bodies == []
    world.clock.advance(1)
    assert world.bodies == ["1"]
    service.offer(KEY, LARGE, _record(b"2"), ERROR)
    world.run(service.stopService)
    service = world.service()
    service.offer(KEY, LARGE, _record(b"3"), ERROR)
    world.run(service.stopService)
    assert world.bodies == ["1", "2", "3"]
    assert (world.written, world.dropped) == ([1, 1, 1], [])


def test_too_many_are_dropped_and_counted(world: _World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded by number and by bytes; there is room again after each writing."""
    monkeypatch.setattr(dead_letter, "MAX_WAITING_RECORDS", 3)
    monkeypatch.setattr(dead_letter, "MAX_WAITING_BYTES", 10)
    service = world.service()
    for body in (b"1", b"2", b"12345678901", b"3", b"4"):
        service.offer(KEY, LARGE, _record(body), ERROR)
    assert world.dropped == [1, 1]
    world.clock.advance(1)
    service.offer(KEY, LARGE, _record(b"5"), ERROR)
    world.run(service.stopService)
    assert world.bodies == ["1", "2", "3", "5"]


def test_a_slow_disk_does_not_stop_the_noting(world: _World) -> None:
    """While a thread writes, records wait for the next one."""
    service = world.service()
    world.pool.held = []
    service.offer(KEY, LARGE, _record(b"1"), ERROR)
    world.clock.advance(1)
    service.offer(KEY, LARGE, _record(b"2"), ERROR)
    world.clock.advance(5)
    assert len(world.pool.held) == 1
    held, world.pool.held = world.pool.held, None
    held[0]()
    world.clock.advance(1)
    assert world.bodies == ["1", "2"]
    world.run(service.stopService)


def test_a_disk_that_fails_drops_and_goes_on(world: _World) -> None:
    """The failure is counted, and the next second is tried as usual."""
    service = world.service()
    sink_file = DeadLetterFiles(world.path, "node-1").path(KEY)
    sink_file.mkdir(parents=True)
    service.offer(KEY, LARGE, _record(b"1"), ERROR)
    world.clock.advance(1)
    assert (world.dropped, world.written) == ([1], [0])
    sink_file.rmdir()
    service.offer(KEY, LARGE, _record(b"2"), ERROR)
    world.clock.advance(1)
    assert world.bodies == ["2"]
    world.run(service.stopService)


def test_a_node_without_a_directory_keeps_none(world: _World) -> None:
    """It counts what it was asked to keep."""
    service = world.service(path="")
    service.offer(KEY, LARGE, _record(b"1"), ERROR)
    world.run(service.stopService)
    assert (world.dropped, world.path.exists()) == ([1], False)


def test_a_directory_that_can_not_be_made(world: _World) -> None:
    """The start fails and names path and setting."""
    world.path.write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot use .*dead.* \(source\.deadLetterPath\)"):
        world.service()


def test_files_of_sinks_are_removed_by_their_own_age(world: _World) -> None:
    """A sink that is known has its own limit, others that of the service."""
    service = world.service()
    other = attrs.evolve(KEY, sink_id="other")
    service.known(KEY, HOUR)
    for key in (KEY, other):
        service.offer(key, HOUR, _record(b"1"), ERROR)
    world.clock.advance(1)
    files = DeadLetterFiles(world.path, "node-1")
    for key in (KEY, other):
        os.utime(files.path(key), (NOW, NOW))
    world.clock.pump([60] * 61)
    assert (files.path(KEY).exists(), files.path(other).exists()) == (False, True)
    world.clock.pump([3600] * 7 * 24)
    assert not files.path(other).exists()
    world.run(service.stopService)
