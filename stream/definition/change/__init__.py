"""Changes of definitions. `making` has the way of each change, `files` what it means for files."""

from __future__ import annotations

from stream.definition.change.attempt import Change, NoHooks, SinkHooks

__all__ = ["Change", "NoHooks", "SinkHooks"]
