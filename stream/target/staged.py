"""Staging for targets without their own: a bucket or folder that all nodes can access.

Note [One place]: readers store slices in the staging area and coordinators read them, so all of
them must use the same place. Each of these nodes records its place under its lease: the URL of a
bucket, or an ID that is stored in the folder itself. A node doesn't start if its place differs from
that of another node.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
import uuid_utils
from isal import isal_zlib
from twisted.application.service import Service
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from stream.errors import UserError
from stream.etcd import EtcdClient, Registration, Session
from stream.ops.process.thread_pool import in_own_thread
from stream.settings import TargetStagingSettings
from stream.staging import Chunks, StagingError
from stream.staging.bucket import Bucket, BucketAddress, open_bucket, read_address
from stream.storage.model.entity import Slice, directory_name
from stream.storage.model.key import FileKey
from stream.values.codec import Record, decode, encode

__all__ = [
    "MAX_PIECE_BYTES",
    "StagingArea",
    "StagingCheck",
    "StagingPlace",
    "decompressed",
    "staging_address",
]

T = TypeVar("T")

MAX_PIECE_BYTES = 256 * 1024
"""Maximum size of the pieces that `decompressed` returns; gzip data may expand a thousandfold."""

PLACES = "runtime/staging/node/"
"""Etcd prefix of the records of the nodes' places."""

_ID_NAME = ".stream-staging"
_INPUT_BYTES = 64 * 1024
_GZIP_CONTAINER = 31
_Damaged = cast("type[Exception]", isal_zlib.IsalError)
_WHERE = '"target.staging.url" (STREAM_TARGET_STAGING_URL)'


def staging_address(
    settings: TargetStagingSettings, components: Sequence[str], volumes_path: str
) -> BucketAddress:
    """Return the address of the staging area.

    Raises UserError: the settings are invalid, or are required and missing.

    :param components: components of this process. A process that both uploads and imports needs no
        setting: it uses the folder ``staging`` next to the folder of its volumes.
    """
    if not settings.url:
        if {"storage-reader", "storage-coordinator"} <= set(components):
            folder = Path(volumes_path).absolute().parent / "staging"
            return BucketAddress(scheme="file", prefix=str(folder))
        raise UserError(
            f"{_WHERE} must be set: this process doesn't run both storage-reader and "
            "storage-coordinator. Set it to a bucket (s3://…, gs://…, az://…) or a shared folder "
            "(file:///…) that all readers and coordinators can reach",
            name="invalidSettings",
        )
    options = {
        "url": settings.url,
        "region": settings.region,
        "endpoint": settings.endpoint,
        "account": settings.account,
        "credentialFile": settings.credential_file,
    }
    try:
        return read_address(options)
    except ValueError as problem:
        raise UserError(f'"target.staging" {problem}', name="invalidSettings") from None


class StagingArea:
    """The staged objects below one address, in a folder for each file.

    :param pool: a thread pool, started before use.
    """

    def __init__(self, address: BucketAddress, reactor: Any, pool: ThreadPool) -> None:
        self.address = address
        self._reactor = reactor
        self._pool = pool

    async def put(self, slice_: Slice, chunks: Chunks) -> None:
        """Store the rows of *slice_* durably and atomically. Raises StagingError.

        A cancelled upload stops at its next chunk, so its thread may run a little longer.
        """
        given_up = threading.Event()
        try:
            await deferToThreadPool(
                self._reactor,
                self._pool,
                lambda: self._open().put(_name(slice_), chunks, given_up.is_set),
            )
        finally:
            given_up.set()

    def read(self, slice_: Slice) -> Iterator[bytes]:
        """Return the stored rows of *slice_*; blocks. Raises StagingError."""
        return self._open().chunks(_name(slice_))

    async def remove(self, file: FileKey) -> None:
        """Remove all objects of *file*, if any. Raises StagingError."""

        def remove() -> None:
            bucket = self._open()
            bucket.remove(list(bucket.names(directory_name(str(file)))))

        await deferToThreadPool(self._reactor, self._pool, remove)

    def place(self) -> str:
        """Return the identity of the place, equal on all nodes; blocks. Raises UserError."""
        if self.address.scheme != "file":
            return f"{self.address.scheme}://{self.address.bucket}/{self.address.prefix}"
        try:
            bucket = self._open()
            own = str(uuid_utils.uuid7())
            written = Path(self.address.prefix, f"{_ID_NAME}-{own}")
            written.write_text(own, encoding="ascii")
            with suppress(FileExistsError):  # the first node atomically gives the folder its ID
                written.with_name(_ID_NAME).hardlink_to(written)
            written.unlink()
            return (bucket.read(_ID_NAME) or b"").decode("ascii", "replace")
        except (StagingError, OSError) as problem:
            raise UserError(f"{_WHERE}: {problem}", name="invalidSettings") from None

    def _open(self) -> Bucket:
        try:
            return open_bucket(self.address, self.address.credentials())
        except UserError as problem:
            raise StagingError(f'"target.staging": {problem}') from None


