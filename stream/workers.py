"""Command lines of the worker processes of an http-source.

A worker runs the command of its parent with another name. In etcd, it is a separate source node,
with its own lease, its own share of the slices and its own files in them. All workers listen on the
same address, and the kernel distributes the connections.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from stream.settings import Settings
from stream.settings.address import split_address

__all__ = ["worker_commands"]


def worker_commands(
    settings: Settings,
    flags: Mapping[str, str | Sequence[str]],
    config_files: Sequence[str],
    preset: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Return the names and command lines of the workers.

    :param settings: settings of the parent.
    :param flags: flags of the parent; the workers read the environment and files again.
    :param preset: arguments that select other defaults: ``dev``, ``--port-offset=…``.
    """
    commands = {}
    for number in range(1, settings.source.http.workers + 1):
        name = f"{settings.node_id}-w{number}"
        own = {
            **flags,
            "node-id": name,
            "metrics-listen": _port_after(settings.metrics.listen, number),
            "manhole-listen": _port_after(settings.manhole.listen, number),
            "pprof-listen": _port_after(settings.pprof.listen, number),
            "source-quarantine-listen": _port_after(settings.source.quarantine.listen, number),
            "source-http-workers": "1",
            "source-http-share-port": "true",
            **({"log-file": settings.log.file} if settings.log.file else {}),
        }
        commands[name] = [
            *(sys.executable, "-m", "stream", "http-source", "--worker"),
            *preset,
            *(f"--config-file={path}" for path in config_files),
            *(f"--{flag}={_text(value)}" for flag, value in own.items()),
        ]
    return commands


def _port_after(listen: str, number: int) -> str:
    """Return *listen* with a separate port for each worker; port 0 doesn't change."""
    host, port = split_address(listen)
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{port + number if port else 0}"


def _text(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ",".join(value)
