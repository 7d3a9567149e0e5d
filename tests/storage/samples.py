"""Sample records of the storage model, shared by tests."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs

from stream.mapping.columns import Mapping
from stream.settings import Settings
from stream.storage.model.encoding import Compression, Encoding
from stream.storage.model.entity import (
    LocalSlice,
    Slice,
    SliceStaging,
    UploadConfig,
    UploadTrigger,
    slice_directory,
)
from stream.storage.model.key import SliceKey
from stream.storage.model.state import SliceState
from stream.values.bytesize import ByteSize
from stream.values.codec import from_plain
from stream.values.duration import Duration

OPENED_AT = datetime(2000, 1, 1, 1, tzinfo=UTC)

MAPPING = from_plain(Mapping, {"columns": [{"type": "body", "name": "body"}]})

ENCODING = Encoding.of(Settings().storage.level.local.encoding)


def sample_slice(
    sink_id: str = "my-sink",
    volume_id: str = "my-volume",
    opened_at: datetime = OPENED_AT,
    encoding: Encoding = ENCODING,
) -> Slice:
    """Return a slice in state ``writing`` with default settings."""
    key = SliceKey(123, 456, "my-source", sink_id, OPENED_AT, volume_id, opened_at)
    return Slice(
        key=key,
        state=SliceState.WRITING,
        mapping=MAPPING,
        encoding=encoding,
        local=LocalSlice(slice_directory(key), "slice", "csv.gz"),
        staging=SliceStaging(
            "slice.gz",
            "keboola",
            Compression.of_type("gzip"),
            UploadConfig(
                Duration.parse("10s"), UploadTrigger(10, ByteSize(1000), Duration.parse("30s"))
            ),
        ),
    )


def uncompressed(encoding: Encoding = ENCODING) -> Encoding:
    """Return the encoding without compression, so that tests can read the appended data."""
    return attrs.evolve(
        encoding, compression=attrs.evolve(encoding.compression, type="none", gzip=None)
    )
