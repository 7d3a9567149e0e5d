"""Labels of calls of the Storage API."""

from __future__ import annotations

import pytest

from stream.keboola.call_meter import path_template


@pytest.mark.parametrize(
    ("path", "template"),
    [
        (("",), "/"),
        (("tokens", "verify"), "/tokens/verify"),
        (("tokens", "42"), "/tokens/{id}"),
        (("branch", "7", "buckets"), "/branch/{id}/buckets"),
        (
            ("branch", "7", "tables", "in.c-b.t", "import-async"),
            "/branch/{id}/tables/{id}/import-async",
        ),
        (("branch", "7", "files", "prepare"), "/branch/{id}/files/prepare"),
        (
            ("branch", "7", "buckets", "in.c-b", "tables-definition"),
            "/branch/{id}/buckets/{id}/tables-definition",
        ),
    ],
)
def test_ids_are_no_labels(path: tuple[str, ...], template: str) -> None:
    """Whatever differs from object to object is left out of the path."""
    assert path_template(path) == template
