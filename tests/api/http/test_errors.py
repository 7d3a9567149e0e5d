from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import FirstError, TimeoutError
from twisted.python.failure import Failure

from stream.api.http.errors import error_answer, is_our_fault
from stream.errors import NestedError, UserError
from stream.etcd import AtomicConflict, EtcdError, EtcdUnavailable, TxnTooLarge
from stream.sandbox.service import SandboxService
from stream.target.keboola import StorageApiError
from stream.task.errors import TaskAlreadyRunning
from tests.api.conftest import SOURCES, Api

ensure = pytest_twisted.ensureDeferred

GENERIC = (
    "Application error. Please contact our support support@keboola.com with exception id "
    "(keboola-stream-api-REQUEST) attached."
)


def storage_error(**changes: object) -> StorageApiError:
    fields = {"method": "GET", "url": "https://x/y", "status": 404, "code": "storage.x"} | changes
    return StorageApiError("there is no x", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("problem", "status", "name", "message"),
    [
        (UserError("wrong"), 400, "stream.api.badRequest", "Wrong."),
        (UserError("gone", status=404, name="xNotFound"), 404, "stream.api.xNotFound", "Gone."),
        (NestedError("", ["a", "b"]), 400, "stream.api.badRequest", "- A.\n- B."),
        (storage_error(), 404, "storage.x", "There is no x."),
        (RuntimeError("inside"), 500, "stream.api.panicError", GENERIC),
        (EtcdError("inside"), 500, "stream.api.internalError", GENERIC),
        (
            TaskAlreadyRunning("a/b"),
            409,
            "stream.api.taskAlreadyRunning",
            "Another task is still working on the same object, please try again when it has "
            "finished.",
        ),
        (FirstError(Failure(UserError("wrong")), 0), 400, "stream.api.badRequest", "Wrong."),
        (
            TimeoutError(),
            408,
            "stream.api.requestTimeout",
            "The request took too long.",
        ),
        (
            storage_error(answered=False, status=502, code=""),
            503,
            "stream.api.serviceUnavailable",
            "The Storage API can't be reached at the moment, please try again later.",
        ),
        (
            EtcdUnavailable("inside"),
            503,
            "stream.api.serviceUnavailable",
            "The database of the service can't be reached at the moment, please try again later.",
        ),
    ],
)
def test_what_users_see(problem: BaseException, status: int, name: str, message: str) -> None:
    """Mistakes are explained, errors of other services are passed on, and defects are hidden behind
    an id.
    """
    answer = error_answer(problem, "REQUEST")
    assert (answer.status, answer.name, answer.message) == (status, name, message)
    logged_as = "keboola-stream-api-REQUEST" if status >= 500 else None
    assert answer.plain().get("exceptionId") == logged_as
    assert is_our_fault(problem) == (status == 500)
    assert bool(answer.retry_after) == (status == 503)


def test_the_id_of_an_exception_logged_elsewhere() -> None:
    """The exception id of another service is passed on."""
    answer = error_answer(storage_error(exception_id="other-1"), "REQUEST")
    assert answer.plain()["exceptionId"] == "other-1"


def test_further_errors() -> None:
    """Conflicts and changes that are too large are not defects."""
    assert error_answer(AtomicConflict("x"), "R").status == 503
    assert error_answer(TxnTooLarge("x"), "R").status == 409


@ensure
async def test_without_the_storage_api(api: Api, sandbox: SandboxService) -> None:
    """The answer asks the client to try again when tokens can't be verified."""
    await sandbox.stopService()
    reply = await api.call("GET", SOURCES)
    assert (reply.status, reply.json["error"]) == (503, "stream.api.serviceUnavailable")
    assert reply.header("Retry-After") == "1"
