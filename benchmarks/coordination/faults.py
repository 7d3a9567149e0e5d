"""Fault injection behind the service: retries, their number, and the outcome.

Each case is a deployment of its own with one sink that continuously gets records.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from benchmarks.chaos.pending import read_pending
from benchmarks.coordination.accounts import Work, account, misplaced
from benchmarks.coordination.evidence import (
    NAMESPACE,
    count_objects,
    files_of,
    read_jobs,
    read_rows,
    read_token_ids,
    records_of_slices,
)
from benchmarks.coordination.journal import Journal, read_journal
from benchmarks.coordination.sender import Sender
from benchmarks.coordination.staging_proxy import StagingProxy
from benchmarks.markdown import bullets, table
from tests.e2e.processes import TABLE, Deployment, Running, request, wait_for
from tests.serving import serving
from tests.staging.servers import SERVERS, running_server

__all__ = ["CASES", "Outcome", "Window", "markdown", "run"]

_COLUMNS = [{"type": "path", "name": "id", "path": "id"}, {"type": "uuid", "name": "uuid"}]
_SERVICE = (*("api", "http-source", "storage-writer", "storage-reader", "storage-coordinator"),)
_TIMING = {
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL": "5s",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL": "10s",
}
_BEFORE_SECONDS = 15.0
_AFTER_SECONDS = 10.0
_SAMPLE_SECONDS = 5.0
_MINUTE = 60.0
_PATIENCE_SECONDS = 420.0
"""A failed attempt is retried after 2 minutes, a second one after 8 more."""
_AT_ONCE = 4
_LONG_JOB_SECONDS = 60.0
_REPEATED = ("getTable", "setTableMetadata", "deleteFile", "getJob", "listJobs")
_ONCE = ("prepareFile", "importTable", "createEvent")
"""Calls that the client doesn't retry; their operators do, after 2 and 8 more minutes."""
_CALLS = "keboola_go_http_request_duration_milliseconds_count"


@attrs.frozen
class Window:
    """The duration of a fault, and the rate of records meanwhile.

    :ivar seconds: duration of the fault.
    :ivar pace: seconds between two records.
    """

    seconds: float
    pace: float = 0.5


@attrs.define(eq=False)
class _Stage:
    """A running deployment.

    :ivar calls: time and number of requests to the Storage API since the start.
    """

    deployed: Deployment
    sandbox: Running
    service: Running
    staging: StagingProxy | None
    calls: list[tuple[float, float]] = attrs.Factory(list)

    def fault(self, **fault: object) -> None:
        """Inject a fault into the sandbox."""
        url = f"http://127.0.0.1:{self.deployed.ports['sandbox']}/_local/faults"
        status, answer = self.deployed.call("POST", url, fault)
        assert status == 201, answer


@attrs.frozen
class Outcome:
    """The outcome of a fault.

    :ivar left: items that aren't imported at the end, with the reason.
    :ivar calls: maximum number of requests to the Storage API within a minute.
    :ivar staged: maximum number of requests to the object store within a minute, if there is one.
    :ivar attempts: maximum number of failed attempts of one slice and of one file.
    :ivar recovered: seconds from the end of the fault until everything was imported.
    """

    name: str
    work: Work
    tables: Counter[str]
    rows: int
    acknowledged: int
    left: list[str]
    calls: int
    staged: int | None
    attempts: tuple[int, int]
    failed_imports: int
    recovered: float
    faults: list[str]

    @property
    def is_good(self) -> bool:
        """Return whether nothing was lost, repeated or done twice."""
        return not (self.faults or self.work.faults or any(self.tables.values()))


@attrs.frozen
class Case:
    """A fault and its requirements.

    :ivar fails: injects the fault, and waits for its end.
    :ivar first: whether it is injected before the first file is opened.
    :ivar needs_store: whether staging is an object store instead of the sandbox's directory.
    """

    fails: Callable[[_Stage, float], None] = lambda stage, seconds: time.sleep(seconds)
    first: Callable[[_Stage], None] = lambda stage: None
    needs_store: bool = False


def _staging_away(stage: _Stage, seconds: float) -> None:
    assert stage.staging is not None
    stage.staging.is_away = True
    time.sleep(seconds)
    stage.staging.is_away = False


def _jobs_fail(stage: _Stage, seconds: float) -> None:
    stage.fault(route="job", status=500, times=3)
    time.sleep(seconds)


