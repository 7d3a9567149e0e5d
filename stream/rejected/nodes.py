"""Queries to the cluster's source nodes about the rejected records of a sink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.logger import Logger

from stream.concurrency.deadline import within
from stream.concurrency.together import together
from stream.definition.key import BranchKey, SinkKey
from stream.definition.stored import UnreadableRecord, read_stored, readable, warn_left_out
from stream.errors import UserError, shortened
from stream.etcd import EtcdClient, KeyValue
from stream.rejected.answers import Selection
from stream.rejected.link import Asking, NodeUnavailable, tls_credentials
from stream.rejected.state import (
    COUNT,
    KEPT,
    NODE,
    STORED,
    KeptRecords,
    RejectedCount,
    RejectedNode,
    ReplayedRecords,
    sink_of,
    sum_of,
)
from stream.settings.address import is_loopback, split_address
from stream.settings.local import WriterTlsSettings

if TYPE_CHECKING:
    from stream.storage.network.tls import Credentials

__all__ = ["Asked", "RejectedNodes", "rejected_counts", "replayed_ids", "with_files"]

_log = Logger(namespace="stream.rejected")

ASK_SECONDS = 10.0
_CONNECT_SECONDS = 2.0

_STOPPED = "the node doesn't run"
_WITHOUT_FILES = "the node runs without the directory of its records (source.quarantine.path)"
_OTHER_FILES = (
    "the node's directory (source.quarantine.path) is another one than before, or was emptied"
)


@attrs.frozen(kw_only=True)
class Asked:
    """The outcome of a request to one node.

    :ivar answer: the node's answer; ``None`` if there is none.
    :ivar problem: why there is no answer.
    :ivar has_files: whether the node has a directory of rejected records.
    :ivar directory: ID of this directory; empty if unknown.
    """

    node_id: str
    answer: dict[str, Any] | None = None
    problem: str = ""
    has_files: bool = True
    directory: str = ""

    def view(self) -> dict[str, Any]:
        """Return the API's view of the node."""
        if self.answer is not None:
            return {"nodeId": self.node_id, "available": True}
        return {"nodeId": self.node_id, "available": False, "message": self.problem}


async def rejected_counts(
    client: EtcdClient, below: BranchKey | SinkKey
) -> dict[SinkKey, dict[str, RejectedCount]]:
    """Return the counts of a sink, or of all sinks of a branch, by sink and node."""
    found: dict[SinkKey, dict[str, RejectedCount]] = {}
    for kv, count in readable(RejectedCount, (await client.range(f"{COUNT}{below}/")).kvs):
        sink, node = sink_of(kv.key, COUNT)
        found.setdefault(sink, {})[node] = count
    return found


async def replayed_ids(client: EtcdClient, sink: SinkKey) -> frozenset[str]:
    """Return the IDs of a sink's stored records that an unavailable node may still keep."""
    found = (await client.range(f"{STORED}{sink}/")).kvs
    return frozenset(id for kv in found for id in read_stored(ReplayedRecords, kv).ids)


