"""Apache Iceberg's own REST catalog for tests, in a separate process.

``make lake`` fetches it from Maven Central with ``tools/iceberg-rest.xml`` into the folder
``target/iceberg-rest``; without it, or without Java, its tests are skipped.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import free_port

__all__ = ["shared_rest_catalog"]

JARS = Path(os.environ.get("STREAM_ICEBERG_REST", "target/iceberg-rest")).absolute()
_MAIN = "org.apache.iceberg.rest.RESTCatalogServer"
_START_SECONDS = 60.0


@cache
def shared_rest_catalog() -> str:
    """Return the URL of a catalog that runs until the end of the tests."""
    java = shutil.which("java")
    if java is None or not list(JARS.glob("iceberg-open-api-*.jar")):
        pytest.skip("Iceberg's REST catalog is not installed, see `make lake`")
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="stream-iceberg-"))
    process = subprocess.Popen(
        [java, "-Xmx256m", "-cp", f"{JARS}/*", _MAIN],
        env={
            **os.environ,
            "REST_PORT": str(port),
            "CATALOG_REST_PORT": str(port),
            "CATALOG_WAREHOUSE": (folder / "warehouse").as_uri(),
            "CATALOG_URI": f"jdbc:sqlite:{folder}/catalog.db",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def stop() -> None:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{url}/v1/config", timeout=5).close()
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the REST catalog did not start") from None
            time.sleep(0.1)
        else:
            return url
