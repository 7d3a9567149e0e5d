"""Defaults that depend on the command line: on its components, ``dev`` and ``--port-offset``.

If ``etcd`` or ``sandbox`` is among the components, the others use it without further settings.
Settings that no chosen component uses need not be set. Values set by the user take precedence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

from stream.dev import dev_settings
from stream.errors import UserError
from stream.settings import LEAVES, CommandLine, Settings
from stream.settings.tree import LEAVES_BY_KEY
from stream.settings.validate import OWN_ETCD
from stream.values.number import whole_number

__all__ = ["defaults_for", "port_offset", "shifted"]

_UNUSED = "unused.invalid"
"""Value of a required address in a process that never uses it; passes validation."""

_STORAGE_STOP_TIMEOUT = "9m50s"
"""Components with data on disk have ten minutes to stop; others have one minute."""

_USERS = {
    "etcd.endpoint": {
        "api",
        "http-source",
        "storage-writer",
        "storage-reader",
        "storage-coordinator",
        "etcd",
    },
    "storageApiHost": {"api", "storage-reader", "storage-coordinator"},
    "source.http.publicUrl": {"api"},
    "storage.volumesPath": {"storage-writer", "storage-reader"},
}
_URLS = ("etcd.endpoint", "storageApiHost", "api.publicUrl", "source.http.publicUrl")
"""Settings whose default contains a port on this machine."""

_PORT = re.compile(r":(\d+)$")
_MAX_PORT = 65535


def defaults_for(
    components: Sequence[str],
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    is_dev: bool = False,
    target: str = "",
    port_offset: int = 0,
) -> dict[str, object]:
    """Return the default values by setting key.

    Raises UserError: a port plus the offset exceeds the highest port.

    :param components: the chosen components.
    :param flags: settings given as flags, by the flag's name.
    :param environ: the environment.
    :param is_dev: whether to use the settings of ``stream-service dev``.
    :param target: target of ``stream-service dev``; empty for the sandbox.
    :param port_offset: number that is added to each default port.
    """
    defaults: dict[str, object] = {"etcd.namespace": "stream/"}
    if {"storage-writer", "storage-reader"} & set(components):
        defaults["stopTimeout"] = _STORAGE_STOP_TIMEOUT
    for key, users in _USERS.items():
        if not users & set(components):
            unused = f"http://{_UNUSED}" if key.endswith("Url") else _UNUSED
            defaults[key] = f"{_UNUSED}:2379" if key == "etcd.endpoint" else unused
    if is_dev:
        given = partial(_given, flags=flags, environ=environ)
        defaults |= dev_settings(port_offset, target, given)
    if port_offset:
        if "etcd" in components:
            defaults.setdefault("etcd.endpoint", OWN_ETCD)
        defaults |= _shifted_ports(defaults, port_offset)
    if "sandbox" in components and defaults.get("storageApiHost") != _UNUSED:
        listen = _given("sandbox.listen", flags, environ) or defaults.get("sandbox.listen")
        defaults["storageApiHost"] = f"http://{listen or Settings().sandbox.listen}"
    return defaults


def port_offset(line: CommandLine) -> int:
    """Return the value of ``--port-offset``. Raises UserError."""
    text = line.special.get("port-offset", "0")
    number = whole_number(text, may_have_sign=False) if isinstance(text, str) else None
    if number is None:
        raise UserError(f'invalid --port-offset "{text}": expected a number, such as 100')
    return number


def shifted(address: str, offset: int) -> str:
    """Return *address* (``host:port`` or a URL) with *offset* added to its port; port 0 stays.

    Raises UserError: there is no such port.
    """
    found = _PORT.search(address)
    if found is None or found[1] == "0":
        return address
    port = int(found[1]) + offset
    if port > _MAX_PORT:
        raise UserError(
            f"--port-offset={offset} is too large: {address} would get the port {port}, the "
            f"maximum is {_MAX_PORT}"
        )
    return f"{address[: found.start()]}:{port}"


def _shifted_ports(defaults: Mapping[str, object], offset: int) -> dict[str, object]:
    """Return the default addresses on this machine, with shifted ports."""
    found = {}
    built_in = Settings()
    for leaf in LEAVES:
        is_address = leaf.rule.argument("hostname_port") is not None
        is_address |= leaf.rule.argument("loopback_port") is not None
        if is_address or leaf.key in _URLS:
            value = str(defaults.get(leaf.key) or leaf.get(built_in))
            if _UNUSED not in value:
                found[leaf.key] = shifted(value, offset)
    return {key: value for key, value in found.items() if value}


def _given(key: str, flags: Mapping[str, object], environ: Mapping[str, str]) -> str:
    """Return the value set by flag or environment, if any; files aren't read yet."""
    leaf = LEAVES_BY_KEY[key]
    return str(flags.get(leaf.flag) or environ.get(leaf.env) or "")
