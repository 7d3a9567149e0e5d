"""Checks a cluster before a takeover or a return to the original; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.threads import deferToThread

from stream.definition.entity import KEBOOLA, Sink
from stream.encryption import Encryptor
from stream.encryption.aes import AesEncryptor
from stream.encryption.envelope import is_of_another_service
from stream.encryption.gob import Struct
from stream.errors import UserError
from stream.etcd import EtcdClient, KeyValue
from stream.mapping.stored import StoredMapping
from stream.staging import FileUpload
from stream.storage.model import prefix
from stream.storage.model.entity import File, Slice
from stream.storage.model.state import FileState, Level
from stream.takeover.inventory import Inventory, foreign_tables, take_inventory, unfinished_files
from stream.takeover.report import Weight
from stream.takeover.volumes import check_volumes_or_say
from stream.target.keboola.quarantine import QuarantineRecord
from stream.target.keboola.records import FileRecord, TokenRecord
from stream.target.keboola.values import SinkToken
from stream.values.codec import Record

__all__ = ["check_give_back", "check_takeover", "read_all"]

_REPLACE = (
    "after you start Stream, disable and re-enable the sink: it gets a new token and a new file. "
    "Slices that aren't uploaded yet stay on their volumes until the credentials of their file "
    "have expired; then they are uploaded with new ones"
)
_KEY = (
    "set encryption.provider and its key to the values with which it was encrypted; without them, "
    f"{_REPLACE}"
)
_RUNNING = "stop all nodes, and wait until their leases have ended (15 s by default)"
_OF_ORIGINAL = {"none", "gzip"}
_STAGES_OF_ORIGINAL = {"aws", "azure", "gcp"}


async def read_all(client: EtcdClient) -> Sequence[KeyValue]:
    """Return all keys of the namespace with their values."""
    return (await client.range("")).kvs


async def check_takeover(
    client: EtcdClient, encryptor: Encryptor, volumes_path: str = ""
) -> Inventory:
    """Return the report of what this service would find at startup.

    :param volumes_path: path of this machine's volumes; without it, no files are checked.
    """
    found = take_inventory(await read_all(client))
    _check_live(found)
    await _check_secrets(found, encryptor)
    if volumes_path:
        slices = list(found.slices.values())
        await deferToThread(
            check_volumes_or_say, volumes_path, slices, found.statistics, found.report
        )
    return found


async def check_give_back(client: EtcdClient, encryptor: Encryptor) -> Inventory:
    """Return the report of what the original service can't read and what would be converted."""
    found = take_inventory(await read_all(client))
    _check_live(found)
    secrets = await _check_secrets(found, encryptor)
    report = found.report
    if secrets and not isinstance(encryptor, AesEncryptor):
        report.problem(
            "encryption.provider",
            "the format in which the original encrypts with this provider is unknown",
            "disable the sinks first, and enable them in the original: they get new tokens",
        )
    for sink_key, sink in foreign_tables(found).items():
        report.problem(
            f"sink {sink_key}",
            f'the original has no tables of type "{sink.table.type}"',
            "delete the sink, or change its table",
        )
    for key, record in found.records.items():
        if isinstance(record, File | Slice | Sink) and refers(record) is not None:
            report.add(Weight.CONVERTED, key, "the large mapping is written into the record")
        if key in secrets and not await is_in_original_form(record, encryptor):
            report.add(Weight.CONVERTED, key, "the secret is encrypted in the form of the original")
        if isinstance(record, QuarantineRecord):
            report.add(Weight.NOTE, key, "the original doesn't support rows that were refused")
    for file in unfinished_files(found).values():
        _check_file(found, file, secrets)
    return found


def refers(record: File | Slice | Sink) -> StoredMapping | None:
    """Return the record's reference to its mapping; ``None`` if it contains the mapping itself."""
    mapping = record.table.mapping if isinstance(record, Sink) else record.mapping
    return mapping if mapping.content is None else None


def secret_of(record: TokenRecord | FileRecord) -> tuple[str, Mapping[str, str]]:
    """Return a record's encrypted secret (``""`` if there is none) and its metadata."""
    if isinstance(record, TokenRecord):
        return record.encrypted_token, {"sink": str(record.key)}
    return record.encrypted_upload, {"file": str(record.file_key)}


async def is_in_original_form(record: Record, encryptor: Encryptor) -> bool:
    """Return whether the secret of *record* is in the original's format.

    In that case the original has encrypted it, or it is already converted back.

    :param record: a record whose secret can be decrypted.
    """
    assert isinstance(record, TokenRecord | FileRecord)
    return isinstance(await encryptor.decrypt(*secret_of(record)), Struct)


def _check_live(found: Inventory) -> None:
    for key in found.live:
        found.report.problem(key, "a node is running, or was running until a moment ago", _RUNNING)


async def _check_secrets(
    found: Inventory, encryptor: Encryptor
) -> Mapping[str, SinkToken | FileUpload]:
    """Decrypt the secrets that are still needed; failures are reported as problems."""
    opened: dict[str, SinkToken | FileUpload] = {}
    open_files = set(map(str, unfinished_files(found)))
    for key, record in found.records.items():
        if not isinstance(record, TokenRecord | FileRecord):
            continue
        if isinstance(record, FileRecord) and str(record.file_key) not in open_files:
            continue
        if not secret_of(record)[0]:
            continue
        try:
            opened[key] = await record.unseal(encryptor)
        except (UserError, ValueError) as error:
            remedy = _REPLACE if is_of_another_service(secret_of(record)[0]) else _KEY
            found.report.problem(key, str(error), remedy)
    return opened


def _check_file(
    found: Inventory, file: File, secrets: Mapping[str, SinkToken | FileUpload]
) -> None:
    report = found.report
    key = f"{prefix.FILE_ALL}{file.key}"
    wait = "wait until the file is imported, with the sources stopped"
    if file.target.provider != KEBOOLA:
        report.problem(key, f'the original can\'t import into "{file.target.provider}"', wait)
        return
    compression = file.encoding.compression.type
    if compression not in _OF_ORIGINAL and any(
        slice_.level is Level.LOCAL
        for slice_ in found.slices.values()
        if slice_.key.file_key == file.key
    ):
        report.problem(key, f'the original can\'t read "{compression}" files', wait)
    staging_key = f"storage/keboola/file/{file.key}"
    record = found.records.get(staging_key)
    if not isinstance(record, FileRecord):
        report.problem(key, "nothing is known about the staging file", wait)
        return
    if record.import_asked and record.storage_job_id is None and file.state is FileState.IMPORTING:
        report.problem(
            key,
            "it is unknown whether its import job was started; the job could be started twice",
            wait,
        )
    upload = secrets.get(staging_key, record.upload)
    if isinstance(upload, FileUpload) and upload.provider not in _STAGES_OF_ORIGINAL:
        report.problem(key, f'the original can\'t stage to "{upload.provider}"', wait)
