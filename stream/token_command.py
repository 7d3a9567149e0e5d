"""``stream-service token``: creates, lists and revokes tokens of this service's projects.

It reads and writes etcd directly, with the settings of the service, so it needs no token and no
running API. Anyone with access to etcd has full access to the service.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from stream.authority.rights import RIGHTS, read_rights
from stream.authority.tokens import TokenKey, TokenRecord, Tokens
from stream.cluster import etcd_client
from stream.defaults import defaults_for, port_offset
from stream.definition.entity import By
from stream.errors import UserError, format_nested, sentence
from stream.etcd import EtcdError
from stream.ops.clock import wall_clock
from stream.ops.process.reactor import install as install_reactor
from stream.settings import Settings, SettingsError, load, parse_argv
from stream.settings.nearest import closest
from stream.values.duration import Duration
from stream.values.number import whole_number
from stream.values.utctime import format_time, from_timestamp

__all__ = ["Request", "read_request", "run"]

_HELP = f"""\
Usage:
  stream-service token create --project NUMBER --name NAME --can RIGHT[,RIGHT] [--expires-in TIME]
  stream-service token list   --project NUMBER
  stream-service token revoke --project NUMBER TOKEN-ID

  create   prints a new token; it is shown only once
  list     prints id, name, rights, maker and end of each token of the project
  revoke   ends a token; every node refuses it within a second

  --project NUMBER    any number from 1 on; a project begins with its first token
  --name NAME         of who uses the token
  --can RIGHT         {", ".join(RIGHTS)}; "sources:write" is "write"
  --expires-in TIME   such as 720h; without it the token doesn't expire

Where etcd is follows from the settings of the service: STREAM_ETCD_ENDPOINT, --etcd-endpoint,
--config-file. Behind `stream-service dev` it is the etcd of that command.
"""

_FLAGS = ("project", "name", "can", "expires-in")
_VERBS = ("create", "list", "revoke")
_CONNECT_SECONDS = "5s"


@attrs.frozen(kw_only=True)
class Request:
    """The requested operation.

    :ivar verb: ``create``, ``list`` or ``revoke``.
    :ivar token_id: id of the token to revoke.
    :ivar expires_in: lifetime of a token to create; ``None`` if it doesn't expire.
    :ivar settings: settings with the address of etcd.
    """

    verb: str
    project: int
    name: str = ""
    can: str = ""
    expires_in: timedelta | None = None
    token_id: str = ""
    settings: Settings = attrs.field(factory=Settings, repr=False)


def read_request(argv: Sequence[str], environ: Mapping[str, str], *, is_dev: bool) -> Request:
    """Return the request in *argv*, the command line after the word ``token``.

    Raises UserError: the request is invalid. Raises SettingsError: the settings are invalid.

    :param is_dev: whether to use the etcd of ``stream-service dev``.
    """
    given, rest = _own_flags(argv)
    line = parse_argv(rest)
    verb, *words = line.arguments or ("",)
    if verb not in _VERBS:
        meant = closest(verb, _VERBS) if verb else ""
        hint = f', did you mean "{meant}"?' if meant else ""
        raise UserError(f"expected create, list or revoke after token, got {verb!r}{hint}")
    if len(words) != (verb == "revoke"):
        raise UserError(
            "expected the id of one token, as `token list` prints it"
            if verb == "revoke"
            else f'"token {verb}" takes flags only, got "{words[0]}"'
        )
    for name in set(given) - {"project"} if verb != "create" else ():
        raise UserError(f'"token {verb}" has no flag --{name}')
    project = whole_number(given.get("project", ""), least=1)
    if project is None:
        raise UserError("--project must be a number, at least 1")
    offset = port_offset(line)
    components = ("http-source",)  # this component needs only etcd, whose settings have defaults
    defaults = defaults_for(components, line.flags, environ, is_dev=is_dev, port_offset=offset)
    defaults["etcd.connectTimeout"] = _CONNECT_SECONDS
    return Request(
        verb=verb,
        project=project,
        name=given.get("name", ""),
        can=given.get("can", ""),
        expires_in=_time(given.get("expires-in")),
        token_id=words[0] if words else "",
        settings=load(line.flags, environ, line.config_files, defaults=defaults),
    )


def _own_flags(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the flags of this command, and the rest of the line."""
    given: dict[str, str] = {}
    rest: list[str] = []
    items = iter(argv)
    for item in items:
        name, equals, value = item.removeprefix("--").partition("=")
        if not item.startswith("--") or name not in _FLAGS:
            rest.append(item)
            continue
        if not equals:
            value = next(items, "")
        given[name] = f"{given[name]},{value}" if name == "can" and name in given else value
    return given, rest


