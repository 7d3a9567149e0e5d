"""The progress display of a push without a terminal."""

from __future__ import annotations

import click

from stream.cli.output import visible
from stream.cli.push.sending import Pushed

__all__ = ["Shown"]


class Shown:
    """Shows only the reasons for delays, because output to a file or pipe has no progress bar."""

    def update(self, pushed: Pushed) -> None:
        """Show the progress."""

    def notify(self, text: str) -> None:
        """Show the reason for a delay."""
        click.echo(visible(text), err=True)
