"""The benchmarks of scripts/, and the health check of the service image, against real processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.processes import ALL, TOKEN, Deployment
from tests.provisioning.place import ROOT
from tests.provisioning.test_containers import health_command

pytestmark = pytest.mark.e2e

_K6 = ROOT / "target" / "k6"
_FEW = {
    "K6_API_TOKEN": TOKEN,
    "K6_TEARDOWN_WAIT": "0",
    "K6_CONST_VIRTUAL_USERS": "4",
    "K6_CONST_TOTAL_REQUESTS": "200",
    "K6_CONST_TIMEOUT": "10s",
    "K6_RAMPING_MAX_VIRTUAL_USERS": "3",
    "K6_RAMPING_UP_DURATION": "1s",
    "K6_RAMPING_STABLE_DURATION": "1s",
    "K6_RAMPING_DOWN_DURATION": "1s",
    "K6_NO_USAGE_REPORT": "true",
}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("benchmark"))
    try:
        deployment.start(*ALL)
        yield deployment
    finally:
        deployment.stop_all()


def _run(deployed: Deployment, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **_FEW, "K6_API_HOST": deployed.api, **variables}
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk isn't installed")
class TestWrk:
    _SCRIPT = str(ROOT / "scripts" / "wrk" / "stream-api" / "benchmark.sh")

    def test_passes(self, deployed: Deployment) -> None:
        """All requests are answered as expected, and the source is deleted afterwards."""
        done = _run(deployed, self._SCRIPT, K6_TABLE_MAPPING="path", STREAM_SYNC_WAIT="false")
        assert done.returncode == 0, done.stdout + done.stderr
        verdict = json.loads(done.stdout.splitlines()[-1])
        assert verdict["requests"] >= 200
        assert verdict["wrong"] == 0
        assert verdict["failedLimits"] == []
        status, left = deployed.call("GET", f"{deployed.api}/v1/branches/default/sources")
        assert (status, left["sources"]) == (200, [])

    def test_exceeded_limits_fail(self, deployed: Deployment) -> None:
        """A run that is slower than the limit fails, and so does another mode of syncing."""
        done = _run(deployed, self._SCRIPT, K6_MIN_RATE="10000000")
        assert done.returncode == 1
        assert "K6_MIN_RATE" in done.stdout
        done = _run(deployed, self._SCRIPT, STREAM_SYNC_MODE="cache")
        assert done.returncode == 1
        assert "STREAM_SYNC_MODE" in done.stderr


@pytest.mark.skipif(not _K6.exists(), reason="k6 isn't built: make k6")
class TestK6:
    _SCRIPT = str(ROOT / "scripts" / "k6" / "stream-api" / "main.js")

    @pytest.mark.parametrize(
        "variables",
        [
            {"K6_TABLE_MAPPING": "static"},
            {"K6_TABLE_MAPPING": "path", "STREAM_SYNC_WAIT": "false"},
            {"K6_TABLE_MAPPING": "template", "K6_SCENARIO": "ramping"},
            {"K6_PARALLEL_REQS_PER_USER": "4", "STREAM_PAYLOAD_SIZE": "1024"},
        ],
        ids=str,
    )
    def test_passes(self, deployed: Deployment, variables: dict[str, str]) -> None:
        """Each scenario and mapping is within the limits."""
        done = _run(deployed, str(_K6), "run", "--quiet", self._SCRIPT, **variables)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_exceeded_limits_fail(self, deployed: Deployment) -> None:
        """A run that is slower than the limit fails."""
        done = _run(deployed, str(_K6), "run", "--quiet", self._SCRIPT, K6_MAX_P95="0.001")
        assert done.returncode == 99


def test_health_check_of_the_image(deployed: Deployment) -> None:
    """The image's command succeeds with a running service, and fails without one."""
    name, *words = health_command()
    assert name == "python"
    running = deployed.running[0]
    for listen, code in ((running.health, 0), ("127.0.0.1:1", 1)):
        done = subprocess.run(
            [sys.executable, *words],
            env={"STREAM_METRICS_LISTEN": listen},
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
        assert done.returncode == code
