from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from stream.api.http.call import Answer, Call
from stream.api.http.pages import BuiltPages, security_headers
from stream.api.spec.operations import OPERATIONS
from stream.errors import UserError
from tests.api.conftest import Api

ensure = pytest_twisted.ensureDeferred

SCRIPT = "assets/page-1a2b3c.js"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a build of the console."""
    folder = tmp_path / "static"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<title>page</title>")
    (folder / SCRIPT).write_text("script()")
    (folder / f"{SCRIPT}.gz").write_bytes(gzip.compress(b"script()"))
    (folder / f"{SCRIPT}.br").write_bytes(b"brotli")
    (tmp_path / "secret.js").write_text("outside")
    return folder


async def fetch(pages: BuiltPages, name: str, headers: Mapping[str, str] | None = None) -> Answer:
    sent = {key.lower().encode(): value for key, value in (headers or {}).items()}
    call = Call(
        operation=OPERATIONS["ConsoleFile"],
        parameters={"path": name},
        request_id="",
        header=lambda key: sent.get(key, ""),
    )
    return await pages.answer(call, name, "index.html")


@ensure
async def test_caching(root: Path) -> None:
    """Browsers revalidate the page, but cache its files, whose names contain a hash."""
    pages = BuiltPages(reactor, root)
    page = await fetch(pages, "index.html")
    assert (page.status, page.content_type) == (200, "text/html; charset=utf-8")
    assert dict(page.headers)["Cache-Control"] == "no-cache"
    script = await fetch(pages, SCRIPT)
    assert "immutable" in dict(script.headers)["Cache-Control"]
    tag = dict(page.headers)["ETag"]
    same = await fetch(pages, "index.html", {"If-None-Match": tag})
    assert (same.status, same.body) == (304, b"")


@ensure
async def test_compression(root: Path) -> None:
    """The smallest compressed form that the client accepts is sent."""
    pages = BuiltPages(reactor, root)
    for accepted, encoding in (
        ("gzip, deflate, br", "br"),
        ("gzip", "gzip"),
        ("br;q=0, gzip;q=0.5", "gzip"),
        ("", None),
        ("identity", None),
    ):
        answer = await fetch(pages, SCRIPT, {"Accept-Encoding": accepted})
        assert dict(answer.headers).get("Content-Encoding") == encoding, accepted
        assert (answer.body == b"script()") == (encoding is None)
        assert dict(answer.headers)["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    "name", ["../secret.js", "assets/../../secret.js", "/etc/passwd", "assets", "", f"{SCRIPT}.gz"]
)
@ensure
async def test_only_files_of_the_build(root: Path, name: str) -> None:
    """Files outside of the folder can't be requested."""
    with pytest.raises(UserError) as caught:
        await fetch(BuiltPages(reactor, root), name)
    assert caught.value.status == 404


@ensure
async def test_a_page_that_is_not_built(tmp_path: Path) -> None:
    """The answer says how to build the page, that it is being built, or why that failed; then the
    page is served.
    """
    root = tmp_path / "static"
    pages = BuiltPages(reactor, root)
    missing = await fetch(pages, "index.html")
    assert missing.status == 503
    assert b"make console" in missing.body
    assert "Refresh" not in dict(missing.headers)
    status = tmp_path / "status"
    status.write_text("building")
    building = await fetch(pages, "index.html")
    assert dict(building.headers)["Refresh"] == "2"
    status.write_text("npm failed: <b>no network</b>")
    failed = await fetch(pages, "index.html")
    assert b"npm failed: &lt;b&gt;no network" in failed.body
    root.mkdir()
    (root / "index.html").write_text("first")
    assert (await fetch(pages, "index.html")).body == b"first"


@ensure
async def test_a_new_build(root: Path) -> None:
    """A build that replaces another is noticed without a restart."""
    pages = BuiltPages(reactor, root)
    await fetch(pages, "index.html")
    root.rename(root.with_name("old"))
    root.mkdir()
    (root / "index.html").write_text("second")
    assert (await fetch(pages, "index.html")).body == b"second"


def test_the_policy_names_only_own_listeners() -> None:
    """The content security policy allows requests to the API and the sources only."""
    policy = dict(security_headers("https://in.example:8443/path", ""))["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; connect-src 'self' https://in.example:8443;")
    assert "unsafe" not in policy


@ensure
async def test_the_console_is_served(api: Api) -> None:
    """The root redirects browsers to the console, which is served with its policy."""
    page = await api.call("GET", "/console/", token=None)
    assert page.status in (200, 503)
    assert page.header("Content-Type") == "text/html; charset=utf-8"
    policy = page.header("Content-Security-Policy") or ""
    assert "connect-src 'self' https://stream-in.keboola.local;" in policy
    assert page.header("X-Content-Type-Options") == "nosniff"
    assert not re.findall(rb'(?:src|href)="(?:https?:)?//', page.body)
    viewer = await api.call("GET", "/v1/documentation/", token=None)
    assert viewer.status == page.status
    browser = await api.call("GET", "/", token=None, headers={"Accept": "text/html,*/*"})
    assert (browser.status, browser.header("Location")) == (302, "/console/")
    style = await api.call("GET", "/v1/documentation/style.css", token=None)
    assert style.header("Content-Type") == "text/css; charset=utf-8"
    for path in ("/console/other", "/v1/documentation/other"):
        assert (await api.call("GET", path, token=None)).status == 404
