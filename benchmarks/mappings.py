"""The cost of columns and further sinks, compared with the usual mapping of one sink."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.servers import COLUMNS, RARE_IMPORTS, Service, service
from benchmarks.setting import Setting, cell
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import Figure, load

__all__ = ["section"]

CONNECTIONS = 256
_TEMPLATES = {
    "a template of one call: Body('user.name')": "Body('user.name')",
    "a template that computes: Body('user.name') + '@' + Ip()": "Body('user.name') + '@' + Ip()",
}


def _template(content: str) -> list[dict[str, Any]]:
    column = {
        "type": "template",
        "name": "user",
        "template": {"language": "jsonnet", "content": content},
    }
    return [*COLUMNS[:2], column]


def _cases(running: Service) -> dict[str, str]:
    """Return URLs by description."""
    cases = {"uuid, datetime, path": running.url}
    cases["the same, two sinks"] = running.source("two-sinks", [COLUMNS] * 2)
    cases["the same, ten sinks"] = running.source("ten-sinks", [COLUMNS] * 10)
    for number, (name, content) in enumerate(_TEMPLATES.items()):
        cases[name] = running.source(f"template-{number}", [_template(content)])
    whole = [*COLUMNS, {"type": "headers", "name": "h"}, {"type": "body", "name": "b"}]
    cases["uuid, datetime, path, headers, body"] = running.source("whole", [whole])
    return cases


def section(setting: Setting) -> list[str]:
    """Return the section about mappings."""
    figures: dict[str, list[Figure]] = {}
    script = setting.single()
    with service(setting.data(), bound=True, **RARE_IMPORTS) as running:
        cases = _cases(running)
        for url in cases.values():
            load(url, CONNECTIONS, WARM_UP_SECONDS, script)
        for _ in range(setting.rounds):
            for name, url in cases.items():
                run = load(url, CONNECTIONS, setting.seconds, script)
                figures.setdefault(name, []).append(run)
    first, *_ = (statistics.median(run.rate for run in runs) for runs in figures.values())
    lines = [
        f"### Mappings and sinks, single records, {CONNECTIONS} connections",
        "",
        "| mapping | records/s, median (range) | p99 ms | errors | cost ÷ the first |",
        "|---|---|---|---|---|",
    ]
    for name, runs in figures.items():
        rate = statistics.median(run.rate for run in runs)
        lines.append(
            f"| {name} | {cell(runs)} | {statistics.median(r.p99 for r in runs):.1f} "
            f"| {sum(r.errors for r in runs)} | {first / rate:.2f} |"
        )
    return [*lines, ""]
