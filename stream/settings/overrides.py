"""Settings that a source or sink may override, most of them under ``storage.level``.

An override is a pair of a key and the raw JSON value that its user has sent. A file is opened with
the service's settings, overridden first by the overrides of its source and then by those of its
sink.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import attrs

from stream.errors import NestedError, UserError
from stream.settings.declare import Leaf, with_values
from stream.settings.tree import LEAVES, LEAVES_BY_FORMER_KEY, Settings
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

__all__ = [
    "HTTP_SOURCE",
    "OVERRIDABLE",
    "QUARANTINE",
    "SOURCE",
    "SettingItem",
    "check_patch",
    "describe",
    "merge",
    "patched",
]

T = TypeVar("T")
Overrides = Sequence[tuple[str, object]]

OVERRIDABLE: tuple[Leaf, ...] = tuple(leaf for leaf in LEAVES if leaf.override is not None)
"""Leaves in the order of declaration, which is also the order of the error texts."""

_BY_KEY = {leaf.key: leaf for leaf in OVERRIDABLE}
STORAGE_LEVEL = ("storage", "level")
QUARANTINE = ("sink", "quarantine")
HTTP_SOURCE = ("source", "http")
SOURCE = ("source",)
_MAX_SHOWN_VALUE = 20
_MAX_SHOWN_KEYS = 50
_TYPE_NAMES: dict[type, str] = {str: "string", int: "int", bool: "bool", tuple: "[]string"}
_EXPECTED: dict[type, str] = {
    str: "a text",
    int: "a number",
    bool: "true or false",
    tuple: "an array of texts",
    ByteSize: 'a size like "10MB"',
    Duration: 'a duration like "10s"',
}
_MAX_TEXT = 1000
_MAX_ITEMS = 100
_MAX_NANOSECONDS = 2**63 - 1
_MAX_BYTES = 2**64 - 1


@attrs.frozen
class SettingItem:
    """One row of the settings of a source or sink.

    :ivar value: the value, with sizes and durations as text.
    :ivar default_value: the value in the service's settings.
    :ivar overwritten: whether there is an override, even if it equals the default.
    """

    key: str
    type: str
    description: str
    value: Any
    default_value: Any
    overwritten: bool
    protected: bool
    validation: str | None = None


def _renamed(overrides: Overrides) -> Iterator[tuple[str, object]]:
    """Iterate over *overrides* with the current keys of renamed settings."""
    for key, raw in overrides:
        leaf = LEAVES_BY_FORMER_KEY.get(key)
        yield (key if leaf is None else leaf.key), raw


class _Unset:
    """An override without effect, which is null, or empty text for a size or a duration."""


_UNSET = _Unset()


def describe(settings: Settings, overrides: Overrides) -> list[SettingItem]:
    """Return all overridable settings, sorted by key; unlisted ones only if they are overridden.

    :param settings: settings of the service.
    :param overrides: overrides of only this source or sink.
    """
    given = dict(_renamed(overrides))
    effective = merge(settings, overrides, below=())
    return [
        SettingItem(
            key=leaf.key,
            type=_TYPE_NAMES.get(leaf.type, "string"),
            description=leaf.usage,
            value=_plain(leaf.get(effective)),
            default_value=_plain(leaf.get(settings)),
            overwritten=leaf.key in given,
            protected=leaf.override == "protected",
            validation=leaf.published_rule or None,
        )
        for leaf in sorted(OVERRIDABLE, key=lambda leaf: leaf.key)
        if leaf.override != "unlisted" or leaf.key in given
    ]


def merge(tree: T, *override_lists: Overrides, below: tuple[str, ...] = STORAGE_LEVEL) -> T:
    """Return *tree* with the overrides of each list applied; later lists take precedence.

    Stored overrides were validated when they were received. An override that is no longer valid is
    ignored, so that it can't prevent a file from being opened.

    :param below: attributes that lead from the service's settings to *tree*; overrides of other
        settings are ignored.
    """
    values: dict[tuple[str, ...], Any] = {}
    for overrides in override_lists:
        for key, raw in _renamed(overrides):
            leaf = _BY_KEY.get(key)
            if leaf is None or leaf.path[: len(below)] != below:
                continue
            try:
                value = _read(leaf, raw)
            except _Invalid:
                continue
            if value is not _UNSET:
                values[leaf.path[len(below) :]] = value
    return with_values(tree, values)


def patched(stored: Overrides, patch: Overrides) -> list[tuple[str, object]]:
    """Return the overrides to store, sorted by key; a null in *patch* removes an override."""
    merged = {**dict(_renamed(stored)), **dict(_renamed(patch))}
    return [(key, merged[key]) for key in sorted(merged) if merged[key] is not None]


def check_patch(items: Overrides) -> None:
    """Check a patch of overrides.

    Raises UserError: 400, which lists all invalid keys and values, or 403 if the only problem is
    that keys are protected.
    """
    items = list(_renamed(items))
    counts = Counter(key for key, _ in items)
    for key, count in counts.items():
        if count > 1:
            raise UserError(f'key "{key}" is defined multiple times')
    given = dict(items)
    problems: list[str] = []
    protected: list[str] = []
    for leaf in OVERRIDABLE:
        if leaf.key not in given:
            continue
        try:
            _check(leaf, given[leaf.key])
        except _Invalid as error:
            problems.append(str(error))
        if leaf.override == "protected":
            protected.append(leaf.key)
    unknown = sorted(set(given) - set(_BY_KEY))
    if unknown:
        problems.append(f'key not found: "{_cut(_listed(unknown), _MAX_SHOWN_KEYS)}"')
    if problems:
        raise NestedError("", problems)
    if protected:
        raise UserError(
            f'cannot modify protected keys: "{_listed(protected)}"', status=403, name="forbidden"
        )


class _Invalid(Exception):
    """A value doesn't match its setting. The text is for the user."""


