"""The declarations of settings: names, defaults, attributes."""

from __future__ import annotations

import pytest

from stream.settings import LEAVES, Settings, nearest
from stream.settings.declare import flag_name
from stream.settings.tree import LEAVES_BY_KEY
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration


@pytest.mark.parametrize(
    ("key", "flag"),
    [
        ("debugHTTPClient", "debug-httpclient"),
        ("nodeID", "node-id"),
        ("storage.statistics.cache.L2.enabled", "storage-statistics-cache-l2-enabled"),
        ("api.publicUrl", "api-public-url"),
        ("a b..c", "a-b-c"),
    ],
)
def test_flag_name(key: str, flag: str) -> None:
    """A run of capitals is one word of the flag."""
    assert flag_name(key) == flag


def test_names_are_unique() -> None:
    """No two settings share a key, a flag or a variable."""
    assert len({leaf.key for leaf in LEAVES}) == len(LEAVES)
    assert len({leaf.flag for leaf in LEAVES}) == len(LEAVES)
    assert len({leaf.env for leaf in LEAVES}) == len(LEAVES)


def test_defaults_are_valid() -> None:
    """A default is invalid only if it is missing."""
    for leaf in LEAVES:
        assert leaf.rule.violation(leaf.default) in {None, "is a required field"}, leaf.key


def test_values_have_the_declared_types() -> None:
    """Each default has the type of its annotation."""
    settings = Settings()
    for leaf in LEAVES:
        assert type(leaf.get(settings)) is leaf.type, leaf.key


def test_values_by_snake_case_names() -> None:
    """Attributes are named like the parts of the key, in snake_case."""
    settings = Settings()
    assert settings.node_id
    assert settings.hostname == "localhost"
    assert settings.source.http.max_request_body_size == ByteSize.parse("1MB")
    assert settings.storage.level.local.encoding.sync.check_interval == Duration.parse("5ms")
    assert settings.storage.level.target.import_.trigger.count == 50000
    assert settings.storage.statistics.cache.l2.enabled is True


def test_special_names() -> None:
    """Names that aren't derived from the key are those that operators know."""
    assert LEAVES_BY_KEY["debugHTTPClient"].env == "STREAM_DEBUG_HTTPCLIENT"
    assert LEAVES_BY_KEY["etcd.dataDir"].env == "STREAM_ETCD_DATA_DIR"
    assert LEAVES_BY_KEY["encryption.gcp.kmsKeyId"].env == "STREAM_ENCRYPTION_GCP_KMS_KEY_ID"


def test_secrets_are_not_in_the_repr() -> None:
    """Printed settings don't contain secret values."""
    secret = {leaf.key for leaf in LEAVES if leaf.secret}
    assert secret == {
        "etcd.password",
        "storage.level.local.writer.network.secret",
        "target.connections",
        "encryption.aes.secretKey",
        "sandbox.token",
        "sandbox.staging.secret",
    }
    assert "sandbox-token" not in repr(Settings())


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("source.http.lisen", "source.http.listen"),
        ("nodeId", "nodeID"),
        ("etcd.endpoints", "etcd.endpoint"),
        ("STREAM_METRICS_LISTEN_ADDRESS", "STREAM_METRICS_LISTEN"),
        ("STREAM_NODEID", "STREAM_NODE_ID"),
        ("--node_id", "--node-id"),
        ("api-listne", "api-listen"),
    ],
)
def test_a_misspelt_name(wrong: str, right: str) -> None:
    """The most similar name is suggested in the same form."""
    assert nearest(wrong) == right
