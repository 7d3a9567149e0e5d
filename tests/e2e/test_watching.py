"""A real Prometheus that scrapes the real processes, with and without failures.

`make watch-check` builds Prometheus first. Its rules are those of production with shorter times: an
alert that waits for minutes waits for a second here, and windows and limits are as short.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import signal
import subprocess
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from tests.conftest import free_port
from tests.e2e.processes import Deployment, Running, deployment, load_of, request, wait_for
from tests.e2e.scrape import MONITORING, queries

PROMETHEUS = Path(__file__).parents[2] / "target" / "prometheus"
pytestmark = pytest.mark.skipif(not PROMETHEUS.exists(), reason="make watch-check builds it")

_PROCESSES = ("api", "http-source", "storage-writer", "storage-reader", "storage-coordinator")
_WINDOWS = {"5m": "10s", "10m": "10s", "15m": "30s", "30m": "30s"}
_LIMITS = {
    "stream_sink_oldest_record_age_seconds) > 3600": "stream_sink_oldest_record_age_seconds) > 8",
    "stream_etcd_watch_lag_seconds) > 30": "stream_etcd_watch_lag_seconds) > 3",
}
"""Expressions that depend on elapsed time."""
_VARIABLES = {
    "$__rate_interval": "10s",
    "$__interval": "1s",
    "$__range": "1m",
    "$project": ".*",
    "$source": ".*",
}
_OF_BAD_TIMES = (
    "failed_count_count",
    "storage_damaged_total",
    "error_type!=",
    "rejected_records_total",
    "without_sink_records_total",
    "error_type)",
)
"""Queries of the dashboard without a result while there is no failure."""
_SETTINGS = {"STREAM_DISTRIBUTION_TTL_SECONDS": "3"}


def _shortened(rules: dict[str, Any]) -> dict[str, Any]:
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        if "for" in rule:
            rule["for"] = "1s"
        for limit, shorter in _LIMITS.items():
            rule["expr"] = rule["expr"].replace(limit, shorter)
        rule["expr"] = re.sub(
            r"\[(\w+)\]", lambda found: f"[{_WINDOWS.get(found[1], found[1])}]", rule["expr"]
        )
    return rules


@attrs.define
class Watched:
    """Processes, and the Prometheus that scrapes them each second."""

    deployed: Deployment
    running: dict[str, Running]
    address: str
    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        target = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        status, answer = request("GET", target, None, {})
        assert status == 200, answer
        return json.loads(answer)["data"]

    def firing(self) -> dict[str, dict[str, Any]]:
        """Return the alerts that fire, by their names."""
        return {
            alert["labels"]["alertname"]: alert
            for alert in self.ask("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def fires(self, name: str, meanwhile: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Wait for the alert, and return its labels and its text."""

        def found() -> dict[str, Any] | None:
            meanwhile()
            return self.firing().get(name)

        alert: dict[str, Any] = wait_for(found, f"the alert {name}")
        assert "<no value>" not in alert["annotations"]["summary"], alert
        return alert

    def resolves(self, *names: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        def gone() -> bool:
            meanwhile()
            return not self.firing().keys() & set(names)

        wait_for(gone, f"the end of {names}", 90)

    def push(self, body: bytes = b'{"id":"1"}') -> int:
        return self.deployed.push(self.url, body)[0]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    root = tmp_path_factory.mktemp("watched")
    with deployment(root, **_SETTINGS) as deployed:
        deployed.start("etcd", node_id="etcd")
        deployed.start("sandbox", node_id="sandbox")
        running = {name: deployed.spawn(name, node_id=name) for name in _PROCESSES}
        for each in running.values():
            deployed.wait_ready(each)
        address = f"127.0.0.1:{free_port()}"
        rules = _shortened(yaml.safe_load((MONITORING / "alerts.yaml").read_text()))
        (root / "alerts.yaml").write_text(yaml.safe_dump(rules))
        config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        targets = [each.health for each in running.values()]
        config["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
        (root / "prometheus.yaml").write_text(yaml.safe_dump(config))
        command = [
            str(PROMETHEUS),
            f"--config.file={root / 'prometheus.yaml'}",
            f"--storage.tsdb.path={root / 'tsdb'}",
            f"--web.listen-address={address}",
        ]
        with (root / "prometheus.log").open("wb") as log:
            prometheus = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            found = Watched(deployed, running, address, deployed.define())
            wait_for(lambda: _answers(address), "Prometheus")
            wait_for(lambda: found.push() == 200, "an open slice")
            yield found
        finally:
            prometheus.terminate()
            prometheus.wait(30)


def _answers(address: str) -> bool:
    try:
        return request("GET", f"http://{address}/-/ready", None, {})[0] == 200
    except OSError:
        return False


def _interpolated(expression: str) -> str:
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def test_no_alert_fires_without_failures(watched: Watched, tmp_path: Path) -> None:
    """Under load no alert fires or is pending, and each panel has numbers."""
    until = tmp_path / "until"
    options = ["--pause=0.02", f"--until={until}"]
    empty: list[str] = []
    alerts: list[Any] = []
    questions = [
        _interpolated(query.expression)
        for query in queries()
        if not any(part in query.expression for part in _OF_BAD_TIMES)
        and not re.search(r" (>|>=|==) [\d.]+\s*$", query.expression)
    ]
    assert len(questions) > 40
    with load_of(watched.url, 1_000_000, tmp_path / "acknowledged", options=options):

        def all_answered() -> bool:
            alerts.extend(
                alert
                for alert in watched.ask("alerts")["alerts"]
                if alert["labels"]["alertname"] != "StreamVolumeFull"  # of the disk of the machine
            )
            empty[:] = [question for question in questions if not _numbers(watched, question)]
            return not empty

        try:
            wait_for(all_answered, "an answer to every question", 40)
        except AssertionError:
            raise AssertionError(f"no numbers for {empty}") from None
        finally:
            until.touch()
    assert alerts == []


def _numbers(watched: Watched, question: str) -> bool:
    """Return whether the answer has a number for a chart."""
    result = watched.ask("query", query=question)["result"]
    return any(math.isfinite(float(sample["value"][1])) for sample in result)


def test_refused_records(watched: Watched) -> None:
    """The alert names the source, and ends when producers fix their records."""
    (source,) = {watched.url.split("/")[-2]}
    bad = lambda: request(  # noqa: E731
        "POST", f"{watched.url}?batch=true", b"[1", {"Content-Type": "application/json"}
    )
    alert = watched.fires("StreamRecordsRefused", bad)
    assert alert["labels"]["source_id"] == source
    assert re.search(r"^\d.*% of the records of source", alert["annotations"]["summary"])
    watched.resolves("StreamRecordsRefused", meanwhile=watched.push)


def test_a_drained_volume(watched: Watched) -> None:
    """The alert lasts as long as the file exists."""
    (drain,) = (path.parent / "drain" for path in watched.deployed.root.rglob("volume-id"))
    drain.touch()
    assert watched.fires("StreamVolumeDrained")["labels"]["volume_id"]
    drain.unlink()
    watched.resolves("StreamVolumeDrained")


def test_a_paused_etcd(watched: Watched) -> None:
    """The alerts report leases and watches, and refused records of a source."""
    etcd = next(each for each in watched.deployed.running if "etcd" in each.log.name)
    pid = etcd.process.pid
    children = [
        int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]
    etcd.process.send_signal(signal.SIGSTOP)
    try:
        # The child is paused, too.
        for child in children:
            os.kill(child, signal.SIGSTOP)
        watched.fires("StreamLeaseLost")
        watched.fires("StreamWatchBehind")
    finally:
        for child in children:
            os.kill(child, signal.SIGCONT)
        etcd.process.send_signal(signal.SIGCONT)
    watched.resolves("StreamLeaseLost", "StreamWatchBehind", "StreamRecordsRefused")
    wait_for(lambda: watched.push() == 200, "records")


def test_an_outage_of_the_storage_api(watched: Watched) -> None:
    """Records wait on their volume and are late; all alerts end afterwards."""
    sandbox = next(each for each in watched.deployed.running if "sandbox" in each.log.name)
    sandbox.kill()
    assert watched.push() == 200

    def login() -> None:
        """Log in, since a new session is asked for credentials."""
        sources = f"{watched.deployed.api}/v1/branches/default/sources"
        watched.deployed.call("GET", sources, token=f"1-2-{secrets.token_hex(12)}")

    watched.fires("StreamStorageApiFails", login)
    late = watched.fires("StreamRecordsLate")
    assert late["labels"]["sink_id"] == "my-sink"
    watched.deployed.start("sandbox", node_id="sandbox")


def test_a_dead_process(watched: Watched) -> None:
    """The alert names the address of the process."""
    victim = watched.running["storage-reader"]
    victim.kill()
    assert watched.fires("StreamDown")["labels"]["instance"] == victim.health
    metrics = {"STREAM_METRICS_LISTEN": victim.health}
    watched.deployed.start("storage-reader", node_id="storage-reader", **metrics)
    watched.resolves("StreamDown")
