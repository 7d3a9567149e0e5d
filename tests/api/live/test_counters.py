from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from stream.api.live.counters import Counted, Counters
from stream.definition.key import BranchKey, SinkKey
from stream.rejected.state import LastError, RejectedCount
from stream.storage.model.statistics import Statistics
from stream.values.bytesize import ByteSize
from stream.values.codec import decode, encode
from stream.values.utctime import format_time, parse_time

BRANCH = BranchKey(1, 2)
SINK = BRANCH.source("s").sink("k")
AT = parse_time("2026-01-01T00:00:00.000Z")
FILE = f"{SINK}/{format_time(AT)}"
SLICE = f"{FILE}/v/{format_time(AT)}"
KNOWN = {"s": ["k"]}


def key(level: str, below: str = SLICE, node: str = "n") -> str:
    return f"storage/stats/{level}/{below}/{node}"


def counted(records: int, first: float = 0, last: float = 0) -> Counted:
    return Counted(
        AT + timedelta(seconds=first), AT + timedelta(seconds=last), records, ByteSize(records * 10)
    )


def shown(counters: Counters) -> dict[str, object]:
    [source] = counters.sources(BRANCH, KNOWN)
    [sink] = source["sinks"]
    assert source["sourceId"] == "s"
    view: dict[str, object] = sink
    return view


def test_a_record_at_each_level() -> None:
    """A record is pending until it is in the table, and is counted once at any level."""
    counters = Counters()
    nothing = {
        "sinkId": "k",
        "records": 0,
        "bytes": 0,
        "rejected": 0,
        "lastRecordTime": None,
        "oldestPendingTime": None,
        "lastError": None,
    }
    assert shown(counters) == nothing
    counters.put(key("local"), counted(2, 1, 5))
    pending = nothing | {
        "records": 2,
        "bytes": 20,
        "lastRecordTime": "2026-01-01T00:00:05.000Z",
        "oldestPendingTime": "2026-01-01T00:00:01.000Z",
    }
    assert shown(counters) == pending
    counters.put(key("staging"), counted(2, 1, 5))
    counters.put(key("local"), None)
    assert shown(counters) == pending
    counters.put(key("target"), counted(2, 1, 5))
    counters.put(key("staging"), None)
    assert shown(counters) == pending | {"oldestPendingTime": None}
    counters.put(f"storage/stats/target/{SINK}/_sum", counted(2, 1, 5))
    counters.put(key("target"), None)
    assert shown(counters)["records"] == 2


def test_an_estimate_is_pending() -> None:
    """The estimate of a writer has only the time of the last record."""
    counters = Counters()
    counters.put(key("local"), Counted(None, AT, 1))
    assert shown(counters)["oldestPendingTime"] == format_time(AT)


def test_cleared_statistics_still_count() -> None:
    """The numbers only grow, so that clients can derive a rate."""
    counters = Counters()
    counters.put(key("target"), counted(3))
    counters.put(f"storage/stats/target/{SINK}/~reset", counted(3))
    assert shown(counters)["records"] == 3


def test_changed_sinks_are_taken_once() -> None:
    """Each changed sink is returned once."""
    counters = Counters()
    counters.put(key("local"), counted(1))
    assert counters.take_changed() == {BRANCH: {SINK}}
    assert counters.take_changed() == {}
    counters.put(key("local"), counted(2))
    assert counters.take_changed() == {BRANCH: {SINK}}


def test_deleted_sinks_are_not_shown() -> None:
    """The statistics of a deleted sink can remain for a while, and aren't shown."""
    counters = Counters()
    counters.put(key("local"), counted(1))
    assert counters.sources(BRANCH, {"s": [], "t": ["u"]}, {SINK}) == []
    assert counters.sources(BRANCH, KNOWN, {SINK}) == counters.sources(BRANCH, KNOWN)
    assert counters.sources(BRANCH, KNOWN, set()) == []
    assert [each["sourceId"] for each in counters.sources(BRANCH, {"a": [], **KNOWN})] == ["a", "s"]


