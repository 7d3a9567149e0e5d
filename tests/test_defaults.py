"""Settings that are derived from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.defaults import defaults_for, shifted
from stream.dev import DEV_SETTINGS, create_volume
from stream.errors import UserError
from stream.plugin import NAMES, Options
from stream.quickstart import quick_start
from stream.settings import LEAVES, split_address
from stream.settings.tree import LEAVES_BY_KEY


def _parsed(*argv: str) -> Options:
    options = Options()
    options.parseOptions(list(argv))
    return options


def test_dev_runs_all_components() -> None:
    """``dev`` alone runs all components on loopback, unless components are named."""
    options = _parsed("dev")
    assert options.is_dev
    assert options.components == tuple(name for name in NAMES if name != "postgres")
    assert _parsed("dev", "api", "etcd").components == ("api", "etcd")
    assert _parsed("--components=dev").components == options.components
    settings = options.settings
    assert settings.etcd.endpoint == "127.0.0.1:2379"
    assert settings.storage_api_host == "http://127.0.0.1:8001"
    assert not _parsed("etcd", "--etcd-endpoint=h:1").is_dev


def test_dev_with_tables_in_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service has a real PostgreSQL with separate data, its own tokens, and no sandbox."""
    options = _parsed("dev", "--target=postgres", "--port-offset=100")
    assert options.components == tuple(name for name in NAMES if name != "sandbox")
    settings = options.settings
    assert (settings.auth.provider, settings.storage_api_host) == ("stream", "")
    assert settings.local_postgres.listen == "127.0.0.1:5533"
    assert settings.etcd.data_dir == "var/100/postgres/etcd"
    warehouse = settings.target.connections.by_name["warehouse"]
    assert warehouse.options["dsn"] == "postgresql://stream@127.0.0.1:5533/postgres"
    assert warehouse.options["passwordFile"].endswith("/var/100/postgres/server/password")
    assert settings.target.staging.url.endswith("/var/100/postgres/staging")
    worker = _parsed("dev", "--target=postgres", "--workers=2", "--node-id=n").workers["n-w1"]
    assert "--target=postgres" in worker
    monkeypatch.setenv("STREAM_LOCAL_POSTGRES_LISTEN", "127.0.0.1:7")
    moved = _parsed("dev", "--target=postgres").settings.target.connections.by_name["warehouse"]
    assert "127.0.0.1:7/" in moved.options["dsn"]


