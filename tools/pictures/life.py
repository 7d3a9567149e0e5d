"""Records the timeline of one record at a running service, for its picture.

``python -m tools.pictures.life http://127.0.0.1:8000 TOKEN tools/pictures/life.json`` sends a
record to the source and sink of the tutorial, and stores the events of the branch's live stream.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["main"]

_BRANCH = "/v1/branches/default"
_SECONDS = 60.0


def main(url: str, token: str, path: str) -> None:
    """Write the times of all steps to *path*, in seconds after the record was sent."""
    host = urlsplit(url).netloc
    headers = {"X-StorageApi-Token": token}

    def get(where: str) -> Any:
        connection = HTTPConnection(host, timeout=_SECONDS)
        connection.request("GET", f"{_BRANCH}{where}", headers=headers)
        return connection.getresponse()

    source = urlsplit(json.loads(get("/sources/my-source").read())["http"]["url"])
    events = get("/live")
    _event(events)  # the whole state is known from here on
    producer = HTTPConnection(source.netloc, timeout=_SECONDS)
    producer.connect()
    sent, started = time.time(), time.monotonic()
    producer.request("POST", source.path, '{"user":{"name":"Ada"}}')
    assert producer.getresponse().status == 200
    life = {"answered": round(time.monotonic() - started, 4)}
    while "file imported" not in life:
        name, data = _event(events)
        if name in ("file", "slice") and data["previousState"] and data["sinkId"] == "my-sink":
            at = datetime.fromisoformat(data["time"]).timestamp() - sent
            if at > 0:
                life.setdefault(f"{name} {data['state']}", round(at, 3))
    Path(path).write_text(json.dumps(life, indent=2) + "\n", encoding="utf-8")


def _event(response: Any) -> tuple[str, Any]:
    """Return the next event: its name and its data."""
    fields: dict[str, str] = {}
    while line := response.readline().decode().rstrip("\n"):
        name, _, value = line.partition(": ")
        fields[name] = value
    return fields.get("event", ""), json.loads(fields.get("data", "null"))


if __name__ == "__main__":
    main(*sys.argv[1:])
