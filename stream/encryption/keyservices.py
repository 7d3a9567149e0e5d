"""The key services of the clouds: AWS KMS, Google Cloud KMS, Azure Key Vault.

Each cloud's own library finds the credentials of this process. The extra with the cloud's name
installs it (``stream-service[aws]`` and so on). All calls may block, and run in a pool thread.
"""

from __future__ import annotations

import base64
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import orjson
import urllib3

from stream.encryption.aes import bound
from stream.encryption.interface import DecryptionFailed
from stream.errors import UserError
from stream.ops.google_token import TokenUnavailable
from stream.ops.google_token import google_token as application_token

__all__ = ["AwsKeyService", "AzureKeyService", "GcpKeyService", "azure_token", "google_token"]

_TIMEOUT = urllib3.Timeout(connect=3.0, read=10.0)
_ATTEMPTS = 3
_RETRY = urllib3.Retry(
    total=_ATTEMPTS,
    backoff_factor=0.1,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=None,  # wrapping twice does no harm
    raise_on_status=False,
)
_REFUSED = (
    "according to the key service, the value was encrypted with a different key or for a different "
    "record, or was modified"
)
_GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloudkms"
_AZURE_SCOPE = "https://vault.azure.net/.default"
_AZURE_VERSION = "7.4"
_KEY_VERSION = re.compile(r"[0-9A-Za-z]{1,64}")


class AwsKeyService:
    """A key of AWS KMS; the metadata is its encryption context.

    :param key_id: id, alias or ARN of the key.
    """

    def __init__(self, region: str, key_id: str) -> None:
        self._key_id = key_id
        session = _library("botocore.session", "aws").get_session()
        config = _library("botocore.config", "aws").Config(
            connect_timeout=3, read_timeout=10, retries={"total_max_attempts": _ATTEMPTS}
        )
        self._errors: Any = _library("botocore.exceptions", "aws")
        self._client = session.create_client("kms", region_name=region, config=config)

    def wrap(self, key: bytes, metadata: Mapping[str, str]) -> bytes:
        """Wrap a key; see `KeyService.wrap`."""
        try:
            answer = self._client.encrypt(
                KeyId=self._key_id, Plaintext=key, EncryptionContext=dict(metadata)
            )
        except (self._errors.BotoCoreError, self._errors.ClientError) as problem:
            raise _unavailable("aws", problem) from None
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, metadata: Mapping[str, str]) -> bytes:
        """Unwrap a key; see `KeyService.unwrap`."""
        try:
            answer = self._client.decrypt(
                KeyId=self._key_id, CiphertextBlob=wrapped, EncryptionContext=dict(metadata)
            )
        except self._errors.ClientError as problem:
            code = problem.response.get("Error", {}).get("Code", "")
            if code in ("InvalidCiphertextException", "IncorrectKeyException"):
                raise DecryptionFailed(_REFUSED) from None
            raise _unavailable("aws", problem) from None
        except self._errors.BotoCoreError as problem:
            raise _unavailable("aws", problem) from None
        return bytes(answer["Plaintext"])


class GcpKeyService:
    """A key of Google Cloud KMS; the metadata is its additional authenticated data.

    :param key_id: name of the key: ``projects/…/locations/…/keyRings/…/cryptoKeys/…``.
    :param token: returns a currently valid bearer token.
    """

    def __init__(
        self,
        key_id: str,
        token: Callable[[], str],
        endpoint: str = "https://cloudkms.googleapis.com",
    ) -> None:
        self._url = f"{endpoint}/v1/{quote(key_id)}"
        self._rest = _Rest("gcp", token)

    def wrap(self, key: bytes, metadata: Mapping[str, str]) -> bytes:
        """Wrap a key; see `KeyService.wrap`."""
        body = {"plaintext": _text(key), "additionalAuthenticatedData": _text(bound(metadata))}
        return base64.b64decode(self._rest.post(f"{self._url}:encrypt", body)["ciphertext"])

    def unwrap(self, wrapped: bytes, metadata: Mapping[str, str]) -> bytes:
        """Unwrap a key; see `KeyService.unwrap`."""
        body = {
            "ciphertext": _text(wrapped),
            "additionalAuthenticatedData": _text(bound(metadata)),
        }
        answer = self._rest.post(f"{self._url}:decrypt", body, decrypting=True)
        return base64.b64decode(answer["plaintext"])


