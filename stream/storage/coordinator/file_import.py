"""Files: ``importing`` → ``imported``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger

from stream.concurrency.deadline import within
from stream.settings.level import TargetOperatorSettings
from stream.storage.coordinator.context import CoordinatorContext
from stream.storage.model import prefix
from stream.storage.model.entity import File
from stream.storage.model.key import FileKey
from stream.storage.model.state import FileState, InvalidFileState, Level
from stream.storage.model.statistics import Aggregated
from stream.storage.reconcile.operator import TRANSIENT_ERRORS, Item, Operator
from stream.storage.store import records
from stream.values.duration import Duration

__all__ = ["FileImport"]

_log = Logger()

CONCURRENCY = 40
"""Maximum number of concurrent imports; one project alone gets half of them."""
_TERMINAL = "{{table}} +{{rows}} {}, {{age_seconds}} s after arrival"


class FileImport:
    """The operator that imports closed files into their tables.

    :param is_owner: whether this node is responsible for a source, given the source's key.
    :param import_file: imports the file into its table and returns the number of quarantined rows;
        idempotent.
    :param statistics: returns the statistics of a file.
    """

    def __init__(
        self,
        context: CoordinatorContext,
        import_file: Callable[[File], Awaitable[int]],
        settings: TargetOperatorSettings,
        is_owner: Callable[[str], bool],
        statistics: Callable[[FileKey], Aggregated],
    ) -> None:
        self._statistics = statistics
        self._context = context
        self._import_file = import_file
        self._settings = settings
        self._is_owner = is_owner
        self.operator: Operator[File] = Operator(
            "storage.node.operator.file.import",
            prefix=prefix.file_level(Level.STAGING),
            wait=self._wait,
            reconcile=self._reconcile,
            interval=settings.file_import_check_interval.seconds,
            concurrency=CONCURRENCY,
            keeps_room=True,
            reactor=context.reactor,
        )

    def _wait(self, item: Item[File]) -> float | None:
        file = item.value
        if file.state is not FileState.IMPORTING or not self._is_owner(str(file.key.source_key)):
            return None
        if not self._context.sink_enabled(file.key.sink_key):
            return None
        return file.retry.wait(self._context.now())

    async def _reconcile(self, item: Item[File]) -> None:
        file = item.value
        try:
            with self._context.meter.measured(
                file.key.sink_key,
                "fileimport",
                file.retry.retry_attempt + 1,
                target=file.target.provider,
                item=file.key,
                step="importFile",
            ) as outcome:
                outcome.statistics = self._statistics(file.key).total
                acting = ensureDeferred(self._import(file))
                timeout = self._settings.file_import_timeout.seconds
                within(acting, timeout, self._context.reactor, "the import of a file")
                await acting
        except TRANSIENT_ERRORS:
            raise
        except Exception as error:
            _log.error("file import failed: {error}", error=error, file_id=str(file.key))
            await self._context.file_failed(file.key, error)
        self._wake_others(file.key)

    def _wake_others(self, key: FileKey) -> None:
        """Wake the other files of the sink, because they may be waiting for an import to end."""
        for item in self.operator.items.values():
            if item.value.key.sink_key == key.sink_key and item.value.key != key:
                self.operator.wake(item.key)

    async def _import(self, file: File) -> None:
        statistics, began = self._statistics(file.key).total, self._context.reactor.seconds()
        timeout = self._settings.file_import_timeout.seconds
        async with self._context.file_lock(file.key, timeout) as lock:
            current = await records.read_file(self._context.client, file.key)
            if current is None or current.state is not FileState.IMPORTING:
                _log.info("file {file_id} is already imported", file_id=file.key)
                return  # imported by the previous holder of the lock
            refused = await self._import_file(file)
            try:
                await self._context.repository.file_to_imported(
                    self._context.client, file.key, self._context.now(), lock
                )
            except InvalidFileState as error:
                _log.warn(
                    "file {file_id} is already imported: {error}", file_id=file.key, error=error
                )
                return
        count = max(0, statistics.records_count - refused)
        self._count("stream_sink_imported_records", file, count)
        if refused:
            self._count("stream_sink_quarantined_records", file, refused)
        arrived = statistics.oldest_record_at or self._context.now()
        _log.info(
            "imported file {file_id}",
            file_id=file.key,
            table=self._context.table(file.key.sink_key),
            rows=count,
            refused=refused,
            duration=str(Duration.of_seconds(self._context.reactor.seconds() - began)),
            age_seconds=round((self._context.now() - arrived).total_seconds(), 1),
            log_terminal=_TERMINAL.format("row" if count == 1 else "rows") if count else None,
        )

    def _count(self, counter: str, file: File, records: int) -> None:
        self._context.meter.moved(counter, file.key.sink_key, records, target=file.target.provider)
