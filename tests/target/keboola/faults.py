"""The life of a sink with a Storage API that fails in one step, and its outcome."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as _reactor

from stream.errors import UserError
from stream.staging import StagingError
from stream.storage.model.entity import File
from stream.storage.model.state import FileState
from stream.storage.model.statistics import Statistics
from stream.target.keboola.call_meter import path_template
from stream.target.keboola.destination import delete_destinations
from stream.target.keboola.provider import load_sink_token
from stream.target.keboola.transport import ExchangeFailed
from tests.sandbox.api import MASTER, csv_rows, sleep
from tests.storage.histories.world import SINK, SINK_KEY, with_table
from tests.target.keboola.bridge import TABLE_ID, Bridge

__all__ = ["CASES", "SHORT", "Case", "Outcome", "live"]

reactor: Any = _reactor
ROWS = (["a", "b"], ["c"])
_MOST_ATTEMPTS = 4

ROUTES = {
    "index": ("GET", "/"),
    "verifyToken": ("GET", "/tokens/verify"),
    "listBranches": ("GET", "/dev-branches"),
    "getBranch": ("GET", "/dev-branches/{id}"),
    "getBucket": ("GET", "/branch/{id}/buckets/{id}"),
    "createBucket": ("POST", "/branch/{id}/buckets"),
    "deleteBucket": ("DELETE", "/branch/{id}/buckets/{id}"),
    "createToken": ("POST", "/tokens"),
    "deleteToken": ("DELETE", "/tokens/{id}"),
    "getTable": ("GET", "/branch/{id}/tables/{id}"),
    "createTable": ("POST", "/branch/{id}/buckets/{id}/tables-definition"),
    "deleteTable": ("DELETE", "/branch/{id}/tables/{id}"),
    "setTableMetadata": ("POST", "/branch/{id}/tables/{id}/metadata"),
    "prepareFile": ("POST", "/branch/{id}/files/prepare"),
    "deleteFile": ("DELETE", "/branch/{id}/files/{id}"),
    "importTable": ("POST", "/branch/{id}/tables/{id}/import-async"),
    "getJob": ("GET", "/jobs/{id}"),
    "listJobs": ("GET", "/jobs"),
    "createEvent": ("POST", "/events"),
}


@attrs.frozen
class Case:
    """A fault and its expected outcome.

    :param step: step of the life; the fault is injected before it.
    :param route: route whose answers are counted.
    :param faults: route and members of each fault.
    :param answers: statuses of the route's requests within the step, the first of them.
    :param attempts: number of attempts of the step by its owner (a user, an operator).
    :param jobs: import jobs by status at the end.
    :param left: leaked tokens and files at the end.
    :param repair: repair by the user before the step is tried again.
    :param first: preparation before the step.
    """

    step: str
    route: str
    faults: tuple[tuple[str, dict[str, Any]], ...] = ()
    answers: tuple[int, ...] = ()
    attempts: int = 1
    jobs: tuple[tuple[str, int], ...] = (("success", 1),)
    left: tuple[int, int] = (0, 0)
    uploads: int = len(ROWS)
    events: tuple[int, int] = (len(ROWS), 1)
    repair: Callable[[Life], Awaitable[None]] | None = None
    first: Callable[[Life], Awaitable[None]] | None = None


@attrs.define
class Outcome:
    """Outcome of a life with a fault.

    :ivar answers: statuses of the faulted route's requests within the step.
    :ivar uploads: number of uploaded slices.
    :ivar events: events of slices and files that the API has, including failures.
    """

    answers: list[int] = attrs.Factory(list)
    attempts: int = 0
    problems: list[str] = attrs.Factory(list)
    uploads: int = 0
    jobs: Counter[str] = attrs.Factory(Counter)
    rows: Counter[str] = attrs.Factory(Counter)
    left: tuple[int, int] = (0, 0)
    events: tuple[int, int] = (0, 0)


@attrs.define
class Life:
    """The life of a sink.

    :ivar requests: route and status of each request; 0 if it got no answer.
    """

    bridge: Bridge
    root: Path
    requests: list[tuple[str, int]] = attrs.Factory(list)
    outcome: Outcome = attrs.Factory(Outcome)
    file: File | None = None

    def watch(self) -> None:
        """Record each request from now on."""
        names = {value: name for name, value in ROUTES.items()}
        transport: Any = self.bridge.api._transport
        uploader: Any = self.bridge.uploader
        exchange, upload = transport.exchange, uploader.upload

        async def noting(method: str, url: str, *arguments: Any, **options: Any) -> Any:
            path = url.partition("/v2/storage/")[2].partition("?")[0].split("/")
            name = names[method, path_template(path)]
            try:
                reply = await exchange(method, url, *arguments, **options)
            except ExchangeFailed:
                self.requests.append((name, 0))
                raise
            self.requests.append((name, reply.status))
            return reply

        async def counting(*arguments: Any) -> Any:
            store = await upload(*arguments)
            self.outcome.uploads += 1
            return store

        transport.exchange, uploader.upload = noting, counting

    # the steps, in order

    async def log_in(self) -> None:
        """Make the first request of every user."""
        api = self.bridge.api
        await api.index()
        await api.verify_token(MASTER)
        (branch,) = await api.branches(MASTER)
        await api.branch(MASTER, branch.id)

    async def create(self) -> None:
        await self.bridge.create_sink()

    async def stage(self) -> None:
        self.file = await self.bridge.staged_file(*(csv_rows(*([v] for v in p)) for p in ROWS))
        for slice_ in await self.bridge.storage.slices(self.file.key):
            async with self._one_more_event():
                await self.bridge.uploader.report(slice_, 1.0, None, Statistics())

    async def import_(self) -> None:
        assert self.file is not None
        async with self._one_more_event():
            await self.bridge.importer.import_file(self.file)

    async def rotate_empty(self) -> None:
        """End a file without records."""
        assert self.file is not None
        storage = self.bridge.storage
        if (await storage.file(self.file.key)).state is FileState.IMPORTING:
            self.outcome.rows = Counter(self.rows())
            await storage.to_imported(self.file.key)
            await self.renew()
        (file,) = [f for f in await storage.files() if f.state is FileState.WRITING]
        (slice_,) = await storage.slices(file.key)
        await storage.close_files()
        await storage.to_uploading(slice_.key, is_empty=True)
        await storage.to_uploaded(slice_.key)
        await self.bridge.importer.import_file(await storage.to_importing(file.key, is_empty=True))

    async def disable(self) -> None:
        deletions = self._count("deleteToken", 204)
        self.bridge.storage.tick()
        await self.bridge.do("disable_sink", SINK_KEY)
        await self._until(lambda: self._count("deleteToken", 204, 404) > deletions)

    async def remove(self) -> None:
        await delete_destinations(self.bridge.api, MASTER, [with_table(SINK, TABLE_ID)])

    # actions of users and of others

    async def renew(self) -> None:
        """Disable and enable the sink, which gets a new token and a new file."""
        for change in ("disable_sink", "enable_sink"):
            self.bridge.storage.tick()
            await self.bridge.do(change, SINK_KEY)

    async def lose_token(self) -> None:
        """Delete the sink's token, as another user could."""
        storage = self.bridge.storage
        token = await load_sink_token(storage.client, self.bridge.provider._encryptor, SINK_KEY)
        info = await self.bridge.api.verify_token(token)
        await self.bridge.api.delete_token(MASTER, info.id)

    async def get_expired_credentials(self) -> None:
        """Give the open file expired credentials."""
        await self.bridge.sandbox.fault("prepareFile", expiresIn=-5)
        await self.renew()

    # the outcome

    def rows(self) -> list[str]:
        return [row[0] for row in self._ask("data", f'SELECT body FROM "{TABLE_ID}"')]

    def job_statuses(self) -> list[str]:
        return [
            row[0] for row in self._ask("meta", "SELECT status FROM jobs WHERE file_id IS NOT NULL")
        ]

    def count(self, table: str) -> int:
        ((found,),) = self._ask("meta", f"SELECT count(*) FROM {table}")
        return int(found)

    async def events_of(self, operation: str) -> int:
        answer = await self.bridge.sandbox.storage("GET", "events")
        return sum(event["component"].endswith(operation) for event in answer.json)

    def _ask(self, database: str, query: str) -> list[tuple[Any, ...]]:
        path = self.root / "project-123" / f"{database}.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()

    @asynccontextmanager
    async def _one_more_event(self) -> AsyncIterator[None]:
        """Expect that the block sends one event, even if it fails."""
        sent = self._count("createEvent")
        try:
            yield
        finally:
            await self._until(lambda: self._count("createEvent") > sent)

    def _count(self, route: str, *statuses: int) -> int:
        return sum(
            name == route and (status in statuses or not statuses) for name, status in self.requests
        )

    async def _until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            await sleep(0.01)
        raise AssertionError("it didn't happen")


