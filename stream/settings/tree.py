"""The settings of the service, a typed tree in which each leaf is declared once."""

# ruff: noqa: RUF009 — `setting` and `group` create attrs fields

from __future__ import annotations

import socket

import attrs

from stream.settings.connections import Connections
from stream.settings.declare import Leaf, duration, group, leaves_of, setting, size
from stream.settings.storage import StorageSettings
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

__all__ = [
    "LEAVES",
    "LEAVES_BY_FORMER_KEY",
    "LEAVES_BY_KEY",
    "AESEncryptionSettings",
    "APISettings",
    "AWSEncryptionSettings",
    "AuthSettings",
    "AzureEncryptionSettings",
    "DatadogProfilerSettings",
    "DatadogSettings",
    "DistributionSettings",
    "EncryptionSettings",
    "EtcdSettings",
    "GCPEncryptionSettings",
    "HTTPSourceSettings",
    "KeboolaTableSettings",
    "LocalPostgresSettings",
    "LogSettings",
    "ManholeSettings",
    "MetricsSettings",
    "PprofSettings",
    "QuarantinePlaceSettings",
    "QuarantineSettings",
    "SandboxSettings",
    "SandboxStagingSettings",
    "Settings",
    "SinkSettings",
    "SourceSettings",
    "TableSinkSettings",
    "TaskSettings",
    "TemplateSettings",
    "TracingSettings",
]


@attrs.frozen
class PprofSettings:
    """The settings of the profiling listener."""

    enabled: bool = setting(False, "Serve profiles of the running process over HTTP.")
    listen: str = setting(
        "127.0.0.1:4000",
        "Address of the profiling HTTP server. It shows the process's internals: keep it local.",
        rule="required,hostname_port",
    )


@attrs.frozen
class ManholeSettings:
    """The settings of the SSH console."""

    enabled: bool = setting(
        False,
        "Provide a Python console of the process over SSH. Its users can do anything that the "
        "process can do.",
    )
    listen: str = setting(
        "127.0.0.1:4022",
        "Address of the console; it must be on loopback.",
        rule="required,loopback_port",
    )
    host_key: str = setting("", "File with the private key of the console's SSH server.")
    authorized_keys: str = setting("", "File with the public keys of the users of the console.")


@attrs.frozen
class LogSettings:
    """The settings of the log."""

    format: str = setting(
        "auto",
        "Format of log lines: json, text, or auto = short on a terminal, otherwise json.",
        rule="required,oneof=auto json text",
    )
    file: str = setting("", "Log file, which is reopened on SIGHUP; empty = standard output.")
    access_log: bool = setting(True, "Log each request to the API.")
    levels: tuple[str, ...] = setting(
        (), "Log levels of components that differ from the default level, for example etcd=debug."
    )


@attrs.frozen
class TracingSettings:
    """The settings of tracing."""

    enabled: bool = setting(False, "Send OpenTelemetry spans; needs stream-service[tracing].")
    endpoint: str = setting(
        "http://127.0.0.1:4318/v1/traces",
        "URL of the collector that accepts spans by OTLP over HTTP.",
        rule="required,url",
    )
    sample_ratio: int = setting(
        100, "Percentage of operations whose spans are sent.", rule="min=0,max=100"
    )


@attrs.frozen
class DatadogProfilerSettings:
    """The settings of Datadog's profiler."""

    enabled: bool = setting(False, "Send profiles to Datadog.")
    cpu: bool = setting(True, "Profile the CPU time.")
    memory: bool = setting(True, "Profile the memory.")
    block: bool = setting(False, "Profile blocking; this may have a large overhead.")
    mutex: bool = setting(False, "Profile waiting for locks; this may have a large overhead.")
    goroutine: bool = setting(False, "Profile concurrent calls; this may have a large overhead.")


