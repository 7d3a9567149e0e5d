"""Settings of one source or sink."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import NestedError, UserError, sentence
from stream.settings import QuarantineSettings, Settings, StorageLevel
from stream.settings.overrides import (
    OVERRIDABLE,
    QUARANTINE,
    check_patch,
    describe,
    merge,
    patched,
)
from stream.values.bytesize import ByteSize
from stream.values.codec import to_plain
from stream.values.duration import Duration

PREFIX = "storage.level."
WAIT = f"{PREFIX}local.encoding.sync.wait"
BLOCK_SIZE = f"{PREFIX}local.encoding.compression.gzip.blockSize"
UPLOAD_COUNT = f"{PREFIX}staging.upload.trigger.count"
UPLOAD_SIZE = f"{PREFIX}staging.upload.trigger.size"
UPLOAD_INTERVAL = f"{PREFIX}staging.upload.trigger.interval"
IMPORT_INTERVAL = f"{PREFIX}target.import.trigger.interval"
TYPES = f"{PREFIX}local.volume.assignment.preferredTypes"

# Key (below the prefix), type, default, protected, validation, as in the API.
EXPECTED: list[tuple[str, str, Any, bool, str | None]] = [
    (
        "local.encoding.compression.gzip.blockSize",
        "string",
        "256KB",
        True,
        "required,minBytes=16kB,maxBytes=100MB",
    ),
    ("local.encoding.compression.gzip.concurrency", "int", 0, True, None),
    (
        "local.encoding.compression.gzip.implementation",
        "string",
        "parallel",
        True,
        "required,oneof=standard fast parallel",
    ),
    ("local.encoding.compression.gzip.level", "int", 1, True, "min=1,max=9"),
    ("local.encoding.compression.type", "string", "gzip", True, "required,oneof=none gzip"),
    ("local.encoding.encoder.concurrency", "int", 0, True, "min=0,max=256"),
    ("local.encoding.encoder.type", "string", "csv", True, "required,oneof=csv"),
    ("local.encoding.failedChunksThreshold", "int", 3, True, "required,min=1,max=100"),
    ("local.encoding.inputBuffer", "string", "2MB", True, "maxBytes=16MB"),
    (
        "local.encoding.maxChunkSize",
        "string",
        "512KB",
        True,
        "required,minBytes=64kB,maxBytes=1MB",
    ),
    (
        "local.encoding.sync.checkInterval",
        "string",
        "5ms",
        True,
        "required,minDuration=1ms,maxDuration=30s",
    ),
    (
        "local.encoding.sync.compressedBytesTrigger",
        "string",
        "256KB",
        True,
        "required,minBytes=100B,maxBytes=100MB",
    ),
    ("local.encoding.sync.countTrigger", "int", 10000, True, "required,min=1,max=1000000"),
    (
        "local.encoding.sync.intervalTrigger",
        "string",
        "50ms",
        True,
        "required,minDuration=10ms,maxDuration=30s",
    ),
    ("local.encoding.sync.mode", "string", "disk", True, "required,oneof=disk cache"),
    (
        "local.encoding.sync.uncompressedBytesTrigger",
        "string",
        "1MB",
        True,
        "required,minBytes=100B,maxBytes=500MB",
    ),
    ("local.encoding.sync.wait", "bool", True, False, None),
    ("local.volume.assignment.count", "int", 1, True, "required,min=1,max=100"),
    (
        "local.volume.assignment.preferredTypes",
        "[]string",
        ["default"],
        True,
        "required,min=1",
    ),
    ("staging.upload.trigger.count", "int", 10000, False, "required,min=1,max=10000000"),
    (
        "staging.upload.trigger.interval",
        "string",
        "30s",
        False,
        "required,minDuration=1s,maxDuration=30m",
    ),
    (
        "staging.upload.trigger.size",
        "string",
        "5MB",
        False,
        "required,minBytes=100B,maxBytes=50MB",
    ),
    ("target.import.trigger.count", "int", 50000, False, "required,min=1,max=10000000"),
    (
        "target.import.trigger.expiration",
        "string",
        "30m0s",
        True,
        "required,minDuration=5m,maxDuration=45m",
    ),
    (
        "target.import.trigger.interval",
        "string",
        "1m0s",
        False,
        "required,minDuration=30s,maxDuration=24h",
    ),
    (
        "target.import.trigger.size",
        "string",
        "50MB",
        False,
        "required,minBytes=100B,maxBytes=500MB",
    ),
    ("target.import.trigger.slicesCount", "int", 100, True, "required,min=1,max=200"),
]


def _level() -> StorageLevel:
    return Settings().storage.level


def _refusal(*items: tuple[str, object]) -> tuple[int, str, str]:
    with pytest.raises(UserError) as caught:
        check_patch(items)
    error = caught.value
    text = error.sentences() if isinstance(error, NestedError) else sentence(error.message)
    return error.status, error.name, text


def test_describe_defaults() -> None:
    """All 27 settings are described in the form of the API, sorted by key."""
    rows = [to_plain(item) for item in describe(Settings(), [])]
    expected = []
    for key, kind, value, protected, validation in EXPECTED:
        row = {
            "key": PREFIX + key,
            "type": kind,
            "value": value,
            "defaultValue": value,
            "overwritten": False,
            "protected": protected,
        }
        expected.append(row if validation is None else {**row, "validation": validation})
    assert [{k: v for k, v in row.items() if k != "description"} for row in rows] == expected
    assert list(rows[0]) == [
        *("key", "type", "description", "value", "defaultValue", "overwritten", "protected"),
        "validation",
    ]
    assert rows[0]["description"] == "GZIP parallel block size."


def test_describe_overrides() -> None:
    """An override is shown in printed form next to the default, even if they are equal."""
    items = describe(
        Settings(), [(IMPORT_INTERVAL, "90s"), (UPLOAD_SIZE, 2048), (WAIT, True), (TYPES, ["a"])]
    )
    rows = {item.key: item for item in items}
    assert (rows[IMPORT_INTERVAL].value, rows[IMPORT_INTERVAL].default_value) == ("1m30s", "1m0s")
    assert rows[UPLOAD_SIZE].value == "2KB"
    assert rows[TYPES].value == ["a"]
    assert rows[WAIT].overwritten
    assert not rows[UPLOAD_COUNT].overwritten


def test_merge_order() -> None:
    """A sink's override takes precedence over its source's, and that over the service's
    settings.
    """
    source = [(UPLOAD_COUNT, 5), (UPLOAD_SIZE, "1KB")]
    sink = [(UPLOAD_COUNT, 7.9)]
    trigger = merge(_level(), source, sink).staging.upload.trigger
    assert (trigger.count, trigger.size) == (7, ByteSize(1024))
    assert trigger.interval == Duration.of_seconds(30)
    assert merge(_level(), source).staging.upload.trigger.count == 5


def test_quarantine() -> None:
    """The setting is shown only where it is set, also by its former keys."""
    stored = [("sink.deadLetter.enabled", False), ("sink.deadLetter.maxSize", "1MB")]
    check_patch(stored)
    rows = {item.key: item for item in describe(Settings(), stored)}
    assert len(rows) == len(EXPECTED) + 2
    assert (rows["sink.quarantine.enabled"].value, rows["sink.quarantine.maxSize"].value) == (
        False,
        "1MB",
    )
    assert rows["sink.quarantine.maxSize"].default_value == "64MB"
    assert patched(stored, [("sink.quarantine.enabled", None)]) == [
        ("sink.quarantine.maxSize", "1MB")
    ]
    merged = merge(Settings().sink.quarantine, [*stored, (UPLOAD_COUNT, 1)], below=QUARANTINE)
    assert merged == QuarantineSettings(enabled=False, max_size=ByteSize(1024 * 1024))
    assert merge(_level(), stored) == _level()
    assert _refusal(("sink.deadLetter.maxSize", "2GB"))[0] == 400


def test_merging_of_invalid_overrides() -> None:
    """Unknown keys, invalid values and nulls in storage change nothing."""
    stored = [("gone", 1), (UPLOAD_COUNT, "x"), (UPLOAD_SIZE, ""), (UPLOAD_INTERVAL, None)]
    assert merge(_level(), stored) == _level()


def test_a_patch() -> None:
    """A patch replaces by key, null removes, and the result is sorted."""
    stored = [(WAIT, False), (UPLOAD_COUNT, 5)]
    patch = [(UPLOAD_SIZE, "12MB"), (UPLOAD_COUNT, 6), (WAIT, None)]
    assert patched(stored, patch) == [(UPLOAD_COUNT, 6), (UPLOAD_SIZE, "12MB")]
    assert patched(stored, []) == sorted(stored)


def test_valid_patches() -> None:
    """Valid values, nulls and empty texts are accepted."""
    check_patch([])
    check_patch(
        [
            (UPLOAD_INTERVAL, "45s"),
            (UPLOAD_SIZE, "12MB"),
            (UPLOAD_COUNT, 1.9),
            (IMPORT_INTERVAL, 60_000_000_000),
            (WAIT, False),
        ]
    )
    check_patch([(UPLOAD_SIZE, ""), (UPLOAD_INTERVAL, ""), (WAIT, None)])


def test_the_order_of_problems() -> None:
    """Problems have the order of the configuration, and unknown keys come last."""
    assert _refusal((UPLOAD_INTERVAL, "foo"), ("b", 1), (UPLOAD_SIZE, "bar"), ("a", 1)) == (
        400,
        "badRequest",
        f'- Invalid "{UPLOAD_SIZE}" value "bar": invalid syntax.\n'
        f'- Invalid "{UPLOAD_INTERVAL}": time: invalid duration "foo".\n'
        '- Key not found: "a", "b".',
    )


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        (WAIT, "yes", " value: it is a text, expected is true or false."),
        (UPLOAD_COUNT, "1", " value: it is a text, expected is a number."),
        (UPLOAD_COUNT, True, " value: it is true, expected is a number."),
        (UPLOAD_SIZE, [], ' value: it is an array, expected is a size like "10MB".'),
        (
            UPLOAD_INTERVAL,
            {},
            ' value: it is an object, expected is a duration like "10s".',
        ),
        (TYPES, ["a", 1], " value: item 1 is a number, expected is a text."),
        (TYPES, "a", " value: it is a text, expected is an array of texts."),
        (
            f"{PREFIX}local.encoding.sync.mode",
            1,
            " value: it is a number, expected is a text.",
        ),
        (UPLOAD_SIZE, "0123456789012345678901", ' value "01234567890123456789…": invalid syntax.'),
        (TYPES, ["a"] * 101, " value: it is longer than 100 items, 1000 characters."),
        (TYPES, ["a" * 1001], " value: it is longer than 100 items, 1000 characters."),
        (UPLOAD_COUNT, 0, ' value "0": must be 1 or greater.'),
        (UPLOAD_COUNT, -3, ' value "-3": must be 1 or greater.'),
        (UPLOAD_COUNT, 1e40, ' value "1e+40": value out of range.'),
        (UPLOAD_SIZE, "51MB", ' value "51MB": must be 50MB or less.'),
        (UPLOAD_INTERVAL, "31m", ' value "31m0s": must be 30m or less.'),
        (IMPORT_INTERVAL, "999ms", ' value "999ms": must be 1s or greater.'),
    ],
)
def test_invalid_values(key: str, value: object, problem: str) -> None:
    """The error names the key of a value with a wrong type, format or size."""
    assert _refusal((key, value)) == (400, "badRequest", f'Invalid "{key}"{problem}')


def test_values_at_the_limits() -> None:
    """Values equal to a limit are valid."""
    check_patch([(UPLOAD_COUNT, 1), (UPLOAD_SIZE, "50MB"), (IMPORT_INTERVAL, "1s")])
    check_patch([(UPLOAD_COUNT, 10_000_000), (UPLOAD_SIZE, 100), (IMPORT_INTERVAL, "24h")])


def test_a_duplicate_key() -> None:
    """A duplicate key is reported alone."""
    assert _refusal(("a.b", 1), (UPLOAD_SIZE, "bar"), ("a.b", 2)) == (
        400,
        "badRequest",
        'Key "a.b" is defined multiple times.',
    )


def test_unknown_keys_are_truncated() -> None:
    """A long list of unknown keys is truncated after 50 bytes."""
    keys = [("k" * 30, 1), ("l" * 30, 1)]
    expected = f'Key not found: "{"k" * 30}", "{"l" * 16}…".'
    status, _, text = _refusal(*keys)
    assert (status, text) == (400, expected)


def test_protected_keys() -> None:
    """Protected keys are refused if there is no other problem, in the order of the
    configuration.
    """
    concurrency = f"{PREFIX}local.encoding.encoder.concurrency"
    assert _refusal((BLOCK_SIZE, "128KB")) == (
        403,
        "forbidden",
        f'Cannot modify protected keys: "{BLOCK_SIZE}".',
    )
    assert _refusal((BLOCK_SIZE, None), (concurrency, 999))[2] == (
        f'Cannot modify protected keys: "{concurrency}", "{BLOCK_SIZE}".'
    )
    assert _refusal((BLOCK_SIZE, "128KB"), (UPLOAD_SIZE, "bar"))[0] == 400


@given(
    st.dictionaries(
        st.sampled_from([leaf.key for leaf in OVERRIDABLE if leaf.override != "protected"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.lists(st.text())
        | st.dictionaries(st.text(), st.text()),
    )
)
def test_any_json_is_accepted_or_refused(patch: dict[str, object]) -> None:
    """Accepted values can be described and used; all others are the user's error."""
    items = list(patch.items())
    try:
        check_patch(items)
    except UserError as error:
        assert error.status == 400
        return
    merged = merge(Settings(), items, below=())
    for leaf in OVERRIDABLE:
        value = leaf.get(merged)
        assert leaf.rule.violation(value) is None
    shown = {item.key for item in describe(Settings(), items)}
    assert shown == {PREFIX + row[0] for row in EXPECTED} | set(patch)
