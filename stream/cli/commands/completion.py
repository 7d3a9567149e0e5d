"""`stream completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the completion for a SHELL.

    \b
    bash:  eval "$(stream completion bash)"       in ~/.bashrc
    zsh:   eval "$(stream completion zsh)"        in ~/.zshrc
    fish:  stream completion fish > ~/.config/fish/completions/stream.fish
    """
    from stream.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "stream", "_STREAM_COMPLETE").source())
