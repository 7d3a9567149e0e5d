"""Alert rules and their test cases, and the queries of the dashboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "provisioning" / "monitoring"
_OLDEST = (3, 0)
"""Debian 12 has 2.42, which supports neither the whole configuration nor all cases."""


def _promtool_path() -> str | None:
    """Return the program that was built here, or a recent one on the PATH."""
    built = ROOT / "target" / "promtool"
    if built.exists():
        return str(built)
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which("promtool", path=directory) if directory else None
        if found is not None:
            told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
            version = re.search(r"version (\d+)\.(\d+)", told.stdout + told.stderr)
            if version is not None and tuple(map(int, version.groups())) >= _OLDEST:
                return found
    return None


PROMTOOL = _promtool_path()
_VARIABLES = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "1h"}
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="needs promtool 3: `make check-alerts` builds it"
)


def _promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *arguments], cwd=MONITORING, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def _yaml(name: str) -> Any:
    return yaml.safe_load((MONITORING / name).read_text())


def test_every_alert_has_a_case() -> None:
    """Each alert fires in one of the cases."""
    rules = {rule["alert"] for group in _yaml("alerts.yaml")["groups"] for rule in group["rules"]}
    cases = [
        case for test in _yaml("alerts_test.yaml")["tests"] for case in test["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == rules


@needs_promtool
def test_the_rules_pass_their_cases(tmp_path: Path) -> None:
    """Prometheus accepts the rules and the configuration, and alerts fire as in the cases."""
    _promtool("check", "config", "prometheus.yaml")
    plain = {
        rule["alert"]: {k: text for k, text in rule["annotations"].items() if "{{" not in text}
        for group in _yaml("alerts.yaml")["groups"]
        for rule in group["rules"]
    }
    cases = _yaml("alerts_test.yaml")
    cases["rule_files"] = [str(MONITORING / "alerts.yaml")]
    for test in cases["tests"]:
        for case in test["alert_rule_test"]:
            for alert in case["exp_alerts"]:
                alert["exp_annotations"] = {**plain[case["alertname"]], **alert["exp_annotations"]}
    path = tmp_path / "cases.yaml"
    path.write_text(yaml.safe_dump(cases))
    _promtool("test", "rules", str(path))


@needs_promtool
def test_the_queries_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    """Prometheus can parse the query of each panel."""
    rules = []
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in _VARIABLES.items():
                expression = expression.replace(name, value)
            assert "$__" not in expression
            expression = re.sub(r"\$\{?\w+\}?", ".*", expression)
            rules.append({"record": f"panel:{panel['id']}:{target['refId']}", "expr": expression})
    assert len(rules) > 40
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    _promtool("check", "rules", str(path))
