"""The entry point, which turns a command line into services.

``twistd stream --components=api,http-source`` and ``stream-service api http-source`` are
equivalent.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from twisted.application.service import IService
from twisted.python import usage

import stream
import twisted
from stream.defaults import defaults_for, port_offset
from stream.dev import COMMAND as DEV
from stream.dev import create_volume, dev_components
from stream.errors import UserError, format_nested, sentence
from stream.ops.logging.configured import configured_log
from stream.ops.logging.control import LogControl
from stream.ops.process.gc_tuning import without_collector
from stream.ops.process.reactor import install as install_reactor
from stream.settings import (
    CommandLine,
    Settings,
    SettingsError,
    dump,
    help_text,
    load,
    parse_argv,
)
from stream.workers import worker_commands

__all__ = ["Options", "main", "makeService"]

NAMES = (
    "api",
    "http-source",
    "storage-writer",
    "storage-reader",
    "storage-coordinator",
    "etcd",
    "postgres",
    "sandbox",
)
"""Valid components: Stream's own five, and those for a single machine."""

_PROGRAM = "stream-service"
_HELP = """\
Stream accepts records over HTTP, stores them on disk before it answers, and imports them into
tables in batches.

Usage:
  {program} COMPONENT... [--SETTING=VALUE]...

Components (a process can run any of them):
  api                   serves the REST API for sources and sinks, runs background tasks
  http-source           accepts records from producers
  storage-writer        appends rows to slice files on its volumes
  storage-reader        uploads closed slices from its volumes to staging
  storage-coordinator   rotates slices and files, and imports files
  etcd                  runs a local etcd as a child process
  postgres              runs a local PostgreSQL as a child process
  sandbox               serves a local Storage API with tables in SQLite
  dev                   runs everything on this machine, with data in ./var and tables in the
                        sandbox; --target=postgres, iceberg or parquet replaces the sandbox

Commands:
  check-takeover        checks whether data of the original service can be taken over, or back
  convert-to-original   converts the data back to the form of the original service
  token                 creates, lists and revokes Stream's own tokens

Examples:
  {program} dev
  {program} http-source storage-writer --config-file=stream.yaml --node-id=node-1
"""
_COMMANDS = ("check-takeover", "convert-to-original")
UMASK = 0o077
"""Makes the files of a process readable only by its user."""
_DAEMON_LOG = "twistd.log"
"""The default log file of twistd's daemons."""


class Options(usage.Options):
    """The command line after ``twistd stream``.

    `parseOptions` sets these attributes:

    :ivar components: the chosen components, in the order of `NAMES`.
    :ivar is_dev: whether ``dev`` was given, so that everything runs on this machine.
    :ivar settings: the validated settings.
    :ivar is_worker: whether another process started this one as a worker.
    :ivar workers: names and command lines of the worker processes.
    :ivar logs_elsewhere: whether twistd logs with ``--logger`` or ``--syslog``.
    """

    longdesc = "Every setting is a flag, an environment variable and a key of a configuration file."

    components: tuple[str, ...] = ()
    is_dev = False
    settings: Settings
    is_worker = False
    workers: Mapping[str, Sequence[str]] = {}
    logs_elsewhere = False

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        argv = list(sys.argv[1:] if options is None else options)
        install_reactor()
        try:
            self._parse(argv)
        except SettingsError as error:
            _refuse(error.printed())
        except UserError as error:
            _refuse(_printed(error))

    def _parse(self, argv: list[str]) -> None:
        named, rest = _take_components(argv)
        line = parse_argv(rest)
        if "help" in line.special:
            _answer(help_text(_PROGRAM, _HELP, shutil.get_terminal_size().columns))
        if "version" in line.special:
            _answer(_version())
        workers = line.special.get("workers")
        if isinstance(workers, str):
            line.flags.setdefault("source-http-workers", workers)
        self.is_worker = "worker" in line.special
        given = (*named, *line.arguments)
        chosen = set(given)
        self.is_dev = DEV in chosen
        target = str(line.special.get("target", ""))
        if target and not self.is_dev:
            raise UserError("--target works only with dev; for components use settings")
        if self.is_dev:
            chosen = chosen - {DEV} or dev_components(NAMES, target)
        offset = port_offset(line)
        environ = dict(os.environ)
        # Required settings depend on the components; unknown components require none.
        known = [name for name in NAMES if name in chosen]
        runner = getattr(self, "parent", None) or {}
        self.logs_elsewhere = bool(runner.get("logger") or runner.get("syslog"))
        defaults = {
            **_runner_log_file(runner, line.flags),
            **defaults_for(
                known,
                line.flags,
                environ,
                is_dev=self.is_dev,
                target=target,
                port_offset=offset,
            ),
        }
        form = line.special.get("dump-config")
        if isinstance(form, str):
            _dump(form, line, environ, defaults if chosen else {})
        self.settings = load(line.flags, environ, line.config_files, defaults=defaults)
        self.components = check_components(chosen, given)
        preset = [DEV] if self.is_dev else []
        preset += [f"--port-offset={offset}"] if offset else []
        preset += [f"--target={target}"] if target else []
        self.workers = worker_commands(self.settings, line.flags, line.config_files, preset)


