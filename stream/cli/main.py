"""The command line ``stream``.

Subcommands are imported when they are called, so that the command starts fast.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

from stream import __version__

try:
    import click
except ImportError:
    sys.exit("The command needs more libraries: pip install 'stream-service[cli]'")

from stream.cli.output import FORMATS

__all__ = ["cli", "main"]

_COMMANDS = {
    "apply": ("definitions:apply", "Apply the sources and sinks in a file."),
    "export": ("definitions:export", "Print sources and sinks as a file for apply."),
    "login": ("login:login", "Store the address and the token of a service."),
    "logout": ("login:logout", "Forget them."),
    "push": ("push:push", "Send the records of a file to a source."),
    "rejected": ("rejected:rejected", "Show, test, replay and delete rejected records."),
    "sink": ("sinks:sink", "List, create and change sinks."),
    "source": ("sources:source", "List, create and change sources."),
    "status": ("status:status", "Show the flow of records, and problems."),
    "tail": ("tail:tail", "Show the records of a source as they arrive."),
    "tasks": ("tasks:tasks", "Show the newest changes and how they ended."),
    "completion": ("completion:completion", "Print the completion for a shell."),
}
"""Each command's module below `stream.cli.commands`, and its summary for the list of commands."""


class _Lazy(click.Group):
    """A command group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"stream.cli.commands.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, 1)
            hint = f' Did you mean "{near[0]}"?' if near else " `stream --help` lists them."
            ctx.fail(f'There is no command "{args[0]}".{hint}')
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="stream")
@click.option("-o", "--output", type=click.Choice(FORMATS), help="Format of the output.")
def cli(output: str | None) -> None:
    """Manage sources, sinks and records of a Stream service.

    STREAM_API_URL and STREAM_API_TOKEN take precedence over `stream login`.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; the codes are in `stream.cli.exit_codes`."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        result: Any = cli.main(arguments, prog_name="stream", standalone_mode=False)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except BrokenPipeError:
        return _without_reader()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("Interrupted.")
        return 130
    except Exception as error:
        return _failed(error)
    return result if isinstance(result, int) else 0


def _without_reader() -> int:
    """Return the exit code for output that nobody reads any more, for example with ``| head``."""
    from stream.cli.exit_codes import FAILED

    # Otherwise Python would try to write the rest at exit, and print an error.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return FAILED


def _failed(error: Exception) -> int:
    from stream.cli.exit_codes import FAILED, exit_code_of
    from stream.cli.output import visible
    from stream.client.errors import ClientError

    if isinstance(error, ClientError):
        _say("Error: " + visible(str(error), lines=True))
        code = exit_code_of(error)
        if code == 3:
            _say("`stream login` keeps another token; changes need the role admin.")
        return code
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        _say("Error: " + visible(f"{place}{error.strerror or error}."))
        return FAILED
    raise error


def _say(text: str) -> None:
    click.echo(text, err=True)
