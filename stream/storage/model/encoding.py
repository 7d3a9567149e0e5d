"""The encoding of a file's rows, fixed when the file is opened.

The classes define how a part of the settings (`stream.settings`) is stored, with the same names and
defaults.
"""

# ruff: noqa: RUF009 — the defaults are immutable

from __future__ import annotations

import attrs

from stream.settings.local import EncodingSettings
from stream.values.bytesize import ByteSize
from stream.values.codec import Record, from_plain, register_text, to_plain
from stream.values.duration import Duration

__all__ = ["Compression", "Encoder", "Encoding", "GzipCompression", "Sync", "ZstdCompression"]


_DEFAULT = EncodingSettings()
_GZIP = _DEFAULT.compression.gzip
_ZSTD_LEVEL = 2


@attrs.frozen
class Encoder(Record):
    """The encoding of rows."""

    type: str = _DEFAULT.encoder.type
    concurrency: int = _DEFAULT.encoder.concurrency
    row_size_limit: ByteSize = _DEFAULT.encoder.row_size_limit


@attrs.frozen
class GzipCompression(Record):
    """The parameters of gzip."""

    level: int = _GZIP.level
    implementation: str = _GZIP.implementation
    block_size: ByteSize = _GZIP.block_size
    concurrency: int = _GZIP.concurrency


@attrs.frozen
class ZstdCompression(Record):
    """The parameters of zstd."""

    level: int = _ZSTD_LEVEL


@attrs.frozen
class Compression(Record):
    """Compression of a slice.

    Only the parameters of the chosen type are stored; a string stands for the type with its default
    parameters.
    """

    type: str = _DEFAULT.compression.type
    gzip: GzipCompression | None = None
    zstd: ZstdCompression | None = None

    @classmethod
    def of_type(cls, type: str) -> Compression:
        """Return the compression of this type with the default settings."""
        return cls(
            type=type,
            gzip=GzipCompression() if type == "gzip" else None,
            zstd=ZstdCompression() if type == "zstd" else None,
        )

    @property
    def in_staging(self) -> Compression:
        """Return the compression of staged objects; targets support only gzip."""
        return self if self.type in ("none", "gzip") else Compression.of_type("gzip")

    @property
    def extension(self) -> str:
        """The extension of compressed files: ``.gz``, ``.zst`` or empty."""
        return {"none": "", "gzip": ".gz", "zstd": ".zst"}[self.type]


register_text(Compression, Compression.of_type)


@attrs.frozen
class Sync(Record):
    """When appended rows are made durable, and whether producers wait for it.

    :ivar mode: ``disk`` (fdatasync) or ``cache`` (written to the operating system).
    """

    mode: str = _DEFAULT.sync.mode
    wait: bool = _DEFAULT.sync.wait
    check_interval: Duration = _DEFAULT.sync.check_interval
    count_trigger: int = _DEFAULT.sync.count_trigger
    uncompressed_bytes_trigger: ByteSize = _DEFAULT.sync.uncompressed_bytes_trigger
    compressed_bytes_trigger: ByteSize = _DEFAULT.sync.compressed_bytes_trigger
    interval_trigger: Duration = _DEFAULT.sync.interval_trigger


@attrs.frozen
class Encoding(Record):
    """The encoding, compression and syncing of a slice's rows."""

    encoder: Encoder = Encoder()
    input_buffer: ByteSize = _DEFAULT.input_buffer
    max_chunk_size: ByteSize = _DEFAULT.max_chunk_size
    failed_chunks_threshold: int = _DEFAULT.failed_chunks_threshold
    compression: Compression = Compression.of_type(_DEFAULT.compression.type)
    sync: Sync = Sync()

    @classmethod
    def of(cls, settings: EncodingSettings) -> Encoding:
        """Return the stored form of *settings*, without parameters of other compression types."""
        encoding = from_plain(cls, to_plain(settings))
        chosen = encoding.compression.type
        compression = attrs.evolve(
            encoding.compression,
            gzip=encoding.compression.gzip if chosen == "gzip" else None,
            zstd=encoding.compression.zstd if chosen == "zstd" else None,
        )
        return attrs.evolve(encoding, compression=compression)
