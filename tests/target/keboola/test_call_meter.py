"""Labels of calls of the Storage API."""

from __future__ import annotations

import pytest

from stream.target.keboola.call_meter import path_template, result_type


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
def test_ids_are_not_in_labels(path: tuple[str, ...], template: str) -> None:
    """Ids are removed from the path."""
    assert path_template(path) == template


@pytest.mark.parametrize(
    ("method", "template", "result"),
    [
        ("GET", "/", "Index"),
        ("GET", "/tokens/verify", "TokenInfo"),
        ("POST", "/tokens", "SinkToken"),
        ("DELETE", "/tokens/{id}", "NoResult"),
        ("GET", "/branch/{id}/tables/{id}", "Table"),
        ("POST", "/branch/{id}/tables/{id}/import-async", "Job"),
        ("GET", "/jobs/{id}", "Job"),
        ("POST", "/branch/{id}/files/prepare", "FileUpload"),
        ("GET", "/something/new", "Other"),
    ],
)
def test_the_label_of_the_result(method: str, template: str, result: str) -> None:
    """The label has few values."""
    assert result_type(method, template) == result
