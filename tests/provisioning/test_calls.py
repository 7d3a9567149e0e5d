"""Every script calls the tools exactly as listed in calls/.

After an intended change, CALLS_UPDATE=1 updates the lists; review their difference.
"""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.provisioning.place import DOWNLOADED, PROVIDERS, ROOT, Place

_LISTS = Path(__file__).parent / "calls"


def _compare(place: Place, name: str) -> None:
    called = "".join(
        f"{call}\n".replace(str(place.calls_file.parent), "FOLDER") for call in place.calls
    )
    expected = _LISTS / f"{name}.txt"
    if os.environ.get("CALLS_UPDATE"):
        expected.write_text(called)
    assert called == expected.read_text()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_deployment(place: Place, provider: str) -> None:
    """A first installation signs in, installs everything in order, and waits until it runs."""
    done = place.run("deploy.sh", CLOUD_PROVIDER=provider)
    assert done.returncode == 0, done.stderr
    _compare(place, provider)


def test_local_deployment(place: Place) -> None:
    """No settings are needed, a stopped cluster is started, and both addresses are printed."""
    kept = {"PATH", "CALLS", "APPLIED", "ETCD_SECRET", "WRITER_SECRET", "FAIL"}
    place.environ = {name: value for name, value in place.environ.items() if name in kept}
    done = place.run("deploy_local.sh", RUNNING="", STREAM_IMAGE_TAG="tag")
    assert done.returncode == 0, done.stderr
    assert "http://192.168.49.2:30001" in done.stdout
    assert "http://192.168.49.2:30002" in done.stdout
    _compare(place, "deploy_local")


def test_gcp_initialisation(place: Place) -> None:
    """With TF_INIT_ONLY only the first step runs."""
    done = place.run("deploy.sh", CLOUD_PROVIDER="gcp", TF_INIT_ONLY="true")
    assert done.returncode == 0, done.stderr
    _compare(place, "gcp-init")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("../common/scripts/minikube/start.sh", []),
        ("../common/scripts/minikube/logs.sh", []),
        ("../common/scripts/k8s/dump.sh", ["dump.json"]),
        ("../common/scripts/k8s/logs.sh", ["logs"]),
        ("kubernetes/benchmark.sh", []),
        ("rollout-stream.sh", []),
    ],
)
def test_other_scripts(place: Place, tmp_path: Path, script: str, words: list[str]) -> None:
    """A script other than the deployment makes the calls in its list."""
    config = tmp_path / "map.json"
    config.write_text('{"data": {"config.yaml": ""}}')
    place.environ["STORAGE_API_TOKEN"] = "my-token"
    found = [str(tmp_path / word) for word in words]
    done = place.run(script, *found, CONFIG_MAP=str(config))
    assert done.returncode == 0, done.stderr
    _compare(place, script.removeprefix("../common/scripts/").removesuffix(".sh").replace("/", "-"))


def test_the_writers_secret_is_created_once(place: Place) -> None:
    """The first installation creates a secret, on no command line, and the next one keeps it."""
    assert place.run("deploy.sh", CLOUD_PROVIDER="aws").returncode == 0
    assert place.applied.is_file()
    made = yaml.safe_load(place.applied.read_text())
    secret = made["stringData"]["secret"]
    assert made["metadata"] == {"name": "stream-writer", "namespace": "stream"}
    assert len(base64.b64decode(secret)) == 32
    assert secret not in "".join(place.calls)
    place.applied.unlink()
    done = place.run("deploy.sh", CLOUD_PROVIDER="aws", WRITER_SECRET="secret/stream-writer")
    assert done.returncode == 0
    assert not place.applied.exists()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_secret_reaches_both_ends(place: Place, provider: str) -> None:
    """Source nodes and storage writers get the same secret, and no other container does."""
    name = "STREAM_STORAGE_LEVEL_LOCAL_WRITER_NETWORK_SECRET"
    found = {}
    for value in place.rendered(provider).values():
        for container in (
            value.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
        ):
            for variable in container["env"]:
                if variable["name"] == name:
                    found[container["name"]] = variable["valueFrom"]["secretKeyRef"]
    reference = {"name": "stream-writer", "key": "secret"}
    assert found == {"stream-http-source": reference, "stream-storage-writer": reference}