@attrs.frozen
class DatadogSettings:
    """The settings of Datadog."""

    enabled: bool = setting(True, "Send traces to Datadog.")
    debug: bool = setting(False, "Log what the tracer does.")
    profiler: DatadogProfilerSettings = group(DatadogProfilerSettings)


@attrs.frozen
class EtcdSettings:
    """The settings of the connection to etcd."""

    endpoint: str = setting(
        "", "Addresses of etcd as host:port, separated by commas.", rule="required,endpoints"
    )
    namespace: str = setting("", "Prefix of all keys in etcd.", rule="required")
    username: str = setting("", "User name for etcd; empty = no authentication.")
    password: str = setting("", "Password for etcd.", secret=True)
    connect_timeout: Duration = setting(
        duration("30s"), "How long to wait for etcd at startup.", rule="required"
    )
    keep_alive_timeout: Duration = setting(
        duration("5s"),
        "Time without a response after which a connection counts as dead.",
        rule="required",
    )
    keep_alive_interval: Duration = setting(
        duration("10s"), "Interval at which idle connections are checked.", rule="required"
    )
    debug_log: bool = setting(False, "Log each operation of the etcd client to stderr.")
    data_dir: str = setting(
        "",
        "Data directory of the embedded etcd. With the embedded etcd, the default endpoint is "
        "127.0.0.1:2379.",
    )


@attrs.frozen
class MetricsSettings:
    """The settings of the metrics listener."""

    listen: str = setting(
        "0.0.0.0:9000", "Address of the Prometheus metrics.", rule="required,hostname_port"
    )


@attrs.frozen
class TaskSettings:
    """The settings of tasks."""

    ttl_seconds: int = setting(
        15, "Seconds after which the tasks of a dead node fail.", rule="required"
    )
    cleanup_enabled: bool = setting(True, "Delete the records of old tasks.")
    cleanup_interval: Duration = setting(
        duration("1h"), "Interval between cleanups of task records.", rule="required"
    )


@attrs.frozen
class TailSettings:
    """The settings of live tails."""

    listen: str = setting(
        "127.0.0.1:0",
        "Address to which source nodes send records of live tails. Loopback is enough on a single "
        "machine; port 0 means any free port.",
        rule="required,hostname_port",
    )
    max_concurrent: int = setting(
        100,
        "Maximum number of live tails that a node serves at the same time.",
        rule="min=0,max=1000",
    )


@attrs.frozen
class ConsoleSettings:
    """The settings of the web console."""

    enabled: bool = setting(True, "Serve the web console at /console/.")


@attrs.frozen
class LiveSettings:
    """The settings of the live streams of counters and states."""

    max_concurrent: int = setting(
        200,
        "Maximum number of live streams of branches that a node serves at the same time.",
        rule="min=0,max=900",
    )


@attrs.frozen
class DefinitionsSettings:
    """The settings of the definitions of projects."""

    max_size: ByteSize = setting(
        size("256MB"),
        "Maximum size in etcd of the sources and sinks of one project, with all their versions and "
        "mappings. All projects share the quota of etcd, 8 GB, so one project can take 1/32 of it.",
        rule="required,minBytes=16MB,maxBytes=1TB",
    )
    max_sinks: int = setting(
        10_000,
        "Maximum number of sinks of one project. The records of the files of a sink take up to "
        "220 KB in etcd.",
        rule="required,min=100,max=1000000",
    )


@attrs.frozen
class APISettings:
    """The settings of the API."""

    listen: str = setting("0.0.0.0:8000", "Address of the API.", rule="required,hostname_port")
    public_url: str = setting(
        "http://localhost:8000", "Public URL of the API.", rule="required,url"
    )
    strict: bool = setting(
        False, "Refuse a body with unknown members instead of returning warnings."
    )
    task: TaskSettings = group(TaskSettings)
    tail: TailSettings = group(TailSettings)
    console: ConsoleSettings = group(ConsoleSettings)
    live: LiveSettings = group(LiveSettings)
    definitions: DefinitionsSettings = group(DefinitionsSettings)
    kubernetes_token_path: str = setting(
        "", "File with the token of the Kubernetes service account; empty = off."
    )