def _time(text: str | None) -> timedelta | None:
    if text is None:
        return None
    try:
        seconds = Duration.parse(text).seconds
        if seconds <= 0:
            raise ValueError
        return timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        raise UserError(f'--expires-in "{text}" is not a time such as 720h or 90m') from None


def run(argv: Sequence[str], *, is_dev: bool = False) -> int:
    """Run the command line after ``token``; return the exit code."""
    if not argv or {"--help", "-h"} & set(argv):
        print(_HELP, end="")
        return 0
    try:
        request = read_request(argv, os.environ, is_dev=is_dev)
    except SettingsError as error:
        return _refused(error.printed())
    except UserError as error:
        return _refused(format_nested("Error", [sentence(str(error))]))
    install_reactor()
    from twisted.internet.task import react

    problems: list[str] = []

    async def main(reactor: Any) -> None:
        try:
            await _carry_out(reactor, request)
        except (UserError, EtcdError) as error:
            problems.append(format_nested("Error", [sentence(str(error))]))

    try:
        react(main)
    except SystemExit as end:
        if end.code:
            return 1
    return _refused(problems[0]) if problems else 0


def _refused(text: str) -> int:
    print(text, file=sys.stderr, flush=True)
    return 1


async def _carry_out(reactor: Any, request: Request) -> None:
    client = etcd_client(request.settings, reactor)
    wall = wall_clock(reactor)

    def now() -> datetime:
        return from_timestamp(wall())

    verbs: Mapping[str, Callable[[Tokens, Request, datetime], Awaitable[None]]] = {
        "create": _create,
        "list": _list,
        "revoke": _revoke,
    }
    await client.startService()
    try:
        await verbs[request.verb](Tokens(client, now), request, now())
    finally:
        await client.stopService()


async def _create(tokens: Tokens, request: Request, now: datetime) -> None:
    record, text = await tokens.create(
        request.project,
        request.name,
        read_rights(name for name in request.can.split(",") if name.strip()),
        By("system", token_desc="stream-service token", user_name=_user()),
        expires_at=now + request.expires_in if request.expires_in else None,
    )
    print(
        f"token {record.key.token_id} of project {request.project}; it is shown only once:",
        file=sys.stderr,
    )
    print(text, flush=True)


async def _list(tokens: Tokens, request: Request, now: datetime) -> None:
    rows = [("ID", "NAME", "RIGHTS", "CREATED", "BY", "EXPIRES")]
    rows += [_row(record, now) for record in await tokens.list(request.project)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _row(record: TokenRecord, now: datetime) -> tuple[str, str, str, str, str, str]:
    by = record.created.by
    maker = by.user_name or f"{by.token_desc} ({by.token_id})"
    ends = "never" if record.expires_at is None else format_time(record.expires_at)
    if record.has_expired(now):
        ends += " (expired)"
    return (
        record.key.token_id,
        record.name,
        ",".join(record.rights),
        format_time(record.created.at),
        maker,
        ends,
    )


async def _revoke(tokens: Tokens, request: Request, now: datetime) -> None:
    await tokens.revoke(TokenKey(request.project, request.token_id))
    print(f"token {request.token_id} of project {request.project} is revoked")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
