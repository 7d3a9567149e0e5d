"""Checks the owners of tables, since projects may share a connection but not rows. Pure."""

from __future__ import annotations

from stream.errors import UserError

__all__ = ["check_project"]


def check_project(made_by: str, table: str, owner: str) -> None:
    """Refuse a table that was created for a sink of another project. Raises UserError.

    :param made_by: the sink for which *table* was created; empty if Stream hasn't created it. Such
        a table belongs to the operator, who decides by the connection which projects may write to
        it.
    :param owner: the sink that needs the table.
    """
    project = owner.partition("/")[0]
    if made_by and made_by.partition("/")[0] != project:
        raise UserError(
            f'the table "{table}" was created for another project, use another name',
            name="tableOfAnotherProject",
        )