@attrs.frozen
class DistributionSettings:
    """The settings of the distribution of work over nodes."""

    grant_timeout: Duration = setting(
        duration("5s"),
        "Timeout for getting an etcd lease.",
        rule="required,minDuration=1s,maxDuration=1m",
    )
    startup_timeout: Duration = setting(
        duration("1m"),
        "Timeout for registering the node in a group.",
        rule="required,minDuration=1s,maxDuration=5m",
    )
    shutdown_timeout: Duration = setting(
        duration("10s"),
        "Timeout for removing the node from a group.",
        rule="required,minDuration=1s,maxDuration=5m",
    )
    events_group_interval: Duration = setting(
        duration("5s"),
        "Interval within which changes of a group are handled together; 0 = no grouping.",
        rule="maxDuration=30s",
    )
    ttl_seconds: int = setting(
        15,
        "Seconds after which a dead node leaves its groups.",
        rule="required,min=1,max=30",
    )


@attrs.frozen
class IdempotencySettings:
    """The settings of idempotency keys."""

    window: Duration = setting(
        duration("10m"),
        "How long a node remembers the idempotency key of a request that it answered.",
        rule="required,minDuration=1s,maxDuration=24h",
    )
    max_keys: int = setting(
        100000,
        "Maximum number of remembered idempotency keys; at the limit, the oldest keys of the "
        "source with the most keys are evicted.",
        rule="required,min=1,max=10000000",
    )
    ask_writers: bool = setting(
        True,
        "Ask the writers whether another node, or this node before a restart, has stored a "
        "request with the same idempotency key.",
    )


@attrs.frozen
class TemplateSettings:
    """The settings of templates."""

    processes: int = setting(
        4,
        "Maximum number of template processes for each process that accepts records. Projects with "
        "slow templates can use all but one of them.",
        rule="required,min=1,max=64",
    )
    processor_time: Duration = setting(
        duration("1s"),
        "Max CPU time of all templates of one record.",
        rule="required,minDuration=10ms,maxDuration=10s",
    )
    memory: ByteSize = setting(
        size("256MB"),
        "Maximum memory of the templates in one process.",
        rule="required,minBytes=64MB,maxBytes=4GB",
    )
    queue_records: int = setting(
        5000,
        "Maximum number of records of one project that wait for their templates.",
        rule="required,min=1,max=1000000",
    )
    queue_bytes: ByteSize = setting(
        size("16MB"),
        "Maximum size of the records of one project that wait for their templates; the limit for "
        "all projects together is four times as high.",
        rule="required,minBytes=1MB,maxBytes=1GB",
    )