def test_records_of_a_file_and_of_a_slice() -> None:
    """Nodes and levels are summed; a key with the same prefix is another sink's."""
    counters = Counters()
    other = f"{FILE}/v/{format_time(AT + timedelta(seconds=1))}"
    counters.put(key("local"), counted(1))
    counters.put(key("local", node="m"), counted(2))
    counters.put(key("staging", other), counted(4))
    counters.put(key("local", f"{SINK}/2027-01-01T00:00:00.000Z/v/x"), counted(8))
    assert counters.below(SINK, SLICE) == (3, 30)
    assert counters.below(SINK, FILE) == (7, 70)
    assert counters.below(BRANCH.source("s").sink("l"), FILE) == (0, 0)


def test_stored_statistics_are_read() -> None:
    """The parser of the needed members uses the same names as the whole record."""
    value = Statistics(1, AT, AT, 5, ByteSize(70), ByteSize(7))
    assert decode(Counted, encode(value)) == Counted(AT, AT, 5, ByteSize(70))
    assert decode(Counted, encode(Statistics(1))) == Counted()


def test_rejected_records() -> None:
    """Rejected records of all nodes are counted, and the newest error is shown."""
    counters = Counters()
    errors = [
        LastError(reason="badRequest", column=column, message="m", time=AT + timedelta(seconds=s))
        for column, s in (("a", 1), ("b", 5))
    ]
    where = f"rejected/count/{SINK}"
    counters.put_rejected(f"{where}/n", RejectedCount(count=2, last_error=errors[1]))
    counters.put_rejected(f"{where}/m", RejectedCount(count=3, last_error=errors[0]))
    assert shown(counters)["rejected"] == 5
    assert shown(counters)["lastError"] == {
        "reason": "badRequest",
        "column": "b",
        "message": "m",
        "time": "2026-01-01T00:00:05.000Z",
    }
    assert counters.take_changed() == {BRANCH: {SINK}}
    counters.put(key("local"), counted(1))
    counters.clear()
    assert (shown(counters)["records"], shown(counters)["rejected"]) == (0, 5)
    counters.put(key("local"), counted(1))
    counters.clear_rejected()
    assert (shown(counters)["records"], shown(counters)["rejected"]) == (1, 0)
    counters.put_rejected(f"{where}/n", None)
    counters.put(key("local"), None)
    assert shown(counters)["lastError"] is None


_put = st.tuples(
    st.sampled_from(["local", "staging", "target"]),
    st.sampled_from(["n", "m", "_open"]),
    st.none() | st.builds(counted, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
)


@given(st.lists(_put, max_size=30))
def test_counters_depend_on_the_current_values(
    puts: list[tuple[str, str, Counted | None]],
) -> None:
    """The counters depend only on the current values, not on earlier ones."""
    counters = Counters()
    there: dict[str, Counted] = {}
    last: datetime | None = None
    for level, node, value in puts:
        where = key(level, node=node)
        counters.put(where, value)
        there.pop(where, None)
        if value is not None:
            there[where] = value
            last = max(last or AT, value.last_record_at or AT)
        if not there:
            last = None
    pending = [
        value.first_record_at
        for where, value in there.items()
        if "/target/" not in where and value.records_count
    ]
    view = shown(counters)
    assert view["records"] == sum(value.records_count for value in there.values())
    assert view["bytes"] == sum(value.uncompressed_size for value in there.values())
    assert view["lastRecordTime"] == (format_time(last) if last else None)
    oldest = min((each for each in pending if each), default=None)
    assert view["oldestPendingTime"] == (format_time(oldest) if oldest else None)


def test_branches_are_separate() -> None:
    """The counters of a branch contain only its own sinks."""
    counters = Counters()
    other = SinkKey(1, 3, "s", "k")
    counters.put(key("local"), counted(1))
    counters.put(f"storage/stats/local/{other}/f/v/s/n", counted(2))
    assert shown(counters)["records"] == 1
    assert counters.take_changed() == {BRANCH: {SINK}, other.branch_key: {other}}
