"""The progress display of a push on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stream.cli.output import visible
from stream.cli.push.inputs import Input
from stream.cli.push.sending import Pushed
from stream.cli.push.shown import Shown

__all__ = ["progress"]


class _Bar(Shown):
    def __init__(self, bar: Progress, given: Input) -> None:
        self._bar = bar
        self._given = given
        self._task = bar.add_task("", total=given.size, counts="")

    def update(self, pushed: Pushed) -> None:
        rejected = f", {pushed.rejected:,} rejected" if pushed.rejected else ""
        seconds = self._bar.tasks[0].elapsed or 0.0
        rate = f", {pushed.sent / seconds:,.0f}/s" if seconds > 0.5 else ""
        self._bar.update(
            self._task,
            completed=self._given.position,
            counts=f"{pushed.sent:,} records{rate}{rejected}",
        )

    def notify(self, text: str) -> None:
        self._bar.console.print(escape(visible(text)), highlight=False)


@contextmanager
def progress(given: Input, pushed: Pushed) -> Iterator[Shown]:
    """Show the number of records and their rate; for a file, show a progress bar as well."""
    columns = [TextColumn("{task.fields[counts]}")]
    bar = Progress(
        *([BarColumn(), TimeRemainingColumn(), *columns] if given.size is not None else columns),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        yield _Bar(bar, given)
