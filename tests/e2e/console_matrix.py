"""Contact sheets of all pages of the console, for inspection: ``make console-matrix``.

The pages are shown at three widths, in light and dark: of an empty project, with one source, with
500 in five branches of which some fail, with tokens that may only read, only read and watch
records, or only watch them, signed out, when the API fails, and when only its list of sources
answers.

    python -m tests.e2e.console_matrix FOLDER [PART OF A SHEET'S NAME]
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.processes import ALL, Deployment, deployment, request

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
SOURCES, BRANCHES = 100, 5
NAMES = (
    "Shop orders",
    "Payments of the warehouse in Olomouc",
    "IoT",
    "<b>Newsletter</b> & co",
    "Übersicht der Zählerstände",
    "x" * 40,
    "Web analytics",
    "Support tickets",
)
BRANCH_NAMES = ("Spring", "Preparation of the next winter season", "IoT", "<i>Test</i>")
WIDE = 96
"""The widest sink has as many columns besides the usual four, 100 in all."""


def _columns(count: int = 0) -> list[dict[str, Any]]:
    return [
        {"type": "uuid", "name": "id"},
        {"type": "datetime", "name": "received_at"},
        {"type": "path", "name": "user", "path": "user.name"},
        {"type": "path", "name": "action", "path": "action"},
        *(
            {"type": "path", "name": f"c{number}", "path": f"c[{number}]", "defaultValue": ""}
            for number in range(count)
        ),
    ]


class Maker:
    """Creates sources and sinks in a branch.

    :param token: the token of its project.
    """

    def __init__(self, deployed: Deployment, token: str, branch: str = "default") -> None:
        self._deployed = deployed
        self._token = token
        self.path = f"{deployed.api}/v1/branches/{branch}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer to a request that must succeed."""
        status, answer = self._deployed.call(method, path, body, token=self._token)
        assert status < 300, (method, path, status, answer)
        return answer

    def source(self, id: str, name: str, **members: Any) -> str:
        """Create a source and return its URL."""
        body = {"type": "http", "sourceId": id, "name": name, **members}
        made = self.call("POST", f"{self.path}/sources?wait=30s", body)
        return str(made.get("http", made.get("otlp", {})).get("url", ""))

    def sink(self, source: str, name: str = "Events", **table: Any) -> None:
        """Create a sink in the folder of Parquet files, or in *table*."""
        place = {"type": "parquet", "connection": "archive", "path": f"{source}-{len(name)}"}
        mapping = {"columns": table.pop("columns", _columns())}
        body = {"type": "table", "name": name, "table": {**place, **table, "mapping": mapping}}
        self.call("POST", f"{self.path}/sources/{source}/sinks?wait=30s", body)


@contextmanager
def _load(urls: list[str]) -> Iterator[None]:
    """Push records to all *urls*, one of twenty without a path of the mapping."""
    ended = threading.Event()

    def send() -> None:
        number = 0
        while not ended.wait(0.05):
            for place, url in enumerate(urls):
                number += 1
                if (number + place) % (place + 1):
                    continue
                record = {"user": {"name": "Ada"}, "number": number, "note": "naïve ☕ " * 3}
                if number % 20:
                    record["action"] = "bought"
                request(
                    "POST", url, json.dumps(record).encode(), {"Content-Type": "application/json"}
                )

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield
    finally:
        ended.set()
        sender.join(30)


def _token(deployed: Deployment, project: int, rights: str) -> str:
    command = [
        *(str(Path(sys.executable).parent / "stream-service"), "token", "create"),
        *(f"--project={project}", "--name=matrix", f"--can={rights}"),
    ]
    made = subprocess.run(
        command, env=deployed.environment(), capture_output=True, text=True, check=True
    )
    return made.stdout.strip()


