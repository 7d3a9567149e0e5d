"""``stream-service dev``: all components on this machine.

It runs an etcd, and either a local Storage API or another target.

`DEV_SETTINGS` replaces built-in defaults, so files, environment variables and flags take
precedence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import attrs

from stream.errors import UserError
from stream.local_postgres import DATABASE, USER, password_file

__all__ = [
    "COMMAND",
    "DATA",
    "DEV_SETTINGS",
    "DEV_TARGETS",
    "create_volume",
    "dev_components",
    "dev_settings",
]

COMMAND = "dev"
"""The name of the command, which is given like a component."""

DATA = "var"
"""Directory of all data, relative to the working directory."""

_VOLUME = Path("default") / "001"

DEV_SETTINGS: Mapping[str, object] = {
    "etcd.endpoint": "127.0.0.1:2379",
    "etcd.namespace": "stream",
    "etcd.dataDir": f"{DATA}/etcd",
    "sandbox.listen": "127.0.0.1:8001",
    "sandbox.path": f"{DATA}/sandbox",
    "storageApiHost": "http://127.0.0.1:8001",
    "api.listen": "127.0.0.1:8000",
    "api.publicUrl": "http://127.0.0.1:8000",
    "metrics.listen": "127.0.0.1:9000",
    "source.http.listen": "127.0.0.1:7000",
    "source.http.publicUrl": "http://127.0.0.1:7000",
    # Stopping in a terminal must be fast; the remaining slices are uploaded after the next start.
    "stopTimeout": "30s",
    "storage.volumesPath": f"{DATA}/volumes",
    "source.quarantine.path": f"{DATA}/rejected",
    "storage.level.local.writer.network.listen": "127.0.0.1:6000",
    # A laptop has less space than a server.
    "storage.level.local.writer.allocation.static": "10MB",
    # Rows must be in the table within seconds.
    "storage.level.staging.operator.sliceRotationCheckInterval": "200ms",
    "storage.level.staging.operator.sliceUploadCheckInterval": "500ms",
    "storage.level.staging.upload.minInterval": "1s",
    "storage.level.staging.upload.trigger.interval": "1s",
    "storage.level.target.operator.fileRotationCheckInterval": "200ms",
    "storage.level.target.operator.fileImportCheckInterval": "500ms",
    "storage.level.target.import.minInterval": "1s",
    "storage.level.target.import.trigger.interval": "2s",
}
"""Values by setting key: only loopback addresses, data below `DATA`, imports every two seconds."""


Given = Callable[[str], str]
"""Returns the user's value of a key, from a flag or the environment; empty if it isn't set."""

_POSTGRES_PORT = 5433
"""The default port is 5433 because Debian's own server uses 5432."""


def _postgres_settings(data: str, port_offset: int, given: Given) -> Mapping[str, object]:
    path = given("localPostgres.path") or f"{data}/server"
    address = given("localPostgres.listen") or f"127.0.0.1:{_POSTGRES_PORT + port_offset}"
    connection = {
        "type": "postgres",
        "dsn": f"postgresql://{USER}@{address}/{DATABASE}",
        "passwordFile": str(password_file(Path(path)).absolute()),
    }
    return {
        "localPostgres.listen": f"127.0.0.1:{_POSTGRES_PORT}",
        "localPostgres.path": path,
        "target.connections": {"warehouse": connection},
    }


def _iceberg_settings(data: str, port_offset: int, given: Given) -> Mapping[str, object]:
    folder = Path(data).absolute()
    catalog = {
        "type": "sql",
        # With the timeout, processes that commit at the same time wait for each other.
        "uri": f"sqlite:///{folder}/catalog.db?timeout=60",
        "warehouse": (folder / "warehouse").as_uri(),
    }
    return {"target.connections": {"lake": {"type": "iceberg", "catalog": catalog}}}


def _parquet_settings(data: str, port_offset: int, given: Given) -> Mapping[str, object]:
    url = (Path(data).absolute() / "lake").as_uri()
    return {"target.connections": {"lake": {"type": "parquet", "url": url}}}


@attrs.frozen
class DevTarget:
    """A value of ``--target``, for tables outside the sandbox in projects of this service.

    :ivar components: components for the target, in addition to Stream's own and etcd.
    :ivar settings: makes settings from the data directory, the port offset, and the user's
        settings.
    """

    components: frozenset[str]
    settings: Callable[[str, int, Given], Mapping[str, object]]


DEV_TARGETS: Mapping[str, DevTarget] = {
    "iceberg": DevTarget(frozenset(), _iceberg_settings),
    "parquet": DevTarget(frozenset(), _parquet_settings),
    "postgres": DevTarget(frozenset({"postgres"}), _postgres_settings),
}
"""Development targets by name."""

_OPTIONAL = frozenset({"sandbox"}).union(*(each.components for each in DEV_TARGETS.values()))


def dev_components(names: Iterable[str], target: str) -> set[str]:
    """Return the components in *names* that ``stream-service dev`` runs.

    Raises UserError: the target is unknown.

    :param target: empty for the sandbox.
    """
    needed = _dev_target(target).components if target else frozenset({"sandbox"})
    return {name for name in names if name in needed or name not in _OPTIONAL}


def _dev_target(name: str) -> DevTarget:
    found = DEV_TARGETS.get(name)
    if found is None:
        raise UserError(f'unknown target "{name}", expected one of: {", ".join(DEV_TARGETS)}')
    return found


def dev_settings(
    port_offset: int = 0, target: str = "", given: Given = lambda key: ""
) -> dict[str, object]:
    """Return `DEV_SETTINGS`, adapted to *port_offset* and *target*.

    Each combination has its own data directory. Only ports in connections are shifted here; see
    `stream.defaults.shifted` for other ports.

    Raises UserError: the target is unknown.
    """
    parts = (DATA, *((str(port_offset),) if port_offset else ()), *((target,) if target else ()))
    data = "/".join(parts)
    found = {
        key: f"{data}{value.removeprefix(DATA)}"
        if isinstance(value, str) and value.startswith(f"{DATA}/")
        else value
        for key, value in DEV_SETTINGS.items()
        if not (target and key.partition(".")[0] in ("sandbox", "storageApiHost"))
    }
    if target:
        found |= {
            "auth.provider": "stream",
            "target.staging.url": Path(data, "staging").absolute().as_uri(),
            **_dev_target(target).settings(data, port_offset, given),
        }
    return found


def create_volume(volumes_path: str) -> None:
    """Create the volume ``default/001`` below *volumes_path*, unless a volume exists there."""
    root = Path(volumes_path)
    if not any(entry.is_dir() for entry in root.glob("[!.]*/*")):
        (root / _VOLUME).mkdir(parents=True, exist_ok=True)
