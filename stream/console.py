"""The functions of the console of a running process, each with a line of help text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred

from stream.definition.key import SinkKey
from stream.errors import UserError
from stream.etcd import EtcdClient
from stream.ops.debug.sampler import sample
from stream.ops.logging.control import LogControl
from stream.ops.metrics.registry import Metrics
from stream.ops.process.thread_pool import in_own_thread
from stream.storage.model import prefix as storage_prefix
from stream.storage.model.state import Level
from stream.values.redaction import hide_secrets

if TYPE_CHECKING:
    from stream.sink.router import SinkRouter
    from stream.storage.coordinator.service import StorageCoordinatorService
    from stream.storage.reader.service import StorageReaderService
    from stream.storage.writer.service import StorageWriterService

__all__ = ["Console", "Parts", "Text"]

_SHOWN = 200
_WIDTH = 200


class Text(str):
    """Text that the console prints unchanged."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self).rstrip("\n")


@attrs.define
class Parts:
    """The parts of this process; ``None`` for parts that it doesn't have.

    :ivar client: the etcd client.
    """

    log: LogControl
    metrics: Metrics
    client: EtcdClient | None = None
    router: SinkRouter | None = None
    writer: StorageWriterService | None = None
    coordinator: StorageCoordinatorService | None = None
    reader: StorageReaderService | None = None


class Console:
    """The functions of the console."""

    def __init__(self, parts: Parts, reactor: Any) -> None:
        self._parts = parts
        self._reactor = reactor

    def namespace(self) -> Mapping[str, Any]:
        """Return the names available in the console."""
        functions: list[Callable[..., Any]] = [
            *(self.help, self.slices, self.pipelines, self.mirror, self.metrics, self.loglevel),
            *(self.drain, self.rotate, self.retry, self.profile),
        ]
        return {function.__name__: function for function in functions}

    def help(self) -> Text:
        """Show the functions of the console."""
        lines = []
        for name, function in self.namespace().items():
            parameters = ", ".join(
                parameter.name
                if parameter.default is parameter.empty
                else f"{parameter.name}={parameter.default!r}"
                for parameter in inspect.signature(function).parameters.values()
            )
            lines.append(f"{name}({parameters}): {(function.__doc__ or '').partition(chr(10))[0]}")
        return Text("\n".join(lines))

    def slices(self) -> Text:
        """Show the slices that aren't uploaded yet, as known to this process, with their states."""
        level = storage_prefix.slice_level(Level.LOCAL)
        states = {
            key.removeprefix(level): getattr(value, "state", value)
            for mirror in self._mirrors()
            if mirror.prefix == level
            for key, value in mirror.items.items()
        }
        return _table(
            f"{getattr(state, 'value', state)}  {key}" for key, state in sorted(states.items())
        )

    def pipelines(self) -> Text:
        """Show the slices that this process writes to: state, waiting bytes, stored records."""
        if self._parts.router is None:
            raise UserError("this process accepts no records")
        return _table(
            f"{p.state.value}  {p.held_bytes} B held  {p.counters.records} records  {p.slice.key}"
            for p in self._parts.router.slices()
        )

    def mirror(self, prefix: str = "", wide: bool = False) -> Text:
        """Show the mirrored prefixes of etcd, or the content of those that begin with a prefix.

        Lines are truncated unless *wide* is set; secrets are not shown.
        """
        mirrors = sorted(self._mirrors(), key=lambda mirror: str(mirror.prefix))
        if not prefix:
            return _table(
                f"{m.prefix}  {len(m.items)} keys  revision {m.revision}  lag {m.lag_seconds:.1f} s"
                for m in mirrors
            )
        found = {
            f"{key}  {hide_secrets(repr(getattr(value, 'value', value)), ())}": None
            for mirror in mirrors
            for key, value in sorted(mirror.items.items())
            if key.startswith(prefix) or mirror.prefix.startswith(prefix)
        }
        return _table(line if wide else line[:_WIDTH] for line in found)

    def metrics(self, part: str = "") -> Text:
        """Show the metrics of this process whose names contain a text."""
        self._parts.metrics.collect()
        page = self._parts.metrics.page().decode()
        return _table(
            line for line in page.splitlines() if part in line and not line.startswith("#")
        )

    def loglevel(self, namespace: str | None = None, level: str = "") -> Text:
        """Set the log level of a namespace ("etcd", "" for all); without any, show them."""
        if namespace is not None:
            self._parts.log.set_level(namespace, level)
        return _table(
            f"{name or '(all others)'}: {level}" for name, level in self._parts.log.levels().items()
        )

    def drain(self, volume: str, on: bool = True) -> Deferred[Text]:
        """Open no new slices on a volume (its id or path); on=False undoes it."""
        if self._parts.writer is None:
            raise UserError("this process has no volumes")
        draining = self._parts.writer.drain_volume(volume, on)
        return draining.addCallback(
            lambda path: Text(f"{path} is {'drained' if on else 'taken back'} within a second")
        )

    def rotate(self, sink: str) -> Text:
        """Close the open file of a sink ("project/branch/source/sink") and import it."""
        if self._parts.coordinator is None:
            raise UserError("this process doesn't coordinate")
        key = _sink_key(sink)
        return _table(f"to be rotated: {file}" for file in self._parts.coordinator.rotate(key))

    def retry(self, sink: str) -> Deferred[Text]:
        """Retry the failed uploads of a sink's slices now."""
        if self._parts.reader is None:
            raise UserError("this process uploads nothing")
        retrying = Deferred.fromCoroutine(self._parts.reader.retry(_sink_key(sink)))
        return retrying.addCallback(lambda keys: _table(f"to be uploaded: {key}" for key in keys))

    def profile(self, seconds: float = 10.0) -> Deferred[Text]:
        """Show where the process spends its time, sampled for some seconds."""
        sampling = in_own_thread(self._reactor, sample, seconds)
        return sampling.addCallback(lambda profile: Text(profile.summary()))

    def _mirrors(self) -> list[Any]:
        return [] if self._parts.client is None else list(self._parts.client.mirrors)


def _sink_key(sink: str) -> SinkKey:
    try:
        return SinkKey.parse(sink)
    except ValueError:
        raise UserError('write the sink as "project/branch/source/sink"') from None


def _table(lines: Any) -> Text:
    found = list(lines)
    if not found:
        return Text("(nothing)")
    if len(found) > _SHOWN:
        found = [*found[:_SHOWN], f"… and {len(found) - _SHOWN} more"]
    return Text("\n".join(found))
