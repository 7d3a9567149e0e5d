"""Values encrypted with key services: AWS KMS emulated by moto, the others by scripted servers."""

from __future__ import annotations

import base64
import importlib
import os
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_twisted
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from twisted.internet import reactor as _reactor
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool

from stream.encryption import DecryptionFailed, Encryptor
from stream.encryption.envelope import (
    CACHE_SECONDS,
    EnvelopeEncryptor,
    KeyService,
    is_of_another_service,
)
from stream.encryption.keyservices import AwsKeyService, AzureKeyService, GcpKeyService
from stream.errors import UserError
from tests.serving import serving
from tests.staging.servers import SERVERS, running_server

reactor: Any = _reactor
SINK = {"sink": "123/456/my-source/my-sink"}
OTHER = {"sink": "123/456/my-source/other"}
VALUE = {"token": "123-1001-a-secret-of-some-length"}
GCP_KEY = "projects/p/locations/global/keyRings/r/cryptoKeys/k"
TOKEN = "a-bearer-token-for-tests"


class Keys(BaseHTTPRequestHandler):
    """Google's and Azure's APIs, with real encryption."""

    protocol_version = "HTTP/1.1"
    server: Cloud

    def do_POST(self) -> None:
        body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append(self.path)
        try:
            status, answer = self._answer(body)
        except (InvalidTag, ValueError):
            status, answer = 400, {"error": {"code": "BadParameter"}}
        data = orjson.dumps(answer)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if self.server.failures:
            return self.server.failures.pop(0), {"error": {"message": "down"}}
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return 401, {}
        if self.path == f"/v1/{GCP_KEY}:encrypt":
            bound = base64.b64decode(body["additionalAuthenticatedData"])
            nonce = os.urandom(12)
            sealed = self.server.cipher.encrypt(nonce, base64.b64decode(body["plaintext"]), bound)
            return 200, {"ciphertext": base64.b64encode(nonce + sealed).decode()}
        if self.path == f"/v1/{GCP_KEY}:decrypt":
            bound = base64.b64decode(body["additionalAuthenticatedData"])
            blob = base64.b64decode(body["ciphertext"])
            plain = self.server.cipher.decrypt(blob[:12], blob[12:], bound)
            return 200, {"plaintext": base64.b64encode(plain).decode()}
        return self._vault(body)

    def _vault(self, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        path = self.path.removesuffix("?api-version=7.4").removeprefix("/keys/my-key/")
        version, _, operation = path.rpartition("/")
        assert body["alg"] == "RSA-OAEP-256"
        value = base64.urlsafe_b64decode(body["value"] + "==")
        scheme = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        if operation == "wrapkey":
            version = list(self.server.vault)[-1]
            result = self.server.vault[version].public_key().encrypt(value, scheme)
        elif operation == "unwrapkey" and version in self.server.vault:
            result = self.server.vault[version].decrypt(value, scheme)
        else:
            return 404, {}
        text = base64.urlsafe_b64encode(result).rstrip(b"=").decode()
        return 200, {"kid": f"https://vault/keys/my-key/{version}", "value": text}

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class Cloud(ThreadingHTTPServer):
    """The key services of a test.

    :ivar vault: versions of Azure's key, the newest last.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Keys)
        self.cipher = AESGCM(os.urandom(32))
        self.vault = {"v1": rsa.generate_private_key(65537, 2048)}
        self.calls: list[str] = []
        self.failures: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with serving(Cloud()) as started:
        yield started


@pytest.fixture(scope="module")
def kms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a KMS with one key, whose alias is `alias/stream`."""
    folder: Path = tmp_path_factory.mktemp("kms")
    environment = pytest.MonkeyPatch.context()
    with running_server(SERVERS[0], folder / "objects") as staging, environment as patch:
        patch.setenv("AWS_ENDPOINT_URL", staging.endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "key-for-tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-for-tests")
        session: Any = importlib.import_module("botocore.session").get_session()
        client = session.create_client("kms", region_name="eu-west-1")
        key = client.create_key()["KeyMetadata"]["KeyId"]
        client.create_alias(AliasName="alias/stream", TargetKeyId=key)
        yield staging.endpoint


Make = Callable[[], EnvelopeEncryptor]


@pytest.fixture(params=["aws", "gcp", "azure"])
def make(request: pytest.FixtureRequest, cloud: Cloud, pool: ThreadPool) -> Make:
    """A function that returns a new encryptor of each provider, with the same key each time."""

    def service() -> KeyService:
        if request.param == "aws":
            request.getfixturevalue("kms")
            return AwsKeyService("eu-west-1", "alias/stream")
        if request.param == "gcp":
            return GcpKeyService(GCP_KEY, lambda: TOKEN, cloud.url)
        return AzureKeyService(cloud.url, "my-key", lambda: TOKEN)

    return lambda: EnvelopeEncryptor(request.param, service(), reactor, pool)


@pytest_twisted.ensureDeferred
async def test_round_trip(make: Make, request: pytest.FixtureRequest) -> None:
    """Another process with the same key decrypts the value; the text doesn't contain it."""
    text = await make().encrypt(VALUE, SINK)
    provider = request.node.callspec.params["make"]
    prefix = f"{provider}::aes::"
    assert text.startswith(prefix)
    assert VALUE["token"].encode() not in base64.b64decode(text.removeprefix(prefix), validate=True)
    assert await make().decrypt(text, SINK) == VALUE


@pytest_twisted.ensureDeferred
async def test_a_value_is_bound_to_its_record(make: Make) -> None:
    """A value can't be decrypted with other metadata, not even if its key is cached."""
    encryptor = make()
    text = await encryptor.encrypt(VALUE, SINK)
    for other in (encryptor, make()):
        with pytest.raises(DecryptionFailed):
            await other.decrypt(text, OTHER)


@pytest_twisted.ensureDeferred
async def test_changed_values(make: Make) -> None:
    """A value that was changed at any position can't be decrypted."""
    encryptor = make()
    prefix, _, encoded = (await encryptor.encrypt(VALUE, SINK)).rpartition("::")
    blob = base64.b64decode(encoded)
    for position in (0, 2, len(blob) // 3, len(blob) - 1):
        bad = bytearray(blob)
        bad[position] ^= 1
        with pytest.raises(DecryptionFailed):
            await encryptor.decrypt(f"{prefix}::{base64.b64encode(bad).decode()}", SINK)
    with pytest.raises(DecryptionFailed):
        await encryptor.decrypt("aes::" + encoded, SINK)


@pytest_twisted.ensureDeferred
async def test_values_of_the_original(make: Make, request: pytest.FixtureRequest) -> None:
    """The format of its wrapped key is unknown: the error says so, and no call is made."""
    encryptor = make()
    own = await encryptor.encrypt(VALUE, SINK)
    provider = request.node.callspec.params["make"]
    for blob in (b"", b"\x1f\x8b\x08 a gzipped gob", b"\x01", b"\x02newer"):
        text = f"{provider}::aes::{base64.b64encode(blob).decode()}"
        with pytest.raises(
            DecryptionFailed, match="another service, or a newer version of this one, has encrypted"
        ):
            await encryptor.decrypt(text, SINK)
        assert is_of_another_service(text)
    assert is_of_another_service(f"{provider}::other::AAAA")
    assert not is_of_another_service(own) and not is_of_another_service("aes::AAAA")


@pytest_twisted.ensureDeferred
async def test_keys_are_cached_for_an_hour(cloud: Cloud, pool: ThreadPool) -> None:
    """A value is decrypted without a call until its key leaves the cache."""

    class Later(Clock):
        def callFromThread(self, work: Any, *args: Any, **kwargs: Any) -> None:
            reactor.callFromThread(work, *args, **kwargs)

    clock: Any = Later()
    encryptor = EnvelopeEncryptor(
        "gcp", GcpKeyService(GCP_KEY, lambda: TOKEN, cloud.url), clock, pool
    )
    text = await encryptor.encrypt(VALUE, SINK)
    clock.advance(CACHE_SECONDS - 1)
    assert await encryptor.decrypt(text, SINK) == VALUE
    assert len(cloud.calls) == 1
    clock.advance(1)
    assert await encryptor.decrypt(text, SINK) == VALUE
    assert len(cloud.calls) == 2


@pytest_twisted.ensureDeferred
async def test_a_rotated_key_decrypts_older_values(cloud: Cloud, pool: ThreadPool) -> None:
    """After a rotation in the vault, values of the previous version are still decrypted."""

    def encryptor() -> Encryptor:
        service = AzureKeyService(cloud.url, "my-key", lambda: TOKEN)
        return EnvelopeEncryptor("azure", service, reactor, pool)

    before = await encryptor().encrypt(VALUE, SINK)
    cloud.vault["v2"] = rsa.generate_private_key(65537, 2048)
    after = await encryptor().encrypt(VALUE, SINK)
    assert [await encryptor().decrypt(text, SINK) for text in (before, after)] == [VALUE, VALUE]
    assert [path.split("/")[3] for path in cloud.calls[2:]] == ["v1", "v2"]


@pytest_twisted.ensureDeferred
async def test_an_unavailable_key_service(cloud: Cloud, pool: ThreadPool) -> None:
    """Two failures are retried; a permanent one is an error without secrets."""
    service = GcpKeyService(GCP_KEY, lambda: TOKEN, cloud.url)
    encryptor = EnvelopeEncryptor("gcp", service, reactor, pool)
    cloud.failures = [503, 500]
    text = await encryptor.encrypt(VALUE, SINK)
    wrong = EnvelopeEncryptor(
        "gcp", GcpKeyService(GCP_KEY, lambda: "other", cloud.url), reactor, pool
    )
    with pytest.raises(UserError, match="can't be used: status 401") as caught:
        await wrong.decrypt(text, SINK)
    assert caught.value.status == 503
    cloud.server_close()
    with pytest.raises(UserError, match="can't be used") as caught:
        await wrong.encrypt(VALUE, SINK)
    assert TOKEN not in str(caught.value)
