"""Folders of partitions, and the description of a table."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import UserError
from stream.target.columns import ColumnRecord
from stream.target.lake.partitions import Partition
from stream.target.parquet.layout import Description, check_path, folder_of

DAY, HOUR, YEAR = (Partition(each, "at") for each in ("day", "hour", "year"))


def test_folders_have_hive_names() -> None:
    at = datetime(2026, 11, 28, 5, tzinfo=UTC)
    assert folder_of("a/b", [DAY], [at]) == "a/b/at_day=2026-11-28"
    assert folder_of("a", [HOUR], [at]) == "a/at_hour=2026-11-28-05"
    assert folder_of("a", [YEAR, DAY], [datetime(1, 2, 3), None]) == (
        "a/at_year=0001/at_day=__HIVE_DEFAULT_PARTITION__"
    )
    assert folder_of("a", [], []) == "a"
    odd = Partition("day", "when/what = é")
    assert folder_of("a", [odd], [at]) == "a/when%2Fwhat%20%3D%20%C3%A9_day=2026-11-28"


@pytest.mark.parametrize("path", ["a", "shop/orders", "a/b=1/c.d-e_f"])
def test_paths(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "a/../b", ".", "_a", "a b", "a\n", "é"])
def test_paths_outside_the_folder(path: str) -> None:
    with pytest.raises(UserError, match="must consist of names of letters"):
        check_path(path)


def test_differences_are_listed() -> None:
    table = Description(columns={"a": "integer", "b": "string"}, partitions=("day(at)",))
    columns = [ColumnRecord("a", "double"), ColumnRecord("c", "date")]
    assert table.differences(columns, [HOUR]) == [
        'column "a" is integer, but the mapping has double',
        "it is partitioned by (day(at)), not (hour(at))",
    ]
    assert table.differences([ColumnRecord("b")], [DAY]) == []
    assert table.with_columns(columns[1:]).columns == {"a": "integer", "b": "string", "c": "date"}


@given(
    st.dictionaries(st.text(max_size=5), st.sampled_from(["string", "decimal(3,1)"])),
    st.lists(st.text(max_size=5)),
    st.text(max_size=5),
)
def test_round_trip_of_a_description(
    columns: dict[str, str], partitions: list[str], made_by: str
) -> None:
    table = Description(columns=columns, partitions=tuple(partitions), made_by=made_by)
    assert Description.read(table.body()) == table


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"columns": 1}', b"\xff"])
def test_invalid_descriptions(body: bytes) -> None:
    with pytest.raises(ValueError):
        Description.read(body)
