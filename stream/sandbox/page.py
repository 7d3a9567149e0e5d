"""Web pages with the content of the project and the newest rows of a table.

The pages load no external resources, and every value is escaped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import attrs

from stream.sandbox import catalogue, jobs, rows
from stream.sandbox.files import list_files
from stream.sandbox.http import Access, Call, Reply, Route
from stream.sandbox.project import Project

__all__ = ["Pages", "html_table"]

SHOWN_FILES = 50
SHOWN_JOBS = 50
SHOWN_ROWS = 100
MAX_VALUE_CHARS = 200
MAX_ROWS_CHARS = 4 * 1024 * 1024

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%;display:block;overflow-x:auto}"
    "th,td{text-align:left;padding:.25rem .75rem;border-bottom:1px solid #ccc;vertical-align:top}"
    "td.number{text-align:right}code{font-size:.9em}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8bf}}"
)
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
}


@attrs.frozen
class Link:
    """A table cell with a link to another page."""

    text: str
    target: str


class Pages:
    """The pages that the sandbox shows in a browser."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._store = project.store

    def routes(self) -> list[Route]:
        """Return the routes of the pages."""
        return [
            Route("overviewPage", "GET", "/", self.overview, Access.PAGE),
            Route("tablePage", "GET", "/tables/<table>", self.table, Access.PAGE),
        ]

    async def overview(self, call: Call) -> Reply:
        """Return the page with tables, files and recent events."""
        tables, files, recent = await self._store.meta.read(_overview)
        table_rows = [
            (
                Link(table.id, f"/tables/{quote(table.id)}"),
                table.rows_count,
                ", ".join(table.columns),
                ", ".join(table.primary_key),
                table.last_import or "",
            )
            for table in tables
        ]
        file_rows = [(file["id"], file["name"], file["created"]) for file in files]
        job_rows = [
            (job.id, job.operation, job.target, job.status, (job.error or {}).get("message", ""))
            for job in recent
        ]
        path = escape(str(self._store.data.path))
        body = (
            f"<p>All rows are in <code>{path}</code>; any SQLite reader can query them while the"
            " sandbox runs.</p><h2>Tables</h2>"
            + html_table(("Table", "Rows", "Columns", "Primary key", "Last import"), table_rows)
            + "<h2>Newest files</h2>"
            + html_table(("File", "Name", "Prepared"), file_rows)
            + "<h2>Newest jobs</h2>"
            + html_table(("Job", "Operation", "Target", "Status", "Error"), job_rows)
        )
        return _page(f"Project {self._project.project_id}", body)

    async def table(self, call: Call) -> Reply:
        table = await self._store.meta.read(catalogue.find_table, call.args["table"])
        try:
            found = await self._store.data.read(
                rows.preview,
                table.id,
                table.columns,
                SHOWN_ROWS,
                max_chars=MAX_ROWS_CHARS,
                newest=True,
            )
        except sqlite3.OperationalError as error:
            raise catalogue.no_table(table.id) from error  # deleted after its definition was read
        body = (
            f'<p><a href="/">All tables</a></p><p>{table.rows_count} rows, the newest first</p>'
            + html_table(table.columns, found)
        )
        return _page(table.id, body)


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return an HTML table; values longer than `MAX_VALUE_CHARS` are truncated."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = ["<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows]
    if not lines:
        return "<p>None yet.</p>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, Link):
        return f'<td><a href="{escape(value.target)}">{escape(value.text)}</a></td>'
    if isinstance(value, int):
        return f'<td class="number">{value}</td>'
    text = str(value)
    if len(text) > MAX_VALUE_CHARS:
        text = text[:MAX_VALUE_CHARS] + "…"
    return f"<td>{escape(text)}</td>"


def _page(title: str, body: str) -> Reply:
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    )
    return Reply(
        html.encode("utf-8", "replace"), content_type="text/html; charset=utf-8", headers=_HEADERS
    )


def _overview(
    meta: sqlite3.Connection,
) -> tuple[list[catalogue.Table], list[dict[str, Any]], list[jobs.Job]]:
    return (
        catalogue.list_tables(meta),
        list_files(meta, SHOWN_FILES),
        jobs.recent(meta, SHOWN_JOBS),
    )
