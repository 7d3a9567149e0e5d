"""Settings that follow from the set of components in a process.

A local etcd or sandbox beside the other components is used by them without further settings, and
what none of the chosen components uses need not be set. Anything a user sets wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stream.settings import Settings
from stream.settings.tree import LEAVES_BY_KEY

__all__ = ["defaults_for"]

_UNUSED = "unused.invalid"
"""Satisfies the rules of a required address in a process that never uses it."""

_STORAGE_STOP_TIMEOUT = "9m50s"
"""Whoever has data on disks may be given ten minutes to end, others one."""

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


def defaults_for(
    components: Sequence[str], flags: Mapping[str, object], environ: Mapping[str, str]
) -> dict[str, object]:
    """:param flags: settings given by flag, by the flag's name.
    :param environ: the environment.
    :returns: values by setting key, to be used where nothing else sets them.
    """
    defaults: dict[str, object] = {"etcd.namespace": "stream/"}
    if {"storage-writer", "storage-reader"} & set(components):
        defaults["stopTimeout"] = _STORAGE_STOP_TIMEOUT
    for key, users in _USERS.items():
        if not users & set(components):
            unused = f"http://{_UNUSED}" if key.endswith("Url") else _UNUSED
            defaults[key] = f"{_UNUSED}:2379" if key == "etcd.endpoint" else unused
    if "sandbox" in components:
        listen = _given("sandbox.listen", flags, environ)
        if "storageApiHost" not in defaults:
            defaults["storageApiHost"] = f"http://{listen or Settings().sandbox.listen}"
    return defaults


def _given(key: str, flags: Mapping[str, object], environ: Mapping[str, str]) -> str:
    """What flag or environment set, if anything; files aren't read yet."""
    leaf = LEAVES_BY_KEY[key]
    return str(flags.get(leaf.flag) or environ.get(leaf.env) or "")
