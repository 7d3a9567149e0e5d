"""Loading of settings from defaults, files, the environment and flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stream.settings.convert import convert
from stream.settings.declare import Leaf, with_values
from stream.settings.errors import SettingsError, nested
from stream.settings.flags import unknown_flag
from stream.settings.sources import ConfigFileError, Raw, from_env, from_file, from_flags
from stream.settings.tree import LEAVES_BY_KEY, Settings
from stream.settings.validate import normalise, problems_of
from stream.values.redaction import hide_secrets

__all__ = ["load"]

_SHOWN_VALUE = 40


def load(
    flags: Mapping[str, str | list[str]],
    environ: Mapping[str, str],
    config_files: Sequence[str] = (),
    *,
    defaults: Mapping[str, object] | None = None,
) -> Settings:
    """Return the validated settings from defaults, files, the environment and flags.

    Later sources in this list take precedence. Raises SettingsError, which lists all problems.

    :param flags: values by flag name without dashes; a list for a flag that was given several
        times.
    :param environ: the environment; ``STREAM_CONFIG_FILE`` adds one more file after the others.
    :param config_files: paths of files; later files take precedence.
    :param defaults: values by key that replace built-in defaults for this run.
    """
    values, trouble = _collect(environ, config_files)
    given, unknown_flags = from_flags(flags)
    if unknown_flags:
        raise unknown_flag(unknown_flags[0])
    preset = [
        Raw(LEAVES_BY_KEY[key], value, "a default") for key, value in (defaults or {}).items()
    ]
    converted, undecodable, problems = _convert([*preset, *values, *given])
    settings = normalise(
        with_values(Settings(), {leaf.path: value for leaf, value in converted.items()})
    )
    groups = []
    if trouble:
        groups.append(nested("value error", trouble))
    if problems:
        groups.append(nested("decode error", problems))
    invalid = problems_of(settings, undecodable)
    if invalid:
        groups.append(nested("configuration is not valid", invalid))
    if groups:
        raise SettingsError(groups, settings)
    return settings


def _collect(environ: Mapping[str, str], paths: Sequence[str]) -> tuple[list[Raw], list[str]]:
    """Return the raw values of files and environment (the last one wins), and unknown names."""
    values: list[Raw] = []
    unknown: list[str] = []
    unreadable: list[str] = []
    last = environ.get("STREAM_CONFIG_FILE", "")
    for path in [*paths, *([last] if last else [])]:
        try:
            found, not_found = from_file(path)
        except ConfigFileError as error:
            unreadable.append(str(error))
        else:
            values += found
            unknown += not_found
    found, not_found = from_env(environ)
    if unreadable:
        # The values of the files are missing, so other reported problems could be wrong.
        raise SettingsError([nested("value error", unreadable + unknown + not_found)])
    return values + found, unknown + not_found


def _convert(raws: Sequence[Raw]) -> tuple[dict[Leaf, Any], set[str], list[str]]:
    """Return the typed values, the keys whose last value is invalid, and a text for each key."""
    effective = {raw.leaf: raw for raw in raws}
    converted: dict[Leaf, Any] = {}
    undecodable: set[str] = set()
    problems: list[str] = []
    for leaf, raw in effective.items():
        try:
            converted[leaf] = convert(leaf.type, raw.value)
        except ValueError as error:
            undecodable.add(leaf.key)
            shown = "" if leaf.secret else f' value "{_shortened(raw.value)}"'
            problems.append(f'invalid "{leaf.key}"{shown} in {raw.origin}: {error}')
    return converted, undecodable, problems


def _shortened(value: object) -> str:
    text = hide_secrets(str(value))
    return text if len(text) <= _SHOWN_VALUE else f"{text[:_SHOWN_VALUE]}…"