@attrs.frozen
class HTTPSourceSettings:
    """The settings of HTTP sources."""

    listen: str = setting(
        "0.0.0.0:7000", "Address of the HTTP source.", rule="required,hostname_port"
    )
    public_url: str = setting("", "URL of the HTTP source for producers.", rule="required,url")
    request_timeout: Duration = setting(
        duration("30s"),
        "Timeout for reading a request and for answering it.",
        rule="required,minDuration=1s,maxDuration=60s",
    )
    idle_timeout: Duration = setting(
        duration("30s"),
        "How long a connection may wait for a request, or for the rest of a request.",
        rule="required,minDuration=1s,maxDuration=60s",
    )
    min_upload_rate: ByteSize = setting(
        size("4KB"),
        "Number of body bytes whose arrival extends the request timeout by one second.",
        rule="required,minBytes=100B,maxBytes=1MB",
    )
    max_connections: int = setting(
        20000,
        "Maximum number of simultaneous connections; never more than three quarters of the "
        "process's limit of open files.",
        rule="required,min=100,max=1000000",
    )
    max_held_size: ByteSize = setting(
        size("128MB"),
        "Maximum total size of the unanswered requests of all connections.",
        rule="required,minBytes=16MB,maxBytes=64GB",
    )
    read_buffer_size: ByteSize = setting(
        size("16KB"),
        "Read buffer of a connection; all headers of a request must fit in it.",
        rule="required,minBytes=1kB,maxBytes=1MB",
    )
    write_buffer_size: ByteSize = setting(
        size("4KB"),
        "Write buffer of a connection; all headers of an answer must fit in it.",
        rule="required,minBytes=1kB,maxBytes=1MB",
    )
    max_request_body_size: ByteSize = setting(
        size("1MB"), "Maximum size of a request body.", rule="required,minBytes=100B,maxBytes=4MB"
    )
    max_decoded_body_size: ByteSize = setting(
        size("16MB"),
        "Maximum size of a decompressed request body.",
        rule="required,minBytes=100B,maxBytes=64MB",
    )
    max_batch_records: int = setting(
        10000, "Maximum number of records in one request.", rule="required,min=1,max=100000"
    )
    read_text_as_json: bool = setting(
        False,
        "Whether a text/plain body is read as JSON, because some senders use this type for JSON.",
        override="unlisted",
    )
    idempotency: IdempotencySettings = group(IdempotencySettings)
    workers: int = setting(
        1,
        "Number of processes that accept records on the same address.",
        rule="required,min=1,max=64",
    )
    share_port: bool = setting(
        False, "Whether other processes on this host may also listen on the same address."
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        "Addresses and networks of the proxies whose X-Forwarded-For header is trusted.",
        rule="networks",
    )


@attrs.frozen
class QuarantinePlaceSettings:
    """The settings of the directory and the listener for a source node's rejected records."""

    path: str = setting(
        "",
        "Directory of the rejected records of this node. Empty = .rejected in the directory of "
        "the volumes; a node without volumes then keeps none.",
        former="source.deadLetterPath",
    )
    listen: str = setting(
        "127.0.0.1:0",
        "Address from which the API reads the rejected records of this node. Loopback is enough "
        "on a single machine; port 0 means any free port.",
        rule="required,hostname_port",
    )


@attrs.frozen
class SourceSettings:
    """The settings of sources."""

    http: HTTPSourceSettings = group(HTTPSourceSettings)
    templates: TemplateSettings = group(TemplateSettings)
    quarantine: QuarantinePlaceSettings = group(QuarantinePlaceSettings)
    without_sink: str = setting(
        "accept",
        "What a source without an enabled sink does with records: accept them without storing "
        "them, or refuse them with 503.",
        rule="required,oneof=accept refuse",
        override="unlisted",
    )


@attrs.frozen
class KeboolaTableSettings:
    """The settings of tables in Keboola."""

    event_send_timeout: Duration = setting(
        duration("30s"), "Timeout for sending an event to the Storage API."
    )
    job_limit: int = setting(2, "Maximum number of simultaneous import jobs of one sink.")


@attrs.frozen
class TableSinkSettings:
    """The settings of tables."""

    keboola: KeboolaTableSettings = group(KeboolaTableSettings)


@attrs.frozen
class QuarantineSettings:
    """The settings of the quarantine of records that can't be mapped."""

    enabled: bool = setting(
        True,
        "Keep records that can't be rendered, for inspection and replay.",
        override="unlisted",
        former="sink.deadLetter.enabled",
    )
    max_size: ByteSize = setting(
        size("64MB"),
        "Max size of the rejected records of one sink on one source node; the oldest are dropped.",
        rule="required,minBytes=64kB,maxBytes=1GB",
        override="unlisted",
        former="sink.deadLetter.maxSize",
    )
    max_age: Duration = setting(
        duration("168h"),
        "Age at which rejected records are deleted.",
        rule="required,minDuration=1m,maxDuration=8760h",
        override="unlisted",
        former="sink.deadLetter.maxAge",
    )


@attrs.frozen
class SinkSettings:
    """The settings of sinks."""

    table: TableSinkSettings = group(TableSinkSettings)
    quarantine: QuarantineSettings = group(QuarantineSettings)