def test_the_token_of_the_benchmark_is_only_in_its_secret(place: Place) -> None:
    """The token is sent to the cluster, and isn't on a command line or in a file."""
    done = place.run("kubernetes/benchmark.sh", STORAGE_API_TOKEN="my-token")
    assert done.returncode == 0, done.stderr
    applied = Path(f"{place.applied}.all").read_text()
    assert base64.b64encode(b"my-token").decode() in applied
    assert "my-token" not in "".join(place.calls) + done.stdout + done.stderr
    done = place.run("kubernetes/benchmark.sh")
    assert done.returncode == 1
    assert "Missing STORAGE_API_TOKEN" in done.stderr


@pytest.mark.parametrize("name", ["aws", "azure", "gcp", "local", "common", "wait", "included"])
def test_a_part_is_not_run_alone(place: Place, name: str) -> None:
    """A part of deploy.sh that is run on its own reports that and makes no calls."""
    (place.stream / f"{name}.sh").chmod(0o755)
    done = place.run(f"{name}.sh")
    assert done.returncode == 1
    assert 'please run "deploy.sh" instead' in done.stderr
    assert place.calls == []


def test_differences_of_dumps(place: Place, tmp_path: Path) -> None:
    """Values that differ in each run are ignored, and a changed value is named."""
    item = '{"kind": "Service", "metadata": {"name": "a", "uid": "%s"}, "spec": {"value": "%s"}}'
    text = '{"items": [' + item + "]}"
    old, same, other = (tmp_path / name for name in ("old", "same", "other"))
    old.write_text(text % ("1", "x"))
    same.write_text(text % ("2", "x"))
    other.write_text(text % ("1", "y"))
    script = "../common/scripts/k8s/diff.sh"
    assert place.run(script, str(old), str(same)).returncode == 0
    done = place.run(script, str(old), str(other))
    assert done.returncode == 1
    assert '+Service/a.spec.value = "y"' in done.stdout
    other.write_text("{}")
    assert place.run(script, str(other), str(other)).returncode not in (0, 1)


def test_minikube_is_verified(place: Place, tmp_path: Path) -> None:
    """Nothing is installed after a wrong checksum, an unknown processor or a failed download."""
    target = tmp_path / "target"
    target.mkdir()
    script = "../common/scripts/minikube/install.sh"
    uname = tmp_path / "bin" / "uname"

    def install(machine: str, **variables: str) -> subprocess.CompletedProcess[str]:
        uname.write_text(f"#!/bin/sh\necho {machine}\n")
        uname.chmod(0o755)
        return place.run(script, INSTALL_DIR=str(target), **variables)

    assert install("x86_64", DOWNLOADED_SUM="0" * 64).returncode != 0
    assert install("riscv64").returncode == 1
    assert install("x86_64", FAIL="minikube-linux-amd64").returncode != 0
    assert list(target.iterdir()) == []
    assert install("aarch64", MINIKUBE_VERSION="v1").returncode == 0
    assert (target / "minikube").read_text() == DOWNLOADED
    assert (target / "minikube").stat().st_mode & 0o777 == 0o755
    assert [call.split()[-1].rpartition("/")[2] for call in place.calls[-2:]] == [
        "minikube-linux-arm64",
        "minikube-linux-arm64.sha256",
    ]
    assert len(place.calls) == 2 + 0 + 1 + 2


def test_every_script_is_run() -> None:
    """Every script of provisioning has a test here."""
    folder = ROOT / "provisioning"
    here = {str(path.relative_to(folder)) for path in folder.rglob("*.sh")}
    stream = ["deploy", "deploy_local", "rollout-stream", "included", *PROVIDERS, "common", "wait"]
    expected = {f"stream/{name}.sh" for name in stream}
    expected |= {"stream/kubernetes/build.sh", "stream/kubernetes/benchmark.sh"}
    expected |= {f"common/scripts/k8s/{name}.sh" for name in ("diff", "dump", "logs")}
    expected |= {f"common/scripts/minikube/{name}.sh" for name in ("install", "logs", "start")}
    assert here == expected
