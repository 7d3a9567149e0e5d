"""The live streams that this node serves.

One watch in etcd serves all streams, and runs only while there are any. The changed counters of a
branch are encoded once a second, and each change of a file when it happens; all callers of the
branch get the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from stream.api.live.counters import Known
from stream.api.live.follower import END_REASONS, Follower, Send, sse
from stream.api.live.pipeline_watch import PipelineEvent, PipelineWatch
from stream.concurrency.waiters import Waiters
from stream.definition.key import BranchKey, SinkKey
from stream.errors import UserError
from stream.etcd import EtcdClient, EtcdError
from stream.ops.metrics.registry import Metrics
from stream.values.fair_share import may_take
from stream.values.utctime import format_time

__all__ = ["LiveHub"]

_log = Logger(namespace="stream.api.live")

TICK_SECONDS = 1.0
LINGER_SECONDS = 60.0
"""How long etcd is watched after the last caller has left, because most callers reconnect."""
MAX_SECONDS = 3600.0
"""Maximum duration of a stream, after which the caller reconnects."""
VERIFY_SECONDS = 60.0
"""Interval of verifying a caller's token."""
BEHIND_SECONDS = 3.0
"""Shorter delays aren't reported, because a broken watch usually recovers immediately."""
MAX_KEPT_BYTES = 4 * 1024 * 1024
"""Maximum size of the events of all branches that are kept for reconnecting callers."""
_REFUSED = (401, 403, 404)


@attrs.frozen
class _Round:
    """The events of one round of changes.

    :ivar events: encoded events by branch.
    """

    revision: int
    events: dict[BranchKey, bytes]
    size: int


@attrs.define
class _Branch:
    """A branch that is followed.

    :ivar known: its sources and sinks at the last tick.
    """

    followers: set[Follower] = attrs.Factory(set)
    known: Known = attrs.Factory(dict)


