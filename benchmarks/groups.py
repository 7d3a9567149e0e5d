"""The cost of a group, from the rows of its records to their completions, on a real disk.

It runs a slice pipeline, the writer's appender with its threads, and a file, in one process without
sockets. The time is processor time of all threads. Compare figures only with figures of the same
machine, measured alternately::

    python -m benchmarks.groups [--seconds 1.0] [--folder PATH]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, ensureDeferred, succeed

from stream.ops.metrics.registry import Metrics
from stream.ops.process import reactor as reactor_module
from stream.ops.process.allocator import give_memory_back
from stream.sink.meters import SinkMeters
from stream.sink.slice_pipeline import SlicePipeline
from stream.storage.model.entity import Slice
from stream.storage.network.interface import SliceFile, SliceFileListener, SourceLife
from stream.storage.writer.disk import open_disk_file
from stream.storage.writer.register import WrittenSlice
from stream.storage.writer.writer import OpenFile, OpenVolume, StorageWriter

GROUPS = (1, 8, 32, 128, 1000)
"""Numbers of rows in a group."""

_SWITCH_SECONDS = 0.0005
_ROUNDS = 5
_ROW = b'"%032x","2026-01-01T00:00:00.000Z","Ada"\n'


class _Register:
    """A register without other processes."""

    async def life_of(self, node_id: str) -> int:
        return 1

    async def look_up(self, key: Any, node_id: str) -> tuple[WrittenSlice | None, int]:
        return None, 1


@attrs.define(eq=False)
class _Opener:
    """Opens the only file of the benchmark."""

    writer: StorageWriter
    volume: OpenVolume
    folder: Path

    def open(
        self, slice_: Slice, source: SourceLife, listener: SliceFileListener, *, resume: int = -1
    ) -> Deferred[SliceFile]:
        disk = open_disk_file(
            self.folder / "slice",
            self.folder,
            life=1,
            resume=resume,
            compression="gzip",
            reserve=0,
        )
        key = (slice_.key, source.node_id)
        return succeed(
            OpenFile(self.writer, key, self.volume, disk, listener, str(self.folder / "slice"))
        )

    def available(self, slice_: Slice) -> Deferred[None]:
        return Deferred()


class _Completion:
    """Counts the stored rows of a group, and reports when all of them are stored."""

    def __init__(self) -> None:
        self.missing = 0
        self.done: Deferred[None] = Deferred()

    def expect(self, rows: int) -> Deferred[None]:
        """Return a Deferred that fires when the last of *rows* is stored."""
        self.missing = rows
        self.done = Deferred()
        return self.done

    def stored(self) -> None:
        self.missing -= 1
        if not self.missing:
            self.done.callback(None)

    def accepted(self, status: int) -> None:
        raise AssertionError("the settings wait for the disk")

    def failed(self, error: Exception) -> None:
        raise error


async def _seconds(pipeline: SlicePipeline, rows: list[bytes], groups: int) -> float:
    """Return the processor seconds of a group of *rows*."""
    completion = _Completion()
    write = pipeline.write
    started = time.process_time()
    for _ in range(groups):
        done = completion.expect(len(rows))
        for row in rows:
            write(row, 1, 1, completion)
        await done
    return (time.process_time() - started) / groups


def _rows(count: int) -> list[bytes]:
    numbers = random.Random(1)
    return [_ROW % numbers.getrandbits(128) for _ in range(count)]


async def _measure(reactor: Any, folder: Path, seconds: float) -> None:
    from tests.storage.samples import sample_slice  # the samples need a reactor

    volume = OpenVolume(None, "volume", reactor)  # type: ignore[arg-type]
    volume.pool.start()
    meters = SinkMeters(Metrics(), time.time)
    slice_ = sample_slice()
    pipeline = SlicePipeline(
        slice_,
        source=SourceLife("node", 1),
        opener=_Opener(StorageWriter(reactor, _Register()), volume, folder),
        reactor=reactor,
        pool=reactor.getThreadPool(),
        reroute=lambda *_: False,
        meter=meters.of(slice_.key.sink_key),
    )
    await pipeline.start()
    print("| rows | µs a group | µs a row |\n|---|---|---|")
    for count in GROUPS:
        rows = _rows(count)
        once = await _seconds(pipeline, rows, 20)
        groups = max(20, int(seconds / _ROUNDS / max(once, 1e-6)))
        best = min([await _seconds(pipeline, rows, groups) for _ in range(_ROUNDS)])
        print(f"| {count} | {1e6 * best:.1f} | {1e6 * best / count:.2f} |", flush=True)
    await pipeline.close(10)
    await volume.leave(reactor, 5)


def main() -> None:
    """Measure the groups and print the figures."""
    import sys

    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    options.add_argument("--folder", type=Path, help="on the disk to be written to")
    arguments = options.parse_args()
    reactor_module.install()
    give_memory_back()
    sys.setswitchinterval(_SWITCH_SECONDS)
    from twisted.internet import reactor as installed

    reactor: Any = installed
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:

        def run() -> None:
            measuring = ensureDeferred(_measure(reactor, Path(folder), arguments.seconds))
            measuring.addErrback(lambda failure: failure.printTraceback())
            measuring.addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(run)
        reactor.run()


if __name__ == "__main__":
    main()
