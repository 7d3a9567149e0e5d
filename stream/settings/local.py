"""The settings under ``storage.level.local``, for volumes, encoding of slices and writers."""

# ruff: noqa: RUF009 — `setting` and `group` create attrs fields

from __future__ import annotations

import attrs

from stream.settings.declare import duration, group, setting, size
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

__all__ = [
    "CompressionSettings",
    "EncoderSettings",
    "EncodingSettings",
    "GzipSettings",
    "LocalLevelSettings",
    "SyncSettings",
    "VolumeAssignmentSettings",
    "VolumeRegistrationSettings",
    "VolumeSettings",
    "WriterAllocationSettings",
    "WriterNetworkSettings",
    "WriterSettings",
    "WriterTlsSettings",
]


@attrs.frozen
class VolumeAssignmentSettings:
    """The settings of the assignment of volumes to a file."""

    count: int = setting(
        1,
        "Volumes count simultaneously utilized per sink.",
        rule="required,min=1,max=100",
        override="protected",
    )
    preferred_types: tuple[str, ...] = setting(
        ("default",),
        "List of preferred volume types, start with the most preferred.",
        rule="required,min=1",
        override="protected",
    )


@attrs.frozen
class VolumeRegistrationSettings:
    """The settings of a volume's registration in etcd."""

    ttl_seconds: int = setting(
        10,
        "Seconds after which the volumes of a dead node are no longer registered.",
        rule="required,min=1,max=60",
    )


@attrs.frozen
class VolumeSettings:
    """The settings of volumes."""

    assignment: VolumeAssignmentSettings = group(VolumeAssignmentSettings)
    registration: VolumeRegistrationSettings = group(VolumeRegistrationSettings)


@attrs.frozen
class EncoderSettings:
    """The settings of the row encoder."""

    type: str = setting("csv", "Encoder type.", rule="required,oneof=csv", override="protected")
    concurrency: int = setting(
        0,
        "Concurrency of the format writer for the specified file type. 0 = auto = num of CPU cores",
        rule="min=0,max=256",
        override="protected",
    )
    row_size_limit: ByteSize = setting(
        size("1536KB"),
        "Max size of one encoded row; larger rows are refused.",
        rule="minBytes=1kB,maxBytes=2MB",
    )


@attrs.frozen
class GzipSettings:
    """The settings of gzip."""

    level: int = setting(
        1, "GZIP compression level: 1-9.", rule="min=1,max=9", override="protected"
    )
    implementation: str = setting(
        "parallel",
        "GZIP implementation: standard, fast, parallel.",
        rule="required,oneof=standard fast parallel",
        override="protected",
    )
    block_size: ByteSize = setting(
        size("256KB"),
        "GZIP parallel block size.",
        rule="required,minBytes=16kB,maxBytes=100MB",
        override="protected",
    )
    concurrency: int = setting(0, "GZIP parallel concurrency, 0 = auto.", override="protected")


@attrs.frozen
class CompressionSettings:
    """The settings of compression."""

    type: str = setting(
        "gzip",
        "Compression type.",
        rule="required,oneof=none gzip zstd",
        override="protected",
        published_rule="required,oneof=none gzip",
    )
    gzip: GzipSettings = group(GzipSettings)


@attrs.frozen
class SyncSettings:
    """The settings of syncing to disk."""

    mode: str = setting(
        "disk",
        'Sync mode: "cache" or "disk".',
        rule="required,oneof=disk cache",
        override="protected",
    )
    wait: bool = setting(
        True,
        "Wait for sync to disk OS cache or to disk hardware, depending on the mode.",
        override="user",
    )
    check_interval: Duration = setting(
        duration("5ms"),
        "Minimal interval between syncs to disk.",
        rule="required,minDuration=1ms,maxDuration=30s",
        override="protected",
    )
    count_trigger: int = setting(
        10000,
        "Written records count to trigger sync.",
        rule="required,min=1,max=1000000",
        override="protected",
        unsigned=True,
    )
    uncompressed_bytes_trigger: ByteSize = setting(
        size("1MB"),
        "Size of buffered uncompressed data to trigger sync.",
        rule="required,minBytes=100B,maxBytes=500MB",
        override="protected",
    )
    compressed_bytes_trigger: ByteSize = setting(
        size("256KB"),
        "Size of buffered compressed data to trigger sync.",
        rule="required,minBytes=100B,maxBytes=100MB",
        override="protected",
    )
    interval_trigger: Duration = setting(
        duration("50ms"),
        "Interval from the last sync to trigger sync.",
        rule="required,minDuration=10ms,maxDuration=30s",
        override="protected",
    )


