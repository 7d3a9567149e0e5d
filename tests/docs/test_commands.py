"""The commands of the documentation do what the pages say, with one `make run`.

The default addresses of `make run` are replaced by free ones. A block that begins with a comment "a
few seconds later" is repeated until it prints what the page shows. A command that starts the
service runs until the service is ready, and is then stopped. Pages other than the README start
where the tutorial ends.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from stream.quickstart import quick_start
from stream.settings import load
from tests.conftest import free_port
from tests.docs.blocks import ROOT, Block, all_blocks, blocks, name_of, pages
from tests.docs.product import Product, environment, make_run
from tests.docs.shell import LATER
from tests.e2e.processes import Running

pytestmark = pytest.mark.e2e

README = "README.md"
TUTORIAL = "docs/tutorial.md"
RUNBOOK = "docs/runbook/index.md"
ELSEWHERE = {
    "docs/single-file.md": "tests/bundle/test_single_file.py",
    "docs/tutorial-lake.md": "tests/docs/test_lake_page.py",
    "docs/tutorial-postgres.md": "tests/docs/test_postgres_page.py",
    "docs/deployment.md": "tests/provisioning/test_pages.py",
}
"""Pages whose commands have their own test."""

_SERVER = re.compile(r"^(?P<command>(twistd -n stream|stream-service) .*)$")
_ANSWERS_AT_ONCE = ("--help", "--version", "--dump-config")


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """One product for all pages."""
    with make_run(tmp_path_factory.mktemp("checkout")) as product:
        yield product


@pytest.fixture(scope="module")
def defined(product: Product) -> dict[str, str]:
    """Run the tutorial's commands. Return a reader's variables, and the paths that an operator
    uses.
    """
    shell = product.shell("tutorial")
    for block in _commands(TUTORIAL):
        shell.run(block)
    return {
        **{name: shell.value(name) for name in ("API", "TOKEN", "BRANCH", "URL")},
        "REJECTED": product.deployed.settings["STREAM_SOURCE_QUARANTINE_PATH"],
        "LOG": str(product.log),
    }


def _is_task(block: Block) -> bool:
    """Return whether the block only calls targets of the Makefile."""
    return all(line.startswith(("make ", "#")) for line in block.text.split("\n") if line)


def _servers(block: Block) -> list[str]:
    found = (_SERVER.match(line) for line in block.text.replace("\\\n", "").split("\n"))
    commands = [re.sub(r"\s+#.*", "", match["command"]) for match in found if match]
    return [command for command in commands if not any(x in command for x in _ANSWERS_AT_ONCE)]


def _commands(page: str) -> list[Block]:
    """Return the blocks of *page* for a reader's shell."""
    return [x for x in blocks(ROOT / page) if not _is_task(x) and not _servers(x)]


def _pages() -> list[str]:
    """Return all pages with commands; pages that state the number of versions come first."""
    found = [name_of(page) for page in pages() if _commands(name_of(page))]
    others = set(found) - set(ELSEWHERE) - {README, TUTORIAL}
    return sorted(others, key=lambda x: (x != "docs/api.md", x))


def test_tutorial(defined: dict[str, str]) -> None:
    """Each command of the tutorial succeeds and prints what it shows."""
    assert all(defined.values())


@pytest.mark.parametrize("page", _pages())
def test_page(page: str, product: Product, defined: dict[str, str]) -> None:
    """Each command of the page succeeds and prints what the page shows."""
    shell = product.shell(page.replace("/", "-"), defined)
    if Path(page).parent == Path(RUNBOOK).parent and page != RUNBOOK:
        # Its first block defines the variables of the others.
        shell.run(_commands(RUNBOOK)[0])
    for block in _commands(page):
        shell.run(block)


def test_readme(product: Product) -> None:
    """Each command of the README succeeds and prints what it shows; the tutorial's objects, which
    have the same names, are deleted by then.
    """
    shell = product.shell("README")
    source = "http://127.0.0.1:8000/v1/branches/default/sources/my-source?cascade=true&wait=20s"
    deletion = f'curl -sS -X DELETE "{source}" -H "X-StorageApi-Token: sandbox-token"'
    shell.run(Block(README, 1, "sh", deletion))
    for block in _commands(README):
        shell.run(block)


def test_pages_with_their_own_test() -> None:
    """The other tests exist and run the commands of the page."""
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text()


def test_quick_start(product: Product) -> None:
    """The commands that the terminal shows can be pasted; here with other names than the
    README's.
    """
    printed = quick_start(load({}, product.deployed.environment()))
    first, _, second = printed[printed.index("  API=http") :].partition("A few seconds later")
    second = second.partition("\n")[2].strip("\n")
    names = {"My S": "Other S", "my-s": "other-s", "in.c-demo": "in.c-other"}
    for name, other in names.items():
        first, second = first.replace(name, other), second.replace(name, other)
    shell = product.shell("quick-start")
    shell.run(Block("make run", 1, "sh", first, "…OK"))
    shell.run(Block("make run", 2, "sh", f"{LATER}\n{second}", "(…'Ada', '…')"))