class RejectedNodes(Service):
    """The rejected records of a sink across all source nodes.

    :param hostname: name of this machine, used to decide whether a loopback address can be reached.
    :param tls: the certificates of this node, if it has any.
    """

    def __init__(
        self,
        reactor: Any,
        client: EtcdClient,
        hostname: str,
        now: Callable[[], datetime],
        tls: WriterTlsSettings,
    ) -> None:
        self._now = now
        self._reactor = reactor
        self._client = client
        self._hostname = hostname
        self._tls = tls
        self._credentials: Credentials | None = None

    def startService(self) -> None:
        """Load the certificates. Raises UserError if they are unusable."""
        super().startService()
        self._credentials = tls_credentials(self._tls)

    async def newest(self, sink: SinkKey, selection: Selection, limit: int) -> dict[str, Any]:
        """Return the newest records of all nodes, in the API's form.

        Unavailable nodes are named, including nodes whose records are missing.
        """
        counts = await self._counts(sink)
        selection = await self.without_replayed(sink, selection)
        asked = await self.ask_all(sink, "list", limit=limit, **selection.plain())
        answers = [each.answer for each in asked if each.answer is not None]
        records = [record for each in answers for record in each["records"]]
        records.sort(key=lambda record: record["id"], reverse=True)
        missing = await self.missing(sink, asked)
        names = {each.node_id for each in missing}
        answering = [each for each in asked if each.node_id not in names]
        nodes = [each.view() for each in (*answering, *missing)]
        return {
            "records": records[:limit],
            "reasons": _merged_reasons([each["reasons"] for each in answers]),
            "total": sum(each["total"] for each in answers),
            "dropped": sum_of(counts.values()).dropped,
            "nodes": sorted(nodes, key=lambda node: node["nodeId"]),
        }

    async def missing(self, sink: SinkKey, running: Iterable[RejectedNode | Asked]) -> list[Asked]:
        """Return the nodes that may still keep records of a sink that they can't read.

        Such a node doesn't run, or runs without its directory or with another one.
        """
        nodes = {node.node_id: node for node in running}
        problems: dict[str, str] = {}
        for kv in (await self._client.range(f"{KEPT}{sink}/")).kvs:
            node_id = sink_of(kv.key, KEPT)[1]
            problem = _problem(kv, nodes.get(node_id), self._now())
            if problem:
                problems[node_id] = problem
        return [Asked(node_id=node_id, problem=problems[node_id]) for node_id in sorted(problems)]

    async def _counts(self, sink: SinkKey) -> Mapping[str, RejectedCount]:
        return (await rejected_counts(self._client, sink)).get(sink, {})

    async def get(self, sink: SinkKey, id: str) -> dict[str, Any]:
        """Return one record with its headers and body.

        Raises UserError: the record doesn't exist, or isn't on any available node.
        """
        if id in await replayed_ids(self._client, sink):
            raise _not_found(id)
        asked = await self.ask_all(sink, "get", id=id)
        for each in asked:
            if each.answer is not None and each.answer["record"] is not None:
                record: dict[str, Any] = each.answer["record"]
                return record
        _require_all(asked)
        raise _not_found(id, await self.missing(sink, asked))

    async def erase(self, sink: SinkKey, selection: Selection) -> tuple[int, list[Asked]]:
        """Erase records on all nodes.

        Raises UserError: a running node doesn't answer. The records on the other nodes are erased.

        :returns: the number of erased records, and the nodes that may keep further ones.
        """
        asked = await self.ask_all(sink, "erase", **selection.plain())
        _require_all(asked)
        erased = sum(each.answer["erased"] for each in asked if each.answer is not None)
        if selection.ids is not None and erased == len(selection.ids):
            return erased, []
        return erased, await self.missing(sink, asked)

    async def erase_one(self, sink: SinkKey, id: str) -> None:
        """Erase one record. Raises UserError as `get` does."""
        asked = await self.ask_all(sink, "erase", ids=[id])
        if any(each.answer is not None and each.answer["erased"] for each in asked):
            return
        _require_all(asked)
        raise _not_found(id, await self.missing(sink, asked))

    async def without_replayed(self, sink: SinkKey, selection: Selection) -> Selection:
        """Return *selection* without records that are already stored."""
        replayed = await replayed_ids(self._client, sink)
        return attrs.evolve(selection, without=selection.without | replayed)

    async def all(self) -> dict[str, RejectedNode]:
        """Return the running source nodes by ID."""
        found = await self._client.range(NODE)
        return {node.node_id: node for _, node in readable(RejectedNode, found.kvs)}

    async def ask_all(self, sink: SinkKey, kind: str, **members: Any) -> list[Asked]:
        """Ask every running node; return the outcomes, sorted by node ID."""
        nodes = await self.all()
        return await together(
            *(self.ask(nodes[node_id], sink, kind, **members) for node_id in sorted(nodes))
        )

    async def ask(self, node: RejectedNode, sink: SinkKey, kind: str, **members: Any) -> Asked:
        """Ask one node. A failure is part of the outcome, unless the caller was cancelled."""
        question = {"kind": kind, "sink": str(sink), **members}
        asking = ensureDeferred(self._ask(node, question))
        within(asking, ASK_SECONDS, self._reactor, f'the answer of the node "{node.node_id}"')
        about: Any = {
            "node_id": node.node_id,
            "has_files": node.has_files,
            "directory": node.directory,
        }
        try:
            return Asked(answer=await asking, **about)
        except CancelledError:
            raise
        except Exception as error:
            problem = str(error) or type(error).__name__
            _log.warn(
                "cannot get rejected records from the node {node}: {problem}",
                node=node.node_id,
                problem=problem,
            )
            return Asked(problem=f"the node is unavailable: {problem}", **about)

    async def _ask(self, node: RejectedNode, question: dict[str, Any]) -> dict[str, Any]:
        host, port = split_address(node.address)
        if is_loopback(host) and node.host != self._hostname:
            raise NodeUnavailable(
                "it listens only on loopback: set source.quarantine.listen on that node"
            )
        endpoint: Any = HostnameEndpoint(self._reactor, host, port, timeout=_CONNECT_SECONDS)
        if self._credentials is not None:
            endpoint = wrapClientTLS(self._credentials.client(host), endpoint)
        asking = await connectProtocol(endpoint, Asking(node.secret, question))
        answer: dict[str, Any] = await asking.done
        return answer


def with_files(nodes: Mapping[str, RejectedNode]) -> dict[str, RejectedNode]:
    """Return those of the *nodes* that can read rejected records."""
    return {node_id: node for node_id, node in nodes.items() if node.has_files}


def _problem(stored: KeyValue, node: RejectedNode | Asked | None, now: datetime) -> str:
    """Return why a node can't read records that it may still keep; empty if it can.

    If its `KeptRecords` are unreadable, it may keep records, but none in another directory.
    """
    kept: KeptRecords | None = None
    try:
        kept = read_stored(KeptRecords, stored)
    except UnreadableRecord as error:
        warn_left_out(error)
    if node is None or not node.has_files:
        may_exist = kept is None or kept.may_exist(now)
        return (_STOPPED if node is None else _WITHOUT_FILES) if may_exist else ""
    if kept is None or not node.directory:
        return ""
    return _OTHER_FILES if kept.may_exist(now, outside=node.directory) else ""


def _not_found(id: str, missing: Sequence[Asked] = ()) -> UserError:
    names = ", ".join(each.node_id for each in missing)
    hint = f"; it may be on nodes whose records can't be read: {names}" if missing else ""
    return UserError(
        f'rejected record "{shortened(id)}" not found in the sink{hint}',
        status=404,
        name="rejectedRecordNotFound",
    )


def _require_all(asked: Sequence[Asked]) -> None:
    """Check that all nodes have answered. Raises UserError."""
    absent = [each.node_id for each in asked if each.answer is None]
    if absent:
        raise UserError(
            f"source nodes are unavailable: {', '.join(absent)}",
            status=503,
            name="sourceNodeUnavailable",
        )


def _merged_reasons(lists: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the reasons of all nodes, most frequent first."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for reason in (reason for reasons in lists for reason in reasons):
        key = reason["reason"], reason["column"]
        known = merged.get(key)
        if known is None:
            merged[key] = dict(reason)
            continue
        count = known["count"] + reason["count"]
        if reason["lastTime"] > known["lastTime"]:
            known.update(reason)
        known["count"] = count
    return sorted(merged.values(), key=lambda reason: -reason["count"])
