"""The commands ``check-takeover`` and ``convert-to-original`` of the service."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from stream.defaults import defaults_for
from stream.encryption import configured_encryptor
from stream.errors import UserError, format_nested, sentence
from stream.etcd import EtcdClient, EtcdError, LockTimeout, Session
from stream.settings import Settings, SettingsError, load, parse_argv
from stream.takeover.check import check_give_back, check_takeover
from stream.takeover.give_back import give_back
from stream.takeover.inventory import Inventory

__all__ = ["COMMANDS", "run_command"]

CHECK, CONVERT = COMMANDS = ("check-takeover", "convert-to-original")
_TO_ORIGINAL = "--to-original"
_LOCK_SECONDS = 5.0
_LEASE_SECONDS = 15
_NO_VOLUMES = "unused.invalid"
"""Value of the setting where no volumes are needed; see `stream.defaults`."""

_CLEAR, _PROBLEMS, _FAILED = 0, 1, 2

_HELP = """\
Usage:
  stream-service check-takeover [--to-original] [--SETTING=VALUE]...
  stream-service convert-to-original [--SETTING=VALUE]...

check-takeover says what is in etcd and on the volumes of this machine, and what stands in the way
of a start of this service on them, or, with --to-original, of the original. It changes nothing.

convert-to-original writes what the original service couldn't read in its form. It may be
interrupted and begun again, and this service reads the result as well.

Both need the settings of etcd and of the encryption; storage.volumesPath is checked if it is set.
No node may run. Exit codes: 0 nothing stands in the way, 1 something does, 2 it can't be found out.
"""


def run_command(argv: Sequence[str]) -> None:
    """Run one of `COMMANDS` and exit.

    :param argv: the command line, beginning with the command.
    """
    command, *rest = argv
    to_original = command == CONVERT or _TO_ORIGINAL in rest
    rest = [item for item in rest if item != _TO_ORIGINAL]
    try:
        line = parse_argv(rest)
        if "help" in line.special:
            print(_HELP, end="")
            raise SystemExit(_CLEAR)
        if line.arguments:
            raise UserError(f'unexpected argument "{line.arguments[0]}"')
        settings = _settings(line.flags, line.config_files)
    except SettingsError as error:
        print(error.printed(), file=sys.stderr)
        raise SystemExit(_FAILED) from None
    except UserError as error:
        print(format_nested("Error", [sentence(str(error))]), file=sys.stderr)
        raise SystemExit(_FAILED) from None

    def start(reactor: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(_run(reactor, settings, command, to_original))

    react(start)


def _settings(flags: Mapping[str, str | list[str]], files: Sequence[str]) -> Settings:
    # The settings of a node's identity aren't needed.
    defaults = {
        **defaults_for(["http-source"], flags, os.environ),
        "nodeID": "takeover",
        "hostname": "localhost",
    }
    return load(flags, os.environ, files, defaults=defaults)


async def _run(reactor: Any, settings: Settings, command: str, to_original: bool) -> None:
    etcd = settings.etcd
    client = EtcdClient(
        reactor,
        [part.strip() for part in etcd.endpoint.split(",") if part.strip()],
        etcd.namespace,
        username=etcd.username,
        password=etcd.password,
        connect_timeout=etcd.connect_timeout.seconds,
    )
    try:
        await client.startService()
        found = await _look(reactor, client, settings, command, to_original)
    except (EtcdError, LockTimeout, UserError) as error:
        print(format_nested("Error", [sentence(str(error))]), file=sys.stderr)
        raise SystemExit(_FAILED) from None
    finally:
        await client.stopService()
    print(f"etcd {etcd.endpoint}, namespace {client.namespace}\n")
    print("\n".join(found.report.lines()))
    print(f"\n{_verdict(found, command, to_original)}", flush=True)
    raise SystemExit(_CLEAR if found.report.is_clear else _PROBLEMS)


async def _look(
    reactor: Any, client: EtcdClient, settings: Settings, command: str, to_original: bool
) -> Inventory:
    pool = reactor.getThreadPool()
    encryptor = configured_encryptor(settings.encryption, reactor, pool)
    if command == CONVERT:
        session = Session(client, ttl=_LEASE_SECONDS, reactor=reactor)
        await session.startService()
        try:
            return await give_back(client, session, encryptor, _LOCK_SECONDS)
        finally:
            await session.stopService()
    if to_original:
        return await check_give_back(client, encryptor)
    volumes_path = settings.storage.volumes_path
    return await check_takeover(
        client, encryptor, "" if volumes_path == _NO_VOLUMES else volumes_path
    )


def _verdict(found: Inventory, command: str, to_original: bool) -> str:
    problems = not found.report.is_clear
    if command == CONVERT:
        return (
            "Nothing was converted: solve the problems first."
            if problems
            else "Converted. The original service can be started."
        )
    if problems:
        return "Solve the problems before you start Stream."
    return (
        "Run convert-to-original, then start the original service."
        if to_original
        else "This service can be started: it reads all of this unchanged."
    )
