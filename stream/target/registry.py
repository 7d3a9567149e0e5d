"""The targets of a process by name, and the entry points through which packages add targets.

A package adds a target by an entry point of the group ``stream.targets``. The name of the entry
point is the name of the target, and its object is a `TargetFactory`::

    [options.entry_points]
    stream.targets =
        example = stream_example:example_target

Note [Libraries]: a start doesn't import the libraries of targets without connections, which can
take seconds. Only records of former connections need such a target. If there are any, `Libraries`
imports its library in a thread, so that the first use doesn't block the reactor. A new table needs
a connection, and the records of a file are known without its target. An import may fail for a
reason that passes, such as a read error of a disk, so it is tried again. Until it succeeds, each
use tries it, too, and fails with ``targetNotLoaded``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from importlib import import_module, invalidate_caches
from importlib.metadata import entry_points
from importlib.util import find_spec

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from stream.definition.entity import Sink, Source
from stream.definition.key import BranchKey, SinkKey
from stream.definition.transaction import Change
from stream.errors import NestedError, UserError, shortened
from stream.ops.process.thread_pool import in_own_thread
from stream.storage.model.entity import File
from stream.storage.model.key import FileKey
from stream.storage.store.overview import FileOutline
from stream.storage.store.prepared import PreparedFile
from stream.target.protocol import (
    RECORD_KINDS,
    Preview,
    Previewing,
    Quarantine,
    Target,
    TargetContext,
    file_record,
)
from stream.target.staged import StagingArea
from stream.values.backoff import Backoff

__all__ = ["GROUP", "Libraries", "Targets", "installed_targets", "optional_targets"]

_log = Logger()

GROUP = "stream.targets"
"""The group of entry points."""

FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 300.0
"""Delays in seconds before a library that can't be imported is tried again."""

_OPTIONAL = {
    "postgres": ("psycopg", "stream.target.postgres.target", "PostgresTarget"),
    "iceberg": ("pyiceberg", "stream.target.iceberg.target", "IcebergTarget"),
    "parquet": ("pyarrow", "stream.target.parquet.target", "ParquetTarget"),
}
"""Targets of this package that need an extra of the same name: library, module and class."""


def optional_targets(
    context: TargetContext,
) -> tuple[list[Target], Mapping[str, Callable[[], Target]]]:
    """Create the targets of this package whose libraries are installed.

    Raises UserError: their settings are invalid, or need one that isn't installed.

    :returns: the targets that have connections, and functions that create the others; see Note
        [Libraries].
    """
    made: list[Target] = []
    later: dict[str, Callable[[], Target]] = {}
    for name, (library, module, factory) in _OPTIONAL.items():
        has_connections = any(context.settings.target.connections.of_type(name))
        if find_spec(library) is None:
            if has_connections:
                raise _not_installed(name)
            continue
        make = partial(_make, name, module, factory, context)
        if has_connections:
            made.append(make())
        else:
            later[name] = make
    return made, later


def _make(name: str, module: str, factory: str, context: TargetContext) -> Target:
    """Make a target. Raises UserError: its library is installed and can't be loaded."""
    try:
        made: Target = getattr(import_module(module), factory)(context)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f'the target "{name}" can\'t be loaded on this node: {_one_line(error)}',
            name="targetNotLoaded",
            detail=f"repair its library on every node, for example with: pip install "
            f"--force-reinstall 'stream-service[{name}]'",
        ) from error
    return made


def _one_line(error: Exception) -> str:
    return shortened(" ".join(str(error).split()) or type(error).__name__)


