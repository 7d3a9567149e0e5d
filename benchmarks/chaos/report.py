"""The report of a run in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

from benchmarks.chaos.accounts import Accounts
from benchmarks.chaos.producers import CUT_OFF, SILENT
from benchmarks.markdown import bullets, table

__all__ = ["Rejections", "Report", "answers_table", "kills_table", "markdown"]

_NAMES = {CUT_OFF: "cut off", SILENT: "no answer"}
_SHOWN = 20


@attrs.frozen
class Rejections:
    """The outcome of records rejected by a sink.

    :ivar answered: records whose producer received the rejection.
    :ivar stored: those of them that a replay has stored.
    :ivar kept_twice: those of them that were rejected again with a retried batch.
    :ivar missing: those of them that a killed node had not written yet.
    """

    answered: int
    stored: int
    kept_twice: int
    missing: list[int]


@attrs.frozen
class Report:
    """The report of a run under chaos.

    :ivar kills: number of hits by component and kind.
    :ivar tasks: changes of the sink through the API, by outcome.
    :ivar behind: seconds from the last acknowledgement to the last row in the table.
    :ivar notes: remarkable findings that are no faults.
    :ivar faults: faults, apart from the accounts.
    """

    title: str
    accounts: Accounts
    kills: Counter[tuple[str, str]]
    tasks: Counter[str]
    files: int
    behind: float | None
    complaints: Counter[str]
    notes: list[str]
    faults: list[str]
    rejected: Rejections | None = None

    @property
    def is_good(self) -> bool:
        """Return whether the accounts balance and nothing else went wrong."""
        return self.accounts.is_balanced and not self.faults


def markdown(report: Report) -> str:
    """Return the whole report."""
    accounts = report.accounts
    parts = [
        f"## Chaos: {report.title}",
        kills_table(report.kills),
        answers_table(accounts),
        table(("records", ""), _records(report), numbers=True),
    ]
    if report.rejected is not None:
        parts.append(table(("rejected records", ""), _rejections(report.rejected), numbers=True))
    if accounts.repeated:
        rows = ((_all(answers), n) for answers, n in accounts.repeated.most_common(_SHOWN))
        parts.append(
            table(("several rows; answers to the attempts", "records"), rows, numbers=True)
        )
    if report.complaints:
        complaints = report.complaints.most_common(_SHOWN)
        parts.append(table(("logged errors", "times"), complaints, numbers=True))
    parts += [bullets("Notes", report.notes), bullets("Faults", report.faults)]
    parts.append("**Everything is right.**" if report.is_good else "**Something is wrong.**")
    return "\n\n".join(part for part in parts if part) + "\n"


def _records(report: Report) -> Iterable[tuple[str, object]]:
    accounts = report.accounts
    yield "sent", accounts.sent
    yield "acknowledged", accounts.acknowledged
    yield "rows in the table", accounts.rows
    yield "distinct", accounts.distinct
    yield "**lost**: acknowledged, not in the table", len(accounts.lost)
    yield "not acknowledged, in the table", sum(accounts.present.values())
    for status, count in sorted(accounts.present.items()):
        yield f"… of these: {_name(status)}", count
    yield "in the table several times", sum(accounts.repeated.values())
    yield "**repeated by the service**: more rows than attempts", len(accounts.surplus)
    yield "never sent, in the table", len(accounts.unknown)
    yield "files imported", report.files
    for end, count in sorted(report.tasks.items()):
        yield f"changes of the sink: {end}", count
    behind = "never" if report.behind is None else f"{report.behind:.1f} s"
    yield "from the last acknowledgement to all rows", behind


def _rejections(rejected: Rejections) -> Iterable[tuple[str, object]]:
    yield "answered as rejected", rejected.answered
    yield "replayed into the table", rejected.stored
    yield "… of these kept twice, since their batch was sent again", rejected.kept_twice
    yield "not kept: the node was killed before", len(rejected.missing)


def kills_table(kills: Counter[tuple[str, str]]) -> str:
    """Return the table of hits."""
    kinds = sorted({kind for _, kind in kills})
    components = sorted({component for component, _ in kills})
    rows = [(component, *(kills[component, kind] for kind in kinds)) for component in components]
    rows.append(("all", *(sum(kills[c, kind] for c in components) for kind in kinds)))
    return table(("taken down", *kinds), rows, numbers=True)


def _name(status: int) -> str:
    return _NAMES.get(status, str(status))


def answers_table(accounts: Accounts) -> str:
    """Return the table of answers."""
    rows = ((_name(status), count) for status, count in sorted(accounts.answers.items()))
    return table(("answer", "attempts"), rows, numbers=True)


def _all(statuses: Sequence[int]) -> str:
    return ", ".join(_name(status) for status in statuses)
