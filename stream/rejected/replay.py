"""Replay of rejected records: renders them with the current mapping, and stores the rows once.

Note [Once]: the rows of a replay don't go through an open slice. After a crash it would be unknown
whether the slice contains them. Instead, a limited number of records becomes a separate file:

1. A transaction opens the file with one slice that is ready for upload and on no volume, so no
   source node writes to it, and no reader or coordinator touches it.
2. The rows are uploaded to the target's staging storage, in the same way as by a reader.
3. **One transaction decides**: it marks the slice as uploaded, and stores the IDs of the records in
   it (`ReplayedRecords`). From then on the file is closed and imported like any other, exactly
   once.
4. The nodes that keep the records erase them, and the IDs are deleted.

Each transaction requires the claim of the sink (`Replay`). The next replay takes over the claim,
and drops the file of the previous replay unless that file is decided. So after a crash between
steps 1 and 3, nothing of the file is imported, and the records are still kept. After step 3 the
records are stored, and are no longer listed as kept, even before they are erased. Records are
selected only after the claim was taken and the IDs were read. The replay therefore sees all
decisions of earlier replays, and those can't decide anything afterwards.

Note [Leftovers]: every API node looks for leftovers of interrupted replays a few times a minute.
Claims without a task are dropped, and stored records are erased when their nodes are available
again.

Note [Cut replays]: a replay has a time limit, and the records that it rejects again remain kept.
Another replay would begin with the same records. Therefore a replay that reaches its time limit
stores its position (`ReplayPosition`), and the next replay of the same records with the same
version of the sink continues there. It also asks the nodes that were read to the end for records
that they have rejected since. So a replay that reaches the end has seen all records that were kept
when it began, even if it has continued another one. A replay deletes the position when it begins,
and stores it again if it fails. If it can't store where it ended, the next replay begins with the
oldest record. The same applies if a node has taken over records during the replay: these may be
before the position of the new node. Then the node has stored a position that is like no other, and
the replay doesn't replace it.

Note [Unavailable nodes]: the records of a node that doesn't answer are skipped. The outcome names
the node and isn't complete. The same applies to a node that may keep records and is stopped, has no
directory, or another one than before. A position names the nodes that were read to the end. A
replay that continues therefore asks all other nodes from their oldest record on, including nodes
before the position and nodes that have started since.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs
import orjson
from isal import isal_zlib
from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.concurrency.together import together
from stream.definition.entity import Sink, Source
from stream.definition.key import SinkKey
from stream.definition.reads import DefinitionReads
from stream.definition.stored import readable
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, EtcdError, KeyValue, atomic
from stream.rejected.answers import Selection
from stream.rejected.masked_headers import notes_of
from stream.rejected.nodes import Asked, RejectedNodes, with_files
from stream.rejected.record import Kept, kept_of
from stream.rejected.rendering import Rendered, Rendering
from stream.rejected.state import (
    POSITION,
    REPLAY,
    STORED,
    RejectedNode,
    Replay,
    ReplayedRecords,
    ReplayPosition,
    sink_of,
)
from stream.staging import StagingError, bytes_chunks
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey
from stream.storage.model.prefix import OPEN_STATISTICS, statistics
from stream.storage.model.state import Level
from stream.storage.model.statistics import Statistics
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.repository import StorageRepository
from stream.target.registry import Targets
from stream.templates.interface import TemplateEvaluator
from stream.values.bytesize import ByteSize
from stream.values.codec import decode, encode

__all__ = ["MAX_RESULTS", "MAX_TESTED", "Outcome", "ReplayLeftovers", "Replayer"]

_log = Logger(namespace="stream.rejected")

REPLAY_SECONDS = 240.0
"""Time limit of a replay, which then returns its results; a task's limit is slightly higher."""
RECORDS_AT_ONCE = 5_000
"""Maximum number of one node's records in a file."""
MAX_FILE_BYTES = 32 * 1024 * 1024
"""Target size of a file's rows; a mapping may make rows much larger than their records."""
MAX_RESULTS = 1_000
"""Maximum number of records whose outcome is shown."""
MAX_TESTED = 1_000
MAX_SHOWN = 100
"""Maximum number of rows that a test shows."""
TEST_SECONDS = 15.0
"""Time limit for testing a mapping; a call may take twice as long."""
LEFTOVER_SECONDS = 15.0
"""Interval of the search for leftovers of interrupted replays."""

