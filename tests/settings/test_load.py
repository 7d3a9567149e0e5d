"""Sources of values, and errors about invalid ones."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stream.etcd import EmbeddedEtcd, EtcdClient
from stream.settings import LEAVES, Leaf, SettingsError, load
from stream.settings.connections import Connections
from stream.settings.convert import convert
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration
from tests.settings.samples import FIXED, KEY, VALID, environment_for, text_for

CHANGEABLE = [leaf for leaf in LEAVES if leaf.key not in FIXED]


def _nested(key: str, value: Any) -> dict[str, Any]:
    for segment in reversed(key.split(".")):
        value = {segment: value}
    return value  # type: ignore[no-any-return]


def _write(path: Path, key: str, value: Any) -> str:
    tree = _nested(key, value)
    path.write_text(json.dumps(tree) if path.suffix == ".json" else yaml.safe_dump(tree))
    return str(path)


def _native(leaf: Leaf, text: str) -> Any:
    if leaf.is_bool:
        return text == "true"
    if leaf.type is int:
        return int(text)
    return text.split(",") if leaf.is_list else text


@pytest.mark.parametrize("leaf", CHANGEABLE, ids=lambda leaf: leaf.key)
def test_each_source_changes_each_setting(leaf: Leaf, tmp_path: Path) -> None:
    """Flag, variable, YAML and JSON set the same value, and it isn't the default."""
    environ = environment_for(leaf)
    text = text_for(leaf)
    expected = convert(leaf.type, text)
    assert expected != leaf.default
    yaml_file = _write(tmp_path / "c.yaml", leaf.key, _native(leaf, text))
    json_file = _write(tmp_path / "c.json", leaf.key, _native(leaf, text))
    assert leaf.get(load({leaf.flag: text}, environ)) == expected
    assert leaf.get(load({}, {**environ, leaf.env: text})) == expected
    assert leaf.get(load({}, environ, [yaml_file])) == expected
    assert leaf.get(load({}, environ, [json_file])) == expected


@pytest.mark.parametrize(
    "leaf", [leaf for leaf in LEAVES if leaf.rule.required], ids=lambda leaf: leaf.key
)
def test_an_empty_required_value(leaf: Leaf) -> None:
    """An empty variable is a value, which a required setting refuses; the error names the key, the
    variable and the flag.
    """
    own = {
        "etcd.endpoint": 'Invalid "etcd": etcd endpoint is not set.',
        "etcd.namespace": 'Invalid "etcd": etcd namespace is not set.',
        "api.publicUrl": 'Invalid "api": public address is not set.',
    }
    expected = own.get(leaf.key, f'"{leaf.key}" is a required field')
    problems = _problems({}, {**environment_for(leaf), leaf.env: ""})
    assert expected in problems
    assert f'"{leaf.key}"' in problems
    assert f"{leaf.env} or --{leaf.flag}" in problems


@pytest.mark.parametrize(
    "leaf", [leaf for leaf in LEAVES if leaf.type not in {str, tuple}], ids=lambda leaf: leaf.key
)
def test_a_value_of_another_type(leaf: Leaf) -> None:
    """The error names the setting and its source; a secret isn't shown."""
    printed = _problems({leaf.flag: "?!"}, environment_for(leaf))
    shown = "" if leaf.secret else ' value "?!"'
    assert f'- Decode error:\n  - Invalid "{leaf.key}"{shown} in the flag --{leaf.flag}: ' in (
        printed.replace("Error:\n- Decode", "- Decode")
    )


@pytest.mark.parametrize(
    "leaf", [leaf for leaf in LEAVES if leaf.rule.argument("oneof")], ids=lambda leaf: leaf.key
)
def test_an_unknown_choice(leaf: Leaf) -> None:
    """The error lists the possible values."""
    known = leaf.rule.argument("oneof")
    printed = _problems({leaf.flag: "?!"}, environment_for(leaf))
    assert f'"{leaf.key}" must be one of [{known}]' in printed


def test_defaults() -> None:
    """A setting without a value has its default."""
    settings = load({}, VALID)
    assert settings.api.task.ttl_seconds == 15
    assert settings.hostname == "localhost"
    assert settings.node_id


