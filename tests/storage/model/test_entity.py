"""The stored bytes of files and slices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from stream.definition.entity import SettingOverride
from stream.mapping.stored import StoredMapping
from stream.settings import QuarantineSettings, Settings
from stream.settings.declare import with_values
from stream.storage.model.encoding import Compression
from stream.storage.model.entity import File, QuarantineLimits, Slice, directory_name
from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.state import FileState, InvalidFileState, InvalidSliceState, SliceState
from stream.storage.store.repository import StorageRepository
from stream.values.bytesize import ByteSize
from stream.values.codec import decode, encode
from stream.values.duration import Duration
from tests.storage.histories.world import SINK, SINK_KEY, SOURCE, prepared_file, sample_volume
from tests.storage.samples import MAPPING, OPENED_AT, uncompressed

LATER = OPENED_AT + timedelta(hours=1)

_REFERENCE = b'"mapping":{"hash":"%s"},' % StoredMapping.of(MAPPING).hash.encode()
_INLINE = b'"mapping":{"columns":[{"type":"body","name":"body"}]},'
_GZIP = (
    b'"compression":{"type":"gzip","gzip":{"level":1,"implementation":"parallel",'
    b'"blockSize":"256KB","concurrency":0}},'
)
_MAPPING_AND_ENCODING = _INLINE + (
    b'"encoding":{"encoder":{"type":"csv","concurrency":0,"rowSizeLimit":"1536KB"},'
    b'"inputBuffer":"2MB","maxChunkSize":"512KB","failedChunksThreshold":3,'
    + _GZIP
    + b'"sync":{"mode":"disk","wait":true,"checkInterval":"5ms","countTrigger":10000,'
    b'"uncompressedBytesTrigger":"1MB","compressedBytesTrigger":"256KB",'
    b'"intervalTrigger":"50ms"}},'
)
_UPLOAD = b'"upload":{"minInterval":"10s","trigger":{"count":10000,"size":"5MB","interval":"30s"}}'

FILE_JSON = (
    b'{"projectId":123,"branchId":456,"sourceId":"my-source","sinkId":"my-sink",'
    b'"fileOpenedAt":"2000-01-01T01:00:00.000Z","state":"writing",'
    + _MAPPING_AND_ENCODING
    + b'"local":{"dir":"123/456/my-source/my-sink/2000-01-01T01-00-00-000Z",'
    b'"assignment":{"config":{"count":1,"preferredTypes":["default"]},"volumes":["my-volume-1"]},'
    b'"allocation":{"enabled":true,"static":"100MB","relative":110}},'
    b'"staging":{"provider":"keboola",'
    + _GZIP
    + b'"expiration":"2000-01-01T13:00:00.000Z",'
    + _UPLOAD
    + b'},"target":{"provider":"keboola","import":{"maxSlices":100,"minInterval":"1m0s",'
    b'"trigger":{"count":50000,"size":"50MB","interval":"1m0s","slicesCount":100,'
    b'"expiration":"30m0s"}}}}'
)

SLICE_JSON = (
    b'{"projectId":123,"branchId":456,"sourceId":"my-source","sinkId":"my-sink",'
    b'"fileOpenedAt":"2000-01-01T01:00:00.000Z","volumeId":"my-volume-1",'
    b'"sliceOpenedAt":"2000-01-01T02:00:00.000Z","state":"writing",'
    + _MAPPING_AND_ENCODING
    + b'"local":{"dir":"123/456/my-source/my-sink/2000-01-01T01-00-00-000Z/'
    b'2000-01-01T02-00-00-000Z","filenamePrefix":"slice","filenameExtension":"csv.gz",'
    b'"allocatedDiskSpace":"100MB"},'
    b'"staging":{"path":"2000-01-01T02:00:00.000Z_my-volume-1.gz","provider":"keboola",'
    + _GZIP
    + _UPLOAD
    + b"}}"
)


def _file() -> File:
    volumes = [sample_volume("my-volume-1")]
    repository = StorageRepository(Settings().storage.level, lambda: volumes)
    expiration = OPENED_AT + timedelta(hours=12)
    prepared = attrs.evolve(prepared_file(SINK, OPENED_AT), expiration=expiration)
    return repository._new_file(SOURCE, SINK, prepared)


def _slice(file: File | None = None) -> Slice:
    return Slice.opened(file or _file(), "my-volume-1", LATER, ByteSize(100 * 1024 * 1024))


def test_the_stored_form_of_a_file() -> None:
    """The stored form of an open file with default settings is stable."""
    assert encode(_file()) == FILE_JSON
    assert decode(File, FILE_JSON) == _file()


def test_a_record_with_a_reference_to_its_mapping() -> None:
    """The parsed record is the same, and is written in the form for the mapping's size."""
    kinds: list[tuple[type[File] | type[Slice], bytes]] = [(File, FILE_JSON), (Slice, SLICE_JSON)]
    for cls, record in kinds:
        read = decode(cls, record)
        assert read.mapping.mapping == MAPPING and not read.mapping.must_be_stored
        referring = record.replace(_INLINE, _REFERENCE)
        reference = decode(cls, referring)
        assert reference == read and encode(reference) == referring
        assert reference.mapping.content is None and not reference.mapping.must_be_stored
        with pytest.raises(ValueError, match="was not read"):
            _ = reference.mapping.columns
        resolved = attrs.evolve(reference, mapping=reference.mapping.resolved(MAPPING))
        assert encode(resolved) == record


