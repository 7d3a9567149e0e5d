"""A running API with a real etcd and the local stand-in for the Storage API."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import treq
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import deferLater
from twisted.python.threadpool import ThreadPool
from twisted.web.client import Agent

from stream.api.service import ApiService
from stream.authority import ProjectAuthority
from stream.authority.own import OwnAuthority
from stream.authority.rights import Right
from stream.authority.tokens import Tokens
from stream.definition.entity import SYSTEM
from stream.encryption import encryptor_from
from stream.etcd import EtcdClient, Session
from stream.ops.metrics.registry import Metrics
from stream.sandbox.auth import FixedToken
from stream.sandbox.programs import Program
from stream.sandbox.service import SandboxService
from stream.settings import Settings
from stream.storage.model.volume import Volume
from stream.storage.store.repository import StorageRepository
from stream.target.keboola import StorageApi, TokenVerifier
from stream.target.keboola.authority import KeboolaAuthority
from stream.target.keboola.events import EventSender
from stream.target.keboola.exchange import TokenExchange
from stream.target.keboola.target import KeboolaTarget
from stream.target.protocol import TargetContext
from stream.target.registry import Targets
from stream.templates.service import Templates
from stream.values.utctime import from_timestamp

TOKEN = "123-456-a-secret-of-the-sandbox"
READER = "123-457-an-administrator-who-may-only-read"
MACHINE = "123-458-a-token-of-no-person"
PROGRAM = "kbc_pat_of-a-program-that-writes"
READING_PROGRAM = "kbc_at_of-a-program-that-may-only-read"
SERVICE_ACCOUNT = "the-token-of-the-service-account"
PROJECT = 123
BRANCH = 456
_TASK_SECONDS = 20


@attrs.frozen
class Reply:
    """An HTTP answer with its parsed JSON."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        values = self.headers.getRawHeaders(name)
        return values[0] if values else None


class Api:
    """A client of the running API.

    :ivar etcd: the database of the API.
    """

    def __init__(self, url: str, etcd: EtcdClient, storage_api: StorageApi | None) -> None:
        self.url = url
        self.etcd = etcd
        self._storage_api = storage_api
        self._client = treq.client.HTTPClient(Agent(reactor))

    @property
    def storage_api(self) -> StorageApi:
        """The Storage API of the projects, if they are Keboola's."""
        assert self._storage_api is not None
        return self._storage_api

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = TOKEN,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> Reply:
        """Send one request, without following redirects."""
        sent: dict[bytes | str, bytes | str] = {}
        sent.update((headers or {}).items())
        if token is not None:
            sent["X-StorageApi-Token"] = token
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        response = await self._client.request(
            method, self.url + path, headers=sent, data=data, allow_redirects=False
        )
        return Reply(response.code, response.headers, await response.content())

    async def get(self, path: str) -> Any:
        """Return the JSON of a successful GET."""
        reply = await self.call("GET", path)
        assert reply.status == 200, reply
        return reply.json

    async def finish(self, reply: Reply) -> Any:
        """Poll the task in *reply* until it is finished."""
        assert reply.status == 202, reply
        assert reply.json["status"] == "processing"
        path = f"/v1/tasks/{reply.json['taskId']}"
        for _ in range(_TASK_SECONDS * 50):
            task = await self.get(path)
            if task["isFinished"]:
                return task
            await deferLater(reactor, 0.02)
        raise AssertionError(f"the task doesn't end: {task}")

    async def run(self, method: str, path: str, body: Any = None) -> Any:
        """Start a change and wait until it has succeeded."""
        task = await self.finish(await self.call(method, path, body))
        assert task["status"] == "success", task
        return task

    async def create_source(self, name: str = "My Source", type: str = "http") -> None:
        await self.run("POST", SOURCES, {"type": type, "name": name})

    async def create_sink(self, source: str = "my-source", **changes: Any) -> None:
        await self.run("POST", f"{SOURCES}/{source}/sinks", sink_body(**changes))


SOURCES = f"/v1/branches/{BRANCH}/sources"
SOURCE = f"{SOURCES}/my-source"
SINKS = f"{SOURCE}/sinks"
SINK = f"{SINKS}/my-sink"


def sink_body(**changes: Any) -> dict[str, Any]:
    """Return the body that creates a sink."""
    body: dict[str, Any] = {
        "type": "table",
        "name": "My Sink",
        "table": {
            "type": "keboola",
            "tableId": "in.c-my-bucket.my-table",
            "mapping": {
                "columns": [{"type": "uuid", "name": "id"}, {"type": "body", "name": "body"}]
            },
        },
    }
    return body | changes


