"""``stream-service dev``: all components on this machine, with an etcd and a local Storage API.

`DEV_SETTINGS` replaces built-in defaults, so files, environment variables and flags still win.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["COMMAND", "DATA", "DEV_SETTINGS", "create_volume", "dev_settings"]

COMMAND = "dev"
"""The command, written where components are."""

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
    # Nobody waits minutes for a terminal; what isn't uploaded yet is uploaded at the next start.
    "stopTimeout": "30s",
    "storage.volumesPath": f"{DATA}/volumes",
    "source.quarantine.path": f"{DATA}/rejected",
    "storage.level.local.writer.network.listen": "127.0.0.1:6000",
    # A laptop has less room than a server.
    "storage.level.local.writer.allocation.static": "10MB",
    # Rows are in the table within seconds.
    "storage.level.staging.operator.sliceRotationCheckInterval": "200ms",
    "storage.level.staging.operator.sliceUploadCheckInterval": "500ms",
    "storage.level.staging.upload.minInterval": "1s",
    "storage.level.staging.upload.trigger.interval": "1s",
    "storage.level.target.operator.fileRotationCheckInterval": "200ms",
    "storage.level.target.operator.fileImportCheckInterval": "500ms",
    "storage.level.target.import.minInterval": "1s",
    "storage.level.target.import.trigger.interval": "2s",
}
"""Values by setting key: loopback only, data below `DATA`, an import every two seconds."""


def dev_settings(port_offset: int = 0) -> dict[str, object]:
    """`DEV_SETTINGS` for the instance with *port_offset*, which has a data directory of its own.

    Ports are not shifted here, see `stream.defaults.shifted`.
    """
    if not port_offset:
        return dict(DEV_SETTINGS)
    data = f"{DATA}/{port_offset}"
    return {
        key: f"{data}{value.removeprefix(DATA)}"
        if isinstance(value, str) and value.startswith(f"{DATA}/")
        else value
        for key, value in DEV_SETTINGS.items()
    }


def create_volume(volumes_path: str) -> None:
    """Create the volume ``default/001`` below *volumes_path*, unless a volume is there already."""
    root = Path(volumes_path)
    if not any(entry.is_dir() for entry in root.glob("[!.]*/*")):
        (root / _VOLUME).mkdir(parents=True, exist_ok=True)
