"""Keys of definitions. The text form of a key is its path in etcd below each prefix."""

from __future__ import annotations

import attrs

__all__ = ["BranchKey", "SinkKey", "SourceKey"]


@attrs.frozen(order=True)
class BranchKey:
    """A branch of a project."""

    project_id: int
    branch_id: int

    def __str__(self) -> str:
        return f"{self.project_id}/{self.branch_id}"

    def source(self, source_id: str) -> SourceKey:
        """Return the key of a source of this branch."""
        return SourceKey(self.project_id, self.branch_id, source_id)


@attrs.frozen(order=True, cache_hash=True)
class SourceKey:
    """A source in a branch."""

    project_id: int
    branch_id: int
    source_id: str

    def __str__(self) -> str:
        return f"{self.project_id}/{self.branch_id}/{self.source_id}"

    @property
    def branch_key(self) -> BranchKey:
        """The key of the source's branch."""
        return BranchKey(self.project_id, self.branch_id)

    def sink(self, sink_id: str) -> SinkKey:
        """Return the key of a sink of this source."""
        return SinkKey(self.project_id, self.branch_id, self.source_id, sink_id)


@attrs.frozen(order=True)
class SinkKey:
    """A sink of a source."""

    project_id: int
    branch_id: int
    source_id: str
    sink_id: str

    def __str__(self) -> str:
        return f"{self.project_id}/{self.branch_id}/{self.source_id}/{self.sink_id}"

    @property
    def branch_key(self) -> BranchKey:
        """The key of the sink's branch."""
        return BranchKey(self.project_id, self.branch_id)

    @property
    def source_key(self) -> SourceKey:
        """The key of the sink's source."""
        return SourceKey(self.project_id, self.branch_id, self.source_id)

    @classmethod
    def parse(cls, text: str) -> SinkKey:
        """Parse the text form. Raises ValueError."""
        project, branch, source, sink = text.split("/")
        return cls(int(project), int(branch), source, sink)