def _name(slice_: Slice) -> str:
    return f"{directory_name(str(slice_.key.file_key))}/{slice_.staging.path}"


@attrs.frozen(kw_only=True)
class StagingPlace(Record):
    """A node's record of its staging place."""

    node_id: str
    place: str
    url: str


class StagingCheck(Service):
    """Checks that all nodes use the same place; see Note [One place].

    Raises UserError at startup if another node uses a different place.
    """

    def __init__(
        self, area: StagingArea, client: EtcdClient, session: Session, node_id: str, reactor: Any
    ) -> None:
        self._area = area
        self._client = client
        self._session = session
        self._node_id = node_id
        self._reactor = reactor
        self._registration: Registration | None = None

    async def startService(self) -> None:
        """Record the place, and check that no other node uses a different place."""
        super().startService()
        address = self._area.address
        own = StagingPlace(
            node_id=self._node_id,
            place=await in_own_thread(self._reactor, self._area.place),
            url=f"{address.scheme}://{address.bucket}/{address.prefix.lstrip('/')}",
        )
        self._registration = await self._session.register(f"{PLACES}{self._node_id}", encode(own))
        for kv in (await self._client.range(PLACES)).kvs:
            other = decode(StagingPlace, kv.value)
            if other.place != own.place and other.node_id != own.node_id:
                await self._registration.remove()
                raise UserError(
                    f'this node would stage slices in "{own.url}", but the node "{other.node_id}" '
                    f"stages "
                    f'them in "{other.url}": set {_WHERE} to the same bucket or shared folder on '
                    "all nodes",
                    name="invalidSettings",
                )

    async def stopService(self) -> None:
        """Remove the record. The Deferred fires when it is removed."""
        super().stopService()
        if self._registration is not None:
            await self._registration.remove()


def decompressed(chunks: Iterable[bytes], compression: str) -> Iterator[bytes]:
    """Decompress the *chunks* of a staged object into pieces of at most `MAX_PIECE_BYTES`.

    Raises StagingError: the object is damaged.

    :param compression: ``none`` or ``gzip``; with gzip, the object may have any number of members.
    """
    if compression == "none":
        for chunk in chunks:
            yield from _pieces(chunk, MAX_PIECE_BYTES)
        return
    member = isal_zlib.decompressobj(_GZIP_CONTAINER)
    is_begun = False
    try:
        for chunk in chunks:
            # The data after a piece is copied together with the piece, so the input is split into
            # small parts.
            for part in _pieces(chunk, _INPUT_BYTES):
                rest = part
                while True:
                    is_begun = is_begun or bool(rest)
                    data = member.decompress(rest, MAX_PIECE_BYTES)
                    if data:
                        yield data
                    if member.eof:
                        rest = member.unused_data
                        member, is_begun = isal_zlib.decompressobj(_GZIP_CONTAINER), False
                        if not rest:
                            break
                        continue
                    rest = member.unconsumed_tail
                    if not rest and len(data) < MAX_PIECE_BYTES:
                        break
    except _Damaged as error:
        raise StagingError(f"a staged slice is damaged: {error}", retryable=False) from error
    if is_begun:
        raise StagingError("a staged slice is damaged: its end is missing", retryable=False)


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    if len(data) <= size:
        yield data
        return
    for start in range(0, len(data), size):
        yield data[start : start + size]
