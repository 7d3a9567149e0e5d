"""A cluster of the original service, written by hand: its keys in the original's format."""

from __future__ import annotations

from typing import Any

import orjson

from stream.encryption.aes import AesEncryptor
from stream.etcd import KeyValue
from tests.encryption.test_gob import VALUES

KEY = b"o" * 32
FIRST, SECOND = "2026-01-02T03:04:05.000Z", "2026-01-02T03:05:05.000Z"
BRANCH: dict[str, Any] = {"projectId": 123, "branchId": 456}
SOURCE = {**BRANCH, "sourceId": "my-source"}
SINK = {**SOURCE, "sinkId": "my-sink"}
SINK_PATH = "123/456/my-source/my-sink"
FILE = {**SINK, "fileOpenedAt": FIRST}
FILE_PATH = f"{SINK_PATH}/{FIRST}"
BY = {"type": "user", "tokenId": "1", "tokenDesc": "d", "userId": "2", "userName": "n"}
MADE = {"at": FIRST, "by": BY}
MAPPING = {"columns": [{"type": "uuid", "name": "id"}, {"type": "body", "name": "body"}]}
GZIP = {
    "type": "gzip",
    "gzip": {"level": 1, "implementation": "parallel", "blockSize": "256KB", "concurrency": 0},
}
ENCODING = {
    "encoder": {"type": "csv", "concurrency": 0, "rowSizeLimit": "1536KB"},
    "inputBuffer": "2MB",
    "maxChunkSize": "512KB",
    "failedChunksThreshold": 3,
    "compression": GZIP,
    "sync": {
        "mode": "disk",
        "wait": True,
        "checkInterval": "5ms",
        "countTrigger": 10000,
        "uncompressedBytesTrigger": "1MB",
        "compressedBytesTrigger": "256KB",
        "intervalTrigger": "50ms",
    },
}
UPLOAD = {"minInterval": "10s", "trigger": {"count": 10000, "size": "5MB", "interval": "30s"}}
IMPORT = {
    "maxSlices": 100,
    "minInterval": "1m0s",
    "trigger": {
        "count": 50000,
        "size": "50MB",
        "interval": "1m0s",
        "slicesCount": 100,
        "expiration": "30m0s",
    },
}
_LEVELS = {
    "writing": "local",
    "closing": "local",
    "uploading": "local",
    "uploaded": "staging",
    "importing": "staging",
    "imported": "target",
}


def directory(*texts: str) -> str:
    """Return the directory of a file or slice."""
    return "/".join(texts).replace(":", "-").replace(".", "-")


def file_record(state: str = "writing", **members: Any) -> dict[str, Any]:
    """Return a file."""
    times = {"closing": {"closingAt": SECOND}, "importing": {"closingAt": SECOND}}
    return {
        **FILE,
        "state": state,
        **times.get(state, {}),
        "mapping": MAPPING,
        "encoding": ENCODING,
        "local": {
            "dir": directory(FILE_PATH),
            "assignment": {
                "config": {"count": 1, "preferredTypes": ["default"]},
                "volumes": ["my-volume"],
            },
            "allocation": {"enabled": True, "static": "100MB", "relative": 110},
        },
        "staging": {
            "provider": "keboola",
            "compression": GZIP,
            "expiration": "2026-01-02T15:04:05.000Z",
            "upload": UPLOAD,
        },
        "target": {"provider": "keboola", "import": IMPORT},
        **members,
    }


def slice_record(opened_at: str, state: str = "writing", **members: Any) -> dict[str, Any]:
    """Return a slice of the file."""
    return {
        **FILE,
        "volumeId": "my-volume",
        "sliceOpenedAt": opened_at,
        "state": state,
        "mapping": MAPPING,
        "encoding": ENCODING,
        "local": {
            "dir": directory(FILE_PATH, opened_at),
            "filenamePrefix": "slice",
            "filenameExtension": "csv.gz",
            "allocatedDiskSpace": "100MB",
        },
        "staging": {
            "path": f"{opened_at}_my-volume.gz",
            "provider": "keboola",
            "compression": GZIP,
            "upload": UPLOAD,
        },
        **members,
    }


def _key(record: dict[str, Any], *members: str) -> str:
    return "/".join(str(record[name]) for name in (*SINK, *members))


def file_keys(record: dict[str, Any]) -> dict[str, Any]:
    """Return both copies of a file."""
    key = _key(record, "fileOpenedAt")
    level = _LEVELS[record["state"]]
    return {f"storage/file/all/{key}": record, f"storage/file/level/{level}/{key}": record}


