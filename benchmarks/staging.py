"""Uploads of a large slice to an S3 server: throughput compared with obstore alone, and memory.

``python -m benchmarks.staging [--mebibytes=2048] [--endpoint=URL --bucket=NAME]``. Without an
endpoint, a small local server computes digests of the data and discards it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

from stream.staging import FileUpload, file_chunks
from stream.staging.cloud import PART_BYTES, s3_backend

__all__ = ["main"]

MEBIBYTE = 1024 * 1024
KEYS = {"AccessKeyId": "benchmark", "SecretAccessKey": "benchmark", "SessionToken": ""}
_EXPIRATION = "2100-01-01T00:00:00+0000"


class Sink(BaseHTTPRequestHandler):
    """S3 multipart uploads whose data is digested and discarded."""

    protocol_version = "HTTP/1.1"
    server: Bucket

    def _go(self) -> None:
        left, digest = int(self.headers.get("Content-Length") or 0), hashlib.md5()
        while left:
            data = self.rfile.read(min(left, MEBIBYTE))
            digest.update(data)
            left -= len(data)
        etag, reply = digest.hexdigest(), b""
        if "partNumber=" in self.path:
            number = int(self.path.partition("partNumber=")[2].partition("&")[0])
            self.server.parts[number] = digest.digest()
        elif self.command == "POST" and "uploadId=" not in self.path:
            self.server.parts.clear()
            reply = b"<R><Bucket>b</Bucket><Key>k</Key><UploadId>U</UploadId></R>"
        elif self.command == "POST":
            parts = [self.server.parts[number] for number in sorted(self.server.parts)]
            etag = f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"
            reply = f"<R><ETag>{etag}</ETag></R>".encode()
        self.send_response(200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_PUT = do_POST = _go

    def log_message(self, format: str, *args: Any) -> None:
        """Do nothing."""


class Bucket(ThreadingHTTPServer):
    """An object store that accepts multipart uploads and keeps only digests.

    :ivar parts: digest of each part of the current upload.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Sink)
        self.parts: dict[int, bytes] = {}


def _serve() -> None:
    """Serve until the parent closes the input; print the port."""
    with Bucket() as bucket:
        threading.Thread(target=bucket.serve_forever, daemon=True).start()
        print(bucket.server_port, flush=True)
        sys.stdin.read()
        bucket.shutdown()


def _ours(endpoint: str, bucket: str, path: Path) -> None:
    parameters = {
        "key": "slices/",
        "bucket": bucket,
        "x-amz-server-side-encryption": "AES256",
        "endpoint": endpoint,
        "credentials": {**KEYS, "Expiration": _EXPIRATION},
    }
    upload = FileUpload(1, "file", "aws", "us-east-1", parameters)
    stored = s3_backend(upload).put("slices/ours", file_chunks([path]), lambda: False)
    assert stored.verified


def _alone(endpoint: str, bucket: str, path: Path) -> None:
    store = S3Store(
        bucket,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=KEYS["AccessKeyId"],
        secret_access_key=KEYS["SecretAccessKey"],
        client_options={"allow_http": True, "timeout": timedelta(seconds=120)},
    )
    obstore.put(store, "slices/alone", path, chunk_size=PART_BYTES, max_concurrency=4)


WAYS: dict[str, Callable[[str, str, Path], None]] = {"ours": _ours, "alone": _alone}


def _child(way: str, endpoint: str, bucket: str, path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    WAYS[way](endpoint, bucket, path)
    seconds = time.monotonic() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    mebibytes = path.stat().st_size / MEBIBYTE
    print(
        f"{way:6} {mebibytes:.0f} MiB in {seconds:.1f} s: {mebibytes / seconds:.0f} MiB/s, "
        f"peak memory grew by {grown / 1024:.0f} MiB",
        flush=True,
    )


def _measure(mebibytes: int, rounds: int, endpoint: str, bucket: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slice.gz"
        with path.open("wb") as file:
            block = os.urandom(MEBIBYTE)
            for _ in range(mebibytes):
                file.write(block)
        for _ in range(rounds):
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.staging", "--child", way]
                command += ["--endpoint", endpoint, "--bucket", bucket, "--path", str(path)]
                subprocess.run(command, check=True)


def main() -> None:
    """Measure the uploads and print the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.staging")
    parser.add_argument("--mebibytes", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--bucket", default="stream-staging")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve()
    elif options.child:
        _child(options.child, options.endpoint, options.bucket, options.path)
    elif options.endpoint:
        _measure(options.mebibytes, options.rounds, options.endpoint, options.bucket)
    else:
        command = [sys.executable, "-m", "benchmarks.staging", "--serve"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            _measure(options.mebibytes, options.rounds, url, options.bucket)
            server.communicate()


if __name__ == "__main__":
    main()
