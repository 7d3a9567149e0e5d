"""The comparison of answers with the table's rows. Plain functions over values."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import attrs

from benchmarks.chaos.producers import Attempt

__all__ = ["Accounts", "balance"]

_ACKNOWLEDGED = 200


@attrs.frozen
class Accounts:
    """The comparison of the records that were sent with the rows of the table.

    :ivar answers: number of attempts by status.
    :ivar sent: number of records that were sent at least once.
    :ivar acknowledged: number of records with an answer of 200.
    :ivar rows: number of rows in the table.
    :ivar distinct: number of distinct records in the table.
    :ivar lost: acknowledged records that aren't in the table.
    :ivar unknown: numbers in the table that were not sent.
    :ivar present: unacknowledged records in the table, by their last answer.
    :ivar repeated: records with several rows, by the answers to their attempts.
    :ivar surplus: records with more rows than attempts, repeated by the service itself.
    :ivar last_acknowledged: seconds since the epoch.
    """

    answers: Counter[int]
    sent: int
    acknowledged: int
    rows: int
    distinct: int
    lost: list[int]
    unknown: list[int]
    present: Counter[int]
    repeated: Counter[tuple[int, ...]]
    surplus: list[int]
    last_acknowledged: float

    @property
    def is_balanced(self) -> bool:
        """Return whether no record is lost, unknown or repeated without a reason."""
        return not (self.lost or self.unknown or self.surplus)


def balance(attempts: Iterable[Attempt], rows: Mapping[int, int]) -> Accounts:
    """Compare the attempts with the rows.

    :param rows: number of rows of each record.
    """
    statuses: dict[int, list[int]] = defaultdict(list)
    last = 0.0
    for attempt in attempts:
        statuses[attempt.number].append(attempt.status)
        if attempt.status == _ACKNOWLEDGED:
            last = max(last, attempt.answered_at)
    acknowledged = {number for number, all_ in statuses.items() if _ACKNOWLEDGED in all_}
    return Accounts(
        answers=Counter(status for all_ in statuses.values() for status in all_),
        sent=len(statuses),
        acknowledged=len(acknowledged),
        rows=sum(rows.values()),
        distinct=len(rows),
        lost=sorted(acknowledged - rows.keys()),
        unknown=sorted(rows.keys() - statuses.keys()),
        present=Counter(
            statuses[number][-1]
            for number in rows
            if number in statuses and number not in acknowledged
        ),
        repeated=Counter(
            tuple(statuses[number])
            for number, count in rows.items()
            if count > 1 and number in statuses
        ),
        surplus=sorted(
            number
            for number, count in rows.items()
            if number in statuses and count > len(statuses[number])
        ),
        last_acknowledged=last,
    )