def test_precedence(tmp_path: Path) -> None:
    """A flag overrides a variable, a variable a later file, and that an earlier file."""
    first = _write(tmp_path / "1.yml", "etcd.namespace", "first")
    second = _write(tmp_path / "2.json", "etcd.namespace", "second")
    last = _write(tmp_path / "3.yaml", "etcd.namespace", "last")
    environ = {key: value for key, value in VALID.items() if key != "STREAM_ETCD_NAMESPACE"}

    def namespace(flags: dict[str, str | list[str]], more: dict[str, str], *files: str) -> str:
        preset = {"etcd.namespace": "preset"}
        return load(flags, {**environ, **more}, files, defaults=preset).etcd.namespace

    assert namespace({}, {}) == "preset/"
    assert namespace({}, {}, first) == "first/"
    assert namespace({}, {}, first, second) == "second/"
    assert namespace({}, {"STREAM_CONFIG_FILE": last}, first, second) == "last/"
    variable = {"STREAM_CONFIG_FILE": last, "STREAM_ETCD_NAMESPACE": "env"}
    assert namespace({}, variable, first) == "env/"
    assert namespace({"etcd-namespace": "flag"}, variable, first) == "flag/"


def test_files_are_merged(tmp_path: Path) -> None:
    """A later file doesn't remove the other keys of a section."""
    first = _write(tmp_path / "1.yaml", "etcd", {"username": "u", "connectTimeout": "9s"})
    second = _write(tmp_path / "2.yaml", "etcd", {"username": "v"})
    settings = load({}, VALID, [first, second])
    assert settings.etcd.username == "v"
    assert settings.etcd.connect_timeout == Duration.parse("9s")


def test_an_empty_variable_is_set(tmp_path: Path) -> None:
    """An empty variable overrides the file's value."""
    path = _write(tmp_path / "c.yaml", "etcd.username", "root")
    assert load({}, {**VALID, "STREAM_ETCD_USERNAME": ""}, [path]).etcd.username == ""
    with pytest.raises(SettingsError, match='"nodeID" is a required field'):
        load({}, {**VALID, "STREAM_NODE_ID": ""})


def test_null_and_mask_set_nothing(tmp_path: Path) -> None:
    """A dump can be used as a file: nulls and masked secrets leave the value to others."""
    path = tmp_path / "c.yaml"
    path.write_text("etcd:\n  password: '*****'\n  username:\nsource: null\n")
    settings = load({}, {**VALID, "STREAM_ETCD_USERNAME": "root"}, [str(path)])
    assert settings.etcd.password == ""
    assert settings.etcd.username == "root"


def test_yaml_scalars_keep_their_spelling(tmp_path: Path) -> None:
    """YAML's numbers and booleans don't change a text."""
    path = tmp_path / "c.yaml"
    path.write_text("nodeID: 1.10\nhostname: no\napi: {task: {cleanupEnabled: off}}\n")
    settings = load({}, VALID, [str(path)])
    assert settings.node_id == "1.10"
    assert settings.hostname == "no"
    assert settings.api.task.cleanup_enabled is False


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (int, "42", 42),
        (int, 42.0, 42),
        (int, "", 0),
        (bool, "True", True),
        (bool, 0, False),
        (bool, "", False),
        (str, 12, "12"),
        (str, True, "true"),
        (tuple, "a, b,", ("a", "b")),
        (tuple, "[a,b]", ("a", "b")),
        (tuple, "", ()),
        (tuple, ["a", 1], ("a", "1")),
        (ByteSize, 123, ByteSize(123)),
        (ByteSize, "64kb", ByteSize(65536)),
        (Duration, "1m30s", Duration.of_seconds(90)),
        (Duration, "", Duration(0)),
        (bytes, "aGVsbG8=", b"hello"),
    ],
)
def test_lenient_typing(kind: type, raw: object, value: object) -> None:
    """Text and numbers are converted where the meaning is clear."""
    assert convert(kind, raw) == value


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (int, "1.5"),
        (int, "٣x"),
        (int, 2**70),
        (bool, "maybe"),
        (Duration, 30),
        (ByteSize, "-1"),
        (ByteSize, "big"),
        (bytes, "%%%"),
        (int, [1]),
        (str, {}),
        (tuple, {}),
        (tuple, [[1]]),
    ],
)
def test_ambiguous_values(kind: type, raw: object) -> None:
    """Ambiguous values are refused."""
    with pytest.raises(ValueError):
        convert(kind, raw)