class Libraries(Service):
    """Imports the libraries of targets that etcd has records of; see Note [Libraries].

    :param names: names of targets without connections.
    """

    def __init__(self, context: TargetContext, names: Iterable[str]) -> None:
        self._reactor = context.reactor
        self._client = context.client
        self._names = sorted(names)
        self._importing: Deferred[None] = succeed(None)
        self._pause: Deferred[None] = succeed(None)

    def startService(self) -> None:
        """Begin; a start doesn't wait for it."""
        super().startService()
        self._importing = Deferred.fromCoroutine(self._import())

    async def stopService(self) -> None:
        """Stop; fires when no library is being imported."""
        super().stopService()
        self._pause.cancel()
        await self._importing

    async def _import(self) -> None:
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, jitter=0.2)
        names = self._names
        while True:
            names = [name for name in names if self.running and not await self._is_ready(name)]
            if not names or not self.running:
                return
            self._pause = deferLater(self._reactor, backoff.next())
            with suppress(CancelledError):
                await self._pause

    async def _is_ready(self, name: str) -> bool:
        """Return whether a library is imported or has no records."""
        _, module, _ = _OPTIONAL[name]
        try:
            found = await self._client.range(f"storage/{name}/", limit=1, keys_only=True)
            if found.kvs and self.running:
                invalidate_caches()  # it may have been repaired since the last attempt
                await in_own_thread(self._reactor, import_module, module)
        except Exception as error:
            _log.warn(
                'cannot prepare the target "{target}" for old records, retrying: {problem}',
                target=name,
                problem=_one_line(error),
            )
            return False
        return True


def _not_installed(name: str) -> UserError:
    return UserError(
        f'the target "{name}" isn\'t installed on this node',
        name="targetNotInstalled",
        detail=f"install it on every node with: pip install 'stream-service[{name}]'",
    )


def installed_targets(context: TargetContext) -> list[Target]:
    """Create the targets of other installed packages.

    Raises UserError: a target can't be loaded, or its name differs from that of its entry point.
    """
    made: list[Target] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            target: Target = entry.load()(context)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f'the target "{entry.name}" ({entry.value}) can\'t be loaded: {error}; '
                "repair or uninstall its package"
            ) from error
        if target.name != entry.name:
            raise UserError(
                f'the target of the entry point "{entry.name}" ({entry.value}) is named '
                f'"{target.name}"; the two names must match'
            )
        made.append(target)
    return made