def _take_components(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return the values of ``--components``, and the rest of the command line."""
    named: list[str] = []
    rest: list[str] = []
    items = iter(argv)
    for item in items:
        if item == "--components":
            named += next(items, "").split(",")
        elif item.startswith("--components="):
            named += item.removeprefix("--components=").split(",")
        else:
            rest.append(item)
    return [name.strip() for name in named if name.strip()], rest


def _runner_log_file(
    runner: Mapping[str, Any], flags: dict[str, str | list[str]]
) -> Mapping[str, object]:
    """Apply twistd's own flags; its log file becomes the service's, because a daemon can't print.

    :param flags: flags of the service; the flag for the log file is added if it is missing.
    """
    path = runner.get("logfile")
    if path and path != "-":
        flags.setdefault("log-file", str(Path(path).absolute()))
    is_daemon = "nodaemon" in runner and not runner["nodaemon"]
    return {"log.file": str(Path(_DAEMON_LOG).absolute())} if is_daemon else {}


def check_components(chosen: set[str], given: Sequence[str] = ()) -> tuple[str, ...]:
    """Return *chosen* in the order of `NAMES`.

    Raises UserError: there are no components, or unknown ones.

    :param given: the components as the user wrote them; the error names the unknown ones in this
        order.
    """
    valid = ", ".join(NAMES)
    unknown = [name for name in dict.fromkeys((*given, *sorted(chosen))) if name not in NAMES]
    unknown = [name for name in unknown if name in chosen]
    if unknown:
        listed = ", ".join(f'"{name}"' for name in unknown)
        raise UserError(
            f"unexpected service component: {listed}", detail=f"valid components: {valid}"
        )
    if not chosen:
        raise UserError(
            "specify at least one service component as a positional argument",
            detail=f'valid components: {valid}; "dev" runs them all on this machine',
        )
    return tuple(name for name in NAMES if name in chosen)


def _dump(
    form: str, line: CommandLine, environ: Mapping[str, str], defaults: Mapping[str, object]
) -> None:
    """Print the effective settings and exit."""
    print("Writing configuration dump.\n", file=sys.stderr)
    try:
        settings = load(line.flags, environ, line.config_files, defaults=defaults)
    except SettingsError as error:
        if error.settings is not None:
            print(dump(error.settings, form))
        _refuse(error.printed())
    _answer(dump(settings, form))


def _version() -> str:
    return (
        f"stream {stream.__version__}, Python {platform.python_version()}, "
        f"Twisted {twisted.__version__}"
    )


def _answer(text: str) -> NoReturn:
    """Print *text* and exit, even if a reader such as ``head`` stops early."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)


def _printed(error: UserError) -> str:
    """Return the text of *error* for stderr, followed by what to do if the error says so."""
    text = format_nested("Error", [sentence(str(error))])
    return f"{text}\n{sentence(error.detail)}" if error.detail else text


def _refuse(text: str) -> NoReturn:
    print(text, file=sys.stderr, flush=True)
    raise SystemExit(1)


def _log_or_refuse(settings: Settings) -> LogControl:
    try:
        return configured_log(settings)
    except UserError as error:
        _refuse(_printed(error))


def makeService(options: Options) -> IService:
    """Return the root service; nothing is opened before the reactor runs."""
    # Data and keys must be private. Child processes inherit the umask; twistd's own --umask is
    # applied later.
    os.umask(UMASK)
    # A log rotation may send SIGHUP early, and by default it would end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from twisted.internet import reactor

    with without_collector():
        from stream.components import build
        from stream.ops.process.supervisor import ParentWatch, tell_ready
        from stream.process import Process
        from stream.quickstart import announce

    settings, components = options.settings, options.components

    def ready() -> None:
        announce(settings, components)
        if options.is_worker:
            tell_ready()

    log = _log_or_refuse(settings)

    def run() -> IService:
        if options.is_dev:
            create_volume(settings.storage.volumes_path)
        if not options.logs_elsewhere:
            log.install()
        with without_collector():
            return build(settings, components, options.workers, reactor=reactor, log=log)

    shows_log = not settings.log.file and sys.stdout.isatty()

    def hangup() -> None:
        if shows_log:
            process.exit("the terminal was closed")
        else:
            log.reopen()

    process = Process(
        run,
        reactor=reactor,
        stop_seconds=settings.stop_timeout.seconds,
        ready=ready,
        hangup=hangup,
        observer=log.observer,
    )
    if options.is_worker:
        watch = ParentWatch(reactor, lambda: process.exit("the parent process has ended"))
        reactor.callWhenRunning(watch.startReading)
    return process


def main() -> None:
    """Run the console script, whose arguments are components and flags, or a command."""
    if len(sys.argv) > 1 and sys.argv[1] in _COMMANDS:
        from stream.takeover.command import run_command

        run_command(sys.argv[1:])
        return
    words = sys.argv[2:] if sys.argv[1:2] == [DEV] else sys.argv[1:]
    if words[:1] == ["token"]:
        from stream.token_command import run as run_token

        raise SystemExit(run_token(words[1:], is_dev=len(words) < len(sys.argv) - 1))
    from twisted.scripts.twistd import run

    sys.argv = ["twistd", "--nodaemon", "--pidfile=", "stream", *sys.argv[1:]]
    run()
