"""Writes the files of a warehouse in a folder durably and atomically. Only for worker processes.

pyiceberg writes files under their final names without syncing them. If the machine crashed, the
newest files of a table could be empty.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyiceberg.io import OutputFile
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

from stream.ops.durable import sync_directory, sync_file
from stream.staging.local import opened_part

__all__ = ["DurableFileIO"]


class DurableFileIO(PyArrowFileIO):
    """pyiceberg's file access with durable writes to folders."""

    def new_output(self, location: str) -> Any:
        """Return the file at *location* for writing."""
        scheme, _, path = self.parse_location(location, self.properties)
        if scheme != "file":
            return super().new_output(location)
        return _LocalOutput(location, Path(path), super().new_output(location))


class _LocalOutput(OutputFile):
    def __init__(self, location: str, path: Path, plain: PyArrowFile) -> None:
        super().__init__(location)
        self._path = path
        self._plain = plain

    def __len__(self) -> int:
        return len(self._plain)

    def exists(self) -> bool:
        return self._path.exists()

    def to_input_file(self) -> Any:
        return self._plain.to_input_file()

    def create(self, overwrite: bool = False) -> Any:
        if not overwrite and self.exists():
            raise FileExistsError(f"Cannot create file, already exists: {self.location}")
        _make_folders(self._path.parent)
        return _Stream(self._path, overwrite=overwrite)


def _make_folders(folder: Path) -> None:
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        sync_directory(each.parent)


class _Stream:
    """A stream whose file gets its name when the stream is closed."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self._path = path
        self._overwrite = overwrite
        descriptor, self._hidden = opened_part(path)
        self._file = open(descriptor, "wb")  # noqa: PTH123, SIM115
        self._size = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: Any) -> int:
        written = self._file.write(data)
        self._size += written
        return written

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        if self._file.closed:
            return
        try:
            self._file.flush()
            sync_file(self._file.fileno())
            if self._overwrite:
                self._hidden.replace(self._path)
            else:
                os.link(self._hidden, self._path)
                self._hidden.unlink()
        except BaseException:
            self._hidden.unlink(missing_ok=True)
            raise
        finally:
            self._file.close()
        sync_directory(self._path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._hidden.unlink(missing_ok=True)
            self._file.close()
