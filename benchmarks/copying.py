"""``python -m benchmarks.copying``: imports of slices into PostgreSQL, compared with psql.

Both insert the same rows into a table with the same columns, alternating in one run: ``\\copy``
of psql from the CSV, Stream from the gzipped slice, with its ledger. Only the ratio of a pair is
meaningful; that of the processor times also on a busy machine.
"""

from __future__ import annotations

import argparse
import gzip
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import attrs
import psycopg

from benchmarks.lake import COLUMNS, chunks_of, write_slice
from benchmarks.markdown import table
from stream.storage.model.key import FileKey
from stream.target.columns import ColumnRecord
from stream.target.postgres.imports import ensure_table, import_rows
from stream.target.postgres.records import FileRecord
from stream.target.staged import decompressed
from tests.postgres import Postgres, running_postgres
from tests.storage.histories.world import SINK_KEY

__all__ = ["main"]

_COLUMNS = tuple(ColumnRecord(name, type) for name, type in COLUMNS.items())
_SAMPLE_SECONDS = 0.05
_TICKS = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class _Measured:
    """The figures of one run.

    :ivar client: seconds of processor time.
    :ivar server: seconds of processor time of the server's process.
    :ivar waits: samples of the server's wait events.
    """

    seconds: float
    client: float
    server: float
    waits: Counter[str]


class _Watched(Thread):
    """Samples the only other connection of the server until it is stopped."""

    def __init__(self, server: Postgres) -> None:
        super().__init__(daemon=True)
        self.waits: Counter[str] = Counter()
        self.server_seconds = 0.0
        self._connection: Any = server.connect()
        self._end = Event()

    def run(self) -> None:
        query = (
            "SELECT pid, coalesce(wait_event_type || ' ' || wait_event, 'works') "
            "FROM pg_stat_activity WHERE query ILIKE 'COPY%' AND pid <> pg_backend_pid()"
        )
        began: dict[int, float] = {}
        while not self._end.wait(_SAMPLE_SECONDS):
            for pid, waits in self._connection.execute(query).fetchall():
                self.waits[waits] += 1
                try:
                    spent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                seconds = (int(spent[11]) + int(spent[12])) / _TICKS
                self.server_seconds = seconds - began.setdefault(pid, seconds)

    def stop(self) -> None:
        self._end.set()
        self.join()
        self._connection.close()


def _measured(server: Postgres, client: Callable[[], float], work: Callable[[], None]) -> _Measured:
    watched = _Watched(server)
    watched.start()
    began, before = time.monotonic(), client()
    work()
    seconds, spent = time.monotonic() - began, client() - before
    watched.stop()
    return _Measured(seconds, spent, watched.server_seconds, watched.waits)


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _psql(server: Postgres, name: str, plain: Path) -> _Measured:
    command = [
        *(str(server.binaries / "psql"), "-qX", "-d", server.dsn()),
        *("-c", f"\\copy bench.{name} FROM '{plain}' (FORMAT csv)"),
    ]
    environment = {**os.environ, "PGPASSWORD": server.password}

    def work() -> None:
        subprocess.run(command, check=True, env=environment)

    return _measured(server, _of_children, work)


def _stream(server: Postgres, name: str, packed: Path) -> _Measured:
    record = FileRecord(
        key=FileKey.of(SINK_KEY, datetime.now(UTC)),
        import_id=name,
        connection="bench",
        schema="bench",
        table=name,
        columns=_COLUMNS,
    )

    def work() -> None:
        connection: Any = server.connect()
        with connection:
            import_rows(
                connection,
                record,
                [lambda: decompressed(chunks_of(packed)(), "gzip")],
                lambda: False,
            )

    return _measured(server, time.thread_time, work)


def _run(server: Postgres, mebibytes: int, pairs: int, root: Path) -> str:
    packed, plain = root / "slice.csv.gz", root / "slice.csv"
    rows, size = write_slice(packed, mebibytes)
    with gzip.open(packed) as source, plain.open("wb") as target:
        shutil.copyfileobj(source, target)
    lines, quotients = [], []
    waits: dict[str, Counter[str]] = {"psql": Counter(), "stream": Counter()}
    for pair in range(pairs):
        found: dict[str, _Measured] = {}
        # The order alternates, so that neither always finds the server busy with the other's pages.
        for who in ("psql", "stream") if pair % 2 else ("stream", "psql"):
            name = f"{who}_{pair}"
            connection: Any = server.connect()
            with connection:
                ensure_table(connection, "bench", name, _COLUMNS, str(SINK_KEY))
                connection.execute("CHECKPOINT")
            if who == "psql":
                found[who] = _psql(server, name, plain)
            else:
                found[who] = _stream(server, name, packed)
            waits[who] += found[who].waits
            connection = server.connect()
            with connection:
                count = connection.execute(f"SELECT count(*) FROM bench.{name}").fetchone()
                assert count == (rows,), count
                connection.execute(f"DROP TABLE bench.{name}")
        mine, other = found["stream"], found["psql"]
        quotients.append(other.seconds / mine.seconds)
        lines.append(
            (
                pair + 1,
                *(f"{size / 2**20 / each.seconds:.1f}" for each in (mine, other)),
                f"{quotients[-1]:.2f}",
                *(f"{each.client:.2f}" for each in (mine, other)),
                *(f"{each.server:.2f}" for each in (mine, other)),
            )
        )
    head = (
        *("pair", "stream, MiB/s", "psql, MiB/s", "stream ÷ psql"),
        *("client CPU s, stream", "psql", "server CPU s, stream", "psql"),
    )
    shown = "".join(
        f"The server, with {who}: "
        + ", ".join(f"{what} {count}" for what, count in counted.most_common(5))
        + ".\n"
        for who, counted in waits.items()
    )
    return (
        f"{rows} rows, {size / 2**20:.0f} MiB of CSV, load {os.getloadavg()[0]:.1f}, psycopg "
        f"{psycopg.__version__} ({psycopg.pq.__impl__})\n\n{table(head, lines, numbers=True)}\n"
        f"Median of stream ÷ psql: {statistics.median(quotients):.2f}.\n\n{shown}"
    )


def main() -> int:
    """Run and print the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copying", description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="of CSV")
    parser.add_argument("--pairs", type=int, default=4)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="stream-copying-", dir="/var/tmp"))
    root.chmod(0o755)
    try:
        with running_postgres() as server:
            sys.stdout.write(_run(server, options.mib, options.pairs, root))
    finally:
        shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
