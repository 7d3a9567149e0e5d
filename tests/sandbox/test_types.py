"""The types in the sandbox's answers are those of the Storage API.

Clients in other languages decode answers into fixed types, and fail if a number is sent as text.
The answers that the service uses are checked by the contract
(`tests.target.keboola.test_contract`); this module checks those that other clients use.
"""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.sandbox.api import Api
from tests.target.keboola.shapes import ALSO_ANSWERED, DOCUMENTED, lacks, shape_of


@pytest_twisted.ensureDeferred
async def test_files(api: Api) -> None:
    """The author of a file is a number, unlike the id of a token."""
    await api.bucket()
    sink = await api.sink_token()
    file = await sink.prepare(tags=["a"])
    assert not list(lacks(shape_of(file), DOCUMENTED["POST /branch/{id}/files/prepare"].reply))
    files = (await api.branch("GET", "files?limit=200")).json
    assert not list(lacks(shape_of(files), ALSO_ANSWERED["GET /branch/{id}/files"].reply))
    detail = (await api.branch("GET", f"files/{file['id']}?federationToken=1")).json
    assert not list(lacks(shape_of(detail), ALSO_ANSWERED["GET /branch/{id}/files/{id}"].reply))
    assert detail["creatorToken"] == {"id": 1001}


@pytest_twisted.ensureDeferred
async def test_tokens(api: Api) -> None:
    """A token's own id is text and that of its creator a number, as in the Storage API."""
    made = (await api.storage("POST", "tokens", {"description": "d"})).json
    assert not list(lacks(shape_of(made), DOCUMENTED["POST /tokens"].reply))
    assert made["id"] == "1001"
    assert made["creatorToken"] == {"id": 1, "description": "Local master token"}
    verified = (await Api(api.url, made["token"]).storage("GET", "tokens/verify")).json
    assert not list(lacks(shape_of(verified), DOCUMENTED["GET /tokens/verify"].reply))


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/v2/storage/?exclude=components", "application/json"),
        ("/v2/storage/tokens/verify", "application/json"),
        ("/v2/storage/branch/456/tables/in.c-events.none", "application/json"),
        ("/v2/storage/nothing", "application/json"),
        ("/v2/storage/branch/456/tables/in.c-events.clicks/data-preview", "text/csv"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_media_types(api: Api, path: str, media_type: str) -> None:
    """Clients decode an answer only if its media type is JSON."""
    await api.bucket()
    await api.table()
    answer = await api.call("GET", path)
    assert answer.headers["content-type"].partition(";")[0] == media_type
