"""Load shedding when connections hold too many bytes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stream.source.http.intake import Intake, Owner
from tests.effort import examples

LIMIT = 1000


class FakeConnection:
    """A connection that holds bytes until it is evicted."""

    def __init__(self, intake: Intake, owner: Owner) -> None:
        self._intake = intake
        self._owner = owner
        self.gave_way = 0

    def hold(self, size: int) -> FakeConnection:
        self._intake.hold(self, self._owner, size)
        return self

    def fix(self) -> bool:
        return self._intake.fix(self)

    def give_way(self) -> None:
        self.gave_way += 1
        if not self._intake._accounts[self].fixed:
            self._intake.release(self)


def test_no_eviction_below_the_limit() -> None:
    """A single source may use the whole limit."""
    intake = Intake(LIMIT)
    connections = [FakeConnection(intake, (1, "a")).hold(100) for _ in range(10)]
    assert intake.size == LIMIT
    assert not any(connection.gave_way for connection in connections)
    for connection in connections:
        intake.release(connection)
    assert intake.size == 0
    assert not intake._accounts and not intake._groups


def test_the_largest_is_evicted() -> None:
    """The largest project is found first, then source, then request, regardless of arrival."""
    intake = Intake(LIMIT)
    small = FakeConnection(intake, (1, "a")).hold(300)
    of_heavy_project = FakeConnection(intake, (2, "small")).hold(50)
    of_heavy_source = FakeConnection(intake, (2, "large")).hold(100)
    largest = FakeConnection(intake, (2, "large")).hold(300)
    newcomer = FakeConnection(intake, (3, "b")).hold(280)
    assert [c.gave_way for c in (small, of_heavy_project, of_heavy_source)] == [0, 0, 0]
    assert [largest.gave_way, newcomer.gave_way] == [1, 0]
    assert intake.size == 730


def test_the_largest_source_is_found_before_its_largest_request() -> None:
    """The requests of the heaviest source are evicted before a larger request of another one."""
    intake = Intake(LIMIT)
    larger = FakeConnection(intake, (1, "one")).hold(450)
    smaller = FakeConnection(intake, (1, "many")).hold(250)
    small = FakeConnection(intake, (1, "many")).hold(240)
    FakeConnection(intake, (2, "other")).hold(70)
    assert [c.gave_way for c in (larger, smaller, small)] == [0, 1, 0]


def test_a_large_request_is_evicted_itself() -> None:
    """Smaller requests of others are kept."""
    intake = Intake(LIMIT)
    others = [FakeConnection(intake, (number, "s")).hold(90) for number in range(5)]
    glutton = FakeConnection(intake, (9, "s"))
    for size in range(50, 700, 50):
        glutton.hold(size)
        if glutton.gave_way:
            break
    assert size == 600 and not any(other.gave_way for other in others)


def test_eviction_frees_more_than_needed() -> None:
    """A twentieth of the total is freed, so that the search doesn't run at every read."""
    intake = Intake(LIMIT)
    connections = [FakeConnection(intake, (number, "s")).hold(10) for number in range(101)]
    assert sum(connection.gave_way for connection in connections) == 6
    assert intake.size == 950


def test_fixed_bytes_are_not_evicted() -> None:
    """A project may have at most half of the limit as fixed bytes."""
    intake = Intake(LIMIT)
    fixed = FakeConnection(intake, (1, "a")).hold(450)
    assert fixed.fix()
    too_much = FakeConnection(intake, (1, "b")).hold(60)
    assert not too_much.fix()
    fixed.hold(510)  # sixty more requests followed it
    other = FakeConnection(intake, (2, "a")).hold(430)
    assert other.fix()
    assert intake.size == LIMIT
    last = FakeConnection(intake, (3, "a")).hold(10)
    assert fixed.gave_way == 1  # of the requests that followed it
    assert (too_much.gave_way, other.gave_way, last.gave_way) == (0, 0, 0)
    assert intake.size == 950


def test_the_owner_of_a_connection_changes() -> None:
    """The bytes are counted for the new source."""
    intake = Intake(LIMIT)
    connection = FakeConnection(intake, (1, "a")).hold(10)
    intake.hold(connection, (2, "b"), 30)
    assert intake.size == 30 and list(intake._groups) == [2]


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 400), st.sampled_from(["hold", "fix", "end"])),
        max_size=60,
    )
)
def test_sums_are_exact_and_the_limit_holds(steps: list[tuple[int, int, str]]) -> None:
    """The invariants hold after any events; a client below an equal share isn't evicted."""
    intake = Intake(LIMIT)
    connections = [FakeConnection(intake, (n % 3, n % 2)) for n in range(10)]
    for number, size, what in steps:
        connection = connections[number]
        account = intake._accounts.get(connection)
        if what == "end":
            intake.release(connection)
        elif what == "fix" and account is not None:
            connection.fix()
        elif account is None or size >= account.fixed:
            gave_way = [each.gave_way for each in connections]
            connection.hold(size)
            for each, before in zip(connections, gave_way, strict=True):
                assert each.gave_way in (before, before + 1)
        accounts = intake._accounts.values()
        assert intake.size == sum(each.size for each in accounts) <= LIMIT
        for group in intake._groups.values():
            assert group.size == sum(each.size for each in group.accounts.values())
            assert group.fixed == sum(each.fixed for each in group.accounts.values())
            assert group.fixed <= LIMIT // 2
