"""An in-memory copy of all statistics for rotation decisions, a few milliseconds old."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.application.service import Service

from stream.etcd import Batch, EtcdClient, Mirror, json_values
from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.state import Level
from stream.storage.model.statistics import Aggregated, Statistics

__all__ = ["StatisticsCache"]

_PREFIX = "storage/stats/"
_FILE_PARTS = 5
_SLICE_PARTS = 7


class StatisticsCache(Service):
    """The statistics of all slices, kept current by a watch and summed by file.

    :param on_change: called with the key, as text, of each file whose statistics changed.
    """

    def __init__(self, client: EtcdClient, on_change: Callable[[str], None]) -> None:
        self._on_change = on_change
        self._by_file: dict[str, dict[tuple[Level, str], Statistics]] = {}
        self._sums: dict[str, Aggregated] = {}
        self._mirror: Mirror[Statistics] = Mirror(
            client, _PREFIX, json_values(Statistics), on_change=self._changed
        )

    async def startService(self) -> None:
        super().startService()
        await self._mirror.startService()

    async def stopService(self) -> None:
        super().stopService()
        await self._mirror.stopService()

    def file(self, key: FileKey) -> Aggregated:
        """Return the statistics of a file by level."""
        text = str(key)
        if text not in self._sums:
            values = self._by_file.get(text, {})
            self._sums[text] = Aggregated.of((level, value) for (level, _), value in values.items())
        return self._sums[text]

    def files(self) -> Iterator[tuple[FileKey, Aggregated]]:
        """Return all files that have statistics."""
        for text in self._by_file:
            key = FileKey.parse(text)
            yield key, self.file(key)

    def slice(self, key: SliceKey) -> Aggregated:
        """Return the statistics of a slice by level."""
        below = f"{key}/"
        values = self._by_file.get(str(key.file_key), {})
        return Aggregated.of(
            (level, value) for (level, text), value in values.items() if text.startswith(below)
        )

    def _changed(self, batch: Batch[Statistics]) -> None:
        if batch.reset:
            self._by_file.clear()
            self._sums.clear()
        touched = set()
        for change in batch.changes:
            level_text, _, text = change.key.removeprefix(_PREFIX).partition("/")
            parts = text.split("/")
            if len(parts) < _SLICE_PARTS:
                continue  # a sink's sums and resets belong to no file
            file = "/".join(parts[:_FILE_PARTS])
            touched.add(file)
            values = self._by_file.setdefault(file, {})
            if change.value is not None:
                values[Level(level_text), text] = change.value
            elif values.pop((Level(level_text), text), None) is not None and not values:
                del self._by_file[file]
        for file in touched:
            self._sums.pop(file, None)
            self._on_change(file)