SERVERS = sorted({x for page in pages() for block in blocks(page) for x in _servers(block)})


@pytest.mark.parametrize("command", SERVERS)
def test_server(command: str, product: Product, tmp_path: Path) -> None:
    """A command of the page starts the service, here as a further node."""
    name, *words = shlex.split(command)
    settings = product.deployed.environment("node-2")
    own = {
        f"STREAM_{name}_LISTEN": f"127.0.0.1:{free_port()}"
        for name in ("API", "SOURCE_HTTP", "METRICS", "PPROF", "API_TAIL")
    }
    (tmp_path / "default" / "two").mkdir(parents=True)
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / name), *words],
            cwd=tmp_path,
            env={
                **environment(settings),
                **own,
                "STREAM_STORAGE_LEVEL_LOCAL_WRITER_NETWORK_LISTEN": "127.0.0.1:0",
                "STREAM_STORAGE_VOLUMES_PATH": str(tmp_path),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    running = Running(process, log, own["STREAM_METRICS_LISTEN"])
    try:
        product.deployed.wait_ready(running)
        assert running.stop() == 0, log.read_text()
    finally:
        process.kill()
    assert "configuration: {" in log.read_text()
    assert settings["STREAM_SANDBOX_TOKEN"] not in log.read_text()


LANGUAGES = {
    *("sh", "console", "text", "json", "yaml", "dockerfile", "promql"),
    *("js", "python", "go", "sql"),
}
NO_COMMANDS = LANGUAGES - {"sh", "console"}
_COMMAND = re.compile(
    r"\$ |curl |make |docker |kubectl |etcd(ct|ut)l |stream-service |twistd |ssh |(GET|POST) /"
)


@attrs.frozen
class NotRun:
    """A block that no test can run.

    :ivar begins: the beginning of its first line, "" for all blocks of the page.
    """

    page: str
    begins: str
    reason: str


NOT_RUN = (
    NotRun("docs/tutorial.md", "$ call -X DELETE", "the other pages go on with the source"),
    NotRun("docs/tutorial.md", "$ make run PORT_OFFSET", "default ports; tests/test_defaults.py"),
    NotRun("docs/development.md", "$ .venv/bin/stream-service", "tests/e2e/test_terminal.py"),
    NotRun("docs/takeover.md", "$ stream-service", "tests/e2e/test_takeover.py"),
    NotRun("docs/backup.md", "$ find", "needs an etcd that has lost something; was rehearsed"),
    NotRun("docs/testing.md", "STREAM_TEST_STORAGE_API_HOST=", "needs a real project"),
    NotRun("docs/inspect.md", "$ ssh-keygen", "writes to /etc; tests/e2e/test_console.py"),
    NotRun("docs/inspect.md", "$ ssh -p", "a person types; tests/e2e/test_console.py"),
    NotRun("docs/testing.md", "$ make hostile", "takes minutes; tests/e2e/test_hostile.py"),
    NotRun("docs/testing.md", "$ make chaos", "takes minutes; tests/e2e/test_chaos.py"),
)


def test_blocks_that_no_test_runs() -> None:
    """Each such block is listed with the reason, and each listed block exists."""
    unused = set(NOT_RUN)
    for block in (x for page in pages() for x in all_blocks(page)):
        assert block.language in LANGUAGES, f"{block}: a block of the language {block.language!r}"
        if block.language in NO_COMMANDS:
            assert not _COMMAND.match(block.text), f"{block}: commands are of the language sh"
        elif block.language == "console":
            reasons = {
                x for x in NOT_RUN if x.page == block.page and block.first_line.startswith(x.begins)
            }
            assert reasons, f"{block}: make it sh, or say in NOT_RUN why it can't be run"
            unused -= reasons
    assert not unused


TASKS = {
    "run": "what all commands here are run against",
    "test": "what runs this",
    "install": "what `test` does first",
    "run-stream-service": "tests/e2e/test_rerun.py",
    "build-stream-service": "tests/bundle",
}
"""Targets of the Makefile that blocks call, with the tests that run them."""


def test_blocks_that_call_make() -> None:
    """Every called target of `make` is run by a test."""
    called = {
        target
        for page in pages()
        for block in blocks(page)
        if _is_task(block)
        for target in re.findall(r"^make ([a-z0-9-]+)", block.text, re.MULTILINE)
    }
    assert called == set(TASKS)
