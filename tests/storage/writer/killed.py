"""A process that appends until it is killed, and prints the acknowledged data.

Run as ``python -m tests.storage.writer.killed <volume> <compression>``.
"""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred

from stream.storage.network.interface import SyncLevel, WriterError
from stream.storage.volumes.local_volume import FoundVolume
from stream.storage.writer.writer import OpenVolume, StorageWriter
from tests.storage.register import LIFE, FakeRegister
from tests.storage.samples import sample_slice, uncompressed


class Listener:
    def draining(self) -> None:
        raise AssertionError

    def lost(self, reason: WriterError) -> None:
        raise reason


def group(first: int, compression: str) -> bytes:
    """Return the rows of one append, of various sizes."""
    rows = b"".join(
        b'"%d","%s"\n' % (number, os.urandom(number % 700).hex().encode())
        for number in range(first, first + 50)
    )
    return rows if compression == "none" else gzip.compress(rows, 1)


async def append_for_ever(volume_path: Path, compression: str) -> None:
    slice_ = sample_slice() if compression == "gzip" else sample_slice(encoding=uncompressed())
    writer = StorageWriter(reactor, FakeRegister.of(slice_))
    volume = OpenVolume(FoundVolume(volume_path, "hdd", "one"), "my-volume", reactor)
    volume.pool.start()
    writer.add_volume(volume)
    file = await writer.open(slice_, LIFE, Listener())
    end, number = file.length, 0
    while True:
        waiting = []
        for _ in range(3):
            data = group(number, compression)
            waiting.append(file.append(end, data, level=SyncLevel.SYNCED))
            end += len(data)
            number += 50
        for answer in waiting:
            acknowledged = await answer
            os.write(1, b"%d\n" % acknowledged)


if __name__ == "__main__":
    ensureDeferred(append_for_ever(Path(sys.argv[1]), sys.argv[2])).addErrback(
        lambda failure: (failure.printTraceback(), os._exit(1))
    )
    reactor.run()
