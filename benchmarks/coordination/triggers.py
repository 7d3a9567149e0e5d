"""A test of each rotation trigger alone: one sink per trigger, with the others disabled."""

from __future__ import annotations

import json
import random
import string
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import attrs

from benchmarks.coordination.journal import Event, Journal, read_journal
from benchmarks.markdown import bullets, table
from stream.values.utctime import parse_time
from tests.e2e.processes import ALL, Deployment, request

__all__ = ["CASES", "Case", "Fired", "fired", "markdown", "run"]

_UPLOAD = "storage.level.staging.upload.trigger."
_IMPORT = "storage.level.target.import.trigger."
_MIN_SECONDS = 3
_EXPIRATION_SECONDS = 300
_PACE_SECONDS = 0.25
_RECORDS = 36
"""More records than the limits need. A slow machine needs longer, so all of them are sent."""
_PATIENCE_SECONDS = 60.0
_BODY_CHARS = 300
_COUNT = 20
_SLICES = 3
"""The limit of slices can't be set per sink, so the other cases stay below it."""
_NEVER = {
    "STREAM_STORAGE_LEVEL_LOCAL_WRITER_ALLOCATION_STATIC": "10KB",
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_MIN_INTERVAL": f"{_MIN_SECONDS}s",
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_COUNT": "10000000",
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_SIZE": "50MB",
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL": "30m",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_MIN_INTERVAL": f"{_MIN_SECONDS}s",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_COUNT": "10000000",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_SIZE": "500MB",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL": "24h",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_SLICES_COUNT": str(_SLICES),
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_EXPIRATION": f"{_EXPIRATION_SECONDS}s",
}


@attrs.frozen
class Case:
    """A trigger, with settings that disable the others.

    :ivar kind: what it rotates.
    :ivar cause: the beginning of the logged cause.
    :ivar settings: settings of the sink.
    :ivar after: minimum seconds from the opening to the rotation.
    :ivar expires: lifetime of the file's credentials; 0.0 for a long one.
    :ivar also: beginnings of the causes of other, unavoidable rotations: on a slow machine a sink
        that rotates slices may reach the limit of slices per file.
    """

    kind: str
    cause: str
    settings: Mapping[str, object]
    after: float = _MIN_SECONDS
    expires: float = 0.0
    also: tuple[str, ...] = ()


_BY_SLICES = "slices count threshold"
CASES = {
    "slice-min-interval": Case(
        "slice", "count threshold", {f"{_UPLOAD}count": 1}, also=(_BY_SLICES,)
    ),
    "slice-count": Case(
        "slice", "count threshold", {f"{_UPLOAD}count": _COUNT}, also=(_BY_SLICES,)
    ),
    "slice-size": Case("slice", "size threshold", {f"{_UPLOAD}size": "5KB"}, also=(_BY_SLICES,)),
    "slice-interval": Case(
        "slice", "time threshold", {f"{_UPLOAD}interval": "6s"}, 6, also=(_BY_SLICES,)
    ),
    "file-min-interval": Case("file", "count threshold", {f"{_IMPORT}count": 1}),
    "file-count": Case("file", "count threshold", {f"{_IMPORT}count": _COUNT}),
    "file-size": Case("file", "size threshold", {f"{_IMPORT}size": "5KB"}),
    "file-interval": Case("file", "time threshold", {f"{_IMPORT}interval": "6s"}, 6),
    "file-slices": Case("file", _BY_SLICES, {f"{_UPLOAD}count": 1}, also=("count threshold",)),
    "file-expiration": Case("file", "expiration threshold", {}, expires=_EXPIRATION_SECONDS + 6.0),
}


@attrs.frozen
class Fired:
    """The rotation that a trigger has caused.

    :ivar event: the first rotation; ``None`` if there was none.
    :ivar seconds: seconds from the opening to the rotation.
    :ivar others: rotations with another cause, or of another kind.
    """

    name: str
    event: Event | None
    seconds: float
    others: list[str]

    @property
    def is_good(self) -> bool:
        """Return whether only this trigger fired, and not too early."""
        return self.event is not None and self.seconds >= CASES[self.name].after and not self.others


