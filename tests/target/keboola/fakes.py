"""A Storage API in memory for tests of code that uses its client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from stream.errors import UserError
from stream.target.keboola import (
    Event,
    Job,
    JobDeadlineExceeded,
    JobFailed,
    StorageApi,
    StorageApiError,
)
from stream.target.keboola.values import (
    Bucket,
    FileUpload,
    JobError,
    SinkToken,
    Table,
    TableMetadata,
)
from stream.values.token import Token

__all__ = ["MASTER", "FakeStorageApi", "refused"]

MASTER = "master-token"


def refused(status: int = 500, code: str = "") -> StorageApiError:
    """Return an answer that refuses a call."""
    return StorageApiError("refused", method="GET", url="http://api", status=status, code=code)


class FakeStorageApi(StorageApi):
    """Records objects and requests, and fails on demand."""

    def __init__(self, directory: Path = Path("/nowhere")) -> None:
        self.directory = directory
        self.calls: list[tuple[str, str]] = []
        self.failures: dict[str, list[UserError]] = {}
        self.before: dict[str, Callable[[], Awaitable[object]]] = {}
        self.buckets: set[str] = set()
        self.tables: dict[str, Table] = {}
        self.tokens: dict[str, str] = {"1": MASTER}
        self.files: dict[int, FileUpload] = {}
        self.imports: list[tuple[str, int, tuple[str, ...]]] = []
        self.jobs: list[Job] = []
        self.lost_answers: list[Exception] = []
        self.job_states: list[str] = []
        self.events: list[Event] = []
        self._ids = 1000

    async def _called(self, method: str, about: str, token: Token | str) -> None:
        before = self.before.pop(method, None)
        if before is not None:
            await before()
        self.calls.append((method, about))
        if self.failures.get(method):
            raise self.failures[method].pop(0)
        if Token.of(token).value not in self.tokens.values():
            raise refused(401, "storage.tokenInvalid")

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    def _require_master(self, token: Token | str) -> None:
        if Token.of(token).value != MASTER:
            raise refused(403, "storage.accessDenied")

    def called(self, *methods: str) -> list[tuple[str, str]]:
        """Return the calls of some methods."""
        return [call for call in self.calls if call[0] in methods]

    # buckets and tables

    async def get_bucket(self, token: Token | str, branch_id: int, bucket_id: str) -> Bucket:
        await self._called("get_bucket", bucket_id, token)
        if bucket_id not in self.buckets:
            raise refused(404, "storage.buckets.notFound")
        return Bucket(bucket_id)

    async def create_bucket(self, token: Token | str, branch_id: int, bucket_id: str) -> Bucket:
        await self._called("create_bucket", bucket_id, token)
        if bucket_id in self.buckets:
            raise refused(400, "storage.buckets.alreadyExists")
        self.buckets.add(bucket_id)
        return Bucket(bucket_id)

    async def delete_bucket(
        self,
        token: Token | str,
        branch_id: int,
        bucket_id: str,
        *,
        force: bool = False,
        timeout: float = 180.0,
    ) -> None:
        await self._called("delete_bucket", bucket_id, token)
        assert not force
        if bucket_id not in self.buckets:
            raise refused(404, "storage.buckets.notFound")
        if any(table.startswith(f"{bucket_id}.") for table in self.tables):
            raise refused(400, "buckets.deleteNotEmpty")
        self.buckets.remove(bucket_id)

    async def get_table(self, token: Token | str, branch_id: int, table_id: str) -> Table:
        await self._called("get_table", table_id, token)
        if table_id not in self.tables:
            raise refused(404, "storage.tables.notFound")
        return self.tables[table_id]

    async def create_table(
        self,
        token: Token | str,
        branch_id: int,
        table_id: str,
        *,
        columns: Sequence[str],
        primary_key: Sequence[str] = (),
        timeout: float = 60.0,
    ) -> Table:
        await self._called("create_table", table_id, token)
        if table_id in self.tables:
            raise JobFailed(1, "exists", code="storage.tables.alreadyExists")
        self.tables[table_id] = Table(table_id, tuple(columns), tuple(primary_key))
        return self.tables[table_id]

    async def delete_table(
        self, token: Token | str, branch_id: int, table_id: str, *, force: bool = False
    ) -> None:
        await self._called("delete_table", table_id, token)
        if self.tables.pop(table_id, None) is None:
            raise refused(404, "storage.tables.notFound")

    async def add_table_metadata(
        self, token: Token | str, branch_id: int, table_id: str, *, source_id: str, sink_id: str
    ) -> None:
        await self._called("add_table_metadata", table_id, token)
        self.mark(table_id, source_id, sink_id)

    def mark(self, table_id: str, source_id: str, sink_id: str) -> None:
        table = self.tables[table_id]
        marks = (
            TableMetadata("KBC.stream.source.id", source_id, "stream"),
            TableMetadata("KBC.stream.sink.id", sink_id, "stream"),
        )
        self.tables[table_id] = Table(table.id, table.columns, table.primary_key, marks)

    # tokens and files

    async def create_token(
        self, token: Token | str, *, source_id: str, sink_id: str, bucket_id: str
    ) -> SinkToken:
        await self._called("create_token", bucket_id, token)
        self._require_master(token)
        token_id = str(self._next_id())
        self.tokens[token_id] = f"token-{token_id}"
        return SinkToken(token_id, f"{source_id}/{sink_id}", token=f"token-{token_id}")

    async def delete_token(self, token: Token | str, token_id: str) -> None:
        await self._called("delete_token", token_id, token)
        self._require_master(token)
        if self.tokens.pop(token_id, None) is None:
            raise refused(404, "storage.tokens.notFound")

    async def prepare_file(
        self,
        token: Token | str,
        branch_id: int,
        *,
        source_id: str,
        sink_id: str,
        opened_at: datetime,
    ) -> FileUpload:
        await self._called("prepare_file", f"{source_id}/{sink_id}", token)
        file_id = self._next_id()
        (self.directory / f"file-{file_id}").parent.mkdir(parents=True, exist_ok=True)
        self.files[file_id] = FileUpload(
            file_id,
            f"{source_id}_{sink_id}",
            "local",
            "",
            {"directory": str(self.directory), "key": f"file-{file_id}/", "secret": "hush"},
            datetime.now(opened_at.tzinfo) + timedelta(hours=12),
        )
        return self.files[file_id]

    async def delete_file(self, token: Token | str, branch_id: int, file_id: int) -> None:
        await self._called("delete_file", str(file_id), token)
        self.files.pop(file_id, None)

    # jobs and events

    async def import_async(
        self,
        token: Token | str,
        branch_id: int,
        table_id: str,
        *,
        file_id: int,
        columns: Sequence[str],
    ) -> Job:
        await self._called("import_async", table_id, token)
        self.imports.append((table_id, file_id, tuple(columns)))
        self.jobs.insert(0, Job(self._next_id(), "waiting", file_id=file_id))
        if self.lost_answers:
            raise self.lost_answers.pop()
        return self.jobs[0]

    async def find_import(self, token: Token | str, file_id: int) -> Job | None:
        await self._called("find_import", str(file_id), token)
        return next((job for job in self.jobs if job.file_id == file_id), None)

    async def get_job(self, token: Token | str, job_id: int, *, budget: float | None = None) -> Job:
        await self._called("get_job", str(job_id), token)
        status = self.job_states.pop(0) if self.job_states else "success"
        return Job(job_id, status, error=JobError("no") if status == "error" else None)

    async def wait_job(self, token: Token | str, job_id: int, *, timeout: float) -> Job:
        await self._called("wait_job", str(job_id), token)
        status = self.job_states.pop(0) if self.job_states else "success"
        if status == "error":
            self.jobs = [job for job in self.jobs if job.id != job_id]
            raise JobFailed(job_id, "bad rows")
        if status != "success":
            raise JobDeadlineExceeded(job_id, status)
        return Job(job_id, status)

    async def send_event(self, token: Token | str, event: Event) -> str:
        await self._called("send_event", event.component, token)
        self.events.append(event)
        return "uuid"
