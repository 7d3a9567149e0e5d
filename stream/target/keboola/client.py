"""The client of the Storage API: one method for each call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from twisted.internet.task import deferLater
from twisted.web.client import HTTPConnectionPool

from stream.authority import Branch, ProjectToken, TokenInfo
from stream.ops.metrics.registry import Metrics
from stream.target.keboola import values
from stream.target.keboola.bodies import (
    bucket_body,
    file_body,
    import_body,
    metadata_body,
    quarantine_file_body,
    table_body,
    token_body,
)
from stream.target.keboola.call import Answer, Call, Caller, base_url
from stream.target.keboola.errors import JobDeadlineExceeded, JobFailed, StorageApiError
from stream.target.keboola.event import Event
from stream.target.keboola.program import ProgramToken
from stream.target.keboola.retry import CALL_BUDGET, job_poll_delays
from stream.target.keboola.transport import Transport, persistent_pool
from stream.target.keboola.values import (
    Bucket,
    FileUpload,
    Index,
    Job,
    SinkToken,
    Table,
)
from stream.target.keboola.wire_log import WireLog
from stream.values.token import Token

__all__ = ["StorageApi"]

T = TypeVar("T")
CONNECT_TIMEOUT = 3.0
_INDEX_LIFETIME = 300.0
_WHOLE_BUCKET_NAMES = "disable-legacy-bucket-prefix"
_BUCKET_DELETE_TIMEOUT = 180.0
_TABLE_CREATE_TIMEOUT = 60.0
_JOBS_PAGE = 100
_SEARCHED_PAGES = 10


class StorageApi:
    """A client of one Storage API. It stores no token; each call gets the token to use.

    Every method raises `StorageApiError` if the call fails. Methods that wait for a job may raise
    `JobFailed` and `JobDeadlineExceeded` as well. A token is a `Token` or text.

    Raises ValueError: the address is invalid.

    :param reactor: used for connections and time.
    :param host_or_url: ``host``, ``host:port`` (then https is used), or a URL.
    :param pool: pool of persistent connections; by default, the client creates its own.
    :param budget: time limit of a call in seconds, including retries.
    :param connect_timeout: time limit of connecting in seconds.
    :param metrics: metrics of calls.
    :param log_exchanges: whether to log each request and its answer, without secrets.
    """

    def __init__(
        self,
        reactor: Any,
        host_or_url: str,
        *,
        pool: HTTPConnectionPool | None = None,
        budget: float = CALL_BUDGET,
        connect_timeout: float = CONNECT_TIMEOUT,
        metrics: Metrics | None = None,
        log_exchanges: bool = False,
    ) -> None:
        self._reactor = reactor
        self._transport = Transport(reactor, pool or persistent_pool(reactor), connect_timeout)
        self._caller = Caller(
            reactor,
            base_url(host_or_url),
            self._transport,
            budget,
            metrics,
            WireLog(log_exchanges),
        )
        self._index: tuple[float, Index] | None = None

    async def close(self) -> None:
        """Close the persistent connections."""
        await self._transport.close()

    async def index(self) -> Index:
        """Return the index of the API, which is cached for five minutes. Needs no token."""
        now = self._reactor.seconds()
        if self._index is None or self._index[0] <= now:
            call = Call("GET", ("",), query=(("exclude", "components"),))
            index = _read(await self._caller.make(call), Index.from_reply)
            self._index = (now + _INDEX_LIFETIME, index)
        return self._index[1]

    async def verify_token(self, token: Token | str) -> TokenInfo:
        """Return the owner and rights of *token*."""
        call = Call("GET", ("tokens", "verify"), Token.of(token))
        return _read(await self._caller.make(call), values.token_info)

    async def resolve_program_token(self, token: ProgramToken, project_id: int) -> ProjectToken:
        """Exchange a program's *token* for a token of the project."""
        call = Call(
            "POST",
            ("manage", "internal", "auth-bridge", "resolve-storage-token"),
            token,
            body={"projectId": project_id},
            is_of_platform=True,
        )
        return _read(await self._caller.make(call), values.project_token)

    async def branches(self, token: Token | str) -> tuple[Branch, ...]:
        """Return all branches of the token's project."""
        call = Call("GET", ("dev-branches",), Token.of(token))
        return _read(
            await self._caller.make(call),
            lambda reply: tuple(map(values.branch, reply)),
        )

    async def branch(self, token: Token | str, branch_id: int) -> Branch:
        """Return one branch."""
        call = Call("GET", ("dev-branches", str(branch_id)), Token.of(token))
        return _read(await self._caller.make(call), values.branch)

    async def get_bucket(self, token: Token | str, branch_id: int, bucket_id: str) -> Bucket:
        """Return a bucket.

        Raises `StorageApiError`, whose ``is_not_found`` is true if it is missing.
        """
        call = Call("GET", _bucket(branch_id, bucket_id), Token.of(token))
        return _read(await self._caller.make(call), Bucket.from_reply)

    async def create_bucket(self, token: Token | str, branch_id: int, bucket_id: str) -> Bucket:
        """Create a bucket.

        A retry that finds the bucket counts as a success.

        Raises ValueError: the ID isn't the ID of a bucket.
        """
        prefixed = _WHOLE_BUCKET_NAMES not in (await self.index()).features
        call = Call(
            "POST",
            ("branch", str(branch_id), "buckets"),
            Token.of(token),
            body=bucket_body(bucket_id, server_adds_prefix=prefixed),
        )
        try:
            answer = await self._caller.make(call)
        except StorageApiError as problem:
            if not (problem.retried and _already_exists(problem)):
                raise
            return await self.get_bucket(token, branch_id, bucket_id)
        return _read(answer, Bucket.from_reply)

    async def delete_bucket(
        self,
        token: Token | str,
        branch_id: int,
        bucket_id: str,
        *,
        force: bool = False,
        timeout: float = _BUCKET_DELETE_TIMEOUT,
    ) -> None:
        """Delete a bucket and wait until it is deleted.

        :param force: whether to delete the bucket with its content; otherwise the API refuses to
            delete a bucket that isn't empty.
        :param timeout: maximum seconds to wait for the job.
        """
        query = (("async", "1"), *_forced(force))
        call = Call("DELETE", _bucket(branch_id, bucket_id), Token.of(token), query)
        answer = await self._caller.make(call)
        if answer.json is not None:
            job = _read(answer, Job.from_reply)
            await self.wait_job(token, job.id, timeout=timeout)

    async def create_token(
        self, token: Token | str, *, source_id: str, sink_id: str, bucket_id: str
    ) -> SinkToken:
        """Create a sink's own token. Never retried after the request was sent."""
        call = Call(
            "POST",
            ("tokens",),
            Token.of(token),
            body=token_body(source_id, sink_id, bucket_id),
            idempotent=False,
        )
        return _read(await self._caller.make(call), SinkToken.from_reply)

    async def delete_token(self, token: Token | str, token_id: str) -> None:
        """Delete the token *token_id*."""
        await self._delete(Call("DELETE", ("tokens", token_id), Token.of(token)))

    async def get_table(self, token: Token | str, branch_id: int, table_id: str) -> Table:
        """Return a table.

        Raises `StorageApiError`, whose ``is_not_found`` is true if it is missing.
        """
        call = Call("GET", _table(branch_id, table_id), Token.of(token))
        return _read(await self._caller.make(call), Table.from_reply)

    async def preview_table(
        self, token: Token | str, branch_id: int, table_id: str, limit: int
    ) -> tuple[Sequence[str], Sequence[Sequence[str | None]]]:
        """Return the columns and the first rows of a table."""
        path = (*_table(branch_id, table_id), "data-preview")
        query = (("format", "json"), ("limit", str(limit)))
        return _read(await self._caller.make(Call("GET", path, Token.of(token), query)), _preview)

    async def create_table(
        self,
        token: Token | str,
        branch_id: int,
        table_id: str,
        *,
        columns: Sequence[str],
        primary_key: Sequence[str] = (),
        timeout: float = _TABLE_CREATE_TIMEOUT,
    ) -> Table:
        """Create a table of text columns and wait until it exists.

        If a retry finds the table, the table is returned unchanged.

        :param timeout: maximum seconds to wait for the job.
        """
        bucket_id, _, name = table_id.rpartition(".")
        call = Call(
            "POST",
            (*_bucket(branch_id, bucket_id), "tables-definition"),
            Token.of(token),
            body=table_body(name, columns, primary_key),
        )
        retried = False
        try:
            answer = await self._caller.make(call)
            retried = answer.retried
            job = _read(answer, Job.from_reply)
            finished = await self.wait_job(token, job.id, timeout=timeout)
        except (StorageApiError, JobFailed) as problem:
            retried = retried or getattr(problem, "retried", False)
            if not (retried and _already_exists(problem)):
                raise
            return await self.get_table(token, branch_id, table_id)
        table = {"id": table_id, **finished.results}
        return _read(answer, lambda _reply: Table.from_reply(table))

    async def delete_table(
        self, token: Token | str, branch_id: int, table_id: str, *, force: bool = False
    ) -> None:
        """Delete a table; with *force*, even if other objects depend on it."""
        call = Call("DELETE", _table(branch_id, table_id), Token.of(token), _forced(force))
        await self._delete(call)

    async def add_table_metadata(
        self, token: Token | str, branch_id: int, table_id: str, *, source_id: str, sink_id: str
    ) -> None:
        """Mark a table as written by a sink."""
        call = Call(
            "POST",
            (*_table(branch_id, table_id), "metadata"),
            Token.of(token),
            body=metadata_body(source_id, sink_id),
        )
        await self._caller.make(call)

    async def prepare_file(
        self,
        token: Token | str,
        branch_id: int,
        *,
        source_id: str,
        sink_id: str,
        opened_at: datetime,
    ) -> FileUpload:
        """Create a staging file with upload credentials.

        Never retried after the request was sent.
        """
        return await self._prepare(token, branch_id, file_body(source_id, sink_id, opened_at))

    async def prepare_quarantine_file(
        self,
        token: Token | str,
        branch_id: int,
        *,
        source_id: str,
        sink_id: str,
        opened_at: datetime,
    ) -> FileUpload:
        """Create a file for refused rows, which doesn't expire.

        Never retried after the request was sent.
        """
        body = quarantine_file_body(source_id, sink_id, opened_at)
        return await self._prepare(token, branch_id, body)

    async def _prepare(
        self, token: Token | str, branch_id: int, body: Mapping[str, Any]
    ) -> FileUpload:
        call = Call(
            "POST",
            ("branch", str(branch_id), "files", "prepare"),
            Token.of(token),
            body=body,
            idempotent=False,
        )
        return _read(await self._caller.make(call), FileUpload.from_reply)

    async def file_to_read(
        self, token: Token | str, branch_id: int, file_id: int
    ) -> FileUpload | None:
        """Return the location of a file's objects and read credentials; ``None`` if unknown."""
        path = ("branch", str(branch_id), "files", str(file_id))
        call = Call("GET", path, Token.of(token), (("federationToken", "1"),))
        return _read(await self._caller.make(call), FileUpload.from_detail)

    async def delete_file(self, token: Token | str, branch_id: int, file_id: int) -> None:
        """Delete a staging file; a missing one counts as deleted."""
        call = Call("DELETE", ("branch", str(branch_id), "files", str(file_id)), Token.of(token))
        try:
            await self._caller.make(call)
        except StorageApiError as problem:
            # The server's list of files lags behind, so its 404 proves nothing.
            if not problem.is_not_found:
                raise

    async def import_async(
        self,
        token: Token | str,
        branch_id: int,
        table_id: str,
        *,
        file_id: int,
        columns: Sequence[str],
    ) -> Job:
        """Start the import of a staging file. Never retried after the request was sent.

        If the ``maybe_applied`` of the error is true, the import may be running nevertheless.
        """
        call = Call(
            "POST",
            (*_table(branch_id, table_id), "import-async"),
            Token.of(token),
            body=import_body(file_id, columns),
            idempotent=False,
        )
        return _read(await self._caller.make(call), Job.from_reply)

    async def get_job(self, token: Token | str, job_id: int, *, budget: float | None = None) -> Job:
        """Return the current state of a job.

        :param budget: time limit in seconds, if lower than usual.
        """
        call = Call("GET", ("jobs", str(job_id)), Token.of(token))
        return _read(await self._caller.make(call, budget=budget), Job.from_reply)

    async def find_import(self, token: Token | str, file_id: int) -> Job | None:
        """Return the newest job that imports a file and hasn't failed, among the newest jobs."""
        for page in range(_SEARCHED_PAGES):
            query = (("limit", str(_JOBS_PAGE)), ("offset", str(page * _JOBS_PAGE)))
            answer = await self._caller.make(Call("GET", ("jobs",), Token.of(token), query))
            jobs = _read(answer, lambda reply: tuple(Job.from_reply(item) for item in reply))
            for job in jobs:
                if job.file_id == file_id and job.status != "error":
                    return job
            if len(jobs) < _JOBS_PAGE:
                break
        return None

    async def wait_job(self, token: Token | str, job_id: int, *, timeout: float) -> Job:
        """Wait until a job has succeeded.

        Raises JobFailed: the job ended with an error. Raises JobDeadlineExceeded: the job is still
        running.

        :param timeout: maximum seconds to wait for the job.
        """
        deadline = self._reactor.seconds() + timeout
        shown = Token.of(token).hidden_in
        for delay in job_poll_delays():
            left = deadline - self._reactor.seconds()
            job = await self.get_job(token, job_id, budget=max(left, 1.0))
            if job.error is not None:
                raise JobFailed(
                    job.id,
                    shown(job.error.message),
                    code=shown(job.error.code),
                    exception_id=shown(job.error.exception_id) or None,
                )
            if job.is_finished:
                return job
            left = deadline - self._reactor.seconds()
            if left <= 0:
                raise JobDeadlineExceeded(job.id, shown(job.status))
            await deferLater(self._reactor, min(delay, left))
        raise AssertionError("the delays have no end")

    async def send_event(self, token: Token | str, event: Event) -> str:
        """Send an event; return its ID. Never retried after the request was sent."""
        call = Call("POST", ("events",), Token.of(token), body=event.to_json(), idempotent=False)
        return _read(await self._caller.make(call), lambda reply: str(reply["uuid"]))

    async def _delete(self, call: Call) -> None:
        try:
            await self._caller.make(call)
        except StorageApiError as problem:
            # After a retry, "not found" results from the first attempt.
            gone = problem.is_not_found and problem.code_ends_with("notFound")
            if not (problem.retried and gone):
                raise


