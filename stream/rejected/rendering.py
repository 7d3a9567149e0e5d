"""Rendering of kept records as rows, for tests and replays.

Small records without templates are rendered in the reactor, a few at a time. All others are read by
the template engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.task import deferLater

from stream.errors import UserError, record_error_name, record_message, without_frames
from stream.mapping.columns import Mapping
from stream.mapping.plan import Evaluated, TemplatePlan
from stream.mapping.render import Renderer, compile_renderer, render_cells
from stream.record.context import RecordContext
from stream.rejected.masked_headers import HeaderReads
from stream.rejected.record import Kept
from stream.templates.interface import TemplateEvaluator

__all__ = ["Rendered", "Rendering"]

RECORDS_AT_ONCE = 32
"""Maximum number of records rendered per turn of the reactor; fewer if their rows are large."""
_TURN_BYTES = 256 * 1024
"""Number of bytes of rows after which rendering continues in the next turn of the reactor."""
MAX_SHOWN_BYTES = 4 * 1024 * 1024
"""Maximum size of all cells that one call shows."""


@attrs.frozen(eq=False, kw_only=True)
class Rendered:
    """The result of mapping one record.

    :ivar row: the row to store, with its line feed; empty if there is an *error*.
    :ivar cells: column names and texts, if requested.
    :ivar masked: pairs of a column of the row and a masked header that it reads.
    """

    id: str
    row: bytes = b""
    cells: Sequence[tuple[str, str]] = ()
    error: UserError | None = None
    masked: frozenset[tuple[str, str]] = frozenset()

    def view(self, *, quoting: bool = True) -> dict[str, Any]:
        """Return the result in the API's form.

        :param quoting: whether messages quote the record.
        """
        if self.error is None:
            view: dict[str, Any] = {"id": self.id, "accepted": True}
            if self.cells:
                columns = [{"name": name, "value": value} for name, value in self.cells]
                view["row"] = {"columns": columns}
            return view
        return {
            "id": self.id,
            "accepted": False,
            "reason": record_error_name(self.error.name),
            "column": self.error.column,
            "message": record_message(self.error, quoting=quoting),
        }


class Rendering:
    """Renders the records of one project with one mapping.

    :param row_size_limit: maximum size of a row in bytes.
    """

    def __init__(
        self,
        reactor: Any,
        templates: TemplateEvaluator,
        project_id: int,
        mapping: Mapping,
        row_size_limit: int,
    ) -> None:
        self._reactor = reactor
        self._templates = templates
        self._project_id = project_id
        self._mapping = mapping
        self._limit = row_size_limit
        self._renderer: Renderer = compile_renderer(mapping, row_size_limit)
        self._reads = HeaderReads.of(mapping.columns)

    async def test(self, kept: Sequence[Kept], *, shown: int, deadline: float) -> list[Rendered]:
        """Render *kept*; the results contain no rows.

        Raises UserError: the engine is unavailable.

        :param shown: number of accepted records whose cells are returned, unless they are large.
        :param deadline: time of the reactor's clock; records not rendered by then are omitted.
        """
        return await self._each(kept, shown=shown, deadline=deadline)

    async def render(
        self, kept: Sequence[Kept], *, max_bytes: int, deadline: float
    ) -> list[Rendered]:
        """Render records of *kept* until their rows reach *max_bytes*, but at least one batch.

        Raises UserError: the engine is unavailable.

        :param deadline: time of the reactor's clock; records not rendered by then are omitted.
        """
        return await self._each(kept, max_bytes=max_bytes, deadline=deadline)

    async def _each(
        self,
        kept: Sequence[Kept],
        *,
        shown: int = 0,
        deadline: float,
        max_bytes: int | None = None,
    ) -> list[Rendered]:
        found: list[Rendered] = []
        size = turn = shown_bytes = 0
        for start in range(0, len(kept), RECORDS_AT_ONCE):
            is_late = self._reactor.seconds() >= deadline
            if is_late and (found or max_bytes is None):
                break
            if max_bytes is not None and size >= max_bytes:
                break
            some = kept[start : start + RECORDS_AT_ONCE]
            records = [each.record() for each in some]
            evaluated = await self._evaluate(records)
            for each, record, result in zip(some, records, evaluated, strict=True):
                rendered = self._render(each.id, record, result)
                size += len(rendered.row)
                turn += len(rendered.row)
                if rendered.error is None and shown > 0:
                    shown -= 1
                    shown_bytes += len(rendered.row)
                    if shown_bytes <= MAX_SHOWN_BYTES:
                        cells = render_cells(self._mapping, record, result)
                        rendered = attrs.evolve(rendered, cells=cells)
                found.append(rendered if max_bytes is not None else attrs.evolve(rendered, row=b""))
                if turn >= _TURN_BYTES:
                    turn = 0
                    await deferLater(self._reactor, 0)
            await deferLater(self._reactor, 0)
        return found

    def _render(self, id: str, record: RecordContext, evaluated: Evaluated | None) -> Rendered:
        renderer = self._renderer
        try:
            row = renderer.row(record) if evaluated is None else renderer.row_of(record, evaluated)
        except UserError as error:
            return Rendered(id=id, error=without_frames(error))
        return Rendered(id=id, row=row, masked=self._reads.masked(record.headers))

    async def _evaluate(self, records: Sequence[RecordContext]) -> list[Evaluated | None]:
        """Return the engine's result for each record; ``None`` for records that don't need it."""
        plans: dict[TemplatePlan, list[int]] = {}
        for place, record in enumerate(records):
            plan = self._renderer.plan_for(record)
            if plan is not None:
                plans.setdefault(plan, []).append(place)
        results: list[Evaluated | None] = [None] * len(records)
        for plan, places in plans.items():
            some = [records[place] for place in places]
            for place, result in zip(
                places,
                await self._templates.evaluate(self._project_id, plan, some),
                strict=True,
            ):
                results[place] = result
        return results
