"""Records of the previous release, with their mapping inside, are processed to the end.

The original service's records and those with a small mapping have the same form.
"""

from __future__ import annotations

import orjson
import pytest
import pytest_twisted

from stream.definition.entity import Sink
from stream.definition.mappings import mapping_key
from stream.definition.prefix import SINK_ACTIVE, SOURCE_ACTIVE
from stream.etcd import EtcdClient
from stream.mapping.columns import Mapping
from stream.mapping.stored import StoredMapping
from stream.storage.model import prefix
from stream.storage.model.entity import File, Slice
from stream.storage.model.state import FileState, SliceState
from stream.values.codec import decode, encode, to_plain
from tests.storage.histories.world import SINK, SINK_KEY, SOURCE, Storage
from tests.storage.samples import MAPPING

pytestmark = pytest.mark.usefixtures("every_mapping_is_large")


def inline(record: Sink | File | Slice, mapping: Mapping = MAPPING) -> bytes:
    """Return *record* in the layout of the previous release."""
    plain = orjson.loads(encode(record))
    (plain["table"] if isinstance(record, Sink) else plain)["mapping"] = to_plain(mapping)
    return orjson.dumps(plain)


async def set_back(storage: Storage) -> None:
    """Convert all records to the layout of the previous release."""
    client = storage.client
    await client.put(f"{SINK_ACTIVE}{SINK_KEY}", inline(SINK))
    for file in await storage.files():
        for key in prefix.file_keys(file.key, file.level):
            await client.put(key, inline(file))
    for slice_ in await storage.slices():
        for key in prefix.slice_keys(slice_.key, slice_.level):
            await client.put(key, inline(slice_))
    await client.delete_prefix("storage/mapping/")


async def inlined(client: EtcdClient) -> list[str]:
    """Return the keys of the records with a mapping inside."""
    return [
        kv.key
        for kv in (await client.range("storage/")).kvs
        if not kv.key.startswith("storage/mapping/") and b'"columns"' in kv.value
    ]


@pytest.mark.parametrize(
    "steps",
    range(7),
    ids=["open", "rotated", "closing", "uploading", "uploaded", "importing", "imported"],
)
@pytest_twisted.ensureDeferred
async def test_all_steps(storage: Storage, steps: int) -> None:
    """Each step works in any state of files and slices."""
    await storage.define()
    file = await storage.open_file()
    (first,) = await storage.slices()
    await storage.count(first.key, 3)

    async def rotate() -> None:
        assert await storage.rotate_slice(first.key) is not None

    async def close() -> None:
        await storage.close_files()

    async def to_uploading() -> None:
        for slice_ in await storage.slices():
            await storage.to_uploading(slice_.key)

    async def to_uploaded() -> None:
        for slice_ in await storage.slices():
            await storage.to_uploaded(slice_.key)

    async def to_importing() -> None:
        await storage.to_importing(file.key)

    async def to_imported() -> None:
        await storage.to_imported(file.key)

    way = [rotate, close, to_uploading, to_uploaded, to_importing, to_imported]
    for step in way[:steps]:
        await step()
    await set_back(storage)
    assert await inlined(storage.client)
    for step in way[steps:]:
        await step()
        await storage.check()
    assert (await storage.file(file.key)).state is FileState.IMPORTED
    assert {slice_.state for slice_ in await storage.slices()} == {SliceState.IMPORTED}
    assert len(await storage.slices()) == 2
    assert await storage.records_count() == 3
    if steps < len(way):
        assert await inlined(storage.client) == []
        await _mapping_is_stored(storage.client)


async def _mapping_is_stored(client: EtcdClient) -> None:
    stored = await client.get(mapping_key(SINK_KEY, StoredMapping.of(MAPPING)))
    assert stored is not None and decode(Mapping, stored.value) == MAPPING


@pytest_twisted.ensureDeferred
async def test_a_rotated_file(storage: Storage) -> None:
    """The new file refers to the mapping, which is stored with it; the definition may be
    unchanged.
    """
    await storage.define()
    file = await storage.open_file()
    await set_back(storage)
    stored = await storage.client.get(f"{SINK_ACTIVE}{SINK_KEY}")
    assert stored is not None
    sink = decode(Sink, stored.value)
    assert sink == SINK and sink.table.mapping.content == MAPPING
    assert await storage.client.get(f"{SOURCE_ACTIVE}{SOURCE.key}")
    opened = await storage.rotate_file(file.key)
    assert opened is not None
    assert await inlined(storage.client) == []
    await _mapping_is_stored(storage.client)
    await storage.check()
    await storage.import_all(file.key)


@pytest_twisted.ensureDeferred
async def test_a_changed_record_has_the_new_layout(storage: Storage) -> None:
    """A record that is written for another reason is converted."""
    await storage.define()
    await storage.open_file()
    (slice_,) = await storage.slices()
    await set_back(storage)
    await storage.fail_slice(slice_.key)
    assert len(await inlined(storage.client)) == 2  # those of the file
    await _mapping_is_stored(storage.client)
    assert (await storage.slice(slice_.key)).retry.retry_attempt == 1