def _preview(reply: Any) -> tuple[Sequence[str], Sequence[Sequence[str | None]]]:
    values = [[cell["value"] for cell in row] for row in reply["rows"]]
    rows = [[None if value is None else str(value) for value in row] for row in values]
    return [str(column) for column in reply["columns"]], rows


def _already_exists(problem: StorageApiError | JobFailed) -> bool:
    if isinstance(problem, StorageApiError) and problem.status != 400:
        return False
    return problem.code.lower().endswith("alreadyexists")


def _bucket(branch_id: int, bucket_id: str) -> tuple[str, ...]:
    return "branch", str(branch_id), "buckets", bucket_id


def _table(branch_id: int, table_id: str) -> tuple[str, ...]:
    return "branch", str(branch_id), "tables", table_id


def _forced(force: bool) -> tuple[tuple[str, str], ...]:
    return (("force", "true"),) if force else ()


def _read(answer: Answer, read: Callable[[Any], T]) -> T:
    if not isinstance(answer.json, (Mapping, list)):
        raise answer.unexpected("its body is not a JSON object or array")
    try:
        return read(answer.json)
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        # Only the type of the problem is shown, since its message may quote secrets from the reply.
        member = f" {problem}" if isinstance(problem, KeyError) else ""
        raise answer.unexpected(f"{type(problem).__name__}{member}") from None
