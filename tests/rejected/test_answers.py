"""Answers of a source node about its rejected records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream.errors import UserError
from stream.rejected import answers
from stream.rejected.answers import Selection, answer
from stream.rejected.files import RejectedFiles
from stream.rejected.record import kept_of
from tests.rejected.samples import ERROR, KEY, LIMITS, NOW, line

OTHER = UserError("other", name="other")


@pytest.fixture
def files(tmp_path: Path) -> RejectedFiles:
    files = RejectedFiles(tmp_path, "node-1")
    files.prepare()
    frames = [
        line(f"{number}", b"%d" % number, NOW + number, OTHER if number == 1 else ERROR)
        for number in range(4)
    ]
    files.append(KEY, LIMITS, frames, NOW)
    return files


def ask(files: RejectedFiles | None, kind: str, now: float = NOW, **members: Any) -> Any:
    question = {"kind": kind, "sink": str(KEY), **members}
    return answer(files, question, "node-1", now, lambda _: 3600.0)


def ids(answered: Any) -> list[str]:
    return [record["id"] for record in answered["records"]]


def test_the_newest_records_come_first(files: RejectedFiles) -> None:
    """At most the requested number is returned; reasons and total include all records."""
    answered = ask(files, "list", limit=2)
    assert ids(answered) == ["3", "2"]
    assert answered["total"] == 4
    assert [
        (reason["reason"], reason["column"], reason["count"], reason["lastTime"])
        for reason in answered["reasons"]
    ] == [
        ("stream.in.badRequest", "p", 3, "2024-05-01T10:00:03.123Z"),
        ("stream.in.other", "", 1, "2024-05-01T10:00:01.123Z"),
    ]


def test_a_selection(files: RejectedFiles) -> None:
    """Records are selected by reason, time and ids; reasons include all records of the
    time range.
    """
    second = int(NOW * 1000) + 1000
    answered = ask(files, "list", limit=9, reason="stream.in.badRequest", since=second)
    assert ids(answered) == ["3", "2"]
    assert (answered["total"], len(answered["reasons"])) == (2, 2)
    assert ids(ask(files, "list", limit=9, until=second)) == ["0"]
    assert ids(ask(files, "list", limit=9, ids=["2", "7"])) == ["2"]
    assert ids(ask(files, "list", limit=9, without=["2"])) == ["3", "1", "0"]
    chosen = Selection(
        ids=frozenset({"a"}), reason="r", column="c", since=1, until=2, without=frozenset("b")
    )
    assert Selection.read(chosen.plain()) == chosen


def test_columns_of_a_reason(files: RejectedFiles) -> None:
    """Records of one column are listed, counted and erased separately."""
    of_q = UserError("no q", name="badRequest")
    of_q.column = "q"
    files.append(KEY, LIMITS, [line("4", b"4", NOW + 4, of_q)], NOW)
    chosen: dict[str, Any] = {"reason": "stream.in.badRequest", "column": "q"}
    answered = ask(files, "list", limit=9, **chosen)
    assert (ids(answered), answered["total"]) == (["4"], 1)
    assert len(answered["reasons"]) == 3
    assert ask(files, "list", limit=9, column="unknown")["total"] == 0
    assert ask(files, "erase", **chosen) == {"erased": 1}
    assert ask(files, "list", limit=9)["total"] == 4


def test_a_list_does_not_depend_on_the_cache(tmp_path: Path) -> None:
    """An unchanged segment isn't read again, and erased records disappear from the list."""
    files = RejectedFiles(tmp_path, "node-1")
    files.prepare()
    for number in range(60):
        error = OTHER if number % 3 else ERROR
        frame = line(f"{number:02d}", b"x" * 1000, NOW + number, error)
        files.append(KEY, LIMITS, [frame], NOW + number)
    assert len(files.segments(KEY)) > 3

    def lists() -> list[Any]:
        second = int(NOW * 1000) + 20_000
        return [
            ask(files, "list", limit=limit, **chosen)
            for limit in (1, 100)
            for chosen in (
                {},
                {"reason": "stream.in.other"},
                {"reason": "none"},
                {"since": second},
                {"until": second},
                {"without": ["30"]},
            )
        ]

    for _ in range(2):
        few, many = lists()[:6], lists()[6:]
        for short, long in zip(few, many, strict=True):
            assert short["records"] == long["records"][:1]
            assert (short["total"], short["reasons"]) == (long["total"], long["reasons"])
            assert long["total"] == len(long["records"])
        total = many[0]["total"]
        erased = ask(files, "erase", ids=["40", "59"])["erased"]
        assert ask(files, "list", limit=1)["total"] == total - erased


def test_expired_records_are_hidden(files: RejectedFiles) -> None:
    """Expired records are hidden even if their segment still exists."""
    assert ids(ask(files, "list", now=NOW + 3602, limit=9)) == ["3", "2"]


def test_whole_records_are_sent_in_parts(
    files: RejectedFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is limited by number and by bytes; a larger record is sent alone."""
    found: list[str] = []
    after, rounds = "", 0
    monkeypatch.setattr(answers, "MAX_FETCHED_BYTES", 10)
    while rounds < 9:
        answered = ask(files, "fetch", limit=3, after=after)
        kept = [kept_of(text.encode()) for text in answered["frames"]]
        assert len(kept) == 1
        found += [each.id for each in kept if each is not None]
        after, rounds = answered["after"], rounds + 1
        if not after:
            break
    assert found == ["0", "1", "2", "3"]
    monkeypatch.undo()
    assert [len(ask(files, "fetch", limit=n)["frames"]) for n in (3, 4, 5)] == [3, 4, 4]
    assert bool(ask(files, "fetch", limit=3)["after"]) and not ask(files, "fetch", limit=4)["after"]


def test_a_single_record(files: RejectedFiles) -> None:
    """A record is shown until it is erased."""
    assert ask(files, "get", id="1")["record"]["body"] == "1"
    assert ask(files, "erase", ids=["1"]) == {"erased": 1}
    assert ask(files, "get", id="1")["record"] is None
    assert ask(files, "erase") == {"erased": 3}


def test_a_node_that_keeps_no_records() -> None:
    """The answer has the same members."""
    assert ask(None, "list", limit=1) == {"records": [], "reasons": [], "total": 0}
    assert ask(None, "get", id="1") == {"record": None}
    assert ask(None, "fetch", limit=1) == {"frames": [], "cursors": [], "after": ""}
    assert ask(None, "erase") == {"erased": 0}


def test_invalid_requests(files: RejectedFiles) -> None:
    """An invalid request erases nothing."""
    with pytest.raises(ValueError, match="unknown kind"):
        ask(files, "drop")
    assert ask(files, "list", limit=9)["total"] == 4