@attrs.frozen
class TargetStagingSettings:
    """The settings of the staging for targets that have none of their own."""

    url: str = setting(
        "",
        "URL of a bucket (s3://bucket/prefix, gs://…, az://container/prefix) or of a folder "
        "(file:///var/lib/stream/staging) that all readers and coordinators can reach. Empty = "
        "the folder staging in the parent directory of the volumes, if both run in one process.",
    )
    region: str = setting("", "Region of an S3 bucket; empty = the region of the environment.")
    endpoint: str = setting("", "URL of an object store other than the cloud's own.")
    account: str = setting("", "Name of the Azure account.")
    credential_file: str = setting(
        "",
        "JSON file with the credentials: accessKeyId and secretAccessKey (s3), accountKey or "
        "sasToken (az), the key of a service account (gs). Empty = the credentials of the "
        "environment.",
    )


@attrs.frozen
class TargetSettings:
    """The settings of targets outside Keboola."""

    connections: Connections = setting(
        Connections(),
        "Connections that sinks may use, by name. Each has a type, options, and the projects that "
        "may use it (by default all projects).",
        secret=True,
    )
    job_limit: int = setting(
        2,
        "Maximum number of simultaneous imports of one sink into a table of a connection.",
        rule="required,min=1,max=100",
    )
    staging: TargetStagingSettings = group(TargetStagingSettings)


@attrs.frozen
class AuthSettings:
    """The settings of the authority that verifies the API's tokens."""

    provider: str = setting(
        "",
        "Issuer of the API's tokens: keboola (the Storage API), which is the default if "
        "storageApiHost is set, or stream (Stream itself).",
    )
    bootstrap_token_file: str = setting(
        "",
        "File with a first token that may only create tokens and branches; used with the provider "
        "stream; empty = none.",
    )
    bootstrap_project: int = setting(1, "Project of the bootstrap token.", rule="min=1")


@attrs.frozen
class AESEncryptionSettings:
    """The settings of encryption with a local AES key."""

    secret_key: bytes = setting(
        b"", "Key of 32 bytes, encoded as base64.", rule="required,len=32", secret=True
    )


@attrs.frozen
class GCPEncryptionSettings:
    """The settings of encryption with Google Cloud KMS."""

    kms_key_id: str = setting("", "Name of the key in Google Cloud KMS.", rule="required")


@attrs.frozen
class AWSEncryptionSettings:
    """The settings of encryption with AWS KMS."""

    region: str = setting("", "AWS region of the key.", rule="required")
    kms_key_id: str = setting("", "ID of the key in AWS KMS.", rule="required")


@attrs.frozen
class AzureEncryptionSettings:
    """The settings of encryption with Azure Key Vault."""

    key_vault_url: str = setting("", "URL of the Azure key vault.", rule="required,url")
    key_name: str = setting("", "Name of the key in the vault.", rule="required")


@attrs.frozen
class EncryptionSettings:
    """The settings of encrypting stored tokens; only the chosen provider's section applies."""

    provider: str = setting(
        "none",
        "Encryption of stored tokens: none, aes, gcp, aws, azure.",
        rule="required,oneof=none aes gcp aws azure",
    )
    aes: AESEncryptionSettings = group(AESEncryptionSettings)
    gcp: GCPEncryptionSettings = group(GCPEncryptionSettings)
    aws: AWSEncryptionSettings = group(AWSEncryptionSettings)
    azure: AzureEncryptionSettings = group(AzureEncryptionSettings)


