"""The changes that make the service match a file."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.cli.output import dump_yaml
from stream.cli.plan import Change, Plain, exported, plan

_COLUMNS: list[Plain] = [
    {"type": "uuid", "name": "id"},
    {"type": "path", "name": "a", "path": "a", "rawString": True},
]


def _sink(**members: Any) -> Plain:
    table = {"type": "keboola", "tableId": "in.c-a.b", "mapping": {"columns": _COLUMNS}}
    return {"sinkId": "orders", "type": "table", "name": "Orders", "table": table, **members}


def _source(**members: Any) -> Plain:
    return {"sourceId": "shop", "type": "http", "name": "Shop", **members}


def _calls(changes: list[Change]) -> list[tuple[str, str]]:
    return [(change.method, "/".join(change.path)) for change in changes]


def test_everything_is_new() -> None:
    """A source is created before its sinks; settings and switches follow."""
    wanted = _source(sinks=[_sink(settings={"a": 1}, disabled=True)], disabled=False)
    changes = plan([wanted], {})
    assert _calls(changes) == [
        ("POST", "sources"),
        ("POST", "sources/shop/sinks"),
        ("PATCH", "sources/shop/sinks/orders/settings"),
        ("PUT", "sources/shop/sinks/orders/disable"),
    ]
    assert changes[0].body == _source()
    assert changes[1].body == _sink()
    assert changes[2].body == {"settings": [{"key": "a", "value": 1}]}


def test_nothing_to_do() -> None:
    """Members with their default value are equal to absent ones."""
    present = {"shop": _source(sinks=[_sink()])}
    wanted = copy.deepcopy(_source(description="", sinks=[_sink(allowedSignals=[])]))
    column = wanted["sinks"][0]["table"]["mapping"]["columns"][0]
    column |= {"primaryKey": False, "nullable": False, "dataType": ""}
    assert plan([wanted], present) == []
    assert plan([], present) == []


def test_only_what_differs_is_sent() -> None:
    """A change of a column sends the mapping, but not the table's id."""
    columns = [*_COLUMNS, {"type": "body", "name": "body"}]
    wanted = _sink(name="New")
    wanted["table"] = {**wanted["table"], "mapping": {"columns": columns}}
    [change] = plan([_source(sinks=[wanted])], {"shop": _source(sinks=[_sink()])})
    assert _calls([change]) == [("PATCH", "sources/shop/sinks/orders")]
    assert change.body == {"name": "New", "table": {"mapping": {"columns": columns}}}
    shown = change.diff(dump_yaml)
    assert [line for line in shown if line[0] in "+-"] == [
        "- name: Orders",
        "+ name: New",
        "+       - type: body",
        "+         name: body",
    ]


def test_an_empty_default_is_kept() -> None:
    """An empty default differs from none, without which a record is rejected."""
    wanted = _sink()
    column = {**_COLUMNS[1], "defaultValue": ""}
    wanted["table"] = {**wanted["table"], "mapping": {"columns": [_COLUMNS[0], column]}}
    assert len(plan([_source(sinks=[wanted])], {"shop": _source(sinks=[_sink()])})) == 1


@pytest.mark.parametrize(
    ("wanted", "present", "patch"),
    [
        ({"a": "60s"}, {"a": "1m0s"}, None),
        ({"a": "1MB"}, {"a": "1024KB"}, None),
        ({"a": 1}, {"a": True}, {"a": 1}),
        ({"a": "x"}, {"a": "y", "b": 1}, {"a": "x", "b": None}),
        ({}, {"b": 1}, {"b": None}),
        (None, {"b": 1}, {"b": None}),
    ],
)
def test_settings(wanted: Any, present: Plain, patch: Plain | None) -> None:
    """Settings are compared by meaning, and all of them are overrides."""
    changes = plan([_source(settings=wanted)], {"shop": _source(settings=present)})
    if patch is None:
        assert changes == []
    else:
        expected = [{"key": key, "value": value} for key, value in patch.items()]
        assert changes[0].body == {"settings": expected}


def test_switches() -> None:
    """Switches are changed only if they are in the file."""
    present = {"shop": _source(disabled=True)}
    assert plan([_source()], present) == []
    assert _calls(plan([_source(disabled=False)], present)) == [("PUT", "sources/shop/enable")]
    assert _calls(plan([_source(disabled=True)], {"shop": _source()})) == [
        ("PUT", "sources/shop/disable")
    ]


def test_pruning() -> None:
    """Pruning deletes only sinks of sources whose sinks are in the file."""
    present = {"shop": _source(sinks=[_sink()]), "other": _source(sourceId="other")}
    assert plan([_source(sinks=[])], present) == []
    assert plan([_source()], present, prune=True) == []
    assert _calls(plan([_source(sinks=[])], present, prune=True)) == [
        ("DELETE", "sources/shop/sinks/orders")
    ]


def test_an_export() -> None:
    """An export has the members that a file may have, without those that the service sets."""
    version = {"version": {"number": 1}, "created": {"at": ""}, "branchId": 1}
    shown = _source(description="", http={"url": "secret"}, disabled={"at": ""}, **version)
    overridden = {"key": "a", "value": 1, "overwritten": True}
    default = {"key": "b", "value": 2, "overwritten": False}
    found = exported(shown, [_sink(**version)], {"": [overridden, default]})
    assert found == _source(disabled=True, settings={"a": 1}, sinks=[_sink()])


_NAMES = st.sampled_from(["A", "B"])
_SINKS = st.fixed_dictionaries(
    {"sinkId": _NAMES, "name": _NAMES, "table": st.fixed_dictionaries({"tableId": _NAMES})},
    optional={"settings": st.dictionaries(_NAMES, st.integers(0, 1)), "disabled": st.booleans()},
)
_FILES = st.lists(
    st.fixed_dictionaries(
        {"sourceId": _NAMES, "name": _NAMES},
        optional={
            "sinks": st.lists(_SINKS, unique_by=lambda sink: sink["sinkId"]),
            "settings": st.dictionaries(_NAMES, st.integers(0, 1)),
            "disabled": st.booleans(),
            "description": st.sampled_from(["", "x"]),
        },
    ),
    unique_by=lambda source: source["sourceId"],
)


@given(present=_FILES, wanted=_FILES, prune=st.booleans())
def test_a_second_apply_has_nothing_to_do(
    present: list[Plain], wanted: list[Plain], prune: bool
) -> None:
    """Applying the changes leads to the state in the file, from any state."""
    state = {source["sourceId"]: copy.deepcopy(source) for source in present}
    for change in plan(wanted, state, prune=prune):
        _make(state, change)
    assert plan(wanted, state, prune=prune) == []


def _make(state: dict[str, Plain], change: Change) -> None:
    """Emulate the API."""
    body = copy.deepcopy(change.body) or {}
    path = change.path
    if change.action == "create":
        if len(path) == 1:
            state[body["sourceId"]] = body
        else:
            state[path[1]].setdefault("sinks", []).append(body)
        return
    entity = state[path[1]]
    if len(path) > 3:
        sinks = entity["sinks"]
        entity = next(sink for sink in sinks if sink["sinkId"] == path[3])
        if change.action == "delete":
            sinks.remove(entity)
            return
    if change.action == "settings":
        settings = entity.setdefault("settings", {})
        for setting in body["settings"]:
            settings[setting["key"]] = setting["value"]
            if setting["value"] is None:
                del settings[setting["key"]]
    elif change.action == "update":
        table = {**entity.get("table", {}), **body.get("table", {})}
        entity |= body | ({"table": table} if table else {})
    else:
        entity["disabled"] = change.action == "disable"
