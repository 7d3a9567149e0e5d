"""State that all resources share: the store, and the project's identity and settings."""

from __future__ import annotations

from datetime import timedelta

import attrs

from stream.sandbox.auth import FixedTokens
from stream.sandbox.http import Call, not_found
from stream.sandbox.objects import ObjectStaging
from stream.sandbox.store import Store

__all__ = ["DEFAULT_CREDENTIALS_LIFE", "Project"]

DEFAULT_CREDENTIALS_LIFE = timedelta(hours=12)
"""Lifetime of credentials; much more than 30 minutes, the time before expiry when files rotate."""


@attrs.define
class Project:
    """The project of the sandbox, which has one branch.

    :param base_url: URL of the sandbox for clients; set when the port is known.
    :param credentials_life: how long after its preparation the upload of a file may start.
    :param objects: object store for staged files; ``None`` to use the store's folder.
    """

    store: Store
    project_id: int
    branch_id: int
    fixed_tokens: FixedTokens
    started: str
    base_url: str = ""
    credentials_life: timedelta = DEFAULT_CREDENTIALS_LIFE
    objects: ObjectStaging | None = None

    @property
    def name(self) -> str:
        """The name of the project."""
        return f"Local project {self.project_id}"

    def require_branch(self, call: Call) -> None:
        """Check that the path names the branch of the project.

        Raises UserError: 404, the path names another branch.
        """
        self.find_branch(call.args["branch"])

    def find_branch(self, text: str) -> None:
        """Check that *text* names the branch by its ID or as ``default``."""
        if text not in (str(self.branch_id), "default"):
            raise not_found(f'branch "{text}" not found', "storage.branches.notFound")