def test_the_size_of_a_mapping_determines_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one is stored separately, and the record refers to it."""
    monkeypatch.setattr("stream.mapping.stored.INLINE_BYTES", len(encode(MAPPING)))
    assert not StoredMapping.of(MAPPING).must_be_stored
    assert encode(_file()) == FILE_JSON
    monkeypatch.setattr("stream.mapping.stored.INLINE_BYTES", len(encode(MAPPING)) - 1)
    assert StoredMapping.of(MAPPING).must_be_stored
    assert encode(_file()) == FILE_JSON.replace(_INLINE, _REFERENCE)
    assert decode(File, FILE_JSON).mapping.must_be_stored


def test_a_record_with_only_the_type_of_compression() -> None:
    """The former form is parsed as the same record."""
    name, _, object_ = _GZIP.rstrip(b",").partition(b":")
    kinds: list[tuple[type[File] | type[Slice], bytes]] = [(File, FILE_JSON), (Slice, SLICE_JSON)]
    for cls, record in kinds:
        before, staging, after = record.partition(b'"staging":')
        old = before + staging + after.replace(object_, b'"gzip"')
        assert old != record and name in old
        assert encode(decode(cls, old)) == record


def test_quarantine_settings_are_stored_in_the_file() -> None:
    """The limits of source and sink are stored only if refused rows are kept.

    Settings may still have their former names.
    """
    repository = StorageRepository(
        Settings().storage.level,
        lambda: [sample_volume("v")],
        quarantine=QuarantineSettings(enabled=False),
    )
    source = attrs.evolve(SOURCE, config=(SettingOverride("sink.deadLetter.maxSize", "1MB"),))
    sink = attrs.evolve(SINK, config=(SettingOverride("sink.deadLetter.enabled", True),))
    prepared = prepared_file(SINK, OPENED_AT)
    file = repository._new_file(source, sink, prepared)
    assert file.quarantine == QuarantineLimits(
        ByteSize(1024 * 1024), Duration.of_seconds(7 * 86400)
    )
    assert encode(_slice(file)).endswith(b',"deadLetter":{"maxSize":"1MB","maxAge":"168h0m0s"}}')
    assert decode(Slice, encode(_slice(file))) == _slice(file)
    assert repository._new_file(source, SINK, prepared).quarantine is None


@pytest.mark.parametrize(
    ("service", "sink", "expected"),
    [
        ("0B", None, "0B"),
        ("0B", "1MB", "1MB"),
        ("2MB", None, "2MB"),
        ("2MB", "1MB", "1MB"),
        ("2MB", "3MB", "2MB"),
        ("2MB", "0B", "2MB"),
    ],
)
def test_a_sink_can_only_lower_the_quota(service: str, sink: str | None, expected: str) -> None:
    """The quota is stored in file and slice; a sink's own is never above that of the service."""
    level = with_values(Settings().storage.level, {("local", "quota"): ByteSize.parse(service)})
    repository = StorageRepository(level, lambda: [sample_volume("v")])
    key = "storage.level.local.quota"
    config = () if sink is None else (SettingOverride(key, sink),)
    file = repository._new_file(
        SOURCE, attrs.evolve(SINK, config=config), prepared_file(SINK, OPENED_AT)
    )
    assert str(_slice(file).quota) == str(file.quota) == expected
    assert (b'"quota"' in encode(file)) is (expected != "0B")
    assert decode(Slice, encode(_slice(file))) == _slice(file)


def test_the_stored_form_of_a_slice() -> None:
    """The stored form of an open slice is stable; the staging path contains the unchanged time."""
    assert encode(_slice()) == SLICE_JSON
    assert decode(Slice, SLICE_JSON) == _slice()