_ATTEMPTS = 5
"""Maximum number of attempts to store a batch when the mapping changes."""
_NAMED_FOR = timedelta(days=366)
"""Retention of the IDs of replayed records; no record is kept longer."""
_POSITION_FOR = timedelta(days=1)
"""Retention of the position of a replay that reached its time limit."""
_TOKEN_BYTES = 8
_GZIP_CONTAINER = 31
_LEVEL = 1


@attrs.define
class Outcome:
    """The progress of a replay, shown with tasks; it contains no record.

    :ivar replayed: number of records that were mapped again.
    :ivar results: results of the first records, in the API's form.
    :ivar nodes: the nodes whose records are missing; see Note [Unavailable nodes].
    :ivar is_cut: whether records remain because the time limit was reached.
    :ivar has_ended: whether the replay has ended.
    :ivar masked: pairs of a column of stored rows and a masked header that it reads.
    """

    replayed: int = 0
    stored: int = 0
    rejected: int = 0
    results: list[dict[str, Any]] = attrs.Factory(list)
    nodes: list[Asked] = attrs.Factory(list)
    is_cut: bool = False
    has_ended: bool = False
    masked: set[tuple[str, str]] = attrs.Factory(set)

    @property
    def is_complete(self) -> bool:
        """Whether all selected records were mapped again."""
        return self.has_ended and not self.is_cut and not self.nodes

    def take(self, rendered: Sequence[Rendered]) -> None:
        """Count records whose outcome is decided."""
        self.replayed += len(rendered)
        for each in rendered:
            is_stored = each.error is None
            self.masked |= each.masked
            self.stored += is_stored
            self.rejected += not is_stored
            if len(self.results) < MAX_RESULTS:
                view = each.view(quoting=False)
                view.pop("accepted")
                self.results.append({"id": each.id, "stored": is_stored, **view})

    def without(self, node: Asked) -> None:
        """Note that records of *node* are missing, with the first reason."""
        if all(each.node_id != node.node_id for each in self.nodes):
            self.nodes.append(node)

    def view(self) -> dict[str, Any]:
        """Return the outputs of the task."""
        view: dict[str, Any] = {
            "replayed": self.replayed,
            "stored": self.stored,
            "rejected": self.rejected,
            "results": self.results,
            "isComplete": self.is_complete,
        }
        if self.is_cut:
            view["hasMore"] = True
        if self.masked:
            view["notes"] = notes_of(self.masked)
        if self.nodes:
            view["nodes"] = [node.view() for node in self.nodes]
        return view

    def __str__(self) -> str:
        text = f"Replayed {self.replayed} records: {self.stored} stored, {self.rejected} rejected"
        if self.nodes:
            names = ", ".join(node.node_id for node in self.nodes)
            text += f"; incomplete: the records of {names} could not be read; replay again later"
        if self.is_cut:
            text += "; there are more records; replay again to continue"
        return f"{text}."


Report = Callable[[Outcome], Awaitable[None]]


class _Superseded(UserError):
    """Another replay of the sink has taken over; earlier decisions remain."""

    status = 409
    name = "replaySuperseded"

    def __init__(self) -> None:
        super().__init__("another replay of the sink has taken over")


class _SinkChanged(Exception):
    """The mapping has changed since the rows were rendered."""


@attrs.frozen(kw_only=True)
class _Fetched:
    """Records that a node has returned.

    :ivar cursors: position of each record; empty if the node doesn't send positions.
    :ivar after: position to continue from; empty at the end.
    :ivar problem: the node, if it didn't answer.
    """

    kept: Sequence[Kept] = ()
    cursors: Sequence[str] = ()
    after: str = ""
    problem: Asked | None = None


@attrs.frozen(kw_only=True)
class _Work:
    """The state of one running replay.

    :ivar deadline: time limit, by the reactor's clock.
    :ivar start: the stored position; ``None`` to begin with the oldest record.
    :ivar like: template for positions, with the selection and the version of the sink.
    :ivar ends: end positions of the nodes that were read to the end, including by the replay being
        continued.
    """

    sink: SinkKey
    claim: Replay
    selection: Selection
    outcome: Outcome
    report: Report
    deadline: float
    start: ReplayPosition | None
    like: ReplayPosition
    ends: dict[str, str]

    def after(self, node_id: str) -> str:
        """Return the position after which the records of a node are read."""
        if node_id in self.ends:
            return self.ends[node_id]
        if self.start is None or self.start.node != node_id:
            return ""
        return self.start.after

    def cut_at(self, node_id: str, after: str) -> ReplayPosition:
        """Note that the time limit was reached; return the position."""
        self.outcome.is_cut = True
        ends = {name: end for name, end in sorted(self.ends.items()) if name != node_id}
        return attrs.evolve(self.like, node=node_id, after=after, done=tuple(ends), ends=ends)


