"""The plan of `stream apply`: the changes that lead to the state in a file. Pure.

Note [Managed members]: a member that the file leaves out stays unchanged. ``settings``, if present,
contains all overrides of a source or sink. Sources that aren't in the file are kept, and so are
sinks unless they are pruned.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs

from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

__all__ = ["Change", "Plain", "exported", "plan"]

Plain = dict[str, Any]

Action = Literal["create", "update", "settings", "enable", "disable", "delete"]

_SOURCE_MEMBERS = ("sourceId", "type", "name", "description")
_SINK_MEMBERS = ("sinkId", "type", "name", "description", "allowedSignals", "table")


@attrs.frozen
class Change:
    """One call of the API.

    :ivar path: API path below the branch.
    :ivar title: description of the change, for people.
    :ivar before: the changed members before the call; ``None`` if the object doesn't exist.
    :ivar after: the changed members after the call; ``None`` if the object is deleted.
    """

    action: Action
    method: str
    path: tuple[str, ...]
    title: str
    body: Plain | None = None
    before: Any = None
    after: Any = None

    def diff(self, dump: Any) -> list[str]:
        """Return the differences as lines that begin with ``+``, ``-`` or a space.

        :param dump: formats a value as lines of text.
        """
        before = [] if self.before is None else dump(self.before).splitlines()
        after = [] if self.after is None else dump(self.after).splitlines()
        return [
            line for line in difflib.ndiff(before, after, charjunk=None) if not line.startswith("?")
        ]


def plan(
    wanted: Sequence[Plain], present: Mapping[str, Plain], *, prune: bool = False
) -> list[Change]:
    """Return the changes in the order in which they have to be made.

    :param wanted: the sources in the file.
    :param present: existing sources by id, with their sinks, as returned by `exported`.
    :param prune: whether sinks that aren't in the file are deleted.
    """
    changes: list[Change] = []
    for source in wanted:
        source_id = source["sourceId"]
        path = ("sources", source_id)
        here = present.get(source_id)
        changes += _entity(source, here, path, f'source "{source_id}"', _SOURCE_MEMBERS)
        known = {sink["sinkId"]: sink for sink in (here or {}).get("sinks", ())}
        for sink in source.get("sinks", ()):
            sink_id = sink["sinkId"]
            title = f'sink "{source_id}/{sink_id}"'
            changes += _entity(
                sink, known.pop(sink_id, None), (*path, "sinks", sink_id), title, _SINK_MEMBERS
            )
        if prune and "sinks" in source:
            changes += (
                Change(
                    "delete",
                    "DELETE",
                    (*path, "sinks", sink_id),
                    f'sink "{source_id}/{sink_id}"',
                    before=sink,
                )
                for sink_id, sink in known.items()
            )
    return changes


def _entity(
    wanted: Plain,
    present: Plain | None,
    path: tuple[str, ...],
    title: str,
    members: tuple[str, ...],
) -> Iterator[Change]:
    given = {name: value for name, value in wanted.items() if name not in _OWN_MEMBERS}
    if present is None:
        yield Change("create", "POST", path[:-1], title, body=given, after=given)
        present = {}
    else:
        different = _different(given, present)
        if different:
            before = {name: present[name] for name in different if name in present}
            yield Change(
                "update", "PATCH", path, title, _patch(different, present), before, different
            )
    yield from _settings(wanted, present, path, title)
    is_disabled = bool(present.get("disabled"))
    if "disabled" in wanted and wanted["disabled"] != is_disabled:
        action: Action = "disable" if wanted["disabled"] else "enable"
        yield Change(action, "PUT", (*path, action), title)


_OWN_MEMBERS = ("sinks", "settings", "disabled")


def _different(given: Plain, present: Plain) -> Plain:
    return {
        name: value
        for name, value in given.items()
        if _normal(value, name) != _normal(present.get(name), name)
    }


def _patch(different: Plain, present: Plain) -> Plain:
    """Return the members that differ, including those within the table."""
    table = different.get("table")
    if not isinstance(table, dict) or not isinstance(present.get("table"), dict):
        return different
    return {**different, "table": _different(table, present["table"]) or table}


def _normal(value: Any, name: str) -> Any:
    """Return *value* without members that equal their defaults."""
    if name == "mapping" and isinstance(value, dict):
        columns = value.get("columns")
        if isinstance(columns, list):
            return {**value, "columns": [_normal_column(column) for column in columns]}
    if name == "table" and isinstance(value, dict):
        return {member: _normal(inner, member) for member, inner in value.items()}
    if name in ("description", "allowedSignals") and not value:
        return None
    return value


def _normal_column(column: Any) -> Any:
    if not isinstance(column, dict):
        return column
    return {
        name: value
        for name, value in column.items()
        if not (value is False or value is None or (name == "dataType" and not value))
    }


def _settings(wanted: Plain, present: Plain, path: tuple[str, ...], title: str) -> Iterator[Change]:
    if "settings" not in wanted:
        return
    given: Plain = wanted["settings"] or {}
    here: Plain = present.get("settings") or {}
    patch: Plain = {
        key: value
        for key, value in given.items()
        if not (key in here and _is_same_setting(value, here[key]))
    }
    patch |= {key: None for key in here if key not in given}
    if patch:
        yield Change(
            "settings",
            "PATCH",
            (*path, "settings"),
            title,
            {"settings": [{"key": key, "value": value} for key, value in patch.items()]},
            {"settings": {key: here[key] for key in patch if key in here}},
            {"settings": {key: value for key, value in patch.items() if value is not None}},
        )


def _is_same_setting(one: Any, other: Any) -> bool:
    """Return whether two values mean the same: ``60s`` and ``1m0s``, ``1MB`` and ``1024KB``."""
    if one == other and isinstance(one, bool) == isinstance(other, bool):
        return True
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    for parse in (Duration.parse, ByteSize.parse):
        try:
            return bool(parse(one) == parse(other))
        except ValueError:
            continue
    return False


def exported(
    source: Plain, sinks: Sequence[Plain], settings: Mapping[str, Sequence[Plain]]
) -> Plain:
    """Return a source in the form that files have.

    :param source: as the API shows it.
    :param sinks: sinks of the source, as the API shows them.
    :param settings: settings as listed by the API, by the id of the sink, or by ``""`` for the
        source; the result contains only those of the source and *sinks*.
    """
    result = _exported(source, _SOURCE_MEMBERS, settings.get(""))
    if sinks:
        result["sinks"] = [
            _exported(sink, _SINK_MEMBERS, settings.get(sink["sinkId"])) for sink in sinks
        ]
    return result


def _exported(entity: Plain, members: tuple[str, ...], settings: Sequence[Plain] | None) -> Plain:
    result = {
        name: entity[name] for name in members if name in entity and entity[name] not in ("", [])
    }
    table = result.get("table")
    if isinstance(table, dict):
        mapping = table.get("mapping") or {}
        columns = [_normal_column(column) for column in mapping.get("columns", ())]
        result["table"] = {**table, "mapping": {"columns": columns}}
    if "disabled" in entity:
        result["disabled"] = True
    overrides = {
        setting["key"]: setting.get("value")
        for setting in settings or ()
        if setting.get("overwritten")
    }
    if overrides:
        result["settings"] = overrides
    return result