@given(st.sampled_from([str, int, bool, bytes, tuple, Duration, ByteSize]), st.text())
def test_any_text_converts_or_is_refused(kind: type, text: str) -> None:
    """Any text is converted, or refused with a ValueError."""
    with contextlib.suppress(ValueError):
        assert isinstance(convert(kind, text), kind)


def _problems(flags: dict[str, Any], environ: dict[str, str], *files: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(flags, environ, files)
    return caught.value.printed()


def test_all_problems_are_reported() -> None:
    """Unknown names, undecodable and invalid values are reported together."""
    environ = {
        "STREAM_METRICS_LISTEN_ADDRESS": "0.0.0.0:9001",
        "STREAM_API_TASK_TTL_SECONDS": "foo",
        "STREAM_NODE_ID": "",
    }
    assert _problems({}, environ) == (
        "Error:\n"
        "- Value error:\n"
        "  - Unknown environment variable STREAM_METRICS_LISTEN_ADDRESS,"
        " did you mean STREAM_METRICS_LISTEN?\n"
        "- Decode error:\n"
        '  - Invalid "api.task.ttlSeconds" value "foo"'
        " in the environment variable STREAM_API_TASK_TTL_SECONDS: expected an integer.\n"
        "- Configuration is not valid:\n"
        '  - Invalid "etcd": etcd endpoint is not set.'
        ' Set "etcd.endpoint", STREAM_ETCD_ENDPOINT or --etcd-endpoint.\n'
        '  - Invalid "etcd": etcd namespace is not set.'
        ' Set "etcd.namespace", STREAM_ETCD_NAMESPACE or --etcd-namespace.\n'
        '  - Choose who knows the tokens of the API: set "storageApiHost"'
        " (STREAM_STORAGE_API_HOST or --storage-api-host) for projects of Keboola, or"
        ' "auth.provider" to "stream" (STREAM_AUTH_PROVIDER or --auth-provider) for projects'
        " without it.\n"
        '  - "nodeID" is a required field: set STREAM_NODE_ID or --node-id\n'
        '  - "source.http.publicUrl" is a required field:'
        " set STREAM_SOURCE_HTTP_PUBLIC_URL or --source-http-public-url\n"
        '  - "storage.volumesPath" is a required field:'
        " set STREAM_STORAGE_VOLUMES_PATH or --storage-volumes-path"
    )


def test_the_authority() -> None:
    """The Storage API verifies tokens if it is configured, unless another authority is chosen; one
    is required.
    """
    host = "STREAM_STORAGE_API_HOST"
    without = {name: value for name, value in VALID.items() if name != host}
    assert load({}, VALID).auth.provider == "keboola"
    assert load({"auth-provider": "stream"}, VALID).auth.provider == "stream"
    own = load({"auth-provider": "stream"}, without)
    assert (own.auth.provider, own.storage_api_host) == ("stream", "")
    assert 'Choose who knows the tokens of the API: set "storageApiHost"' in _problems({}, without)
    assert _problems({"auth-provider": "keboola"}, without).endswith(
        '- The "auth.provider" "keboola" needs "storageApiHost":'
        " set STREAM_STORAGE_API_HOST or --storage-api-host."
    )
    assert '"auth.provider" must be one of [keboola stream]' in _problems(
        {"auth-provider": "other"}, VALID
    )


def test_one_problem() -> None:
    """A single problem that doesn't fit on the line becomes a list item."""
    assert _problems({}, {**VALID, "STREAM_ETCD_ENDPOINT": " "}) == (
        'Error:\n- Configuration is not valid:\n  - Invalid "etcd": etcd endpoint is not set.'
        ' Set "etcd.endpoint", STREAM_ETCD_ENDPOINT or --etcd-endpoint.'
    )


@pytest.mark.parametrize("left_out", ["", " ", "/"])
def test_the_endpoint_of_etcd(left_out: str) -> None:
    """The components use the embedded etcd; without it, the endpoint is required."""
    environ = {**VALID, "STREAM_ETCD_ENDPOINT": left_out, "STREAM_ETCD_DATA_DIR": "/data"}
    endpoint = load({}, environ).etcd.endpoint
    assert endpoint == "127.0.0.1:2379"
    assert EmbeddedEtcd(None, endpoint, "/data")._address == endpoint
    EtcdClient(None, [endpoint], "x")


def test_an_unknown_key(tmp_path: Path) -> None:
    """The error for a misspelled key in a file suggests the most similar one."""
    path = _write(tmp_path / "c.yaml", "source.http.lisen", "x:1")
    assert 'Unknown key "source.http.lisen"' in _problems({}, VALID, path)
    assert 'did you mean "source.http.listen"?' in _problems({}, VALID, path)


def test_a_section_with_a_value(tmp_path: Path) -> None:
    """A value instead of a section is reported, and vice versa."""
    path = _write(tmp_path / "c.json", "source.http", 1)
    assert '"source.http" in the config file' in _problems({}, VALID, path)
    path = _write(tmp_path / "d.json", "nodeID", {"a": 1})
    assert "expected a text, found a section" in _problems({}, VALID, path)


@pytest.mark.parametrize(
    "name",
    [
        "STREAM_BUNDLE_DIR",
        "STREAM_TEST_ANYTHING",
        "STREAM_PAYLOAD_SIZE",
        "STREAM_SYNC_WAIT",
        "STREAM_API_SERVICE_HOST",
        "STREAM_API_SERVICE_PORT_HTTP",
        "STREAM_HTTP_SOURCE_PORT_80_TCP_ADDR",
        "STREAM_ETCD_PORT",
        "OTHER_VARIABLE",
    ],
)
def test_unrelated_variables(name: str) -> None:
    """Variables of tests, load scripts and Kubernetes' service links are ignored."""
    load({}, {**VALID, name: "x"})


def test_an_unknown_flag() -> None:
    """An unknown flag is the only reported problem."""
    assert _problems({"foo": "1"}, VALID) == "Error: Cannot parse flags: unknown flag: --foo."
    assert "did you mean --node-id?" in _problems({"node-idd": "1"}, VALID)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "c.toml",
            "",
            'Unexpected format ".toml" of the config file "{path}":'
            ' expected one of "yml", "yaml", "json".',
        ),
        ("c.yaml", "a: [", 'Cannot decode YAML config file "{path}": '),
        ("c.yaml", "- 1", 'Cannot decode YAML config file "{path}": expected sections and keys.'),
        ("c.json", "{", 'Cannot decode JSON config file "{path}": '),
        (
            "c.yaml",
            "etcd:\n  username: a\n  username: b",
            'Cannot decode YAML config file "{path}":'
            ' the key "username" occurs twice, line 3, column 3.',
        ),
        (
            "c.json",
            '{"nodeID": "a", "nodeID": "b"}',
            'Cannot decode JSON config file "{path}": the key "nodeID" occurs twice.',
        ),
        ("c.json", "[" * 99_999, 'Cannot decode JSON config file "{path}": nested too deeply.'),
        ("c.yaml", "[" * 1_200, 'Cannot decode YAML config file "{path}": nested too deeply.'),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: str, text: str) -> None:
    """The error names the file, and no further problem."""
    path = tmp_path / name
    path.write_text(content)
    printed = _problems({}, {}, str(path))
    assert text.replace("{path}", str(path)) in printed
    assert "required" not in printed