def run(root: Path) -> list[Fired]:
    """Run one deployment with a sink for each case."""
    deployed = Deployment(root, dict(_NEVER))
    try:
        deployed.start(*ALL)
        url = _define(deployed)
        for _ in range(_RECORDS):
            _push(url)
            time.sleep(_PACE_SECONDS)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            found = fired(read_journal(sorted(root.glob("*.log"))))
            if all(case.event for case in found) or time.monotonic() > deadline:
                return found
            # Another rotation may have split the records.
            _push(url)
            time.sleep(_PACE_SECONDS)
    finally:
        deployed.stop_all()


def _define(deployed: Deployment) -> str:
    sources = f"{deployed.api}/v1/branches/default/sources"
    source = {"type": "http", "name": "Triggers", "sourceId": "triggers"}
    made = deployed.task("POST", sources, source)["url"]
    late = [name for name, case in CASES.items() if case.expires]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: _sink(deployed, made, name), CASES.keys() - set(late)))
    # The lifetime applies to the next file, so no other case may open one meanwhile.
    for name in late:
        _sink(deployed, made, name)
    _, answer = deployed.call("GET", made)
    url: str = answer["http"]["url"]
    return url


def _sink(deployed: Deployment, source: str, name: str) -> None:
    case = CASES[name]
    if case.expires:
        faults = f"http://127.0.0.1:{deployed.ports['sandbox']}/_local/faults"
        fault = {"route": "prepareFile", "expiresIn": case.expires}
        assert deployed.call("POST", faults, fault)[0] == 201
    mapping = {"columns": [{"type": "body", "name": "body"}]}
    sink = {
        "type": "table",
        "name": name,
        "sinkId": name,
        "table": {"type": "keboola", "tableId": f"in.c-triggers.{name}", "mapping": mapping},
    }
    url = deployed.task("POST", f"{source}/sinks", sink)["url"]
    if case.settings:
        patch = {"settings": [{"key": k, "value": v} for k, v in case.settings.items()]}
        deployed.task("PATCH", f"{url}/settings", patch)


def _push(url: str) -> None:
    """Push a record that is almost incompressible."""
    text = "".join(random.choices(string.ascii_letters + string.digits, k=_BODY_CHARS))
    body = json.dumps({"text": text}).encode()
    status, answer = request("POST", url, body, {"Content-Type": "application/json"})
    assert status == 200, answer


def fired(journal: Journal) -> list[Fired]:
    """Return the result of each case from the log."""
    return [_fired(journal, name, case) for name, case in CASES.items()]


def _fired(journal: Journal, name: str, case: Case) -> Fired:
    rotations = [
        event
        for event in journal.events
        if event.kind.startswith("rotated") and event.key.split("/")[3] == name
    ]
    of_kind = [event for event in rotations if event.kind == f"rotated {case.kind}"]
    right = [event for event in of_kind if event.cause.startswith(case.cause)]
    first = right[0] if right else None
    return Fired(
        name,
        first,
        (first.at - _opened(first)).total_seconds() if first else 0.0,
        [
            f"{event.kind}: {event.cause}"
            for event in rotations
            if event not in right and not event.cause.startswith(case.also)
        ],
    )


def _opened(event: Event) -> datetime:
    return parse_time(event.key.rpartition("/")[2])


def _setting(case: Case) -> str:
    if case.expires:
        return f"credentials for {case.expires:g} s"
    if case.cause == _BY_SLICES:
        return f"target.import.trigger.slicesCount = {_SLICES}"
    return ", ".join(f"{key.rpartition('.level.')[2]} = {v}" for key, v in case.settings.items())


def markdown(found: list[Fired]) -> str:
    """Return a table with a line for each case."""
    rows = [
        (
            case.name,
            _setting(CASES[case.name]),
            case.event.cause if case.event else "**never**",
            f"{case.seconds:.2f}",
        )
        for case in found
    ]
    is_good = all(case.is_good for case in found)
    parts = [
        f"## Each trigger alone; minimum intervals of {_MIN_SECONDS} s, all else out of reach",
        table(("sink", "its setting", "cause in the log", "s after opening"), rows),
        *(bullets(f"{case.name} also", case.others) for case in found),
        "**Everything is right.**" if is_good else "**Something is wrong.**",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