STEPS = ("log_in", "create", "stage", "import_", "rotate_empty", "disable", "remove")


async def live(bridge: Bridge, root: Path, case: Case) -> Outcome:
    """Run a whole life. Each step is retried until it succeeds, and the fault occurs in
    its step.
    """
    life = Life(bridge, root)
    life.watch()
    outcome = life.outcome
    for step in STEPS:
        if step == case.step:
            if case.first is not None:
                await case.first(life)
            for route, fault in case.faults:
                await bridge.sandbox.fault(route, **fault)
        before, attempts = len(life.requests), 0
        while True:
            attempts += 1
            try:
                await getattr(life, step)()
                break
            except (UserError, StagingError) as problem:
                assert step == case.step, (step, problem)
                assert attempts < _MOST_ATTEMPTS, problem
                outcome.problems.append(f"{type(problem).__name__}: {problem}")
                if case.repair is not None:
                    await case.repair(life)
        if step == case.step:
            outcome.attempts = attempts
            seen = life.requests[before:]
            outcome.answers = [status for route, status in seen if route == case.route]
    outcome.jobs = Counter(life.job_statuses())
    outcome.left = (life.count("tokens"), life.count("files") - _known_files(bridge))
    outcome.events = (await life.events_of("sliceUpload"), await life.events_of("fileImport"))
    return outcome


