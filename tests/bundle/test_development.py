"""The single file in development mode."""

from __future__ import annotations

from pathlib import Path

from bundle.development import in_development_mode
from tests.bundle.test_single_file import Alone


def test_development_mode(single_file: Path, tmp_path: Path) -> None:
    """Only the end of the file differs, and its Python runs in development mode."""
    file = tmp_path / "with-race"
    in_development_mode(single_file, file)
    assert file.stat().st_size == single_file.stat().st_size
    deployed = Alone(tmp_path, file=file)
    try:
        process = deployed.start("sandbox")
        assert process.stop() == 0
    finally:
        deployed.stop_all()
    assert "development mode" in process.log.read_text()
