"""Converts data that only this service can read to the original's format.

Each record is converted in a separate transaction, which fails if the record has changed since it
was read. So the conversion may be interrupted and repeated; records that are already converted
aren't changed. A lock prevents concurrent runs. This service can read the result as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import orjson

from stream.definition import prefix as definitions
from stream.definition.entity import Sink
from stream.definition.size import SIZE
from stream.encryption import Encryptor
from stream.encryption.aes import AesEncryptor
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, Session, atomic
from stream.mapping.columns import Mapping as Columns
from stream.storage.model.entity import File, Slice
from stream.storage.store.layout import LAYOUT_KEY
from stream.takeover.check import check_give_back, is_in_original_form, refers, secret_of
from stream.takeover.inventory import Inventory, unfinished_files
from stream.target.keboola.original import token_to_go, upload_to_go
from stream.target.keboola.records import FileRecord, TokenRecord
from stream.task.listing import FORMER_LISTING_PREFIX
from stream.values.codec import encode, to_plain

__all__ = ["give_back"]

LOCK = "takeover"


async def give_back(
    client: EtcdClient, session: Session, encryptor: Encryptor, lock_seconds: float
) -> Inventory:
    """Convert all records, unless there are problems.

    Raises LockTimeout: another conversion is running.

    :param session: etcd session that holds the lock.
    :param lock_seconds: how long to wait for another conversion to end.
    :returns: the state before the conversion. If its report contains problems, nothing was changed.
    """
    async with await session.lock(LOCK, timeout=lock_seconds):
        found = await check_give_back(client, encryptor)
        if not found.report.is_clear:
            return found
        mappings = {
            key.removeprefix(definitions.MAPPING): record
            for key, record in found.records.items()
            if key.startswith(definitions.MAPPING)
        }
        for key, record in found.records.items():
            if isinstance(record, File | Slice | Sink) and refers(record) is not None:
                await _replace(client, found, key, _with_mapping(record, mappings))
            elif isinstance(record, TokenRecord | FileRecord):
                converted = await _sealed_for_original(record, encryptor, found)
                if converted is not None:
                    await _replace(client, found, key, encode(converted))
        for key in found.records:
            if key.startswith((definitions.MAPPING, SIZE)) or key == LAYOUT_KEY:
                await client.delete(key)
        # An API node of this version would have deleted them as well.
        await client.delete_prefix(FORMER_LISTING_PREFIX)
        return found


async def _replace(client: EtcdClient, found: Inventory, key: str, value: bytes) -> None:
    before = found.values[key].mod_revision

    async def body(txn: AtomicTxn) -> None:
        stored = await txn.get(key)
        if stored is None or stored.mod_revision != before:
            raise UserError(
                f'"{key}" was changed during the conversion: a node is still running', status=409
            )
        txn.put(key, value)

    await atomic(client, body)


def _with_mapping(record: File | Slice | Sink, mappings: Mapping[str, object]) -> bytes:
    reference = refers(record)
    assert reference is not None
    sink = record.key if isinstance(record, Sink) else record.key.sink_key
    content = mappings.get(f"{sink}/{reference.hash}")
    if not isinstance(content, Columns):
        raise UserError(f'the mapping {reference.hash} of the sink "{sink}" is missing', status=500)
    plain = to_plain(record)
    (plain["table"] if isinstance(record, Sink) else plain)["mapping"] = to_plain(content)
    return orjson.dumps(plain)


async def _sealed_for_original(
    record: TokenRecord | FileRecord, encryptor: Encryptor, found: Inventory
) -> TokenRecord | FileRecord | None:
    """Return the record with its secret in the original's format; ``None`` if unchanged."""
    is_needed = not isinstance(record, FileRecord) or record.file_key in unfinished_files(found)
    text, metadata = secret_of(record)
    if not text or not is_needed or await is_in_original_form(record, encryptor):
        return None
    plain = to_plain(await record.unseal(encryptor))
    gob = upload_to_go(plain) if isinstance(record, FileRecord) else token_to_go(plain)
    if not isinstance(encryptor, AesEncryptor):
        raise UserError(
            "only values that encryption.provider=aes has encrypted can be converted back"
        )
    sealed = encryptor.encrypt_for_original(gob, metadata)
    if isinstance(record, FileRecord):
        return attrs.evolve(record, encrypted_upload=sealed)
    return attrs.evolve(record, encrypted_token=sealed)