class Targets:
    """The targets of this process; each call is forwarded to the target of the sink or file.

    :param targets: targets with different names. Raises UserError if two have the same name.
    :param staging: staging area for targets without their own staging storage.
    :param checks: services that are started before the targets.
    :param later: functions, by name, that create further targets when they are needed. Such targets
        have no services.
    """

    def __init__(
        self,
        targets: Iterable[Target],
        staging: StagingArea | None = None,
        checks: Sequence[IService] = (),
        *,
        later: Mapping[str, Callable[[], Target]] | None = None,
    ) -> None:
        self._staging = staging
        self._checks = checks
        self._later = dict(later or {})
        self._targets: dict[str, Target] = {}
        for target in targets:
            if target.name in self._targets:
                raise UserError(
                    f'two targets are named "{target.name}"; uninstall one of their packages'
                )
            self._targets[target.name] = target

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets.values())

    def named(self, name: str) -> Target:
        """Return the target with this name.

        Raises UserError: this process doesn't have it, or its library can't be loaded.
        """
        target = self._find(name)
        if target is None and name in _OPTIONAL:
            raise _not_installed(name)
        if target is None:
            raise UserError(
                f'this node has no target "{name}"; it has: {", ".join(sorted(self._targets))}',
                name="targetNotInstalled",
                detail="install the package of the target on every node and restart them",
            )
        return target

    def _find(self, name: str) -> Target | None:
        make = self._later.get(name)
        if make is not None:
            self._targets[name] = make()
            del self._later[name]  # a library that can't be loaded is tried again
        return self._targets.get(name)

    def check_type(self, name: str) -> None:
        """Check that a new table can have the type *name*.

        Raises UserError: this process has no target of this name, or no connection for it.
        """
        if name not in self._targets and name not in _OPTIONAL:
            known = ", ".join(f'"{each}"' for each in sorted({*self._targets, *_OPTIONAL}))
            raise UserError(
                f"value of body.table.type must be one of {known} but got value "
                f'"{shortened(name)}"',
                name="invalidEnumValue",
                param="body.table.type",
            )
        if name in self._later:
            raise UserError(
                f"no project has a connection of the type {name}",
                name="connectionNotFound",
                param="body.table.connection",
                detail='an operator declares connections in the setting "target.connections"',
            )
        self.named(name)

    def usable(self, connected: Collection[str]) -> list[str]:
        """Return the sorted types of tables that a sink can have.

        :param connected: types of the connections that the sink's project may use.
        """
        return sorted(name for name in self._targets if name not in _OPTIONAL or name in connected)

    @property
    def services(self) -> list[IService]:
        """The services to start before any target is used."""
        return [*self._checks, *(service for target in self for service in target.services)]

    @property
    def import_services(self) -> list[IService]:
        """The additional services of nodes that import files."""
        return [service for target in self for service in target.import_services]

    # New files: `stream.storage.store.prepared.FileProvider`.

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        return await self._of(sink).prepare(source, sink, opened_at, token=token)

    async def renew(self, sink: Sink, file: FileKey) -> PreparedFile:
        return await self._of(sink).renew(sink, file)

    async def discard(self, prepared: PreparedFile) -> None:
        await self.named(prepared.provider).discard(prepared)

    async def committed(self, prepared: PreparedFile) -> None:
        await self.named(prepared.provider).committed(prepared)

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        await self._of(sink).deactivated(change, sink, token=token)

    async def deleted(self, change: Change, sink: Sink) -> None:
        await self._of(sink).deleted(change, sink)

    def _of(self, sink: Sink) -> Target:
        return self.named(sink.table.type)

    # Imports.

    def of_file(self, file: File) -> Target:
        """Return the target that *file* is imported into."""
        return self.named(file.target.provider)

    def may_import(self, file: File) -> bool:
        """Return whether the target of *file* now accepts another file of the same sink."""
        return self.of_file(file).may_import(file.key)

    async def import_file(self, file: File) -> int:
        """Import *file*; see `Target.import_file`."""
        return await self.of_file(file).import_file(file)

    # Cleanup.

    def file_records(self, file: File) -> Sequence[str]:
        """Return the etcd keys to delete with *file*, even if its target isn't installed."""
        target = self._targets.get(file.target.provider)
        if target is not None:
            return target.file_records(file.key)
        return [file_record(file.target.provider, kind, file.key) for kind in RECORD_KINDS]

    async def delete_staged(self, file: File) -> None:
        """Remove the staged objects of *file*; see `Target.delete_staged`.

        Outside of the staging storage, only a target with connections can remove any.
        """
        target = self._targets.get(file.target.provider)
        if target is not None:
            await target.delete_staged(file.key)
            return
        if file.target.provider not in self._later:
            _log.warn(
                'the target "{target}" of the file {file_id} isn\'t installed on this node: only '
                "the file's records in etcd and its objects in staging storage are deleted",
                target=file.target.provider,
                file_id=str(file.key),
            )
        if self._staging is not None:
            await self._staging.remove(file.key)

    # Views and deletion.

    async def quarantines(
        self, below: BranchKey | SinkKey, files: Iterable[FileOutline]
    ) -> Mapping[FileKey, Quarantine]:
        """Return the quarantines of the files of a sink or a branch.

        :param files: files whose targets are queried.
        """
        return await self.quarantines_of(below, {file.target.provider for file in files})

    async def quarantines_of(
        self, below: BranchKey | SinkKey, names: Iterable[str]
    ) -> Mapping[FileKey, Quarantine]:
        """Return the quarantines of the targets with these *names*."""
        found: dict[FileKey, Quarantine] = {}
        for name in names:
            found |= await self.named(name).quarantines(below)
        return found

    async def preview(self, sink: Sink, limit: int, *, token: str) -> Preview:
        """Return the first rows of the table of *sink*; see `Previewing.preview`.

        Raises UserError: the sink's target can't read tables.
        """
        target = self._of(sink)
        if not isinstance(target, Previewing):
            raise UserError(
                f'tables of the type "{target.name}" can\'t be read here',
                status=501,
                name="previewNotSupported",
            )
        return await target.preview(sink, limit, token=token)

    async def delete_tables(self, sinks: Sequence[Sink], *, token: str) -> None:
        """Delete the tables of *sinks*; see `Target.delete_tables`."""
        by_name: dict[str, list[Sink]] = {}
        for sink in sinks:
            by_name.setdefault(sink.table.type, []).append(sink)
        problems: list[UserError] = []
        for name, of_target in by_name.items():
            try:
                await self.named(name).delete_tables(of_target, token=token)
            except UserError as error:
                problems.append(error)
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise NestedError("some tables could not be deleted", problems)
