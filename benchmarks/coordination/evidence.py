"""The state of etcd, the sandbox and the volumes at the end."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing

from benchmarks.chaos.pending import read_range
from benchmarks.coordination.accounts import Job
from stream.storage.model import prefix
from stream.storage.model.state import Level
from stream.storage.model.statistics import Statistics
from stream.values.codec import decode
from tests.e2e.processes import Deployment

__all__ = [
    "count_objects",
    "files_of",
    "read_jobs",
    "read_rows",
    "read_token_ids",
    "records_of_slices",
]

NAMESPACE = "e2e"
_FILE_PARTS, _SLICE_PARTS = 5, 7


def records_of_slices(deployed: Deployment) -> dict[str, int]:
    """Return the slices with records, from their statistics."""
    endpoint = f"127.0.0.1:{deployed.ports['etcd']}"
    counts: Counter[str] = Counter()
    for level in Level:
        below = prefix.statistics(level)
        for key, value in read_range(endpoint, f"{NAMESPACE}/", below).items():
            # A slice has seven parts followed by the node; sums of deleted slices have fewer.
            parts = key[len(below) :].split("/")
            if len(parts) > _SLICE_PARTS:
                counts["/".join(parts[:_SLICE_PARTS])] += decode(Statistics, value).records_count
    return {key: count for key, count in counts.items() if count}


def files_of(slices: Iterable[str]) -> set[str]:
    """Return the keys of the files of slices."""
    return {"/".join(key.split("/")[:_FILE_PARTS]) for key in slices}


def read_jobs(deployed: Deployment) -> list[Job]:
    """Return all import jobs that were ever started."""
    path = deployed.root / "sandbox" / "project-123" / "meta.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        found = connection.execute(
            "SELECT id, file_id, status FROM jobs WHERE file_id IS NOT NULL ORDER BY id"
        )
        return [Job(*row) for row in found]


def read_token_ids(deployed: Deployment) -> list[str]:
    """Return the ids of sink tokens in the sandbox."""
    path = deployed.root / "sandbox" / "project-123" / "meta.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return [str(row[0]) for row in connection.execute("SELECT id FROM tokens ORDER BY id")]


def count_objects(deployed: Deployment) -> int:
    """Return the number of slices in the sandbox's own staging directory."""
    staging = deployed.root / "sandbox" / "project-123" / "staging"
    return sum(
        path.is_file() and "manifest" not in path.name and not path.name.startswith(".")
        for path in staging.rglob("*")
    )


def read_rows(deployed: Deployment, table: str) -> dict[int, int]:
    """Return the number of rows of each record in a table."""
    try:
        found = deployed.query(f'SELECT id, count(*) FROM "{table}" GROUP BY id')
    except sqlite3.OperationalError:
        return {}  # it is created by the first import
    return {int(number): count for number, count in found}
