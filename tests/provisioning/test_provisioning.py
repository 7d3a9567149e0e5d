"""The deployment scripts and templates, run with stand-ins of the tools that they call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from stream.settings import load
from tests.provisioning.place import PROVIDERS, ROOT, Place


def _pods(objects: dict[str, Any]) -> list[dict[str, Any]]:
    return [o["spec"]["template"] for o in objects.values() if "template" in o.get("spec", {})]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_objects_are_valid(place: Place, provider: str) -> None:
    """Every object rendered for each provider is valid for Kubernetes."""
    for name, value in place.rendered(provider).items():
        if not name.startswith("etcd-values"):
            kubernetes_validate.validate(value, "1.32", strict=True)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_selectors_match_pods(place: Place, provider: str) -> None:
    """Every selector, and every peer of a policy in the namespace, matches the labels of
    some pod.
    """
    objects = place.rendered(provider)
    pods = [pod["metadata"]["labels"] for pod in _pods(objects)]
    assert len(pods) == 4
    assert all(labels["stream-etcd-client"] == "true" for labels in pods)
    apps = {labels["app"] for labels in pods}
    for value in objects.values():
        spec = value.get("spec", {})
        found = [spec.get("selector"), spec.get("podSelector")]
        for rule in spec.get("ingress", []):
            found += [
                p["podSelector"] for p in rule.get("from", []) if "namespaceSelector" not in p
            ]
        for selector in filter(None, found):
            assert selector.get("matchLabels", selector)["app"] in apps


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_service_accepts_the_configuration(place: Place, provider: str, tmp_path: Path) -> None:
    """The deployed file, the environment and the ports of each pod are valid for the service."""
    objects = place.rendered(provider)
    config = tmp_path / "config.yaml"
    config.write_text(objects["config-map"]["data"]["config.yaml"])
    for pod in _pods(objects):
        for container in pod["spec"]["containers"]:
            environ = {e["name"]: e.get("value", "x") for e in container["env"]}
            settings = load({}, environ, [str(config)])
            ports = {port["containerPort"] for port in container["ports"]}
            metrics = int(settings.metrics.listen.rsplit(":", 1)[1])
            assert metrics in ports
            assert settings.etcd.endpoint == "stream-etcd.stream.svc.cluster.local:2379"
            ready, alive = (container[f"{x}Probe"]["httpGet"] for x in ("readiness", "liveness"))
            assert alive["path"] == "/health-check"
            assert ready["path"] == ("/ready" if ready["port"] == metrics else "/health-check")
            assert {ready["port"], alive["port"]} <= ports


def test_limits_are_optional(place: Place) -> None:
    """Without limits no container has resources, and the volume keeps its size."""
    objects = place.rendered("local", REMOVE_RESOURCES_LIMITS="true")
    containers = [c for pod in _pods(objects) for c in pod["spec"]["containers"]]
    assert len(containers) == 5
    assert not any("resources" in container for container in containers)
    for name, size in (("storage-writer-reader", "10Gi"), ("http-source", "2Gi")):
        claim = objects[f"{name}-statefulset"]["spec"]["volumeClaimTemplates"][0]
        assert claim["spec"]["resources"]["requests"]["storage"] == size


def test_rejected_records_are_on_a_volume(place: Place) -> None:
    """The next pod of the same name gets the volume."""
    spec = place.rendered("aws")["http-source-statefulset"]["spec"]
    [claim] = spec["volumeClaimTemplates"]
    [container] = spec["template"]["spec"]["containers"]
    path = next(e["value"] for e in container["env"] if e["name"].endswith("QUARANTINE_PATH"))
    [mount] = [m for m in container["volumeMounts"] if path.startswith(f"{m['mountPath']}/")]
    assert mount["name"] == claim["metadata"]["name"]
    assert not any("emptyDir" in volume for volume in spec["template"]["spec"]["volumes"])


def test_the_password_of_etcd_is_kept_and_not_shown(place: Place) -> None:
    """An upgrade passes the existing password to the chart, but not on the command line."""
    done = place.run("deploy.sh", CLOUD_PROVIDER="aws", ETCD_SECRET="cGFzc3dvcmQ=")
    assert done.returncode == 0, done.stderr
    helm = next(call for call in place.calls if call.startswith("helm upgrade"))
    assert "/dev/fd/9" in helm
    assert "password" not in helm + done.stdout + done.stderr


@pytest.mark.parametrize(
    "name", ["HOSTNAME_SUFFIX", "STREAM_IMAGE_TAG", "AWS_REGION", "BUILD_BUILDID"]
)
def test_a_missing_variable_is_named(place: Place, name: str) -> None:
    """Nothing is applied without a required variable, and the message names it."""
    done = place.run("deploy.sh", CLOUD_PROVIDER="aws", **{name: "unset"})
    assert done.returncode == 1
    assert f"Missing {name}" in done.stderr
    assert not any("apply" in call for call in place.calls)


def test_a_failed_rollout_prints_logs(place: Place) -> None:
    """A part that doesn't start fails the deployment after its logs are printed."""
    done = place.run("deploy.sh", CLOUD_PROVIDER="aws", FAIL="status deployment/stream-api")
    assert done.returncode == 1
    assert "deployment/stream-api failed." in done.stderr
    assert "logs --namespace stream --selector app=stream-api" in place.calls[-1]


def test_rollout_replaces_addresses(place: Place, tmp_path: Path) -> None:
    """Both public addresses are replaced by key, whatever their value, and nothing else is."""
    before = place.rendered("local")["config-map"]
    source = tmp_path / "map.json"
    source.write_text(json.dumps(before))
    for _ in range(2):
        done = place.run("rollout-stream.sh", CONFIG_MAP=str(source))
        assert done.returncode == 0, done.stderr
        after = json.loads(place.applied.read_text())
        config = yaml.safe_load(after["data"]["config.yaml"])
        expected = yaml.safe_load(before["data"]["config.yaml"])
        expected["api"]["publicUrl"] = "http://192.168.49.2:30001"
        expected["source"]["http"]["publicUrl"] = "http://192.168.49.2:30002"
        assert config == expected
        source.write_text(place.applied.read_text())
    assert sum("rollout restart" in call for call in place.calls) == 8


def test_shellcheck() -> None:
    """shellcheck finds nothing in any script."""
    tool = str(Path(sys.executable).with_name("shellcheck"))
    folders = (ROOT / name for name in ("docker", "provisioning", "scripts", "tools"))
    scripts = [str(path) for folder in folders for path in folder.rglob("*.sh")]
    subprocess.run([tool, "--exclude=SC1091", *scripts], check=True, timeout=60)