def test_a_missing_file(tmp_path: Path) -> None:
    """A missing file is reported."""
    path = str(tmp_path / "no.json")
    assert f'Cannot read config file "{path}": No such file or directory.' in _problems(
        {}, VALID, path
    )


def test_errors_contain_no_secrets(tmp_path: Path) -> None:
    """The error names a secret that can't be decoded, but doesn't show it."""
    environ = {
        **VALID,
        "STREAM_ENCRYPTION_PROVIDER": "aes",
        "STREAM_ENCRYPTION_AES_SECRET_KEY": "%my-key%",
    }
    printed = _problems({}, environ)
    assert 'Invalid "encryption.aes.secretKey" in the environment variable' in printed
    assert "my-key" not in printed


@pytest.mark.parametrize(
    "value",
    [
        *("[my-key", "*my-key", "!my-key x", "!my-key", "!a!my-key x", "%my-key"),
        *("!!int my-key", "!!bool my-key", "!!timestamp my-key", "!!float my-key", "!!map my-key"),
        *(
            "!!binary my-käy",
            '"my-key\\q"',
            "'my-key",
            "@my-key",
            "{my-key: *my-key}",
            "my-key: : x",
        ),
    ],
)
def test_errors_of_files_contain_no_secrets(tmp_path: Path, value: str) -> None:
    """A value that isn't YAML, or doesn't fit its tag, isn't shown."""
    path = tmp_path / "c.yaml"
    path.write_text(f"etcd:\n  password: {value}\n")
    printed = _problems({}, VALID, str(path))
    assert "Cannot decode YAML config file" in printed
    assert "my-k" not in printed
    with pytest.raises(ValueError) as raised:
        Connections.parse(f"a:\n  type: postgres\n  dsn: {value}\n")
    assert "my-k" not in str(raised.value)