def test_the_order_of_members() -> None:
    """Retry members follow the key, times follow the state, and emptiness begins its block."""
    file = _file().advance(FileState.WRITING, FileState.CLOSING, OPENED_AT)
    file = file.advance(FileState.CLOSING, FileState.IMPORTING, LATER)
    file = attrs.evolve(
        file,
        retry=file.retry.failed(LATER, "no way", delay=timedelta(minutes=2)),
        staging=attrs.evolve(file.staging, is_empty=True),
    )
    text = encode(file)
    assert (
        b'"fileOpenedAt":"2000-01-01T01:00:00.000Z","retryAttempt":1,"retryReason":"no way",'
        b'"firstFailedAt":"2000-01-01T02:00:00.000Z","lastFailedAt":"2000-01-01T02:00:00.000Z",'
        b'"retryAfter":"2000-01-01T02:02:00.000Z","state":"importing",'
        b'"closingAt":"2000-01-01T01:00:00.000Z","importingAt":"2000-01-01T02:00:00.000Z",'
        b'"mapping"'
    ) in text
    assert b'"staging":{"isEmpty":true,"provider"' in text
    assert decode(File, text) == file


def test_an_empty_slice() -> None:
    """The member is between the name and the reserved space."""
    slice_ = _slice()
    slice_ = attrs.evolve(slice_, local=attrs.evolve(slice_.local, is_empty=True))
    assert b'"filenameExtension":"csv.gz","isEmpty":true,"allocatedDiskSpace"' in encode(slice_)


def test_names_of_uncompressed_slices() -> None:
    """Without compression, names of files and objects have no suffix .gz."""
    file = attrs.evolve(
        _file(),
        encoding=uncompressed(),
        staging=attrs.evolve(_file().staging, compression=Compression.of_type("none")),
    )
    slice_ = _slice(file)
    assert slice_.local.filename("node") == "slice-node.csv"
    assert slice_.staging.path == "2000-01-01T02:00:00.000Z_my-volume-1"


def test_directories_have_no_dots_and_colons() -> None:
    """Slashes are kept, because a key is a path."""
    assert directory_name("1/a/2000-01-01T01:00:00.000Z") == "1/a/2000-01-01T01-00-00-000Z"


def test_the_text_of_a_key_is_parsed() -> None:
    """The text of a key is its path."""
    file = FileKey.of(SINK_KEY, OPENED_AT)
    slice_ = file.slice("my-volume", LATER)
    assert FileKey.parse(str(file)) == file
    assert SliceKey.parse(str(slice_)) == slice_
    assert str(slice_) == f"{file}/my-volume/2000-01-01T02:00:00.000Z"
    assert (slice_.file_key, slice_.sink_key) == (file, SINK_KEY)


def test_keys_sort_by_time() -> None:
    """The texts of keys have the order of the times."""
    times = [OPENED_AT + timedelta(milliseconds=step) for step in (0, 1, 999, 1000, 86_400_000)]
    times.append(datetime(2026, 12, 31, 23, 59, 59, 999000, tzinfo=UTC))
    texts = [str(FileKey.of(SINK_KEY, moment)) for moment in times]
    assert texts == sorted(texts)


@pytest.mark.parametrize("state", list(FileState))
@pytest.mark.parametrize("step", list(zip(list(FileState), list(FileState)[1:], strict=False)))
def test_a_file_advances_from_the_expected_state(
    state: FileState, step: tuple[FileState, FileState]
) -> None:
    """The file gets the time of the step and drops its failures; in another state it isn't
    changed.
    """
    file = attrs.evolve(_file(), state=state, retry=_file().retry.failed(LATER, "no"))
    if state is not step[0]:
        with pytest.raises(InvalidFileState):
            file.advance(*step, LATER)
        return
    advanced = file.advance(*step, LATER)
    assert advanced.state is step[1]
    assert getattr(advanced, f"{step[1].value}_at") == LATER
    assert advanced.last_change_at == LATER
    assert advanced.retry.retry_attempt == 0


@pytest.mark.parametrize("state", list(SliceState))
@pytest.mark.parametrize("step", list(zip(list(SliceState), list(SliceState)[1:], strict=False)))
def test_a_slice_advances_from_the_expected_state(
    state: SliceState, step: tuple[SliceState, SliceState]
) -> None:
    """The slice gets the time of the step and drops its failures; in another state it isn't
    changed.
    """
    slice_ = attrs.evolve(_slice(), state=state, retry=_slice().retry.failed(LATER, "no"))
    if state is not step[0]:
        with pytest.raises(InvalidSliceState):
            slice_.advance(*step, LATER)
        return
    advanced = slice_.advance(*step, LATER)
    assert advanced.state is step[1]
    assert getattr(advanced, f"{step[1].value}_at") == LATER
    assert advanced.retry.retry_attempt == 0
