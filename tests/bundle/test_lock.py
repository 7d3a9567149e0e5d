"""The libraries installed with the service."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bundle import lock

_ROOT = Path(__file__).parents[2]


def test_the_lock_of_the_service_is_a_part_of_the_whole() -> None:
    """It is what `make lock` makes of the other one; so the image has the versions tested with."""
    assert lock.SERVICE_LOCK.read_text() == lock.service_lock()
    whole = (_ROOT / "requirements.lock").read_text().splitlines()
    assert set(lock.service_lock().splitlines()) < set(whole)


def test_what_lakes_need_is_in_a_lock_of_its_own() -> None:
    """It is large, so it is installed only for lakes."""
    assert lock.LAKE_LOCK.read_text() == lock.lake_lock()
    lines = lock.lake_lock().splitlines()
    assert not set(lines) & set(lock.service_lock().splitlines())
    assert {"pyarrow", "pyiceberg"} <= {line.split("==")[0] for line in lines}


@pytest.mark.parametrize("extra", ["aws", "azure", "cli", "gcp", "postgres", "tracing"])
def test_everything_that_a_setting_can_ask_for_is_there(extra: str) -> None:
    """An image is built before its cloud is known."""
    config = ConfigParser()
    config.read(_ROOT / "setup.cfg")
    locked = {canonicalize_name(line.split("==")[0]) for line in lock.service_lock().splitlines()}
    for text in config["options.extras_require"][extra].split():
        if text[0].isalpha():
            assert canonicalize_name(Requirement(text).name) in locked, text


def test_what_the_tests_need_is_not_there() -> None:
    """The image doesn't contain libraries that only tests use."""
    for name in ("pytest", "mypy", "aiohttp", "moto", "flask", "mkdocs"):
        assert f"\n{name}==" not in f"\n{lock.service_lock()}"


def test_a_library_without_a_locked_version_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rather than left out."""
    short = tmp_path / "requirements.lock"
    text = (_ROOT / "requirements.lock").read_text()
    short.write_text("".join(f"{x}\n" for x in text.splitlines() if not x.startswith("klein")))
    monkeypatch.setattr(lock, "_LOCK", short)
    with pytest.raises(LookupError, match="lacks klein"):
        lock.service_lock()