def test_tokens_are_shown(tmp_path: Path) -> None:
    """The error says what is expected instead."""
    path = tmp_path / "c.yaml"
    path.write_text("etcd: [a, b\nc: d")
    assert "expected ',' or ']', but got ':', line 2, column 2." in _problems({}, VALID, str(path))


def test_addresses_and_prefixes_are_normalised() -> None:
    """Addresses and prefixes are normalised before they are checked."""
    settings = load(
        {
            "etcd-endpoint": " etcd:2379/ ",
            "etcd-namespace": " /stream/ ",
            "api-public-url": "stream.target.keboola.com/",
            "source-http-public-url": "https://in.keboola.com/",
        },
        VALID,
    )
    assert settings.etcd.endpoint == "etcd:2379"
    assert settings.etcd.namespace == "stream/"
    assert settings.api.public_url == "https://stream.target.keboola.com"
    assert settings.source.http.public_url == "https://in.keboola.com"


def test_checks_of_several_fields() -> None:
    """Some checks involve several fields."""
    assert 'Invalid "api": public address is not set.' in _problems({"api-public-url": ""}, VALID)
    kcp = {"storage-level-local-writer-network-transport": "kcp"}
    assert 'the transport "kcp" is not supported, use "tcp".' in _problems(kcp, VALID)
    older = {"storage-metadata-cleanup-active-file-expiration": "1h"}
    older["storage-metadata-cleanup-archived-file-expiration"] = "2h"
    assert (
        '"storage.metadataCleanup.activeFileExpiration" must be greater than or equal to'
        ' "storage.metadataCleanup.archivedFileExpiration"'
    ) in _problems(older, VALID)


def test_encryption_sections() -> None:
    """Only the chosen provider's section is required, and the others are removed."""
    flags: dict[str, Any] = {"encryption-provider": "aes", "encryption-aws-region": "eu"}
    problem = '"encryption.aes.secretKey" is a required field'
    assert problem in _problems(flags, VALID)
    settings = load({**flags, "encryption-aes-secret-key": KEY}, VALID)
    assert settings.encryption.aes.secret_key == b"k" * 32
    assert settings.encryption.aws.region == ""
    short = {**flags, "encryption-aes-secret-key": "aGVsbG8="}
    assert "is invalid: must be 32 bytes long" in _problems(short, VALID)


def test_lists_from_repeated_flags() -> None:
    """A list flag can be repeated, and its values can be separated by commas, and in brackets."""
    settings = load({"source-http-trusted-proxies": ["[10.0.0.1, 10.0.0.2]", "::1"]}, VALID)
    assert settings.source.http.trusted_proxies == ("10.0.0.1", "10.0.0.2", "::1")


def test_a_dump_of_invalid_settings() -> None:
    """Parsed settings are kept for a dump although they aren't valid."""
    with pytest.raises(SettingsError) as caught:
        load({"etcd-username": "root"}, {})
    assert caught.value.settings is not None
    assert caught.value.settings.etcd.username == "root"
