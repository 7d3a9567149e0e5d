"""The errors in the settings, all at once, in the layout of start-up errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stream.errors import format_nested, sentence

if TYPE_CHECKING:
    from stream.settings.tree import Settings

__all__ = ["SettingsError", "nested"]


class SettingsError(Exception):
    """The settings can't be used. Its text is the finished list of problems.

    :ivar problems: one finished text for each group of problems.
    :ivar settings: what could be read, for a dump; None if the sources couldn't be read.
    """

    def __init__(self, problems: Sequence[str], settings: Settings | None = None) -> None:
        self.problems = tuple(problems)
        self.settings = settings
        super().__init__(format_nested("", self.problems))

    def printed(self) -> str:
        """The text for stderr: ``Error:`` and the problems below it."""
        return format_nested("Error", self.problems)


def nested(prefix: str, problems: Sequence[str]) -> str:
    """*problems* as sentences below *prefix*; what begins with a quoted field stays as it is."""
    return format_nested(
        sentence(prefix),
        [problem if problem.startswith('"') else sentence(problem) for problem in problems],
    )