@attrs.frozen
class SandboxStagingSettings:
    """The settings of the sandbox's staging, its own directory or an object store."""

    provider: str = setting(
        "local",
        "Staging storage of the sandbox: local (its directory), aws, azure, gcp.",
        rule="required,oneof=local aws azure gcp",
    )
    endpoint: str = setting("", "URL of the object store; not used with local.")
    bucket: str = setting("stream-staging", "Bucket or container.", rule="required")
    region: str = setting("us-east-1", "Region of the bucket.", rule="required")
    key_id: str = setting("", "Access key ID (aws) or account name (azure).")
    secret: str = setting(
        "", "Secret access key (aws), account key (azure) or bearer token (gcp).", secret=True
    )


@attrs.frozen
class SandboxSettings:
    """The settings of the sandbox, the local emulation of the Storage API."""

    listen: str = setting(
        "127.0.0.1:8001", "Address of the sandbox's Storage API.", rule="required,hostname_port"
    )
    token: str = setting(
        "sandbox-token", "Token that the sandbox accepts.", rule="required", secret=True
    )
    project_id: int = setting(123, "ID of the sandbox's project.", rule="required")
    branch_id: int = setting(456, "ID of the project's default branch.", rule="required")
    path: str = setting("", "Directory of the sandbox's tables and staged files.")
    staging: SandboxStagingSettings = group(SandboxStagingSettings)


@attrs.frozen
class LocalPostgresSettings:
    """The settings of a PostgreSQL server that the service runs itself, for one machine."""

    listen: str = setting(
        "127.0.0.1:5433",
        "Address of the embedded PostgreSQL.",
        rule="required,loopback_port",
    )
    path: str = setting(
        "", "Directory of the embedded PostgreSQL's data and of its user's password."
    )


@attrs.frozen
class Settings:
    """All settings. `stream.settings.load` creates and validates them."""

    debug_log: bool = setting(False, "Log details that help with debugging.")
    debug_http_client: bool = setting(
        False,
        "Log each request to the Storage API and its response; secrets are masked.",
        key="debugHTTPClient",
    )
    node_id: str = setting(
        socket.gethostname(),
        "Name of the node, unique in the cluster.",
        rule="required",
        key="nodeID",
        shown_default="host name of the machine",
    )
    stop_timeout: Duration = setting(
        duration("55s"),
        "How long shutdown may take; after this time the process exits with code 1, even if "
        "services are still running. With a writer or a reader the default is 9m50s.",
        rule="required,minDuration=1s,maxDuration=1h",
    )
    watch_telemetry_interval: Duration = setting(
        duration("5m"), "Interval between measurements of the mirrors of etcd prefixes."
    )
    hostname: str = setting(
        "localhost", "Host name by which other nodes reach this node.", rule="required"
    )
    storage_api_host: str = setting(
        "",
        "Host or URL of the Storage API; required unless auth.provider is stream.",
        rule="host_or_url",
    )
    pprof: PprofSettings = group(PprofSettings)
    manhole: ManholeSettings = group(ManholeSettings)
    log: LogSettings = group(LogSettings)
    tracing: TracingSettings = group(TracingSettings)
    datadog: DatadogSettings = group(DatadogSettings)
    etcd: EtcdSettings = group(EtcdSettings)
    metrics: MetricsSettings = group(MetricsSettings)
    api: APISettings = group(APISettings)
    distribution: DistributionSettings = group(DistributionSettings)
    source: SourceSettings = group(SourceSettings)
    sink: SinkSettings = group(SinkSettings)
    storage: StorageSettings = group(StorageSettings)
    target: TargetSettings = group(TargetSettings)
    auth: AuthSettings = group(AuthSettings)
    encryption: EncryptionSettings = group(EncryptionSettings)
    sandbox: SandboxSettings = group(SandboxSettings)
    local_postgres: LocalPostgresSettings = group(LocalPostgresSettings)


LEAVES: tuple[Leaf, ...] = leaves_of(Settings)
LEAVES_BY_KEY: dict[str, Leaf] = {leaf.key: leaf for leaf in LEAVES}
LEAVES_BY_FORMER_KEY: dict[str, Leaf] = {leaf.former: leaf for leaf in LEAVES if leaf.former}
"""Settings by their old key, which is still accepted."""
