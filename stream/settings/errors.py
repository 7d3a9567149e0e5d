"""The errors in the settings, collected and formatted for output at startup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stream.errors import format_nested, sentence

if TYPE_CHECKING:
    from stream.settings.tree import Settings

__all__ = ["SettingsError", "nested"]


class SettingsError(Exception):
    """The settings are invalid. The text is the formatted list of problems.

    :ivar problems: one formatted text for each group of problems.
    :ivar settings: the readable settings, for a dump; ``None`` if the sources couldn't be read.
    """

    def __init__(self, problems: Sequence[str], settings: Settings | None = None) -> None:
        self.problems = tuple(problems)
        self.settings = settings
        super().__init__(format_nested("", self.problems))

    def printed(self) -> str:
        """Return the text for stderr, which is ``Error:`` with the problems below it."""
        return format_nested("Error", self.problems)


def nested(prefix: str, problems: Sequence[str]) -> str:
    """Format *problems* as sentences below *prefix*; a quoted field at the start is unchanged."""
    return format_nested(
        sentence(prefix),
        [problem if problem.startswith('"') else sentence(problem) for problem in problems],
    )