class LiveHub(Service):
    """The followers on this node, and the events they get.

    :param client: etcd client, already started.
    :param known: returns the sources and sinks of a branch, sorted by id; ``None`` while they are
        uncertain.
    :param now: returns the current time in UTC.
    :param max_concurrent: maximum number of followers; see Note [Shares] of
        `stream.values.fair_share`.
    :param metrics: counts followers, refusals and ends.
    """

    name = "api.live"

    def __init__(
        self,
        reactor: Any,
        client: EtcdClient,
        known: Callable[[BranchKey], Known | None],
        now: Callable[[], datetime],
        *,
        max_concurrent: int,
        metrics: Metrics,
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._known = known
        self._now = now
        self._max_concurrent = max_concurrent
        metrics.own("stream_api_live_streams").labels({}).set_function(lambda: len(self))
        self._refused = metrics.own("stream_api_live_refused_streams").labels({})
        ended = metrics.own("stream_api_live_ended_streams")
        self._ended = {reason: ended.labels({"reason": reason}) for reason in END_REASONS}
        self._branches: dict[BranchKey, _Branch] = {}
        self._watch: PipelineWatch | None = None
        self._is_changing = False
        self._changed: Waiters[None] = Waiters()
        self._closing: IDelayedCall | None = None
        self._rounds: deque[_Round] = deque()
        self._kept = 0
        self._baseline = 0
        self._uncertain_since: float | None = None
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor

    async def stopService(self) -> None:
        """Stop the hub. All streams must have ended."""
        self.end_all()
        await self._close()

    def end_all(self) -> None:
        """End all streams because the node stops, and refuse new ones."""
        super().stopService()
        for branch in tuple(self._branches.values()):
            for follower in tuple(branch.followers):
                follower.end("stopping")

    def __len__(self) -> int:
        """Return the number of followers."""
        return sum(len(branch.followers) for branch in self._branches.values())

    async def prepare(self, branch: BranchKey) -> None:
        """Check that one more caller may follow *branch*, and start watching etcd.

        Raises UserError: there are too many followers, or the node stops. Raises EtcdError: etcd is
        unavailable.
        """
        self._check_room(branch)
        await self._open()
        self._check_room(branch)  # Other callers may have started to follow during the wait.

    def _check_room(self, branch: BranchKey) -> None:
        of_project = sum(
            len(other.followers)
            for key, other in self._branches.items()
            if key.project_id == branch.project_id
        )
        taken = len(self)
        if not self.running or taken >= self._max_concurrent:
            whose = ""
        elif not may_take(of_project, taken, self._max_concurrent):
            whose = " of this project"
        else:
            return
        self._refused.add()
        raise UserError(
            f"too many live streams{whose} at the moment, please try again later",
            status=503,
            name="tooManyStreams",
        )

    async def follow(
        self,
        branch: BranchKey,
        send: Send,
        *,
        last_id: int | None,
        verify: Callable[[], Awaitable[object]],
    ) -> None:
        """Send events of *branch* to one caller until it leaves, is too slow, or loses its right.

        :param last_id: id of the last event that the caller received; ``None`` on the first call.
        :param verify: raises UserError if the caller's token is no longer valid.
        """
        follower = Follower(self._reactor)
        at_end = self._reactor.callLater(MAX_SECONDS, follower.end, "duration")
        checking = LoopingCall(self._verify, follower, verify)
        checking.clock = self._reactor
        try:
            self._join(branch, follower, last_id)
            checked = checking.start(VERIFY_SECONDS, now=False)
            checked.addErrback(lambda failure: _log.failure("cannot verify a token", failure))
            await follower.write(send)
        finally:
            if at_end.active():
                at_end.cancel()
            if checking.running:
                checking.stop()
            self._leave(branch, follower)
            if follower.reason is not None:
                self._ended[follower.reason].add()

    def _join(self, branch: BranchKey, follower: Follower, last_id: int | None) -> None:
        following = self._branches.setdefault(branch, _Branch())
        if not following.followers:
            following.known = self._known(branch) or {}
        following.followers.add(follower)
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if not self._loop.running:
            running = self._loop.start(TICK_SECONDS, now=False)
            running.addErrback(lambda failure: _log.failure("live streams stopped", failure))
        missed = self._missed(branch, last_id)
        if missed is None:
            follower.put(sse("reset", {"reason": "the events since then are no longer known"}))
        follower.put(self._everything(branch, following, is_first=True), always=True)
        for event in missed or ():
            follower.put(event, always=True)

    def _leave(self, branch: BranchKey, follower: Follower) -> None:
        following = self._branches[branch]
        following.followers.discard(follower)
        if not following.followers:
            del self._branches[branch]
        if not self._branches:
            if self._loop.running:
                self._loop.stop()
            self._close_later()

    async def _verify(self, follower: Follower, verify: Callable[[], Awaitable[object]]) -> None:
        try:
            await verify()
        except UserError as error:
            # If the authority is unavailable, the token isn't revoked.
            if error.status in _REFUSED and not error.unreachable:
                follower.end("token")
        except Exception:
            _log.failure("cannot verify the token of a live stream")

    # Watching.

    async def _open(self) -> None:
        """Start watching etcd. Raises EtcdError."""
        while self._watch is None:
            if self._is_changing:
                await self._changed.wait()
            else:
                await self._change(self._start_watch)
        if not self._branches:
            # The caller may disconnect before the watch is open.
            self._close_later()

    async def _change(self, change: Callable[[], Awaitable[None]]) -> None:
        """Start or stop the watch. Any number of callers may wait until that is done."""
        self._is_changing = True
        try:
            await change()
        except CancelledError:
            # Only this caller has disconnected; others may still wait.
            self._is_changing = False
            self._changed.fire(None)
            raise
        except Exception as error:
            self._is_changing = False
            self._changed.fail(error)
            raise
        self._is_changing = False
        self._changed.fire(None)

    async def _start_watch(self) -> None:
        watch = PipelineWatch(
            self._reactor, self._client, self._now, on_events=self._events, on_reset=self._reset
        )
        try:
            await watch.startService()
        except BaseException:
            await watch.stopService()
            raise
        self._watch = watch
        self._forget_rounds()

    async def _stop_watch(self) -> None:
        watch, self._watch = self._watch, None
        self._rounds.clear()
        if watch is not None:
            await watch.stopService()

    def _close_later(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self.running:
            self._closing = self._reactor.callLater(LINGER_SECONDS, self._linger_ended)

    def _linger_ended(self) -> None:
        self._closing = None
        closing = Deferred.fromCoroutine(self._close())
        closing.addErrback(lambda failure: _log.failure("cannot end a live stream", failure))

    async def _close(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        while self._is_changing:
            with suppress(EtcdError):  # The watch could not be opened.
                await self._changed.wait()
        if not (self._branches and self.running):
            await self._change(self._stop_watch)

    # Sending.

    def _everything(
        self, branch: BranchKey, following: _Branch, *, is_first: bool = False
    ) -> bytes:
        """Return all counters and files as an event.

        :param is_first: whether the caller hasn't received a file event from which it could resume.
        """
        watch = self._watch
        assert watch is not None
        sources = watch.counters.sources(branch, following.known)
        id = self._rounds[-1].revision if self._rounds else self._baseline
        data = self._head() | {"full": True, "sources": sources}
        return sse("counters", data, id if is_first else None)

    def _head(self) -> dict[str, Any]:
        head: dict[str, Any] = {"time": format_time(self._now())}
        behind = 0.0 if self._watch is None else self._watch.behind_seconds
        if self._uncertain_since is not None:
            # The node has no lease. Its watch may be silent because etcd is unreachable.
            behind = max(behind, self._reactor.seconds() - self._uncertain_since)
        if behind >= BEHIND_SECONDS:
            head["behindSeconds"] = round(behind)
        return head

    def _tick(self) -> None:
        watch = self._watch
        if watch is None:
            return
        changed = watch.counters.take_changed()
        for key, following in tuple(self._branches.items()):
            event = self._counters(key, following, changed.get(key, set()))
            for follower in tuple(following.followers):
                follower.put(event)

    def _counters(self, key: BranchKey, following: _Branch, changed: set[SinkKey]) -> bytes:
        assert self._watch is not None
        known = self._known(key)
        if known is not None:
            self._uncertain_since = None
        elif self._uncertain_since is None:
            self._uncertain_since = self._reactor.seconds()
        if known is not None and known != following.known:
            following.known = known
            return self._everything(key, following)
        sources = self._watch.counters.sources(key, following.known, changed)
        return sse("counters", self._head() | {"sources": sources})

    def _events(self, events: Sequence[PipelineEvent], revision: int) -> None:
        by_branch: dict[BranchKey, list[PipelineEvent]] = {}
        for event in events:
            by_branch.setdefault(event.branch, []).append(event)
        written = {
            branch: b"".join(
                sse(event.name, event.data, revision if event is found[-1] else None)
                for event in found
            )
            for branch, found in by_branch.items()
        }
        self._keep(_Round(revision, written, sum(map(len, written.values()))))
        for branch, following in tuple(self._branches.items()):
            if branch in written:
                for follower in tuple(following.followers):
                    follower.put(written[branch])

    def _reset(self) -> None:
        self._forget_rounds()
        for key, following in tuple(self._branches.items()):
            event = sse("reset", {"reason": "some events were lost"})
            event += self._everything(key, following, is_first=True)
            for follower in tuple(following.followers):
                follower.put(event)

    # Keeping rounds for callers that reconnect.

    def _keep(self, latest: _Round) -> None:
        self._rounds.append(latest)
        self._kept += latest.size
        while self._kept > MAX_KEPT_BYTES:
            dropped = self._rounds.popleft()
            self._kept -= dropped.size
            self._baseline = dropped.revision

    def _forget_rounds(self) -> None:
        self._rounds.clear()
        self._kept = 0
        self._baseline = 0 if self._watch is None else self._watch.revision

    def _missed(self, branch: BranchKey, last_id: int | None) -> list[bytes] | None:
        """Return the events after *last_id*; ``None`` if some of them are no longer kept."""
        if last_id is None:
            return []
        revisions = [self._baseline, *(each.revision for each in self._rounds)]
        if last_id not in revisions:
            return None
        behind = list(self._rounds)[revisions.index(last_id) :]
        return [each.events[branch] for each in behind if branch in each.events]