def _api_gone(stage: _Stage, seconds: float) -> None:
    stage.sandbox.kill()
    time.sleep(seconds)
    stage.sandbox = stage.deployed.start("sandbox", node_id="sandbox")


def _every_call_twice(stage: _Stage, seconds: float) -> None:
    for route in _REPEATED:
        stage.fault(route=route, status=503, times=2)
    for route in _ONCE:
        stage.fault(route=route, status=503)
    time.sleep(seconds)


def _killed_during_a_job(stage: _Stage, seconds: float) -> None:
    stage.fault(route="job", delay=_LONG_JOB_SECONDS, times=1)
    wait_for(lambda: any(job.status == "processing" for job in read_jobs(stage.deployed)), "a job")
    stage.sandbox.kill()
    stage.sandbox = stage.deployed.start("sandbox", node_id="sandbox")
    time.sleep(seconds)


def _token_deleted(stage: _Stage, seconds: float) -> None:
    """Delete the sink's token; later change the sink, which makes a new one."""
    deployed = stage.deployed
    (token,) = read_token_ids(deployed)
    url = f"http://127.0.0.1:{deployed.ports['sandbox']}/v2/storage/tokens/{token}"
    status, answer = deployed.call("DELETE", url)
    assert status == 204, answer
    time.sleep(seconds)
    _, answer = deployed.call("GET", f"{deployed.api}/v1/branches/default/sources")
    source = f"{deployed.api}/v1/branches/default/sources/{answer['sources'][0]['sourceId']}"
    _, answer = deployed.call("GET", f"{source}/sinks")
    sink = f"{source}/sinks/{answer['sinks'][0]['sinkId']}"
    deployed.task("PATCH", sink, {"description": "with another token"})


CASES = {
    "staging answers 503": Case(_staging_away, needs_store=True),
    "credentials of the first file have expired": Case(
        first=lambda stage: stage.fault(route="prepareFile", expiresIn=-1.0)
    ),
    "three import jobs end in an error": Case(_jobs_fail),
    "each call is answered with 503, twice if it is repeated": Case(_every_call_twice),
    "the bucket is made, and the answer is 500": Case(
        first=lambda stage: stage.fault(route="createBucket", status=500, afterEffect=True)
    ),
    "the sink's token is deleted": Case(_token_deleted),
    "the API is killed in the middle of an import job": Case(_killed_during_a_job),
    "the Storage API can't be reached": Case(_api_gone),
}


