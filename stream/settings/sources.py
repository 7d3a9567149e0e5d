"""Sources of values: configuration files, environment variables and flags.

Each source returns raw values by key, without conversion.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from stream.settings.declare import ENV_PREFIX, Leaf, env_name, flag_name
from stream.settings.nearest import nearest
from stream.settings.tree import LEAVES, LEAVES_BY_FORMER_KEY, LEAVES_BY_KEY

__all__ = ["MASK", "ConfigFileError", "Raw", "from_env", "from_file", "from_flags"]

MASK = "*****"
_KEYS = LEAVES_BY_FORMER_KEY | LEAVES_BY_KEY
_LEAVES_BY_ENV = {env_name(key): leaf for key, leaf in _KEYS.items()}
_LEAVES_BY_FLAG = {flag_name(key): leaf for key, leaf in _KEYS.items()}
_SECTIONS = {
    ".".join(parts[:depth])
    for parts in (leaf.key.split(".") for leaf in LEAVES)
    for depth in range(1, len(parts))
}
# Variables with our prefix that aren't settings: the list of files, the directory of the single
# file, variables of tests, of the command `stream` and of load scripts that run from the same
# shell, and those that Kubernetes sets in each pod for a service named stream-….
_OTHER_VARIABLES = re.compile(
    r"STREAM_(CONFIG_FILE|BUNDLE_DIR|TEST_.*|API_URL|API_TOKEN|API_BRANCH|PAYLOAD_SIZE|SYNC_MODE|SYNC_WAIT"
    r"|(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?))"
)


@attrs.frozen
class Raw:
    """An unconverted value.

    :ivar origin: source of the value, for error texts.
    """

    leaf: Leaf
    value: Any = attrs.field(repr=False)
    origin: str


class ConfigFileError(Exception):
    """A configuration file can't be read or decoded."""


def from_file(path: str) -> tuple[list[Raw], list[str]]:
    """Return the values in the file at *path*, and a text for each unknown key.

    A null sets nothing, and neither does the mask of a secret in a dump. Raises ConfigFileError.
    """
    values: list[Raw] = []
    unknown: list[str] = []
    origin = f'the config file "{path}"'
    for key, value in _flatten(_read(path), ""):
        leaf = _KEYS.get(key)
        if leaf is None and key in _SECTIONS:
            unknown.append(f'"{key}" in {origin} is a section, not a value')
        elif leaf is None:
            unknown.append(f'unknown key "{key}" in {origin}, did you mean "{nearest(key)}"?')
        elif value is not None and not (leaf.secret and value == MASK):
            values.append(Raw(leaf, value, origin))
    return values, unknown


def from_env(environ: Mapping[str, str]) -> tuple[list[Raw], list[str]]:
    """Return the values in the environment, and a text for each unknown ``STREAM_`` variable."""
    values: list[Raw] = []
    unknown: list[str] = []
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        leaf = _LEAVES_BY_ENV.get(name)
        if leaf is not None:
            values.append(Raw(leaf, value, f"the environment variable {name}"))
        elif not _OTHER_VARIABLES.fullmatch(name):
            unknown.append(f"unknown environment variable {name}, did you mean {nearest(name)}?")
    return values, sorted(unknown)


def from_flags(flags: Mapping[str, str | Sequence[str]]) -> tuple[list[Raw], list[str]]:
    """Return the values on the command line, and the unknown flags with their dashes."""
    values: list[Raw] = []
    unknown: list[str] = []
    for name, value in flags.items():
        leaf = _LEAVES_BY_FLAG.get(name)
        if leaf is None:
            unknown.append(f"--{name}")
            continue
        joined = value if isinstance(value, str) else _together(value)
        values.append(Raw(leaf, joined, f"the flag --{name}"))
    return values, unknown


def _together(texts: Sequence[str]) -> str:
    """Return the text of a list that was given in parts, each with or without brackets."""
    return ",".join(text.strip().removeprefix("[").removesuffix("]") for text in texts)


def _flatten(tree: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in LEAVES_BY_KEY:
            yield from _flatten(value, f"{key}.")
        elif value is not None or key not in _SECTIONS:
            yield key, value


def _read(path: str) -> Mapping[Any, Any]:
    extension = Path(path).suffix
    if extension not in {".yml", ".yaml", ".json"}:
        raise ConfigFileError(
            f'unexpected format "{extension}" of the config file "{path}":'
            ' expected one of "yml", "yaml", "json"'
        )
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigFileError(f'cannot read config file "{path}": {reason}') from error
    language = "JSON" if extension == ".json" else "YAML"
    try:
        tree = _json(text) if language == "JSON" else _yaml(text)
    except (ValueError, RecursionError) as error:
        reason = _where(error)
        raise ConfigFileError(f'cannot decode {language} config file "{path}": {reason}') from error
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise ConfigFileError(
            f'cannot decode {language} config file "{path}": expected sections and keys'
        )
    return tree


def _yaml(text: str) -> Any:
    # Imported here, because most processes read no file.
    from stream.settings.yaml_text import load_yaml

    return load_yaml(text)


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_without_repetition)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RepeatedKey(f'the key "{twice}" occurs twice')
    return tree


class _RepeatedKey(ValueError):
    """A key is duplicated; the text names the key."""


def _where(error: Exception) -> str:
    """Return reason and position of *error*, without the excerpt, which may contain a secret."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, line {error.lineno}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