def _known_files(bridge: Bridge) -> int:
    return len(bridge.api.file_ids) - 1  # the empty one was deleted


def _twice(step: str, route: str, *more: int, **expected: Any) -> Case:
    """Return 503 two times, and then normal answers."""
    answers = (503, 503, *more)
    return Case(step, route, ((route, {"status": 503, "times": 2}),), answers, **expected)


def _after(step: str, route: str, *answers: int, **expected: Any) -> Case:
    """Return 500 after the work is done."""
    fault = {"status": 500, "afterEffect": True}
    return Case(step, route, ((route, fault),), (500, *answers), **expected)


_FAILED = (("error", 1), ("success", 1))

CASES = {
    **{
        f"503 twice: {route}": _twice(step, route, status)
        for step, route, status in (
            *(("log_in", route, 200) for route in ("index", "verifyToken")),
            *(("log_in", route, 200) for route in ("listBranches", "getBranch")),
            *(("create", "getBucket", 404), ("create", "createBucket", 201)),
            *(("create", "getTable", 404), ("create", "createTable", 202)),
            *(("create", "setTableMetadata", 201), ("import_", "getJob", 200)),
            *(("rotate_empty", "deleteFile", 204), ("disable", "deleteToken", 204)),
            *(("remove", "deleteTable", 204), ("remove", "deleteBucket", 202)),
        )
    },
    # These are not retried, because the outcome is unknown.
    "503 twice: createToken": _twice("create", "createToken", 201, attempts=3),
    "503 twice: prepareFile": _twice("create", "prepareFile", 201, attempts=3),
    "503 twice: importTable": _twice("import_", "importTable", 202, attempts=3, events=(2, 3)),
    "503 twice: createEvent": _twice("stage", "createEvent", events=(0, 1)),
    "503 twice: listJobs, the import's answer lost": Case(
        "import_",
        "listJobs",
        (
            ("importTable", {"status": 500, "afterEffect": True}),
            ("listJobs", {"status": 503, "times": 2}),
        ),
        (503, 503, 200),
        attempts=2,
        events=(2, 2),
    ),
    "500 after the work: createBucket": _after("create", "createBucket", 400),
    "500 after the work: createTable": _after("create", "createTable"),
    "500 after the work: setTableMetadata": _after("create", "setTableMetadata", 201),
    "500 after the work: createToken": _after(
        "create", "createToken", 201, attempts=2, left=(1, 0)
    ),
    "500 after the work: prepareFile": _after(
        "create", "prepareFile", 201, attempts=2, left=(0, 1)
    ),
    "500 after the work: importTable": _after("import_", "importTable", attempts=2, events=(2, 2)),
    "500 after the work: createEvent": _after("stage", "createEvent", 201),
    "500 after the work: deleteFile": _after("rotate_empty", "deleteFile", 404),
    "500 after the work: deleteToken": _after("disable", "deleteToken", 404),
    "500 after the work: deleteTable": _after("remove", "deleteTable", 404),
    "500 after the work: deleteBucket": _after("remove", "deleteBucket"),
    "401: the sink's token was deleted": Case(
        "import_",
        "importTable",
        answers=(401, 202),
        attempts=2,
        events=(2, 1),
        first=Life.lose_token,
        repair=Life.renew,
    ),
    "the import job fails once": Case(
        "import_",
        "importTable",
        (("job", {"status": 500}),),
        (202, 202),
        attempts=2,
        jobs=_FAILED,
        events=(2, 2),
    ),
    "the credentials have expired": Case(
        "stage",
        "prepareFile",
        answers=(201,),
        attempts=2,
        first=Life.get_expired_credentials,
        repair=Life.renew,
    ),
}
SHORT = (
    "503 twice: createTable",
    "503 twice: importTable",
    "500 after the work: createBucket",
    "500 after the work: importTable",
    "401: the sink's token was deleted",
    "the import job fails once",
    "the credentials have expired",
)
