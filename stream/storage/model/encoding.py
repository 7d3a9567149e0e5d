"""How the rows of a file are encoded, frozen into the file when it opens.

The classes are the stored form of a part of the settings (`stream.settings`), with the same names.
"""

from __future__ import annotations

import attrs

from stream.settings.local import EncodingSettings
from stream.values.bytesize import ByteSize
from stream.values.codec import from_plain, to_plain
from stream.values.duration import Duration

__all__ = ["Compression", "Encoder", "Encoding", "GzipCompression", "Sync", "ZstdCompression"]


@attrs.frozen
class Encoder:
    type: str
    concurrency: int
    row_size_limit: ByteSize


@attrs.frozen
class GzipCompression:
    level: int
    implementation: str
    block_size: ByteSize
    concurrency: int


@attrs.frozen
class ZstdCompression:
    level: int


@attrs.frozen
class Compression:
    """Only the part of the chosen type is kept."""

    type: str
    gzip: GzipCompression | None = None
    zstd: ZstdCompression | None = None

    @property
    def extension(self) -> str:
        """What compressed file names end with: ``.gz``, ``.zst`` or nothing."""
        return {"none": "", "gzip": ".gz", "zstd": ".zst"}[self.type]


@attrs.frozen
class Sync:
    """When appended rows are made durable, and whether producers wait for it.

    :ivar mode: ``disk`` (fdatasync) or ``cache`` (written to the operating system).
    """

    mode: str
    wait: bool
    check_interval: Duration
    count_trigger: int
    uncompressed_bytes_trigger: ByteSize
    compressed_bytes_trigger: ByteSize
    interval_trigger: Duration


@attrs.frozen
class Encoding:
    encoder: Encoder
    input_buffer: ByteSize
    max_chunk_size: ByteSize
    failed_chunks_threshold: int
    compression: Compression
    sync: Sync

    @classmethod
    def of(cls, settings: EncodingSettings) -> Encoding:
        """The stored form of *settings*, without the blocks of compressions not chosen."""
        encoding = from_plain(cls, to_plain(settings))
        chosen = encoding.compression.type
        compression = attrs.evolve(
            encoding.compression,
            gzip=encoding.compression.gzip if chosen == "gzip" else None,
            zstd=encoding.compression.zstd if chosen == "zstd" else None,
        )
        return attrs.evolve(encoding, compression=compression)