def _check(leaf: Leaf, raw: object) -> None:
    texts = raw if isinstance(raw, list) else [raw]
    if len(texts) > _MAX_ITEMS or any(isinstance(t, str) and len(t) > _MAX_TEXT for t in texts):
        limit = f"{_MAX_ITEMS} items, {_MAX_TEXT} characters"
        raise _Invalid(f'invalid "{leaf.key}" value: it is longer than {limit}')
    value = _read(leaf, raw)
    # Of a protected setting, only the protection is reported and not an invalid value.
    if value is _UNSET or leaf.override == "protected":
        return
    problem = leaf.rule.violation(value, zero_is_a_number=True)
    if problem is not None:
        shown = _cut(str(_plain(value)), _MAX_SHOWN_VALUE)
        raise _Invalid(f'invalid "{leaf.key}" value "{shown}": {problem}')


def _read(leaf: Leaf, raw: object) -> Any:
    """Return the typed value of *raw*, or `_UNSET`. Raises _Invalid."""
    if raw is None:
        return _UNSET
    if leaf.type in {Duration, ByteSize} and isinstance(raw, str):
        return _read_text(leaf, raw) if raw else _UNSET
    if leaf.type in {int, Duration, ByteSize} and _is_number(raw):
        return _read_number(leaf, raw)
    if leaf.type is tuple and isinstance(raw, list):
        for index, item in enumerate(raw):
            if not isinstance(item, str):
                problem = f"item {index} is {_found(item)}, expected is {_EXPECTED[str]}"
                raise _Invalid(f'invalid "{leaf.key}" value: {problem}')
        return tuple(raw)
    if leaf.type in {bool, str} and isinstance(raw, leaf.type):
        return raw
    problem = f"it is {_found(raw)}, expected is {_EXPECTED[leaf.type]}"
    raise _Invalid(f'invalid "{leaf.key}" value: {problem}')


def _read_text(leaf: Leaf, raw: str) -> Duration | ByteSize:
    if leaf.type is Duration:
        try:
            return Duration.parse(raw)
        except ValueError as error:
            raise _Invalid(f'invalid "{leaf.key}": {error}') from None
    try:
        return ByteSize.parse(raw)
    except ValueError as error:
        shown = _cut(raw, _MAX_SHOWN_VALUE)
        raise _Invalid(f'invalid "{leaf.key}" value "{shown}": {error}') from None


def _read_number(leaf: Leaf, raw: Any) -> int | Duration | ByteSize:
    """Return a count, a number of bytes, or nanoseconds; a fraction is truncated."""
    largest = _MAX_BYTES if leaf.type is ByteSize or leaf.unsigned else _MAX_NANOSECONDS
    if not math.isfinite(raw) or not -largest <= raw <= largest:
        shown = _cut(str(raw), _MAX_SHOWN_VALUE)
        raise _Invalid(f'invalid "{leaf.key}" value "{shown}": value out of range')
    number = int(raw)
    if leaf.type is Duration:
        return Duration(number)
    return ByteSize(number) if leaf.type is ByteSize else number


def _is_number(raw: object) -> bool:
    return isinstance(raw, int | float) and not isinstance(raw, bool)


def _found(raw: object) -> str:
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, int | float):
        return "a number"
    if isinstance(raw, str):
        return "a text"
    if raw is None:
        return "null"
    return "an array" if isinstance(raw, list | tuple) else "an object"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value if type(value) in {bool, int, str} else str(value)


def _listed(keys: Sequence[str]) -> str:
    return '", "'.join(keys)


def _cut(text: str, size: int) -> str:
    data = text.encode()
    return text if len(data) <= size else data[:size].decode(errors="ignore") + "…"