def run(root: Path, window: Window, names: list[str]) -> list[Outcome]:
    """Run cases concurrently."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = [
            pool.submit(_case, root / f"case-{number}", name, window)
            for number, name in enumerate(names)
        ]
        return [done.result() for done in running]


def _case(root: Path, name: str, window: Window) -> Outcome:
    case = CASES[name]
    with _stage(root, case) as stage:
        deployed = stage.deployed
        case.first(stage)
        with Sender(deployed.define(_COLUMNS), window.pace) as sender, _sampled(stage):
            time.sleep(_BEFORE_SECONDS)
            case.fails(stage, window.seconds)
            mended = time.time()
            time.sleep(_AFTER_SECONDS)
        with _sampled(stage):
            left = _wait(deployed)
        recovered = time.time() - mended
        slices = records_of_slices(deployed)
        objects = count_objects(deployed) if stage.staging is None else _stored(stage.staging)
    journal = read_journal(sorted(root.glob("*.log")))
    return _judge(name, stage, journal, slices, objects, sender.answers, left, recovered)


def _judge(
    name: str,
    stage: _Stage,
    journal: Journal,
    counts: dict[str, int],
    objects: int,
    answers: dict[int, int],
    left: list[str],
    recovered: float,
) -> Outcome:
    slices = counts.keys()
    rows = read_rows(stage.deployed, TABLE)
    acknowledged = [number for number, status in answers.items() if status == 200]
    tables = misplaced(acknowledged, answers, rows)
    failed = Counter(event.key for event in journal.of("slice upload failed"))
    imports = Counter(event.key for event in journal.of("file import failed"))
    return Outcome(
        name=name,
        work=account(
            journal,
            slices,
            files_of(slices),
            read_jobs(stage.deployed),
            objects,
            whole=False,
        ),
        tables=tables,
        rows=sum(rows.values()),
        acknowledged=len(acknowledged),
        left=left,
        calls=_most_in_a_minute(stage.calls),
        staged=None if stage.staging is None else _busiest([r.at for r in stage.staging.requests]),
        attempts=(max(failed.values(), default=0), max(imports.values(), default=0)),
        failed_imports=sum(imports.values()),
        recovered=recovered,
        faults=[f"not imported: {item}" for item in left],
    )


@contextmanager
def _stage(root: Path, case: Case) -> Iterator[_Stage]:
    root.mkdir()
    with ExitStack() as stack:
        settings, proxy = dict(_TIMING), None
        if case.needs_store:
            moto = next(server for server in SERVERS if server.name == "moto")
            staging = stack.enter_context(running_server(moto, root / "store"))
            proxy = stack.enter_context(serving(StagingProxy(staging.endpoint)))
            settings |= {
                "STREAM_SANDBOX_STAGING_PROVIDER": "aws",
                "STREAM_SANDBOX_STAGING_ENDPOINT": proxy.url,
                "STREAM_SANDBOX_STAGING_BUCKET": staging.bucket,
                "STREAM_SANDBOX_STAGING_KEY_ID": staging.key_id,
                "STREAM_SANDBOX_STAGING_SECRET": staging.secret,
            }
        deployed = Deployment(root, settings)
        stack.callback(deployed.stop_all)
        deployed.start("etcd", node_id="etcd")
        sandbox = deployed.start("sandbox", node_id="sandbox")
        yield _Stage(deployed, sandbox, deployed.start(*_SERVICE), proxy)


@contextmanager
def _sampled(stage: _Stage) -> Iterator[None]:
    end = threading.Event()

    def sample() -> None:
        while not end.wait(_SAMPLE_SECONDS):
            stage.calls.append((time.time(), _api_calls(stage.service)))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _api_calls(service: Running) -> float:
    _, page = request("GET", f"http://{service.health}/metrics", None, {})
    lines = page.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(_CALLS))


def _wait(deployed: Deployment) -> list[str]:
    """Wait for all imports or the time limit; return the remaining items."""
    endpoint = f"127.0.0.1:{deployed.ports['etcd']}"
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        items = read_pending(endpoint, NAMESPACE).items
        if not items or time.monotonic() > end:
            return items
        time.sleep(1.0)


def _stored(proxy: StagingProxy) -> int:
    """Return the number of distinct slices in the store."""
    paths = {
        request.path.partition("?")[0]
        for request in proxy.requests
        if request.method in ("PUT", "POST") and request.status == 200
    }
    return sum("manifest" not in path for path in paths)


def _most_in_a_minute(samples: list[tuple[float, float]]) -> int:
    return int(
        max(
            (
                later - count
                for number, (at, count) in enumerate(samples)
                for then, later in samples[number:]
                if then - at <= _MINUTE + _SAMPLE_SECONDS / 2
            ),
            default=0,
        )
    )


def _busiest(moments: list[float]) -> int:
    return max((sum(0 <= at - start < _MINUTE for at in moments) for start in moments), default=0)


def markdown(outcomes: list[Outcome], window: Window) -> str:
    """Return a table with a line for each case."""
    head = (
        *("fault", "records acknowledged", "rows", "lost or repeated"),
        *("slices: uploads needed", "made", "failed attempts (most of one slice)"),
        *("files: imports needed", "jobs that succeeded", "jobs that failed"),
        *("failed import attempts (most of one file)", "Storage API requests, busiest minute"),
        *("staging requests, busiest minute", "all imported after the fault, s"),
    )
    parts = [
        f"## Faults of {window.seconds:g} s, a record each {window.pace:g} s",
        table(head, map(_row, outcomes)),
    ]
    for outcome in outcomes:
        parts.append(bullets(f"{outcome.name}: not imported", outcome.left))
        parts.append(bullets(f"{outcome.name}: faults", [*outcome.faults, *outcome.work.faults]))
    is_good = all(outcome.is_good for outcome in outcomes)
    parts.append("**Everything is right.**" if is_good else "**Something is wrong.**")
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(outcome: Outcome) -> tuple[object, ...]:
    work = outcome.work
    return (
        outcome.name,
        outcome.acknowledged,
        outcome.rows,
        sum(outcome.tables.values()),
        work.slices,
        work.uploads,
        f"{work.failed_uploads} ({outcome.attempts[0]})",
        work.files,
        work.jobs["success"],
        work.jobs["error"],
        f"{outcome.failed_imports} ({outcome.attempts[1]})",
        outcome.calls,
        "" if outcome.staged is None else outcome.staged,
        "never, for one file" if outcome.left else f"{outcome.recovered:.0f}",
    )
