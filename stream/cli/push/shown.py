"""The progress display of a push."""

from __future__ import annotations

import click

from stream.cli.output import visible
from stream.cli.push.sending import Pushed

__all__ = ["Shown"]


class Shown:
    """Shows nothing but why it takes longer: a file or a pipe gets no progress."""

    def update(self, pushed: Pushed) -> None:
        """Show how far it is."""

    def notify(self, text: str) -> None:
        """Show why it takes longer."""
        click.echo(visible(text), err=True)
