"""The largest sink that the API accepts: creation, changes and rows, with real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream.definition.mappings import MAX_MAPPING_BYTES
from stream.mapping.columns import MAX_COLUMNS, MAX_TEMPLATE_CHARACTERS
from tests.e2e.processes import ALL, TABLE, Deployment, wait_for

VOLUMES = 4
RECORDS = 8


def _columns(mark: str) -> list[dict[str, Any]]:
    """Return the maximum number of columns with the longest templates, each of a part of the
    record.
    """
    columns = []
    for number in range(MAX_COLUMNS - 1):
        code = f"Body('id') + '-{number}' // {mark}"
        content = code + "x" * (MAX_TEMPLATE_CHARACTERS - len(code))
        template = {"language": "jsonnet", "content": content}
        columns.append(
            {"type": "template", "name": f"c{number}", "rawString": True, "template": template}
        )
    return [{"type": "path", "name": "id", "path": "id", "rawString": True}, *columns]


@pytest.fixture
def large(tmp_path: Path) -> Deployment:
    for number in range(VOLUMES):
        (tmp_path / "volumes" / "default" / f"v{number}").mkdir(parents=True)
    return Deployment(
        tmp_path,
        {
            "STREAM_STORAGE_LEVEL_LOCAL_VOLUME_ASSIGNMENT_COUNT": str(VOLUMES),
            "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL": "10s",
        },
    )


def test_the_largest_sink(large: Deployment) -> None:
    """Every record answered with 200 is in the table, before and after each change."""
    try:
        large.start(*ALL)
        url = large.define(_columns("first"))
        source = f"{large.api}/v1/branches/default/sources/my-source"
        sink = f"{source}/sinks/my-sink"
        sent: set[str] = set()

        def push(count: int) -> None:
            for _ in range(count):
                name = f"r{len(sent)}"

                def pushed(name: str = name) -> bool:
                    return large.push(url, {"id": name})[0] == 200

                wait_for(pushed, "the taking of a record")
                sent.add(name)

        push(RECORDS)
        large.wait_ids(sent)
        large.task("PATCH", sink, {"table": {"mapping": {"columns": _columns("other")}}})
        push(RECORDS)
        _, shown = large.call("GET", sink)
        size = len(json.dumps(shown["table"]["mapping"], separators=(",", ":")))
        assert MAX_MAPPING_BYTES * 0.75 < size < MAX_MAPPING_BYTES * 1.1
        large.task("PUT", f"{source}/disable", {})
        large.task("PUT", f"{source}/enable", {})
        large.task("PUT", f"{sink}/versions/1/rollback", {})
        push(RECORDS)
        _, versions = large.call("GET", f"{sink}/versions")
        assert versions["page"]["totalCount"] >= 3
        large.wait_ids(sent)
        assert sorted(large.ids()) == sorted(sent)
        rows = large.query(f'SELECT id, c0, c{MAX_COLUMNS - 2} FROM "{TABLE}"')
        assert sorted(rows) == sorted((i, f"{i}-0", f"{i}-{MAX_COLUMNS - 2}") for i in sent)
        large.task("DELETE", sink)
        large.task("PUT", f"{sink}/undelete", {})
        large.task("DELETE", f"{source}?cascade=true")
        log = "".join(running.log.read_text(errors="replace") for running in large.running)
        assert "too large" not in log and "too many operations" not in log
    finally:
        large.stop_all()
