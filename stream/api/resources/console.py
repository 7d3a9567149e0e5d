"""The console: a web page that shows the data flow of a project."""

from __future__ import annotations

from stream.api.http.call import Answer, Call, Handler
from stream.api.http.pages import BuiltPages
from stream.errors import UserError

__all__ = ["ConsolePage"]

_PAGE = "index.html"


class ConsolePage:
    """The operations that serve the console's page and its files.

    :param pages: the build; ``None`` if the console is disabled.
    """

    def __init__(self, pages: BuiltPages | None) -> None:
        self._pages = pages

    def handlers(self) -> dict[str, Handler]:
        """Handlers by the ids of their operations."""
        return {"Console": self.page, "ConsoleFile": self.file}

    async def page(self, call: Call) -> Answer:
        """Return the page itself."""
        return await self._answer(call, _PAGE)

    async def file(self, call: Call) -> Answer:
        """Return a file that the page loads."""
        return await self._answer(call, call.parameters["path"])

    async def _answer(self, call: Call, name: str) -> Answer:
        if self._pages is None:
            raise UserError(
                'no endpoint found for path "/console/": the setting api.console.enabled is false',
                status=404,
                name="endpointNotFound",
            )
        return await self._pages.answer(call, name, _PAGE)
