"""The page that lists all routes."""

from __future__ import annotations

from pathlib import Path

from stream.api.spec.operations import OPERATIONS
from tools.reference.api_routes import main, reference

ROOT = Path(__file__).parents[3]


def test_the_page_is_up_to_date(tmp_path: Path) -> None:
    """The page equals the output of `make docs-api`."""
    main(str(tmp_path / "routes.md"))
    assert (tmp_path / "routes.md").read_text() == reference()
    assert (ROOT / "docs" / "api-routes.md").read_text() == reference()


def test_every_route_is_listed_once() -> None:
    """Each public operation has a row, and changes need a right."""
    page = reference()
    for operation in OPERATIONS.values():
        path = operation.path.removeprefix("/v1/branches/{branchId}").replace("{*", "{")
        route = f"| `{operation.method} {path}` |"
        assert page.count(route) == operation.published, operation.id
    create = next(line for line in page.split("\n") if line.startswith("| `POST /sources` |"))
    assert create.endswith("| write | Create a source. *Task.* |")