@pytest_twisted.async_yield_fixture()
async def sandbox(tmp_path: Path) -> AsyncIterator[SandboxService]:
    """A running stand-in for the Storage API."""
    service = SandboxService(
        reactor,
        listen="127.0.0.1:0",
        path=str(tmp_path / "sandbox"),
        token=TOKEN,
        project_id=PROJECT,
        branch_id=BRANCH,
        extra_tokens=[
            FixedToken(READER, id="457", role="readOnly"),
            FixedToken(MACHINE, id="458", is_master=False),
        ],
        programs=[Program(PROGRAM), Program(READING_PROGRAM, role="readOnly")],
        service_account=SERVICE_ACCOUNT,
    )
    await service.startService()
    yield service
    if service.running:
        await service.stopService()


@pytest.fixture
def service_account(tmp_path: Path) -> Path:
    """The file with the token of the API's service account."""
    path = tmp_path / "service-account-token"
    path.write_text(f"{SERVICE_ACCOUNT}\n")
    return path


def _settings(node_id: str) -> Settings:
    settings = Settings()
    http = attrs.evolve(settings.source.http, public_url="https://stream-in.keboola.local")
    return attrs.evolve(
        settings,
        node_id=node_id,
        api=attrs.evolve(
            settings.api, listen="127.0.0.1:0", public_url="https://stream.target.keboola.local"
        ),
        source=attrs.evolve(settings.source, http=http),
    )


def _context(settings: Settings, etcd: EtcdClient, session: Session) -> TargetContext:
    return TargetContext(
        settings=settings,
        reactor=reactor,
        client=etcd,
        session=session,
        encryptor=encryptor_from("none", b""),
        pool=ThreadPool(0, 1),
        metrics=Metrics(),
        now=lambda: from_timestamp(time.time()),
    )


def _service(
    context: TargetContext, authority: ProjectAuthority, targets: Targets, templates: Templates
) -> ApiService:
    volume = Volume(
        volume_id="my-volume",
        node_id="test-node",
        node_address="localhost:1",
        path="hdd/my-volume",
        type="default",
        label="my-volume",
    )
    return ApiService(
        reactor,
        context.settings,
        client=context.client,
        session=context.session,
        repository=StorageRepository(context.settings.storage.level, lambda: [volume]),
        now=context.now,
        authority=authority,
        targets=targets,
        templates=templates.pool,
        pool=context.pool,
    )


@pytest_twisted.async_yield_fixture()
async def api(
    etcd: EtcdClient, sandbox: SandboxService, service_account: Path
) -> AsyncIterator[Api]:
    """The API on a free port."""
    settings = _settings("test-node")
    session = Session(etcd, ttl=15, reactor=reactor)
    await session.startService()
    storage_api = StorageApi(reactor, sandbox.url)
    events = EventSender(storage_api, 5.0, reactor)
    context = _context(settings, etcd, session)
    templates = Templates(reactor, settings.source.templates, Metrics())
    authority = KeboolaAuthority(
        storage_api,
        TokenVerifier(reactor, storage_api),
        events,
        TokenExchange(reactor, storage_api, str(service_account)),
    )
    targets = Targets([KeboolaTarget(context, storage_api, events)])
    service = _service(context, authority, targets, templates)
    await service.startService()
    yield Api(f"http://127.0.0.1:{service.port_number}", etcd, storage_api)
    await service.stopService()
    await templates.stopService()
    await session.stopService()
    await storage_api.close()


@attrs.frozen
class OwnProjects:
    """Two nodes of an API that manages its own projects and tokens.

    :ivar tokens: of all projects.
    """

    nodes: Sequence[Api]
    tokens: Tokens

    async def token(self, *rights: Right, project: int = 1, **options: Any) -> tuple[str, str]:
        """Return the id and the text of a new token."""
        name = "+".join(rights)
        record, text = await self.tokens.create(project, name, rights, SYSTEM, **options)
        return record.key.token_id, text


@pytest_twisted.async_yield_fixture()
async def own(etcd: EtcdClient) -> AsyncIterator[OwnProjects]:
    """Projects that the API manages itself, without a target."""
    services: list[Any] = []
    nodes: list[Api] = []
    for number in range(2):
        settings = _settings(f"node-{number}")
        session = Session(etcd, ttl=15, reactor=reactor)
        context = _context(settings, etcd, session)
        authority = OwnAuthority(reactor, etcd, context.now)
        templates = Templates(reactor, settings.source.templates, Metrics())
        service = _service(context, authority, Targets([]), templates)
        for each in (session, authority, service):
            await maybeDeferred(each.startService)
        services += [session, authority, templates, service]
        nodes.append(Api(f"http://127.0.0.1:{service.port_number}", etcd, None))
    yield OwnProjects(nodes, authority.tokens)
    for service in reversed(services):
        await maybeDeferred(service.stopService)
