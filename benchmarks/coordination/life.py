"""The history of files from the journal: one in full, and the durations of all steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import attrs

from benchmarks.coordination.journal import Event, Journal
from benchmarks.markdown import share, table

__all__ = ["one_life", "steps"]

_STEPS = (
    ("rotated slice", "closed slice", "slice: rotated → closed"),
    ("closed slice", "uploaded slice", "slice: closed → uploaded"),
    ("rotated file", "closed file", "file: rotated → closed (all slices uploaded)"),
    ("closed file", "started import job", "file: closed → import job started"),
    ("started import job", "imported file", "file: job started → imported"),
    ("rotated file", "imported file", "file: rotated → imported"),
)


@attrs.frozen
class _Step:
    name: str
    seconds: list[float]


def one_life(journal: Journal) -> str:
    """Describe the file that most processes have handled, line by line with times."""
    files: dict[str, list[Event]] = defaultdict(list)
    for event in journal.events:
        files[event.file].append(event)
    whole = [
        events
        for events in files.values()
        if {event.kind for event in events} >= {"rotated file", "closed file", "imported file"}
        and any(event.rows for event in events)
    ]
    if not whole:
        return "No file was imported."
    best = max(whole, key=lambda events: (len({event.by for event in events}), len(events)))
    key = best[0].file
    first = best[0].at
    opened = [event for event in journal.events if event.opened == key]
    rows = [
        (
            f"{event.at:%H:%M:%S.%f}"[:-3],
            f"{(event.at - first).total_seconds():+.3f}",
            *_said(event, key),
        )
        for event in sorted([*opened, *best], key=lambda event: event.at)
    ]
    return f"`{key}`:\n\n" + table(("time", "s", "what", "process", "details"), rows)


def _said(event: Event, key: str) -> tuple[str, str, str]:
    name = event.kind
    if event.opened == key and event.file != key:
        return "opened", event.by, "the file before was rotated"
    details = event.cause
    if event.rows:
        details = f"{event.rows} rows"
    if event.job:
        details = f"job {event.job}"
    if "slice" in name:
        name = f"{name} …{event.key[-28:]}"
    return name, event.by, details


def steps(journal: Journal) -> str:
    """Return median, p99 and maximum of each step, over all files and slices."""
    rows = [
        (
            step.name,
            len(step.seconds),
            *(f"{share(step.seconds, part):.2f}" for part in (0.5, 0.99)),
            f"{max(step.seconds, default=0.0):.2f}",
        )
        for step in _steps(journal)
    ]
    return table(("step", "times", "median s", "p99 s", "longest s"), rows)


def _steps(journal: Journal) -> Iterator[_Step]:
    for first, second, name in _STEPS:
        begun = {event.key: event for event in journal.of(first)}
        ended = {event.key: event for event in journal.of(second)}
        yield _Step(
            name,
            [
                (ended[key].at - event.at).total_seconds()
                for key, event in begun.items()
                if key in ended and not event.is_empty
            ],
        )
