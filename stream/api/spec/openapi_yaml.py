"""The API's documents as YAML; a module of its own, since a start needs none."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["to_yaml"]


def to_yaml(document: dict[str, Any]) -> bytes:
    """Return the document as YAML, with members in their order."""
    text: str = yaml.dump(document, sort_keys=False, allow_unicode=True, Dumper=_Dumper)
    return text.encode()


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """A YAML dumper without anchors: repeated parts are written out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