class AzureKeyService:
    """An RSA key of an Azure Key Vault, which can't bind metadata.

    The cipher of the value binds the metadata. The wrapped key contains the version of the key that
    wrapped it, so the key may be rotated.

    :param token: returns a currently valid bearer token.
    """

    _ALGORITHM = "RSA-OAEP-256"

    def __init__(self, vault_url: str, key_name: str, token: Callable[[], str]) -> None:
        self._url = f"{vault_url.rstrip('/')}/keys/{quote(key_name, safe='')}"
        self._rest = _Rest("azure", token)

    def wrap(self, key: bytes, metadata: Mapping[str, str]) -> bytes:
        """Wrap a key; see `KeyService.wrap`."""
        answer = self._call("wrapkey", "", key)
        version = str(answer.get("kid", "")).rpartition("/")[2]
        return orjson.dumps({"version": version, "value": answer["value"]})

    def unwrap(self, wrapped: bytes, metadata: Mapping[str, str]) -> bytes:
        """Unwrap a key; see `KeyService.unwrap`."""
        try:
            stored = orjson.loads(wrapped)
            version, value = stored["version"], _from_urlsafe(stored["value"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DecryptionFailed("the wrapped key is damaged") from None
        if not isinstance(version, str) or _KEY_VERSION.fullmatch(version) is None:
            raise DecryptionFailed("the wrapped key is damaged")
        return _from_urlsafe(self._call("unwrapkey", f"/{version}", value, unwrap=True)["value"])

    def _call(
        self, operation: str, version: str, value: bytes, *, unwrap: bool = False
    ) -> dict[str, Any]:
        url = f"{self._url}{version}/{operation}?api-version={_AZURE_VERSION}"
        text = base64.urlsafe_b64encode(value).rstrip(b"=").decode()
        return self._rest.post(url, {"alg": self._ALGORITHM, "value": text}, decrypting=unwrap)


class _Rest:
    """An HTTP client with a bearer token and JSON bodies."""

    def __init__(self, provider: str, token: Callable[[], str]) -> None:
        self._provider = provider
        self._token = token
        self._http = urllib3.PoolManager(1, maxsize=4, retries=_RETRY, timeout=_TIMEOUT)

    def post(self, url: str, body: Any, *, decrypting: bool = False) -> dict[str, Any]:
        headers = {
            "Authorization": f"Bearer {self._token()}",
            "Content-Type": "application/json",
        }
        try:
            answer = self._http.request(
                "POST", url, body=orjson.dumps(body), headers=headers, redirect=False
            )
        except urllib3.exceptions.HTTPError as problem:
            raise _unavailable(self._provider, problem) from None
        if answer.status == 400 and decrypting:
            raise DecryptionFailed(_REFUSED)
        try:
            found = answer.json() if answer.status == 200 else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise _unavailable(self._provider, f"status {answer.status}")
        return found


def google_token() -> Callable[[], str]:
    """Return a function that gets tokens for Google's application default credentials."""
    _library("google.auth", "gcp")
    try:
        found = application_token(_GOOGLE_SCOPE)
    except TokenUnavailable as problem:
        raise _unavailable("gcp", str(problem)) from None

    def token() -> str:
        try:
            return found()
        except TokenUnavailable as problem:
            raise _unavailable("gcp", str(problem)) from None

    return token


def azure_token() -> Callable[[], str]:
    """Return a function that gets tokens for Azure's default credential.

    It uses the environment, a workload identity, or a managed identity.
    """
    credential = _library("azure.identity", "azure").DefaultAzureCredential()
    errors = _library("azure.core.exceptions", "azure")

    def token() -> str:
        try:
            return str(credential.get_token(_AZURE_SCOPE).token)
        except errors.AzureError as problem:
            raise _unavailable("azure", problem) from None

    return token


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f'encryption provider "{extra}" needs the library {name.partition(".")[0]}: install '
            f"stream-service[{extra}]",
            name="invalidSettings",
        ) from None


def _unavailable(provider: str, problem: object) -> UserError:
    # Only the type of the error and, if a library sets it, its code: messages may quote what was
    # sent.
    reason = problem if isinstance(problem, str) else type(problem).__name__
    response = getattr(problem, "response", None)
    if isinstance(response, dict):
        reason = f"{reason} {response.get('Error', {}).get('Code', '')}".strip()
    return UserError(
        f'the key service of "{provider}" can\'t be used: {reason}',
        status=503,
        name="encryptionUnavailable",
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_urlsafe(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
