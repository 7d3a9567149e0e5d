"""The shipped monitoring is consistent: jobs, rules, ports and network policies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.provisioning.place import PROVIDERS, ROOT, Place

_MONITORING = ROOT / "provisioning" / "monitoring"
_CONFIGURATIONS = sorted(
    path
    for folder in ("provisioning", "docker")
    for path in (ROOT / folder).rglob("prometheus*.y*ml")
    if "scrape_configs" in path.read_text()
)
_JOB = re.compile(r'job\s*=~?\s*"([^"]*)"')


def _jobs_asked_for() -> set[str]:
    """Return the jobs used by the rules and by the dashboard."""
    texts = [(_MONITORING / name).read_text() for name in ("alerts.yaml", "dashboard.json")]
    return {job for text in texts for job in _JOB.findall(text.replace("\\", ""))}


def test_rules_use_a_job() -> None:
    """The alert that a process is down names a job."""
    assert _jobs_asked_for() == {"stream"}


@pytest.mark.parametrize(
    "path", _CONFIGURATIONS, ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_each_configuration_has_the_jobs_of_the_rules(path: Path) -> None:
    """A rule whose job has another name could never fire."""
    jobs = {scraped["job_name"] for scraped in yaml.safe_load(path.read_text())["scrape_configs"]}
    assert _jobs_asked_for() <= jobs


def test_all_configurations_are_found() -> None:
    """There are configurations for one machine, for a cluster and for the development
    containers.
    """
    assert len(_CONFIGURATIONS) == 3


def test_targets_of_the_compose_file_exist() -> None:
    """Prometheus scrapes the metrics port of a service in the Compose file."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    path = ROOT / "docker" / "dev" / "prometheus" / "prometheus.yml"
    for scraped in yaml.safe_load(path.read_text())["scrape_configs"]:
        for each in scraped["static_configs"]:
            for target in each["targets"]:
                host, port = target.split(":")
                assert services[host]["environment"]["STREAM_METRICS_LISTEN"] == f"0.0.0.0:{port}"


def _selectors(policies: list[Any], labels: dict[str, str], port: int) -> Iterator[dict[str, Any]]:
    """Return the clients that may connect to *port* of a pod with *labels*."""
    for policy in policies:
        if policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items():
            for rule in policy["spec"]["ingress"]:
                if any(each["port"] == port for each in rule.get("ports", [{"port": port}])):
                    yield from rule.get("from", [{}])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_prometheus_reaches_every_metrics_port(place: Place, provider: str) -> None:
    """Policies admit the shipped Prometheus, which finds the port by name."""
    objects = list(place.rendered(provider).values())
    policies = [each for each in objects if each.get("kind") == "NetworkPolicy"]
    scraped = yaml.safe_load((_MONITORING / "prometheus-kubernetes.yaml").read_text())
    [job] = scraped["scrape_configs"]
    kept = re.compile(job["relabel_configs"][0]["regex"])
    found = 0
    for each in objects:
        template = each.get("spec", {}).get("template")
        if not template or each["kind"] not in ("Deployment", "StatefulSet"):
            continue
        assert (
            each["metadata"]["namespace"] in job["kubernetes_sd_configs"][0]["namespaces"]["names"]
        )
        for container in template["spec"]["containers"]:
            ports = [p["containerPort"] for p in container["ports"] if kept.fullmatch(p["name"])]
            assert len(ports) == 1, container["name"]
            listen = {e["name"]: e.get("value") for e in container["env"]}["STREAM_METRICS_LISTEN"]
            assert listen == f"0.0.0.0:{ports[0]}"
            assert {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
            } in _selectors(policies, template["metadata"]["labels"], ports[0])
            found += 1
    assert found == 5
