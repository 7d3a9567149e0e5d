"""The inventory of a cluster."""

from __future__ import annotations

from typing import Any

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.etcd import KeyValue
from stream.takeover.inventory import kind_of, take_inventory
from stream.takeover.report import Report, Weight
from tests.takeover.dump import (
    FILE_PATH,
    MAPPING,
    SINK_PATH,
    cluster,
    file_keys,
    file_record,
    sink_record,
    slice_keys,
    slice_record,
    values,
)


def problems(keys: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (finding.key, finding.what)
        for finding in take_inventory(values(keys)).report.of(Weight.PROBLEM)
    ]


def test_a_cluster_of_the_original() -> None:
    """Every key is known, and there is no problem."""
    found = take_inventory(values(cluster()))
    assert found.report.is_clear and found.report.findings == []
    assert dict(found.report.counts) == {
        "branches": 1,
        "files": 1,
        "files at level local": 1,
        "import jobs": 1,
        "sinks": 1,
        "slices": 3,
        "slices at level local": 3,
        "sources": 1,
        "staging files": 1,
        "statistics": 6,
        "tasks": 1,
        "tokens of sinks": 1,
        "versions of sinks": 1,
        "versions of sources": 1,
    }
    assert sorted(found.statistics.values()) == [0, 3, 5]


def test_unknown_keys() -> None:
    """Unknown keys are listed and not changed."""
    keys = {"other/service/key": 1, "storage/new/thing": {}}
    found = take_inventory(values({**cluster(), **keys}))
    assert found.report.is_clear
    assert [finding.key for finding in found.report.of(Weight.NOTE)] == sorted(keys)
    assert found.report.counts["unknown keys"] == 2


@pytest.mark.parametrize(
    "key",
    [
        "authority/token/123/abcdefgh",
        "authority/token/revoked",
        "rejected/count/123/456/s/k/node-1",
        "rejected/kept/123/456/s/k/node-1",
        "rejected/replay/123/456/s/k",
        "rejected/stored/123/456/s/k/token",
        "runtime/life/source/node/node-1",
        "runtime/order/task/branch/123/456/999",
        "runtime/rejected/node/node-1",
        "runtime/staging/node/node-1",
        "runtime/tail/123/456/s/t",
        f"storage/mapping/{SINK_PATH}/0123456789abcdef",
        f"storage/postgres/file/{FILE_PATH}",
        "storage/layout",
    ],
)
def test_keys_that_only_this_service_has(key: str) -> None:
    """Such keys don't count as unknown."""
    kind = kind_of(key)
    assert kind is not None and kind.is_own


@pytest.mark.parametrize("value", [b"{", b"[]", b"", b'{"projectId":1}'], ids=range(4))
def test_a_record_that_can_not_be_parsed(value: bytes) -> None:
    """The record is reported as a problem, and the others are still parsed."""
    key = f"storage/slice/all/{FILE_PATH}/my-volume/x"
    found = take_inventory([*values(cluster()), KeyValue(key, value, 1, 1, 1, 0)])
    (finding,) = found.report.of(Weight.PROBLEM)
    assert finding.key == key and "can't be read" in finding.what
    assert found.report.counts["slices"] == 4 and len(found.slices) == 3


def test_a_record_without_the_members_of_its_type() -> None:
    """The record is reported as a problem, although its JSON is valid."""
    keys = cluster()
    source = "definition/source/active/123/456/my-source"
    sink = f"definition/sink/active/{SINK_PATH}"
    keys[source] = {name: value for name, value in keys[source].items() if name != "http"}
    keys[sink] = sink_record(table={"type": "keboola", "mapping": MAPPING})
    assert problems(keys) == [
        (sink, '"table.keboola" is missing'),
        (source, '"http" is missing'),
    ]


def test_a_newer_layout() -> None:
    """A newer layout is a problem that only a newer release solves."""
    keys = {**cluster(), "storage/layout": {"version": 2, "writtenBy": "9.0.0"}}
    ((key, what),) = problems(keys)
    assert key == "storage/layout" and "has version 2, written by 9.0.0" in what
    assert problems({**cluster(), "storage/layout": {"version": 1}}) == []


def test_copies_that_differ() -> None:
    """Each kind of difference is found, at its key."""
    keys = cluster()
    level, all_ = f"storage/file/level/local/{FILE_PATH}", f"storage/file/all/{FILE_PATH}"
    assert problems({**keys, level: file_record(closingAt=FILE_PATH[-24:])})[0][0] == all_
    assert [key for key, _ in problems({k: v for k, v in keys.items() if k != level})] == [all_]
    left = f"storage/file/level/staging/{FILE_PATH}"
    assert [key for key, _ in problems({**keys, left: file_record()})] == [left]


def test_interrupted_rotations() -> None:
    """Two open files, two open slices, and a closed file with an open slice are reported."""
    second = file_record(fileOpenedAt="2026-01-02T03:05:05.000Z")
    found = take_inventory(values({**cluster(), **file_keys(second)}))
    assert found.report.is_clear
    assert len(found.report.of(Weight.NOTE)) == 2
    another = slice_record("2026-01-02T03:04:35.000Z")
    found = take_inventory(values({**cluster(), **slice_keys(another)}))
    assert found.report.is_clear
    assert "more than one slice is open" in found.report.of(Weight.NOTE)[0].what
    ((key, what),) = problems({**cluster(), **file_keys(file_record("closing"))})
    assert key.endswith("03:04:25.000Z") and 'slice state "writing"' in what


def test_a_slice_without_its_file() -> None:
    """The slice is reported and not changed."""
    keys = {key: value for key, value in cluster().items() if not key.startswith("storage/file/")}
    found = take_inventory(values(keys))
    assert found.report.is_clear and len(found.report.of(Weight.NOTE)) == 3


@given(
    st.dictionaries(
        st.sampled_from([*sorted(cluster()), "x/y", f"storage/stats/local/{SINK_PATH}/z"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=4,
        ),
        max_size=3,
    )
)
def test_any_values(others: dict[str, Any]) -> None:
    """Any value in etcd is reported without an exception."""
    report = take_inventory(values({**cluster(), **others})).report
    assert list(report.lines())


def test_the_report() -> None:
    """Equal findings are grouped with their solution, and long lists are truncated."""
    report = Report()
    assert list(report.lines()) == ["Found:", "  nothing"]
    report.counts["sinks"] = 2
    for number in range(25):
        report.problem(f"key {number}", "it is broken", "repair it")
    report.add(Weight.NOTE, "", "all is quiet")
    lines = list(report.lines())
    assert lines[:5] == ["Found:", "  sinks  2", "", "Notes (1):", "  all is quiet"]
    assert lines[5:8] == ["", "Problems (25):", "  it is broken:"]
    assert lines[-2:] == ["    and 5 more", "    → repair it"]
    assert attrs.asdict(report.findings[0])["key"] == "key 0"
    assert orjson.dumps(lines)
