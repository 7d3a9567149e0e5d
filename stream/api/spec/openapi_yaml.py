"""The API's documents as YAML.

This is a separate module because startup doesn't need the YAML library.
"""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["to_yaml"]


def to_yaml(document: dict[str, Any]) -> bytes:
    """Return the document as YAML, with members in their order."""
    text: str = yaml.dump(document, sort_keys=False, allow_unicode=True, Dumper=_Dumper)
    return text.encode()


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """A YAML dumper that writes repeated parts in full, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