@attrs.frozen
class EncodingSettings:
    """The settings of encoding, compressing and syncing rows."""

    encoder: EncoderSettings = group(EncoderSettings)
    input_buffer: ByteSize = setting(
        size("2MB"),
        "Max size of the buffer before compression, if compression is enabled. 0 = disabled",
        rule="maxBytes=16MB",
        override="protected",
    )
    max_chunk_size: ByteSize = setting(
        size("512KB"),
        "Max size of a chunk sent over the network to a disk writer node.",
        rule="required,minBytes=64kB,maxBytes=1MB",
        override="protected",
    )
    failed_chunks_threshold: int = setting(
        3,
        "If the defined number of chunks cannot be sent, the pipeline is marked as not ready.",
        rule="required,min=1,max=100",
        override="protected",
    )
    compression: CompressionSettings = group(CompressionSettings)
    sync: SyncSettings = group(SyncSettings)


@attrs.frozen
class WriterTlsSettings:
    """The TLS settings of the connection between source and writer."""

    certificate: str = setting(
        "",
        "PEM file with the certificate that this node presents; empty = no TLS between the nodes.",
    )
    key: str = setting("", "PEM file with the key of the certificate.")
    ca: str = setting(
        "",
        "PEM file with the certificate authorities, one of which must have signed the certificate "
        "of each other node.",
    )


@attrs.frozen
class WriterNetworkSettings:
    """The settings of the connection between source and writer."""

    listen: str = setting(
        "0.0.0.0:6000",
        "Address on which the disk writer listens for source nodes.",
        rule="required,hostname_port",
    )
    transport: str = setting(
        "tcp",
        "Transport between source nodes and disk writers: tcp (kcp is not supported).",
        rule="required,oneof=tcp kcp",
    )
    keep_alive_interval: Duration = setting(
        duration("5s"),
        "Interval of keep-alive messages.",
        rule="required,minDuration=1s,maxDuration=60s",
    )
    min_slices_per_source_node: int = setting(
        2,
        "Minimum number of slices of a sink that each source node keeps open, if there are enough "
        "slices.",
        rule="required,min=1,max=20",
    )
    max_waiting_streams_per_conn: int = setting(
        1024,
        "Maximum number of slices of one volume that wait to be opened on one connection.",
        rule="required,min=10,max=100000",
    )
    stream_max_window: ByteSize = setting(
        size("8MB"),
        "Maximum number of unacknowledged bytes of one slice.",
        rule="required,minBytes=256kB,maxBytes=10MB",
    )
    stream_open_timeout: Duration = setting(
        duration("10s"),
        "Timeout for opening a slice on the disk writer.",
        rule="required,minDuration=1s,maxDuration=30s",
    )
    stream_close_timeout: Duration = setting(
        duration("10s"),
        "Timeout for closing a slice on the disk writer.",
        rule="required,minDuration=1s,maxDuration=30s",
    )
    stream_write_timeout: Duration = setting(
        duration("10s"),
        "Timeout for writing a chunk on the disk writer.",
        rule="required,minDuration=1s,maxDuration=60s",
    )
    shutdown_timeout: Duration = setting(
        duration("30s"),
        "How long the disk writer waits for its clients when it stops.",
        rule="required,minDuration=1s,maxDuration=600s",
    )
    kcp_input_buffer: ByteSize = setting(
        size("8MB"),
        "Size of the kcp transport's data buffer; not used with tcp.",
        rule="required,minBytes=16kB,maxBytes=100MB",
    )
    kcp_response_buffer: ByteSize = setting(
        size("512KB"),
        "Size of the kcp transport's response buffer; not used with tcp.",
        rule="required,minBytes=16kB,maxBytes=100MB",
    )
    pipeline_balancer: str = setting(
        "roundRobin",
        "How records are distributed over the open slices of a sink: rand, roundRobin.",
        rule="required,oneof=rand roundRobin",
    )
    insecure: bool = setting(
        False,
        "Allow the disk writer to listen on addresses other than loopback without a secret or TLS.",
    )
    secret: str = setting(
        "",
        "Secret with which source nodes and disk writers authenticate each other. Unless the "
        "writer listens on loopback, the secret or TLS is required.",
        secret=True,
    )
    tls: WriterTlsSettings = group(WriterTlsSettings)


@attrs.frozen
class WriterAllocationSettings:
    """The settings of reserving disk space for a slice."""

    enabled: bool = setting(True, "Reserve disk space for a slice when it is opened.")
    static: ByteSize = setting(
        size("100MB"),
        "Disk space reserved for a slice if its sink has no statistics yet.",
        rule="required",
    )
    relative: int = setting(
        110,
        "Disk space reserved for a slice, in percent of the size of the sink's previous slices.",
        rule="min=100,max=500",
        unsigned=True,
    )


@attrs.frozen
class WriterSettings:
    """The settings of writer nodes."""

    network: WriterNetworkSettings = group(WriterNetworkSettings)
    allocation: WriterAllocationSettings = group(WriterAllocationSettings)


@attrs.frozen
class LocalLevelSettings:
    """The settings of the level ``local``."""

    volume: VolumeSettings = group(VolumeSettings)
    encoding: EncodingSettings = group(EncodingSettings)
    writer: WriterSettings = group(WriterSettings)
    quota: ByteSize = setting(
        size("0B"),
        "Maximum compressed size of one sink's records on all local disks together; 0 = unlimited.",
        override="unlisted",
    )