def _many(deployed: Deployment, token: str, folder: Path) -> tuple[list[str], str]:
    """Fill five branches with sources.

    Return the URLs of those that receive records, and the id of the branch with a long name.
    """
    urls = []
    branches = ["default"]
    for number in range(BRANCHES):
        if number:
            body = {"name": BRANCH_NAMES[number - 1]}
            made = Maker(deployed, token).call("POST", f"{deployed.api}/v1/branches", body)
            branches.append(str(made["branchId"]))
        maker = Maker(deployed, token, branches[number])
        for place in range(SOURCES):
            name = NAMES[place % len(NAMES)]
            id = f"source-{place:03d}"
            url = maker.source(
                id, name, description="Sent by the tills of all shops." if place % 3 else ""
            )
            if number == 0 and place < 12:
                urls.append(url)
                maker.sink(id)
    maker = Maker(deployed, token)
    for each in range(5):
        maker.sink("source-000", f"Place {each}{' of the rows' * (each % 3)}")
    maker.sink("source-001", "Wide", columns=_columns(WIDE))
    maker.sink("source-002", "Broken", connection="broken")
    for id in ("source-013", "source-014"):
        maker.call("DELETE", f"{maker.path}/sources/{id}?wait=30s")
    maker.call("PUT", f"{maker.path}/sources/source-003/disable?wait=30s")
    # Imports fail, because a file replaces the folder.
    shutil.rmtree(folder / "broken", ignore_errors=True)
    (folder / "broken").write_text("not a folder")
    return urls, branches[2]


def main() -> None:
    """Create the states and the sheets."""
    folder = Path(sys.argv[1]).resolve()
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("Missing the program chromium")
    subprocess.run([sys.executable, "-m", "tools.console"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory(prefix="stream-matrix-") as place:
        root = Path(place)
        walker = root / "walker"
        shutil.copytree(Path(__file__).parent / "console", walker)
        npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(npm, cwd=walker, check=True, capture_output=True)
        (root / "broken").mkdir()
        connections = {
            name: {"type": "parquet", "url": (root / name).as_uri()}
            for name in ("archive", "broken")
        }
        settings = {
            "STREAM_AUTH_PROVIDER": "stream",
            "STREAM_STORAGE_API_HOST": "",
            "STREAM_TARGET_CONNECTIONS": json.dumps(connections),
            "STREAM_TARGET_STAGING_URL": (root / "staging").as_uri(),
            "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL": "15s",
            "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL": "8s",
        }
        with deployment(root / "data", **settings) as deployed:
            deployed.start(*(name for name in ALL if name != "sandbox"))
            nothing, one, many = (_token(deployed, project, "admin") for project in (1, 2, 3))
            reader = _token(deployed, 3, "read")
            follower = _token(deployed, 3, "read,tail")
            watcher = _token(deployed, 3, "tail")
            maker = Maker(deployed, one)
            urls = [maker.source("shop", "Shop")]
            maker.sink("shop", "Orders")
            began = time.monotonic()
            of_sources, branch = _many(deployed, many, root)
            urls += of_sources
            print(f"made in {time.monotonic() - began:.0f} s", flush=True)
            of_many = {"source": "source-000", "sink": "events"}
            states: dict[str, dict[str, Any]] = {
                "nothing": {"token": nothing},
                "one": {"token": one, "source": "shop", "sink": "orders"},
                "many": {"token": many, **of_many},
                "branch": {"token": many, "branch": branch},
                "failing": {"token": many, "source": "source-002", "sink": "broken"},
                "wide": {"token": many, "source": "source-001", "sink": "wide"},
                "reader": {"token": reader, **of_many},
                "follower": {"token": follower, **of_many},
                "watcher": {"token": watcher, **of_many},
                "signed-out": {},
                "broken": {"token": many, "break": True},
                "parts": {"token": many, "break": "parts", **of_many},
            }
            with _load(urls):
                time.sleep(75)
                command = ["node", str(walker / "matrix.mjs"), deployed.api, chromium, str(folder)]
                subprocess.run([*command, json.dumps(states), only], check=True)


if __name__ == "__main__":
    main()
