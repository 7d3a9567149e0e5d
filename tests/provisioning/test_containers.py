"""Images and the Compose file, checked without an engine."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stream.plugin import NAMES, Options
from tests.provisioning.place import ROOT

_IMAGES = ROOT / "docker"
_FILES = sorted(_IMAGES.rglob("Dockerfile"))
_COMPOSE = ROOT / "docker-compose.yml"


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _steps(path: Path) -> list[tuple[str, str]]:
    lines = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    found = (line.strip().partition(" ") for line in lines.splitlines() if line.strip())
    return [(name, rest.strip()) for name, _, rest in found]


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.parent.name)
def test_hadolint(path: Path) -> None:
    """hadolint finds nothing, except that Debian's packages have no version."""
    command = [_tool("hadolint"), "--no-color", "--ignore=DL3008", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.parent.name)
def test_copied_files_exist(path: Path) -> None:
    """Copied files are in the repository, or created by an earlier stage."""
    stages: set[str] = set()
    for name, rest in _steps(path):
        if name == "FROM" and " AS " in rest:
            stages.add(rest.split(" AS ")[1])
        if name == "COPY":
            words = shlex.split(rest)
            if words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") in stages
            else:
                assert all((ROOT / word).exists() for word in words[:-1]), rest


@pytest.mark.parametrize("name", ["service", "k6"])
def test_images_do_not_run_as_root(name: str) -> None:
    """The last user of a deployed image is a number other than 0, as Kubernetes requires."""
    path = _IMAGES / name / "Dockerfile"
    users = [rest for step, rest in _steps(path) if step == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


def test_the_compose_file_is_valid() -> None:
    """The file is valid for Docker Compose."""
    command = [_tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(_COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_of_the_compose_file_exist() -> None:
    """Every mounted or linked file and every Dockerfile is in the repository."""
    composition = yaml.safe_load(_COMPOSE.read_text())
    services = composition["services"]
    usual = {"dev", "etcd", "sandbox", "prometheus", "grafana", "k6"}
    assert services.keys() == usual | {"postgres", "stream-postgres"}
    for service in services.values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", ()):
            place = volume.split(":")[0]
            assert (ROOT / place).exists() if place[0] == "." else place in composition["volumes"]
        assert set(service.get("depends_on", ())) <= services.keys()


def test_up_runs_the_product() -> None:
    """`docker compose up` starts the service, not a shell that ends at once."""
    dev = yaml.safe_load(_COMPOSE.read_text())["services"]["dev"]
    assert dev["command"] == ["make", "run"]
    last = [rest for step, rest in _steps(ROOT / dev["build"]["dockerfile"]) if step == "CMD"]
    assert "entrypoint" not in dev and last == ['["bash"]']


def test_a_shell_for_development() -> None:
    """`docker compose run … dev base` also opens the shell."""
    runs = [rest for step, rest in _steps(_IMAGES / "dev" / "Dockerfile") if step == "RUN"]
    assert any("ln -s /bin/bash /usr/local/bin/base" in rest for rest in runs)


def test_make_run_in_the_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`make run` starts the five components there, with the etcd and the sandbox of other
    containers.
    """
    variables = yaml.safe_load(_COMPOSE.read_text())["services"]["dev"]["environment"]
    variables = {**variables, "STREAM_STORAGE_API_HOST": "http://sandbox:8001"}
    command = ["make", "--no-print-directory", "-n", "-o", f"{variables['VENV']}/.runtime", "run"]
    environ = {**variables, "PATH": "/usr/bin:/bin"}
    printed = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    exec_, program, *arguments = printed.splitlines()[-1].split()
    assert (exec_, program) == ("exec", "/tmp/cache/venv/bin/stream-service")
    for name, value in variables.items():
        if name.startswith("STREAM_"):
            monkeypatch.setenv(name, value)
    options = Options()
    options.parseOptions(arguments)
    assert options.is_dev
    assert set(NAMES) - set(options.components) == {"etcd", "postgres", "sandbox"}
    settings = options.settings
    assert settings.storage.volumes_path == "/tmp/volumes"
    assert settings.etcd.endpoint == "etcd:2379"
    assert settings.source.http.listen == "0.0.0.0:8010"


def test_the_watched_service_in_the_container() -> None:
    """`make run-stream-service` starts five components there, and all of them elsewhere."""
    variables = yaml.safe_load(_COMPOSE.read_text())["services"]["dev"]["environment"]
    five = "api http-source storage-writer storage-reader storage-coordinator"
    for environ, components, metrics in (
        (variables, five, "0.0.0.0:9001"),
        ({}, f"etcd sandbox {five}", "127.0.0.1:9001"),
    ):
        printed = subprocess.run(
            ["make", "--no-print-directory", "-n", "run-stream-service"],
            cwd=ROOT,
            env={**environ, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        assert printed.endswith(f" {components}\n"), printed
        assert f"--metrics-listen {metrics} " in printed
        assert " --node-id my-node --hostname localhost " in printed
        assert "mkdir -p /tmp/stream-volumes/hdd/my-volume\n" in printed


def test_k6_gets_every_variable_of_the_script() -> None:
    """Each variable that the benchmark reads can be passed to the container."""
    passed = yaml.safe_load(_COMPOSE.read_text())["services"]["k6"]["environment"]
    text = (ROOT / "scripts" / "k6" / "stream-api" / "main.js").read_text()
    read = set(re.findall(r'"((?:K6|STREAM)_[A-Z0-9_]+)"', text))
    assert len(read) > 15
    assert read <= passed.keys()


def health_command() -> list[str]:
    """The health command of the service image."""
    path = _IMAGES / "service" / "Dockerfile"
    rest = next(rest for step, rest in _steps(path) if step == "HEALTHCHECK")
    command: list[str] = json.loads(rest[rest.index("CMD ") + 4 :])
    return command


def test_the_profile_with_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile has the five components with an etcd, its own tokens, and the database."""
    services = yaml.safe_load(_COMPOSE.read_text())["services"]
    service = services["stream-postgres"]
    assert service["profiles"] == services["postgres"]["profiles"] == ["postgres"]
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, value)
    options = Options()
    options.parseOptions(service["command"][1:])
    assert "sandbox" not in options.components and len(options.components) == 6
    assert options.settings.auth.provider == "stream"
    dsn = options.settings.target.connections.by_name["warehouse"].options["dsn"]
    given = services["postgres"]["environment"]
    names = [given[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB")]
    assert dsn == "postgresql://{}:{}@postgres:5432/{}".format(*names)
