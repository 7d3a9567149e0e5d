"""The Storage API client as a service of a process."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from stream.errors import UserError
from stream.target.keboola.client import StorageApi

__all__ = ["StorageApiService"]

_log = Logger()


class StorageApiService(Service):
    """The connections to the Storage API.

    The service loads the API's index when it starts, so that the first change doesn't have to, and
    closes the connections when it stops.

    Startup doesn't wait for the answer, so an unavailable API blocks no component; later calls load
    the index again.
    """

    def __init__(self, api: StorageApi) -> None:
        self.api = api
        self._loading: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        _log.info("loading Storage API index without components")
        self._loading = Deferred.fromCoroutine(self._load())

    async def _load(self) -> None:
        try:
            await self.api.index()
        except CancelledError:
            raise
        except UserError as error:
            _log.warn(
                "cannot load the Storage API index, later calls will load it: {error}",
                error=str(error),
            )
        except Exception:
            _log.failure("cannot load the Storage API index, later calls will load it")

    async def stopService(self) -> None:
        super().stopService()
        if self._loading is not None:
            self._loading.addErrback(lambda failure: failure.trap(CancelledError))
            self._loading.cancel()
            await self._loading
        await self.api.close()
