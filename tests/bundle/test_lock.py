"""The libraries installed with the service."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bundle import lock

_ROOT = Path(__file__).parents[2]


def test_the_service_lock_is_a_subset() -> None:
    """`make lock` derives it from the other lock, so that the image has the tested versions."""
    assert lock.SERVICE_LOCK.read_text() == lock.service_lock()
    whole = (_ROOT / "requirements.lock").read_text().splitlines()
    assert set(lock.service_lock().splitlines()) < set(whole)


def test_the_lake_lock_is_separate() -> None:
    """The libraries for lakes are large, so they are installed only for lakes."""
    assert lock.LAKE_LOCK.read_text() == lock.lake_lock()
    lines = lock.lake_lock().splitlines()
    assert not set(lines) & set(lock.service_lock().splitlines())
    assert {"pyarrow", "pyiceberg"} <= {line.split("==")[0] for line in lines}


@pytest.mark.parametrize("extra", ["aws", "azure", "cli", "gcp", "postgres", "tracing"])
def test_every_setting_has_its_libraries(extra: str) -> None:
    """The image has the libraries of all clouds, since it is built before its cloud is known."""
    config = ConfigParser()
    config.read(_ROOT / "setup.cfg")
    locked = {canonicalize_name(line.split("==")[0]) for line in lock.service_lock().splitlines()}
    for text in config["options.extras_require"][extra].split():
        if text[0].isalpha():
            assert canonicalize_name(Requirement(text).name) in locked, text


def test_no_test_libraries() -> None:
    """The image doesn't contain libraries that only tests use."""
    for name in ("pytest", "mypy", "aiohttp", "moto", "flask", "mkdocs"):
        assert f"\n{name}==" not in f"\n{lock.service_lock()}"


def test_a_library_without_a_locked_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A library without a locked version is an error."""
    short = tmp_path / "requirements.lock"
    text = (_ROOT / "requirements.lock").read_text()
    short.write_text("".join(f"{x}\n" for x in text.splitlines() if not x.startswith("klein")))
    monkeypatch.setattr(lock, "_LOCK", short)
    with pytest.raises(LookupError, match="lacks klein"):
        lock.service_lock()