@pytest.mark.parametrize("target", ["iceberg", "parquet"])
def test_dev_with_tables_in_a_lake(target: str) -> None:
    """Tables are folders inside the data; only Stream and etcd run."""
    options = _parsed("dev", f"--target={target}")
    others = {"postgres", "sandbox"}
    assert options.components == tuple(name for name in NAMES if name not in others)
    settings = options.settings
    lake = settings.target.connections.by_name["lake"]
    assert lake.type == target
    assert f"/var/{target}/" in str(lake.options)
    text = quick_start(settings, options.components)
    assert f'"type":"{target}","connection":"lake"' in text
    assert "shop/events" in text or "shop.events" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["dev", "--target=oracle"], 'Unknown target "oracle"'),
        (["api", "--target=postgres"], "--target works only with dev"),
    ],
)
def test_an_unknown_target_of_dev(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error lists the known targets."""
    with pytest.raises(SystemExit):
        _parsed(*argv)
    assert message in capsys.readouterr().err


def test_every_dev_setting_is_valid() -> None:
    """Each is a known key with a valid value, which takes effect."""
    settings = _parsed("dev").settings
    for key, value in DEV_SETTINGS.items():
        assert str(LEAVES_BY_KEY[key].get(settings)).rstrip("/") in {str(value), "10MiB", "10MB"}


def test_user_settings_override_dev(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file, a variable and a flag override it; the sandbox is used at its other address."""
    path = tmp_path / "stream.yaml"
    path.write_text("storage: {volumesPath: /v}")
    monkeypatch.setenv("STREAM_SANDBOX_LISTEN", "127.0.0.1:18001")
    settings = _parsed("dev", f"--config-file={path}", "--api-listen=127.0.0.1:1").settings
    assert settings.storage.volumes_path == "/v"
    assert settings.storage_api_host == "http://127.0.0.1:18001"
    assert settings.api.listen == "127.0.0.1:1"


def test_a_second_instance_shares_nothing() -> None:
    """Two instances have no common port or directory."""
    first, second = _parsed("dev").settings, _parsed("dev", "--port-offset=100").settings
    listens = [leaf for leaf in LEAVES if leaf.key.endswith("listen")]
    for leaf in listens:
        (_, one), (_, other) = split_address(leaf.get(first)), split_address(leaf.get(second))
        assert other == (one + 100 if one else 0), leaf.key
    assert second.etcd.endpoint == "127.0.0.1:2479"
    assert second.storage_api_host == "http://127.0.0.1:8101"
    assert second.api.public_url == "http://127.0.0.1:8100"
    assert second.source.http.public_url == "http://127.0.0.1:7100"
    assert second.etcd.data_dir == "var/100/etcd"
    assert second.sandbox.path == "var/100/sandbox"
    assert second.storage.volumes_path == "var/100/volumes"


def test_an_offset_keeps_user_settings() -> None:
    """Only defaults are shifted, with and without ``dev``."""
    given = ["--port-offset=100", "--api-listen=127.0.0.1:5", "--etcd-endpoint=other:2379"]
    other = ["api", "--storage-api-host=example.com", "--source-http-public-url=http://h"]
    for argv in (["dev", *given], [*other, *given]):
        settings = _parsed(*argv).settings
        assert settings.api.listen == "127.0.0.1:5"
        assert settings.etcd.endpoint == "other:2379"
        assert split_address(settings.metrics.listen)[1] == 9100
    assert settings.storage_api_host == "example.com"
    own_etcd = _parsed("etcd", "--etcd-data-dir=/d", "--port-offset=1").settings
    assert own_etcd.etcd.endpoint == "127.0.0.1:2380"


def test_workers_have_the_defaults_of_their_parent() -> None:
    """A worker of ``dev`` uses the same etcd."""
    options = _parsed("dev", "--port-offset=10", "--workers=2", "--node-id=n")
    command = options.workers["n-w1"]
    child = _parsed(*command[command.index("stream") + 1 :])
    assert child.components == ("http-source",)
    assert child.settings.etcd.endpoint == "127.0.0.1:2389"
    assert child.settings.source.http.listen == options.settings.source.http.listen


@pytest.mark.parametrize(
    ("address", "other"),
    [
        ("h:1", "h:101"),
        ("http://h:1", "http://h:101"),
        ("[::1]:1", "[::1]:101"),
        ("h:0", "h:0"),
        ("http://h", "http://h"),
        ("", ""),
    ],
)
def test_shifted_addresses(address: str, other: str) -> None:
    """The port at the end is shifted, if there is one."""
    assert shifted(address, 100) == other


def test_an_offset_that_is_too_large(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the flag and the address; an offset that isn't a number is refused."""
    with pytest.raises(UserError, match=r"--port-offset=60000 is too large: .*:8001"):
        defaults_for(["sandbox"], {}, {}, is_dev=True, port_offset=60000)
    for text in ("x", "-1", "+1", "", "9" * 5000):
        with pytest.raises(SystemExit):
            _parsed("dev", f"--port-offset={text}")
        assert f'Invalid --port-offset "{text}"' in capsys.readouterr().err


def test_the_default_volume(tmp_path: Path) -> None:
    """A volume is created if there is none."""
    create_volume(str(tmp_path / "volumes"))
    create_volume(str(tmp_path / "volumes"))
    assert [str(path) for path in (tmp_path / "volumes").glob("*/*")] == [
        f"{tmp_path}/volumes/default/001"
    ]
    (tmp_path / "other" / "hdd" / "1").mkdir(parents=True)
    create_volume(str(tmp_path / "other"))
    assert not (tmp_path / "other" / "default").exists()
