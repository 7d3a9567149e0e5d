"""`stream push` with a source whose answers the test chooses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream.cli.main import run
from stream.client import delivery as deliveries
from tests.client.sources import Request, StubSource, stub_source


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubSource]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(deliveries, "_FIRST_DELAY", 0.01)
    with stub_source() as source:
        yield source


def _file(name: str, *lines: str) -> str:
    Path(name).write_text("".join(f"{line}\n" for line in lines))
    return name


def test_all_records_are_stored(source: StubSource, capsys: pytest.CaptureFixture[str]) -> None:
    """The summary is printed for people or for programs."""
    file = _file("a.ndjson", *(f'{{"id":{number}}}' for number in range(10)))
    assert run(["push", source.url, file, "--batch-records", "4"]) == 0
    assert capsys.readouterr().out.startswith("10 records stored, 0 rejected, in ")
    assert len(source.records) == 10
    assert sorted(len(request.records) for request in source.requests) == [2, 4, 4]
    assert run(["push", source.url, file, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["accepted"] == 10


def test_rejected_records(source: StubSource, capsys: pytest.CaptureFixture[str]) -> None:
    """Rejected records are reported by line, and written to a file with their reasons."""

    def answer(request: Request) -> tuple[int, Any]:
        lines = [i for i, record in enumerate(request.records, 1) if record == b"bad"]
        error = {
            "error": "stream.in.x",
            "message": "Bad:\n- Really.",
            "sinkId": "s",
            "lines": lines,
        }
        accepted = len(request.records) - len(lines)
        return 207, {"accepted": accepted, "errors": [error] if lines else []}

    source.answer = answer
    file = _file("a.ndjson", "1", "", "bad", "2", "3", "bad")
    options = ["--batch-records", "2", "--rejected", "rejected.ndjson"]
    assert run(["push", source.url, file, *options]) == 7
    printed = capsys.readouterr()
    assert "2 records: Bad: Really.\n    lines 3, 6\n" in printed.err
    assert printed.out.startswith("3 records stored, 2 rejected")
    written = [json.loads(line) for line in Path("rejected.ndjson").read_text().splitlines()]
    assert written[0] == {
        "place": 3,
        "error": "stream.in.x",
        "message": "Bad:\n- Really.",
        "sinkId": "s",
        "record": "bad",
    }
    assert [entry["place"] for entry in written] == [3, 6]


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [(404, 1, "stream source url"), (422, 1, "No."), (503, 6, "No.")],
)
def test_refusals(
    source: StubSource, status: int, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command reports the reason and the number of sent records, and exits with a code for
    scripts.
    """
    good = source.answer
    source.answer = lambda request: (
        (status, {"message": "No."}) if b"3" in request.records else good(request)
    )
    file = _file("a.ndjson", "1", "2", "3", "4")
    options = ["--batch-records", "1", "--parallel", "1", "--retry-for", "0.1"]
    assert run(["push", source.url, file, *options]) == code
    printed = capsys.readouterr()
    assert text in printed.err
    assert "Everything before line 3 was sent" in printed.err
    assert printed.out.startswith("2 records stored")


def test_a_service_without_batches(source: StubSource, capsys: pytest.CaptureFixture[str]) -> None:
    """Such a service gets one record per request, since it would store a batch as one record."""
    source.answer = lambda request: (200, "OK")
    file = _file("a.ndjson", "1", "2")
    assert run(["push", source.url, file]) == 1
    assert "doesn't support batches" in capsys.readouterr().err
    source.stored.clear()
    assert run(["push", source.url, file, "--batch-records", "1"]) == 0
    assert sorted(source.records) == [b"1", b"2"]


def test_an_unrelated_state(source: StubSource, capsys: pytest.CaptureFixture[str]) -> None:
    """A push resumes only with the same file, source and batches."""
    file = _file("a.ndjson", "1", "2", "3")
    push = ["push", source.url, file, "--state", "state"]
    assert run([*push, "--batch-records", "2"]) == 0
    state = Path("state").read_text()
    other = _file("b.ndjson", "9")
    for command, text in (
        ([*push, "--batch-records", "1"], "--batch-records 2"),
        ([*push, "--format", "csv"], "--format ndjson"),
        (["push", source.url, other, "--state", "state"], "another file"),
        (["push", f"{source.url}x", file, "--state", "state"], "another source"),
    ):
        assert run(command) == 2
        assert text in capsys.readouterr().err
    assert Path("state").read_text() == state
    assert run(push) == 0
    assert capsys.readouterr().out.startswith("0 records stored, 0 rejected")
    with Path(file).open("a") as grown:
        grown.write("4\n")
    assert run(push) == 0
    assert sorted(source.records) == [b"1", b"2", b"3", b"4"]


def test_a_damaged_input(source: StubSource, capsys: pytest.CaptureFixture[str]) -> None:
    """The part before the fault is sent, and the rest after a correction."""
    file = _file("a.json", "[1, 2, 3, oops]")
    push = ["push", source.url, file, "--state", "state", "--batch-records", "2"]
    assert run(push) == 2
    printed = capsys.readouterr().err
    assert "Element 3 (from 0)" in printed
    assert "continues from element 2" in printed
    _file("a.json", "[1, 2, 3, 4]")
    Path("state").write_text(json.dumps({**json.loads(Path("state").read_text()), "head": ""}))
    assert run(push) == 0
    assert sorted(source.records) == [b"1", b"2", b"3", b"4"]


def test_batches_are_retried(source: StubSource, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch is retried with the same key, and the delay is reported."""
    statuses = iter([503, 200])
    source.answer = lambda request: (next(statuses), {"message": "Busy.", "accepted": 1})
    assert run(["push", source.url, _file("a.ndjson", "1")]) == 0
    assert "Busy. Trying again in" in capsys.readouterr().err
    assert len({request.key for request in source.requests}) == 1


def test_a_push_that_resumes_late_warns_of_duplicates(
    source: StubSource, capsys: pytest.CaptureFixture[str]
) -> None:
    """After ten minutes the service may have forgotten the keys of the batches."""
    file = _file("a.ndjson", "1", "2", "3")
    push = ["push", source.url, file, "--state", "state", "--batch-records", "1"]
    source.answer = lambda request: (404, {"message": "No source."})
    assert run([*push, "--parallel", "1"]) == 1
    kept = json.loads(Path("state").read_text())
    assert kept["sent"] > kept["batch"] == 0
    source.answer = lambda request: (503, {"message": "Busy."})
    for age, is_said in ((60, False), (3600, True)):
        Path("state").write_text(json.dumps({**kept, "saved_at": time.time() - age}))
        assert run([*push, "--retry-for", "0"]) != 0
        assert ("may be stored twice" in capsys.readouterr().err) is is_said
    assert {request.attempt for request in source.requests} == {"1", "2"}
