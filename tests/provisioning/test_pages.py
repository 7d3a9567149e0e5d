"""The commands of the pages about deployment, run with stand-ins of the tools that they call.

A line with "@" in a list of calls/ includes another list from its first line to its last. The calls
of the API and of etcd's client in the README are tested with real ones elsewhere.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import ROOT, Block, blocks, section_of
from tests.docs.shell import Shell
from tests.provisioning.place import STAND_IN, Place

_LISTS = Path(__file__).parent / "calls"
_README = ROOT / "provisioning" / "stream" / "README.md"
_DEPLOYMENT = ROOT / "docs" / "deployment.md"
_ELSEWHERE = {
    "The API": "tests/e2e/test_provisioning_page.py",
    "etcd": "tests/e2e/test_provisioning_page.py",
    "make run-stream-service": "tests/e2e/test_rerun.py",
}
"""Sections and commands of the README that another test runs."""


def _here(page: Path) -> list[Block]:
    return [
        block
        for block in blocks(page)
        if page != _README or not {section_of(page, block), block.text} & _ELSEWHERE.keys()
    ]


def _stand_in(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STAND_IN)
    path.chmod(0o755)


def _shell(place: Place) -> Shell:
    """Return a shell in a checkout whose Makefile calls stand-ins, with only their variables."""
    folder = place.calls_file.parent
    shutil.copy(ROOT / "Makefile", folder)
    _stand_in(folder / "target" / "k6")
    _stand_in(folder / "scripts" / "wrk" / "stream-api" / "benchmark.sh")
    config = folder / "map.json"
    config.write_text('{"data": {"config.yaml": ""}}')
    kept = ("PATH", "CALLS", "APPLIED", "ETCD_SECRET", "WRITER_SECRET", "FAIL", "DOWNLOADED")
    environ = {name: value for name, value in place.environ.items() if name.startswith(kept)}
    own = {
        "CONFIG_MAP": str(config),
        "RUNNING": "",
        "INSTALL_DIR": str(folder / "target"),
        "KEBOOLA_TOKEN": "sandbox-token",
        "KEBOOLA_STREAM_API_URL": "http://localhost:8001",
    }
    if "STREAM_IMAGE_TAG" not in environ:
        own["STREAM_IMAGE_TAG"] = "tag"  # instead of the commit and the time
    return Shell(folder, {**environ, **own})


def _compare(place: Place, name: str) -> None:
    called = "".join(f"{call}\n" for call in place.calls)
    called = called.replace(str(place.calls_file.parent), "FOLDER")
    called = re.sub(r"/tmp/tmp\.\w+", "TEMPORARY", called)
    called = re.sub(r"minikube-linux-\w+", "minikube-linux-amd64", called)
    called = called.replace(f"-u {os.getuid()}: ", "-u UID: ")
    for other in ("deploy_local", "rollout-stream", "k8s-dump", "k8s-logs", "minikube-logs"):
        called = called.replace((_LISTS / f"{other}.txt").read_text(), f"@{other}\n")
    called = called.replace((_LISTS / "kubernetes-benchmark.txt").read_text(), "@benchmark\n")
    expected = _LISTS / f"{name}.txt"
    if os.environ.get("CALLS_UPDATE"):
        expected.write_text(called)
    assert called == expected.read_text()


def test_readme(place: Place) -> None:
    """Each command succeeds and makes the calls in its list; the deployment prints the
    addresses.
    """
    shell = _shell(place)
    printed = {block.text: shell.run(block) for block in _here(_README)}
    _compare(place, "readme")
    deployed = next(text for command, text in printed.items() if "deploy_local.sh" in command)
    assert [line.split()[-1] for line in deployed.splitlines()[-3:-1]] == [
        "http://192.168.49.2:30001",
        "http://192.168.49.2:30002",
    ]
    folder = place.calls_file.parent
    assert (folder / "target" / "minikube").stat().st_mode & 0o111
    assert (folder / "target" / "dump.json").is_file()
    assert "sandbox-token" not in "".join(place.calls)


def test_commands_with_another_test() -> None:
    """Every command of the README that isn't run here is run by another test, which exists."""
    found = set()
    for block in blocks(_README):
        found |= {section_of(_README, block), block.text} & _ELSEWHERE.keys()
    assert found == _ELSEWHERE.keys()
    for what, test in _ELSEWHERE.items():
        assert what.split()[-1] in (ROOT / test).read_text()


def test_links_of_the_readme() -> None:
    """Every linked or listed file exists, and so does each target of `make`."""
    text = _README.read_text()
    makefile = (ROOT / "Makefile").read_text()
    for task in re.findall(r"make ([a-z-]+)", text):
        assert re.search(rf"^{task}:", makefile, re.MULTILINE), task
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (_README.parent / target).resolve().exists(), target
    table = text[text.index("## Directory") : text.index("## On this machine")]
    listed = re.findall(r"`([\w./{},-]+(?:/|\.sh|\.yaml))`", table)
    names = [name for item in listed for name in _expanded(item)]
    assert len(names) > 20
    for name in names:
        found = _README.parent / name, _README.parent / "kubernetes" / name
        assert any(path.exists() for path in found) or name == "deploy/", name


def _expanded(name: str) -> list[str]:
    before, brace, rest = name.partition("{")
    choices, _, after = rest.partition("}")
    return [f"{before}{choice}{after}" for choice in choices.split(",")] if brace else [name]


def test_the_page_of_deployment(place: Place) -> None:
    """Each command makes the calls in its list, with only the variables that the page sets."""
    shell = _shell(place)
    del shell.environ["STREAM_IMAGE_TAG"]
    for block in _here(_DEPLOYMENT):
        shell.run(block)
    _compare(place, "deployment-page")


def test_docker_run() -> None:
    """The settings and components of `docker run` are valid and sufficient."""
    run = next(block for block in blocks(_DEPLOYMENT) if "docker run" in block.text)
    words = shlex.split(run.text.replace("\\\n", ""))
    environ = dict(
        value.split("=", 1) for option, value in itertools.pairwise(words) if option == "--env"
    )
    service = words.index("/app/service")
    assert words[service - 1] == "stream"
    done = subprocess.run(
        [sys.executable, "-m", "stream", *words[service + 1 :], "--dump-config=yaml"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["etcd"]["endpoint"] == environ["STREAM_ETCD_ENDPOINT"]


@pytest.mark.parametrize("page", [_README, _DEPLOYMENT], ids=lambda page: page.name)
def test_compose_services(page: Path) -> None:
    """Each container that the page runs is a service of the Compose file."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for block in blocks(page):
        for command in re.findall(r"docker compose run (.*)", block.text):
            words = [word for word in shlex.split(command) if word[0] not in "-$"]
            assert words[0] in services, command