def slice_keys(record: dict[str, Any]) -> dict[str, Any]:
    """Return both copies of a slice."""
    key = _key(record, "fileOpenedAt", "volumeId", "sliceOpenedAt")
    level = _LEVELS[record["state"]]
    return {f"storage/slice/all/{key}": record, f"storage/slice/level/{level}/{key}": record}


def statistics(opened_at: str, records: int, level: str = "local") -> dict[str, Any]:
    """Return the keys of a slice's statistics, of its opening and of its writing node."""
    below = f"storage/stats/{level}/{FILE_PATH}/my-volume/{opened_at}"
    return {
        f"{below}/_open": {"slicesCount": 1, "firstRecordAt": "", "lastRecordAt": ""},
        f"{below}/node-1": {
            "firstRecordAt": opened_at,
            "lastRecordAt": opened_at,
            "recordsCount": records,
            "uncompressedSize": "1KB",
            "compressedSize": "111B",
        },
    }


def sealed(name: str, metadata: dict[str, str]) -> str:
    """Return a secret that the original has encrypted."""
    return AesEncryptor(KEY).encrypt_for_original(VALUES[name], metadata)


def token_record() -> dict[str, Any]:
    """Return the token of the sink."""
    return {
        **SINK,
        "token": None,
        "tokenId": "1001",
        "encryptedToken": sealed("token", {"sink": SINK_PATH}),
    }


def staging_record() -> dict[str, Any]:
    """Return the staging file of the file."""
    return {
        "FileKey": FILE,
        "SinkKey": SINK,
        "TableID": "in.c-bucket.my-table",
        "Columns": ["id", "body"],
        "StorageJobID": None,
        "UploadCredentials": None,
        "EncryptedCredentials": sealed("aws", {"file": FILE_PATH}),
        "FileID": 1001,
        "FileName": "my-source_my-sink_20260102030405",
        "CredentialsExpiration": "2026-01-02T15:04:05.000Z",
    }


def sink_record(**members: Any) -> dict[str, Any]:
    """Return a sink."""
    return {
        **SINK,
        "created": MADE,
        "version": {
            "number": 1,
            "hash": "0123456789abcdef",
            "description": "New sink.",
            **MADE,
        },
        "type": "table",
        "name": "My Sink",
        "table": {
            "type": "keboola",
            "keboola": {"tableId": "in.c-bucket.my-table"},
            "mapping": MAPPING,
        },
        **members,
    }


def cluster() -> dict[str, Any]:
    """Return one sink with an open file of three slices, one in each state; no node runs."""
    source = {
        **SOURCE,
        "created": MADE,
        "version": {
            "number": 1,
            "hash": "0123456789abcdef",
            "description": "New source.",
            **MADE,
        },
        "type": "http",
        "name": "My Source",
        "http": {"secret": "s" * 48},
    }
    keys: dict[str, Any] = {
        "definition/branch/active/123/456": {**BRANCH, "created": MADE, "isDefault": True},
        "definition/source/active/123/456/my-source": source,
        "definition/source/version/123/456/my-source/0000000001": source,
        f"definition/sink/active/{SINK_PATH}": sink_record(),
        f"definition/sink/version/{SINK_PATH}/0000000001": sink_record(),
        f"storage/keboola/secret/token/{SINK_PATH}": token_record(),
        f"storage/keboola/file/{FILE_PATH}": staging_record(),
        f"storage/keboola/job/{SINK_PATH}/321": {**SINK, "jobId": "321"},
        f"task/123/api.create.sink/456/my-source/my-sink/{FIRST}_abcde": {
            "projectId": 123,
            "taskId": f"api.create.sink/456/my-source/my-sink/{FIRST}_abcde",
            "type": "api.create.sink",
            "createdAt": FIRST,
            "finishedAt": FIRST,
            "node": "node-1",
            "lock": f"runtime/lock/task/{SINK_PATH}",
            "result": "Sink has been created successfully.",
            "outputs": {"projectId": 123},
            "duration": 1_000_000,
        },
        **file_keys(file_record()),
        **slice_keys(slice_record("2026-01-02T03:04:05.000Z", "uploading")),
        **slice_keys(slice_record("2026-01-02T03:04:15.000Z", "closing")),
        **slice_keys(slice_record("2026-01-02T03:04:25.000Z")),
    }
    for second, count in (("05", 3), ("15", 5), ("25", 0)):
        keys |= statistics(f"2026-01-02T03:04:{second}.000Z", count)
    return keys


def values(keys: dict[str, Any]) -> list[KeyValue]:
    """Return the keys as etcd returns them."""
    return [KeyValue(key, orjson.dumps(value), 1, 1, 1, 0) for key, value in sorted(keys.items())]
