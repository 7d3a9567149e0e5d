"""Valid partitions of a table, and the errors of invalid ones."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import UserError
from stream.target.columns import ColumnRecord
from stream.target.lake.partitions import TIME_TRANSFORMS, Partition, read_partitions

ALL = ("identity", *TIME_TRANSFORMS, "bucket", "truncate")
COLUMNS = (
    ColumnRecord("at", "timestamp"),
    ColumnRecord("born", "date"),
    ColumnRecord("customer", "string"),
    ColumnRecord("total", "decimal(18,2)"),
    ColumnRecord("body", "json"),
    ColumnRecord("day(at)", "integer"),
    ColumnRecord("born_year", "integer"),
)


def read(*texts: str, transforms: tuple[str, ...] = ALL) -> tuple[Partition, ...]:
    return read_partitions(json.dumps(texts), COLUMNS, transforms)


def test_transforms_of_columns() -> None:
    """Fields have Iceberg's names; a column of that name takes precedence."""
    found = read(
        "hour(at)", "month(born)", "bucket(16, customer)", "truncate( 10 ,total )", "day(at)"
    )
    assert [(str(each), each.name) for each in found] == [
        ("hour(at)", "at_hour"),
        ("month(born)", "born_month"),
        ("bucket(16, customer)", "customer_bucket"),
        ("truncate(10, total)", "total_truncate"),
        ("day(at)", "day(at)"),
    ]
    assert found[-1].transform == "identity"
    assert read_partitions("", COLUMNS, ALL) == read_partitions("[]", COLUMNS, ALL) == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("week(at)", "is not a valid partition, expected one of: column, year"),
        ("day(nothing)", "names no column"),
        ("nothing", "names no column"),
        ("day(customer)", "needs a column of type timestamp or date"),
        ("hour(born)", "needs a column of type timestamp,"),
        ("body", "needs a column of type string"),
        ("bucket(customer)", "needs a number: bucket"),
        ("bucket(0, customer)", "needs a number"),
        ("bucket(99999999999, customer)", "names no column"),
        ("month(3, at)", "takes no number"),
        ("year(born)", "has the same name as the column"),
        ("day(at", "names no column"),
    ],
)
def test_errors_of_partitions(text: str, reason: str) -> None:
    with pytest.raises(UserError) as raised:
        read(text)
    assert reason.rstrip(",") in str(raised.value)
    assert raised.value.param == "body.table.partitionBy"


def test_a_target_may_lack_transforms() -> None:
    with pytest.raises(UserError, match=r"expected one of: year\(column\), month"):
        read("customer", transforms=TIME_TRANSFORMS)


def test_a_partition_is_named_once() -> None:
    with pytest.raises(UserError, match='"at_month" occurs twice'):
        read("month(at)", "hour(at)", "month(at)")
    with pytest.raises(UserError, match="at most 10"):
        read(*["month(at)"] * 11)


@given(st.text(max_size=20))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        (found,) = read(text)
    except UserError:
        return
    assert read(str(found)) == (found,)
