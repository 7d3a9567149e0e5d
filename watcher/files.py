"""Which files count, and who tells that they have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

__all__ = ["SUFFIXES", "changed_files", "watch"]

SUFFIXES = frozenset({".py", ".sql", ".yaml", ".yml", ".json"})
"""Programs, statements and settings; not what editors and Python leave beside them."""

_CHANGES = frozenset({"created", "modified", "moved", "deleted"})


def changed_files(event_type: str, is_directory: bool, paths: Iterable[str]) -> list[str]:
    """Those of *paths* whose content or name was changed by an event of watchdog, and counts."""
    if is_directory or event_type not in _CHANGES:
        return []
    return [path for path in paths if Path(path).suffix in SUFFIXES]


class _Handler(FileSystemEventHandler):
    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        paths = [str(path) for path in (event.src_path, event.dest_path) if path]
        for path in changed_files(event.event_type, event.is_directory, paths):
            self._changed(path)


def watch(folders: Iterable[str], changed: Callable[[str], None]) -> Callable[[], None]:
    """Call *changed* with each changed file below *folders*, in another thread.

    Returns what ends it. Raises OSError for a folder that can't be watched.
    """
    observer = Observer()
    for folder in folders:
        observer.schedule(_Handler(changed), folder, recursive=True)
    observer.start()

    def end() -> None:
        observer.stop()
        observer.join()

    return end
