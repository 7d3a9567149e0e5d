"""A valid value for each setting that differs from its default."""

from __future__ import annotations

import base64
from typing import Any

from stream.settings.declare import Leaf
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

KEY = base64.b64encode(b"k" * 32).decode()

VALID = {
    "STREAM_ETCD_ENDPOINT": "etcd:2379",
    "STREAM_ETCD_NAMESPACE": "stream",
    "STREAM_STORAGE_API_HOST": "connection.keboola.com",
    "STREAM_SOURCE_HTTP_PUBLIC_URL": "https://stream-in.keboola.com",
    "STREAM_STORAGE_VOLUMES_PATH": "/stream/volumes",
}
"""The environment of a first run: settings without a default."""

_TEXTS = {
    "storageApiHost": "connection.example.com",
    "etcd.endpoint": "one:2379,http://two:2379",
    "etcd.namespace": "other/",
    "api.publicUrl": "https://stream.example.com",
    "source.http.publicUrl": "https://in.example.com",
    "auth.provider": "stream",
    "source.withoutSink": "refuse",
    "encryption.provider": "aes",
    "sandbox.staging.provider": "aws",
    "encryption.aes.secretKey": KEY,
    "encryption.azure.keyVaultUrl": "https://vault.example.com",
    "storage.level.local.encoding.compression.type": "zstd",
    "storage.level.local.encoding.compression.gzip.implementation": "fast",
    "storage.level.local.encoding.sync.mode": "cache",
    "storage.level.local.writer.network.pipelineBalancer": "rand",
    "storage.metadataCleanup.activeFileExpiration": "100h",
    "manhole.listen": "127.0.0.2:22",
    "localPostgres.listen": "127.0.0.2:5432",
    "log.format": "text",
    "log.levels": "etcd=debug,stream.sink=warn",
    "tracing.endpoint": "https://collector.example.com/v1/traces",
    "source.http.trustedProxies": "10.0.0.0/8,192.168.1.1",
    "storage.level.local.volume.assignment.preferredTypes": "fast,slow",
    "target.connections": '{warehouse: {type: postgres, dsn: "postgresql://db/events"}}',
}

# These have a single valid value, which is their default.
FIXED = frozenset(
    {
        "storage.level.local.encoding.encoder.type",
        "storage.level.local.writer.network.transport",
    }
)


def text_for(leaf: Leaf) -> str:
    """Return a valid text that isn't the default."""
    if leaf.key in _TEXTS:
        return _TEXTS[leaf.key]
    if leaf.is_bool:
        return "false" if leaf.default else "true"
    if leaf.type in {int, Duration, ByteSize}:
        return _number_for(leaf)
    return "127.0.0.1:1234" if leaf.rule.argument("hostname_port") is not None else "something"


def _number_for(leaf: Leaf) -> str:
    low, high = bounds(leaf)
    if low is not None and low != leaf.default and low:
        return str(low)
    if high is not None and high != leaf.default:
        return str(high)
    return "7s" if leaf.type is Duration else "7"


def bounds(leaf: Leaf) -> tuple[Any, Any]:
    """Return the least and the greatest value that the rule allows, None for no limit."""
    rule = leaf.rule
    if leaf.type is Duration:
        least, greatest = rule.argument("minDuration"), rule.argument("maxDuration")
        return least and Duration.parse(least), greatest and Duration.parse(greatest)
    if leaf.type is ByteSize:
        least, greatest = rule.argument("minBytes"), rule.argument("maxBytes")
        return least and ByteSize.parse(least), greatest and ByteSize.parse(greatest)
    least, greatest = rule.argument("min"), rule.argument("max")
    return least and int(least), greatest and int(greatest)


def environment_for(leaf: Leaf) -> dict[str, str]:
    """Return the environment in which *leaf* has an effect, without *leaf* itself."""
    environ = dict(VALID)
    section, _, rest = leaf.key.partition(".")
    if section == "encryption" and "." in rest:
        provider = rest.partition(".")[0]
        environ |= {
            "STREAM_ENCRYPTION_PROVIDER": provider,
            "STREAM_ENCRYPTION_AES_SECRET_KEY": base64.b64encode(b"x" * 32).decode(),
            "STREAM_ENCRYPTION_GCP_KMS_KEY_ID": "key",
            "STREAM_ENCRYPTION_AWS_REGION": "eu-central-1",
            "STREAM_ENCRYPTION_AWS_KMS_KEY_ID": "key",
            "STREAM_ENCRYPTION_AZURE_KEY_VAULT_URL": "https://v.example.com",
            "STREAM_ENCRYPTION_AZURE_KEY_NAME": "key",
        }
    elif leaf.key == "encryption.provider":
        environ["STREAM_ENCRYPTION_AES_SECRET_KEY"] = KEY
    environ.pop(leaf.env, None)
    return environ
