"""System calls for durability on Linux and other systems."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stream.errors import UserError
from stream.ops import durable
from stream.ops.durable import require_durable_files, sync_data, sync_directory, sync_file

_FULL = 51
"""The value of F_FULLFSYNC on macOS."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The system calls that are made."""
    calls: list[tuple[Any, ...]] = []
    control = SimpleNamespace(fcntl=lambda *arguments: calls.append(("fcntl", *arguments)))
    monkeypatch.setattr(durable, "fcntl", control)
    return calls


def _system(asked: list[tuple[Any, ...]], *names: str) -> Any:
    calls = {name: lambda d, name=name: asked.append((name, d)) for name in names}
    return SimpleNamespace(**calls)


def test_linux(asked: list[tuple[Any, ...]]) -> None:
    """`sync_data` syncs bytes with the metadata to find them, and `sync_file` all metadata."""
    system = _system(asked, "fsync", "fdatasync")
    sync_data(7, system)
    sync_file(8, system)
    assert asked == [("fdatasync", 7), ("fsync", 8)]


def test_a_system_without_fdatasync(asked: list[tuple[Any, ...]]) -> None:
    """A full sync replaces it."""
    sync_data(7, _system(asked, "fsync"))
    assert asked == [("fsync", 7)]


def test_macos(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """fsync doesn't wait for the disk there, so F_FULLFSYNC is used, also for directories."""
    monkeypatch.setattr("stream.ops.durable.fcntl.F_FULLFSYNC", _FULL, raising=False)
    system = _system(asked, "fsync")
    sync_data(7, system)
    sync_file(8, system)
    sync_directory(tmp_path)
    assert asked[:2] == [("fcntl", 7, _FULL), ("fcntl", 8, _FULL)]
    assert [(call[0], call[2]) for call in asked[2:]] == [("fcntl", _FULL)]


def test_a_full_sync_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An error of the file system is raised instead of ignored."""
    control = SimpleNamespace(fcntl=fcntl.fcntl, F_FULLFSYNC=999_999)
    monkeypatch.setattr(durable, "fcntl", control)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError):
        sync_data(file.fileno())


@pytest.mark.parametrize("name", ["pwritev", "ftruncate"])
def test_an_unsupported_platform(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start fails, and the error names what is missing."""
    require_durable_files()
    monkeypatch.setattr(
        durable,
        "os",
        SimpleNamespace(
            **{known: getattr(os, known) for known in durable._NEEDED if known != name}
        ),
    )
    with pytest.raises(UserError, match=f"this platform has no {name}, so records can't be stored"):
        require_durable_files()