class Replayer:
    """Replays rejected records: maps them again and stores their rows.

    :param row_size_limit: maximum size of a row in bytes.
    :param pool: a started pool for compression.
    """

    def __init__(
        self,
        reactor: Any,
        client: EtcdClient,
        repository: StorageRepository,
        targets: Targets,
        nodes: RejectedNodes,
        templates: TemplateEvaluator,
        *,
        node_id: str,
        row_size_limit: int,
        pool: ThreadPool,
        now: Callable[[], datetime],
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._repository = repository
        self._targets = targets
        self._nodes = nodes
        self._templates = templates
        self._node_id = node_id
        self._limit = row_size_limit
        self._pool = pool
        self._now = now
        self._reads = DefinitionReads(client)

    def rendering(self, sink: SinkKey, mapping: Any) -> Rendering:
        """Return the renderer for records of *sink* with *mapping*."""
        return Rendering(self._reactor, self._templates, sink.project_id, mapping, self._limit)

    async def test(
        self, sink: SinkKey, mapping: Any, selection: Selection
    ) -> tuple[list[Rendered], list[Asked]]:
        """Return the rows that *mapping* would render from kept records, without storing them.

        :returns: the results, and the unavailable nodes that may keep other records.
        """
        rendering = self.rendering(sink, mapping)
        selection = await self._nodes.without_replayed(sink, selection)
        deadline = self._reactor.seconds() + TEST_SECONDS
        found: list[Rendered] = []
        nodes = await self._nodes.all()
        unavailable = await self._nodes.missing(sink, nodes.values())
        for node in with_files(nodes).values():
            fetched = await self._fetch(node, sink, selection, "", MAX_TESTED - len(found))
            if fetched.problem is not None:
                unavailable = [each for each in unavailable if each.node_id != node.node_id] + [
                    fetched.problem
                ]
            found += await rendering.test(
                fetched.kept, shown=MAX_SHOWN - len(found), deadline=deadline
            )
            if len(found) >= MAX_TESTED or self._reactor.seconds() >= deadline:
                break
        return found, unavailable

    async def replay(self, sink: SinkKey, selection: Selection, report: Report) -> Outcome:
        """Map the selected records again and store the rows; see Note [Once].

        Raises UserError. The outcomes of the records replayed before the error are kept.

        :param report: called with the progress after each step.
        """
        outcome = Outcome()
        deadline = self._reactor.seconds() + REPLAY_SECONDS
        claim = Replay(
            token=secrets.token_hex(_TOKEN_BYTES), node=self._node_id, started_at=self._now()
        )
        stored = await self._claim(sink, claim)
        try:
            like = await self._like(sink, selection)
            start = _start(stored, like)
            nodes = await self._nodes.all()
            outcome.nodes += await self._nodes.missing(sink, nodes.values())
            work = _Work(
                sink=sink,
                claim=claim,
                selection=await self._nodes.without_replayed(sink, selection),
                outcome=outcome,
                report=report,
                deadline=deadline,
                start=start,
                like=like,
                ends={} if start is None else dict(start.ends or {}),
            )
            position = await self._replay_nodes(work, with_files(nodes))
            if _has_all_ids(work):
                outcome.nodes.clear()
            outcome.has_ended = True
        except Exception:
            await self._release(sink, claim, None if stored is None else stored.value)
            raise
        await self._release(sink, claim, None if position is None else encode(position))
        return outcome

    async def _like(self, sink: SinkKey, selection: Selection) -> ReplayPosition:
        """Return a template for the positions of this replay; see Note [Cut replays]."""
        version = (await self._reads.sink(sink)).version
        text = orjson.dumps(selection.plain(), option=orjson.OPT_SORT_KEYS)
        return ReplayPosition(
            selection=hashlib.sha256(text).hexdigest(),
            sink_version=version.number,
            at=self._now(),
        )

    async def _replay_nodes(
        self, work: _Work, nodes: Mapping[str, RejectedNode]
    ) -> ReplayPosition | None:
        """Replay the records of all nodes; return the position if the time limit is reached.

        Nodes that an earlier replay has read to the end are asked last, and without a time limit.
        If they have nothing new, as most do, the replay is complete.
        """
        earlier = nodes.keys() & work.ends.keys()
        for node_id in sorted(nodes.keys() - earlier):
            position = await self._replay_node(work, nodes[node_id])
            if position is not None:
                return position
        for node_id in await self._with_news(work, [nodes[name] for name in sorted(earlier)]):
            position = await self._replay_node(work, nodes[node_id])
            if position is not None:
                return position
        return None

    async def _with_news(self, work: _Work, nodes: Sequence[RejectedNode]) -> list[str]:
        """Return the IDs of *nodes* that have newer records than those already read."""
        found = await together(
            *(
                self._fetch(node, work.sink, work.selection, work.after(node.node_id), 1)
                for node in nodes
            )
        )
        for each in found:
            if each.problem is not None:
                work.outcome.without(each.problem)
        return [
            node.node_id for node, each in zip(nodes, found, strict=True) if each.kept or each.after
        ]

    async def _replay_node(self, work: _Work, node: RejectedNode) -> ReplayPosition | None:
        """Replay the records of a node; return the position if the time limit is reached."""
        outcome, after = work.outcome, work.after(node.node_id)
        while True:
            if self._reactor.seconds() >= work.deadline:
                return work.cut_at(node.node_id, after)
            fetched = await self._fetch(node, work.sink, work.selection, after, RECORDS_AT_ONCE)
            if fetched.problem is not None:
                outcome.without(fetched.problem)
                return None
            done = 0
            while done < len(fetched.kept):
                if done and self._reactor.seconds() >= work.deadline:
                    return work.cut_at(node.node_id, after)
                rendered = await self._store(work, node, fetched.kept[done:])
                outcome.take(rendered)
                await work.report(outcome)
                done += len(rendered)
                if fetched.cursors:
                    after = fetched.cursors[done - 1]
            if not fetched.after:
                work.ends[node.node_id] = after
                return None
            after = fetched.after

    async def _fetch(
        self, node: RejectedNode, sink: SinkKey, selection: Selection, after: str, limit: int
    ) -> _Fetched:
        """Fetch records from a node."""
        asked = await self._nodes.ask(
            node, sink, "fetch", after=after, limit=limit, **selection.plain()
        )
        if asked.answer is None:
            return _Fetched(problem=asked)
        frames = asked.answer["frames"]
        # Source nodes of earlier versions don't send the positions of individual records.
        cursors = asked.answer.get("cursors") or [""] * len(frames)
        found = [
            (kept, cursor)
            for kept, cursor in zip(
                (kept_of(text.encode()) for text in frames), cursors, strict=True
            )
            if kept is not None
        ]
        return _Fetched(
            kept=[kept for kept, _ in found],
            cursors=[cursor for _, cursor in found] if any(cursors) else (),
            after=asked.answer["after"],
        )

    # One file.

    async def _store(self, work: _Work, node: RejectedNode, kept: Sequence[Kept]) -> list[Rendered]:
        """Store the rows of the first of *kept*; return the outcome of each."""
        key = work.sink
        for _ in range(_ATTEMPTS):
            source, sink = await self._definitions(key)
            rendering = self.rendering(key, sink.table.mapping.mapping)
            rendered = await rendering.render(
                kept, max_bytes=MAX_FILE_BYTES, deadline=work.deadline
            )
            accepted = [each for each in rendered if each.error is None]
            if not accepted:
                return rendered
            try:
                await self._decide(source, sink, work.claim, node, accepted)
            except _SinkChanged:
                continue
            return rendered
        raise UserError("the mapping of the sink keeps changing", status=503, name="mappingChanged")

    async def _definitions(self, key: SinkKey) -> tuple[Source, Sink]:
        source = await self._reads.source(key.source_key)
        sink = await self._reads.with_mapping(await self._reads.sink(key))
        if not sink.is_enabled:
            raise UserError(
                "the sink is disabled: enable it, then replay the records",
                status=409,
                name="sinkDisabled",
            )
        return source, sink

    async def _decide(
        self,
        source: Source,
        sink: Sink,
        claim: Replay,
        node: RejectedNode,
        accepted: Sequence[Rendered],
    ) -> None:
        rows = b"".join(each.row for each in accepted)
        slice_ = await self._open(source, sink, claim)
        data = rows
        if slice_.staging.compression.type != "none":
            data = await deferToThreadPool(
                self._reactor, self._pool, isal_zlib.compress, rows, _LEVEL, _GZIP_CONTAINER
            )
        ids = tuple(each.id for each in accepted)
        replayed = ReplayedRecords(ids=ids, nodes=(node.node_id,), at=self._now())
        stored_key = f"{STORED}{sink.key}/{claim.token}{secrets.token_hex(_TOKEN_BYTES)}"
        counted = Statistics(
            records_count=len(accepted),
            uncompressed_size=ByteSize(len(rows)),
            compressed_size=ByteSize(len(data)),
        )
        target = self._targets.named(slice_.staging.provider)
        try:
            async with target.upload(slice_, bytes_chunks(bytes(data))) as staged:

                async def body(txn: AtomicTxn) -> None:
                    await self._require(txn, sink.key, claim, str(slice_.key.file_key))
                    await staged.check(txn)
                    await self._repository.slice_to_uploaded(
                        txn, slice_.key, self._now(), is_empty=False, counted=counted
                    )
                    txn.put(stored_key, encode(replayed))
                    txn.put(f"{REPLAY}{sink.key}", encode(claim))

                await atomic(self._client, body, lock=staged.lock)
        except StagingError as error:
            raise UserError(
                f"the rows can't be stored now: {error}", status=503, name="notStored"
            ) from error
        _log.info(
            "replayed {count} rejected records of {sink_id}",
            count=len(accepted),
            sink_id=str(sink.key),
            file_id=str(slice_.key.file_key),
        )
        await self.erase(sink.key, stored_key, replayed)

    async def _open(self, source: Source, sink: Sink, claim: Replay) -> Slice:
        """Open the file (step 1 of Note [Once]). Raises _SinkChanged."""
        now = self._now()
        prepared: PreparedFile = await self._targets.prepare(source, sink, now, token=None)
        try:

            async def body(txn: AtomicTxn) -> Slice | None:
                await self._require(txn, sink.key, claim, "")
                slice_ = await self._repository.open_uploading(txn, source, sink, prepared)
                if slice_ is None:
                    return None
                counts = Statistics(slices_count=1, first_record_at=now, last_record_at=now)
                txn.put(f"{statistics(Level.LOCAL)}{slice_.key}/{OPEN_STATISTICS}", encode(counts))
                begun = attrs.evolve(claim, file=str(slice_.key.file_key))
                txn.put(f"{REPLAY}{sink.key}", encode(begun))
                return slice_

            opened = await atomic(self._client, body)
            if opened is None:
                raise _SinkChanged
        except Exception:
            await self._targets.discard(prepared)
            raise
        await self._targets.committed(prepared)
        return opened

    # The claim of a sink.

    async def _claim(self, sink: SinkKey, claim: Replay) -> KeyValue | None:
        """Take over the claim of the sink, and drop the undecided file of its previous owner.

        Return the position of an earlier replay, which is deleted; see Note [Cut replays].
        """

        async def body(txn: AtomicTxn) -> tuple[File | None, KeyValue | None]:
            dropped = await self._drop(txn, sink)
            position = await txn.get(f"{POSITION}{sink}")
            txn.delete(f"{POSITION}{sink}")
            txn.put(f"{REPLAY}{sink}", encode(claim))
            return dropped, position

        dropped, position = await atomic(self._client, body)
        await self._forget(dropped)
        return position

    async def _release(self, sink: SinkKey, claim: Replay, position: bytes | None = None) -> None:
        """Release the claim. If that fails, the cleanup releases it later.

        :param position: the position to store, unless there is one; see Note [Cut replays].
        """

        async def body(txn: AtomicTxn) -> File | None:
            stored = await txn.get(f"{REPLAY}{sink}")
            if stored is None or decode(Replay, stored.value).token != claim.token:
                return None
            dropped = await self._drop(txn, sink)
            txn.delete(f"{REPLAY}{sink}")
            if position is not None and await txn.get(f"{POSITION}{sink}") is None:
                txn.put(f"{POSITION}{sink}", position)
            return dropped

        try:
            await self._forget(await atomic(self._client, body))
        except EtcdError as error:
            _log.warn("cannot record the end of a replay: {error}", error=error, sink_id=str(sink))

    @staticmethod
    async def _require(txn: AtomicTxn, sink: SinkKey, claim: Replay, file: str) -> None:
        """Check that *claim*, with this *file*, holds the sink. Raises _Superseded."""
        stored = await txn.get(f"{REPLAY}{sink}")
        if stored is not None:
            present = decode(Replay, stored.value)
            if present.token == claim.token and present.file == file:
                return
        raise _Superseded

    async def _drop(self, txn: AtomicTxn, sink: SinkKey) -> File | None:
        """Drop the file that the claim of the sink names, unless the file is decided."""
        stored = await txn.get(f"{REPLAY}{sink}")
        name = decode(Replay, stored.value).file if stored is not None else ""
        if not name:
            return None
        return await self._repository.drop_uploading(
            txn, FileKey.parse(name), self._targets.file_records
        )

    async def _forget(self, dropped: File | None) -> None:
        if dropped is not None:
            _log.warn("dropped the undecided file of a replay", file_id=str(dropped.key))
            await self._targets.delete_staged(dropped)

    # Cleanup.

    async def abandoned(self, sink: SinkKey, token: str) -> None:
        """End the replay with this *token*; no task is working on it."""
        await self._release(sink, Replay(token=token))

    async def erase(self, sink: SinkKey, stored_key: str, replayed: ReplayedRecords) -> bool:
        """Erase stored records on the nodes; return whether all nodes have answered."""
        asked = await self._nodes.ask_all(sink, "erase", ids=list(replayed.ids))
        answered = {each.node_id for each in asked if each.answer is not None}
        is_old = self._now() - replayed.at > _NAMED_FOR
        if not is_old and not answered.issuperset(replayed.nodes):
            return False
        await self._client.delete(stored_key)
        return True

    async def forget_old_positions(self) -> None:
        """Delete the positions of replays that nobody has continued."""
        for kv, position in readable(ReplayPosition, (await self._client.range(POSITION)).kvs):
            if self._now() - position.at > _POSITION_FOR:
                await self._client.delete(kv.key)


def _has_all_ids(work: _Work) -> bool:
    """Return whether the replayed records were selected by IDs, and all of them were found."""
    ids = work.selection.ids
    return ids is not None and work.outcome.replayed >= len(ids - work.selection.without)


def _start(stored: KeyValue | None, like: ReplayPosition) -> ReplayPosition | None:
    """Return the position to continue from; see Note [Cut replays]."""
    found = readable(ReplayPosition, () if stored is None else (stored,))
    same = (each for _, each in found if each.is_like(like) and each.ends is not None)
    return next(same, None)


class ReplayLeftovers(Service):
    """Cleans up after interrupted replays; see Note [Leftovers].

    :param is_running: returns whether a task is working on the object with a key.
    """

    def __init__(
        self,
        reactor: Any,
        client: EtcdClient,
        replayer: Replayer,
        is_running: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._client = client
        self._replayer = replayer
        self._is_running = is_running
        self._loop = LoopingCall(lambda: ensureDeferred(self._round()))
        self._loop.clock = reactor
        self._looping: Deferred[Any] = succeed(None)

    def startService(self) -> None:
        super().startService()
        self._looping = self._loop.start(LEFTOVER_SECONDS, now=False)
        self._looping.addErrback(lambda failure: _log.failure("cannot finish replays", failure))

    async def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
            await self._looping

    async def _round(self) -> None:
        try:
            await self.clean_up()
        except EtcdError as error:
            _log.warn("cannot finish replays, retrying: {error}", error=error)
        except Exception:
            _log.failure("cannot finish replays")

    async def clean_up(self) -> None:
        """Check all sinks once."""
        for kv in (await self._client.range(REPLAY)).kvs:
            sink = SinkKey.parse(kv.key.removeprefix(REPLAY))
            if not await self._is_running(str(sink)):
                await self._replayer.abandoned(sink, decode(Replay, kv.value).token)
        for kv in (await self._client.range(STORED)).kvs:
            sink, _ = sink_of(kv.key, STORED)
            if not await self._is_running(str(sink)):
                await self._replayer.erase(sink, kv.key, decode(ReplayedRecords, kv.value))
        await self._replayer.forget_old_positions()
