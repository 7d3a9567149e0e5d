"""The scripts with the real kubectl and the real API server of Kubernetes: `make kube-check`.

Nothing runs there: without nodes and controllers, the server only validates and stores objects.
"""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import ROOT, blocks
from tests.provisioning.kubernetes import KUBECTL, SERVER, Cluster, cluster
from tests.provisioning.place import PROVIDERS, Place

pytestmark = pytest.mark.skipif(
    not SERVER.exists() or KUBECTL is None, reason="make kube-check builds what it needs"
)

_KUBECTL = """#!/bin/bash
case "$*" in "rollout status"*) exit 0 ;; esac
exec {kubectl} --kubeconfig {config} "$@"
"""
"""Without controllers there are no rollouts to wait for."""

_RESTRICTED = """
apiVersion: v1
kind: Namespace
metadata:
  name: restricted
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""
_INGRESS_CLASS = 'Warning: annotation "kubernetes.io/ingress.class" is deprecated'


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        for name in ("stream", "stream-benchmark"):
            assert made.kubectl("create", "--save-config", "namespace", name).returncode == 0
        yield made


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_object_is_accepted(real: Cluster, place: Place, provider: str) -> None:
    """The server accepts every rendered object, and warns only of the class of an ingress."""
    objects = place.rendered(provider)
    names = [name for name in objects if not name.startswith("etcd-values")]
    assert len(names) > 15
    folder = place.stream / "kubernetes" / "deploy"
    files = [word for name in names for word in ("--filename", str(folder / f"{name}.yaml"))]
    done = real.kubectl("apply", "--dry-run=server", "--validate=strict", *files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("server dry run") == len(names)
    assert [x for x in done.stderr.splitlines() if not x.startswith(_INGRESS_CLASS)] == []


def test_invalid_objects_are_refused(real: Cluster, place: Place) -> None:
    """An unknown key, an invalid port and a selector that doesn't match are found."""
    rendered = place.rendered("aws")["api-deployment"]
    for wrong in (
        lambda spec: spec.update(replica=1),
        lambda spec: spec["template"]["spec"]["containers"][0]["ports"][0].update(
            containerPort=70000
        ),
        lambda spec: spec["selector"]["matchLabels"].update(app="another"),
    ):
        value = json.loads(json.dumps(rendered))
        wrong(value["spec"])
        done = real.kubectl(
            "apply", "--dry-run=server", "--validate=strict", "-f", "-", given=json.dumps(value)
        )
        assert done.returncode == 1, wrong


def test_pods_meet_the_restricted_standard(real: Cluster, place: Place) -> None:
    """All pods, also those of the benchmark, are admitted under Kubernetes' strictest standard."""
    assert real.kubectl("apply", "-f", "-", given=_RESTRICTED).returncode == 0
    values = [*place.rendered("aws").values()]
    benchmark = place.stream / "kubernetes" / "benchmark" / "job.yaml"
    values.append(yaml.safe_load(benchmark.read_text()))
    templates = [x["spec"]["template"] for x in values if "template" in x.get("spec", {})]
    assert len(templates) == 5
    for number, template in enumerate(templates):
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {**template["metadata"], "name": f"pod-{number}"}
        pod["spec"] = {key: x for key, x in pod["spec"].items() if key != "serviceAccountName"}
        # A StatefulSet adds the volumes of its claim templates.
        mounted = {m["name"] for c in pod["spec"]["containers"] for m in c.get("volumeMounts", ())}
        given = {volume["name"] for volume in pod["spec"].get("volumes", ())}
        more = [{"name": name, "emptyDir": {}} for name in sorted(mounted - given)]
        pod["spec"]["volumes"] = [*pod["spec"].get("volumes", ()), *more]
        done = real.kubectl(
            *("create", "--namespace=restricted", "--dry-run=server", "-f", "-"),
            given=json.dumps(pod),
        )
        assert done.returncode == 0, done.stderr


def _with_kubectl(place: Place, real: Cluster) -> Place:
    tool = place.calls_file.parent / "bin" / "kubectl"
    tool.write_text(_KUBECTL.format(kubectl=KUBECTL, config=real.config))
    return place


def test_scripts(real: Cluster, place: Place, tmp_path: Path) -> None:
    """The scripts deploy, upgrade, roll out, dump, compare dumps, and run the benchmark."""
    _with_kubectl(place, real)

    def run(script: str, *words: str, code: int = 0, **variables: str) -> str:
        done = place.run(script, *words, **variables)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    dump, differ, logs = (f"../common/scripts/k8s/{name}.sh" for name in ("dump", "diff", "logs"))
    assert "deployment.apps/stream-api created" in run("deploy.sh", CLOUD_PROVIDER="local")
    secret = ("get", "secret", "stream-writer", "--namespace=stream", "-o", "jsonpath={.data}")
    made = real.kubectl(*secret).stdout
    run(dump, str(tmp_path / "first"))
    again = run("deploy.sh", CLOUD_PROVIDER="local", BUILD_BUILDID="7", STREAM_IMAGE_TAG="next")
    assert "service/stream-api unchanged" in again
    assert "deployment.apps/stream-api configured" in again
    assert real.kubectl(*secret).stdout == made
    run("rollout-stream.sh")
    run(dump, str(tmp_path / "second"))
    changed = run(differ, str(tmp_path / "first"), str(tmp_path / "second"), code=1)
    assert '+Deployment/stream-api.spec.template.spec.containers.0.image = "example' in changed
    assert "http://192.168.49.2:30001" in changed
    run(logs, str(tmp_path / "logs"))
    assert (tmp_path / "logs" / "events.txt").is_file()
    for _ in range(2):
        printed = run("kubernetes/benchmark.sh", STORAGE_API_TOKEN="my-token")
        assert "job.batch/benchmark created" in printed
    token = ("get", "secret", "benchmark", "--namespace=stream-benchmark")
    encoded = real.kubectl(*token, "-o", "jsonpath={.data.api-token}").stdout
    assert base64.b64decode(encoded) == b"my-token"


def test_the_etcd_client(real: Cluster) -> None:
    """The pod of the README has its image, the label, and the password from the secret."""
    page = ROOT / "provisioning" / "stream" / "README.md"
    block = next(block for block in blocks(page) if block.text.startswith("kubectl run"))
    attached = {"--tty", "--stdin", "--rm"}
    words = [
        word for word in shlex.split(block.text.replace("\\\n", ""))[1:] if word not in attached
    ]
    command = words.index("--command")
    done = real.kubectl(*words[:command], "--dry-run=server", "-o=json", *words[command:])
    assert done.returncode == 0, done.stderr
    pod = json.loads(done.stdout)
    assert pod["metadata"]["labels"] == {"stream-etcd-client": "true"}
    container = pod["spec"]["containers"][0]
    assert container["image"].startswith("docker.io/bitnamilegacy/etcd:")
    assert container["command"] == ["bash"]
    assert [variable["name"] for variable in container["env"]] == [
        "ETCDCTL_ENDPOINTS",
        "ETCDCTL_USER",
        "ETCDCTL_PASSWORD",
    ]
    assert container["env"][2]["valueFrom"]["secretKeyRef"]["key"] == "etcd-root-password"


def test_the_server_is_the_real_one() -> None:
    """The server is Kubernetes' own program."""
    done = subprocess.run([str(SERVER), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Kubernetes v1.")
