"""Fault injection, which delays the next calls of a route or answers them with an error.

Tests of a client's retries use it through ``POST /_local/faults``. A route has the name that the
table of routes gives it (``createBucket``). ``*`` means every route of the API, and ``job`` means
import jobs.
"""

from __future__ import annotations

import attrs

from stream.errors import UserError
from stream.sandbox.body import Body, invalid

__all__ = ["JOB", "MAX_DELAY_SECONDS", "Fault", "Faults", "parse_fault"]

JOB = "job"
ANY = "*"
MAX_FAULTS = 100
MAX_TIMES = 1_000_000
MAX_DELAY_SECONDS = 600.0


@attrs.frozen
class Fault:
    """A fault that replaces or delays a call.

    :param status: status of the answer; 0 for only a delay. An import job always ends with an
        error.
    :param delay: number of seconds to wait first.
    :param after_effect: whether to do the work before answering with the error.
    :param expires_in: for ``prepareFile``: lifetime of the credentials in seconds; may be negative.
    :param rows_with: for import jobs: a job with this text in a value of a row is refused, as if
        the value didn't fit the target; other jobs are unaffected.
    """

    route: str
    status: int = 0
    code: str = "storage.injectedFault"
    message: str = "Injected fault"
    delay: float = 0.0
    after_effect: bool = False
    expires_in: float | None = None
    rows_with: str = ""

    def error(self) -> UserError:
        """Return the error of a fault that has a status."""
        return UserError(self.message, status=self.status, name=self.code)


class Faults:
    """The pending faults, in first-in, first-out order for each route."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Fault, int]] = []

    def add(self, fault: Fault, times: int) -> None:
        """Inject *fault* into the next *times* calls of its route."""
        if len(self._waiting) >= MAX_FAULTS:
            raise invalid(f"{MAX_FAULTS} faults are already waiting")
        self._waiting.append((fault, times))

    def take(self, route: str) -> Fault | None:
        """Remove and return the fault for this call of *route*."""
        for position, (fault, times) in enumerate(self._waiting):
            if fault.route == route or (fault.route == ANY and route != JOB):
                if times > 1:
                    self._waiting[position] = (fault, times - 1)
                else:
                    del self._waiting[position]
                return fault
        return None

    def clear(self) -> None:
        """Remove the pending faults."""
        self._waiting.clear()

    def waiting(self) -> list[dict[str, object]]:
        """Return the pending faults as JSON."""
        return [
            {
                "route": fault.route,
                "times": times,
                "status": fault.status,
                "code": fault.code,
                "message": fault.message,
                "delay": fault.delay,
                "afterEffect": fault.after_effect,
                "expiresIn": fault.expires_in,
                "rowsWith": fault.rows_with,
            }
            for fault, times in self._waiting
        ]


def parse_fault(body: Body, routes: frozenset[str]) -> tuple[Fault, int]:
    """Return the fault in a request, and how often it occurs (by default once)."""
    route = body.text("route")
    if route not in routes | {ANY, JOB}:
        raise invalid(f'unknown route "{route}"')
    status = body.integer("status", 0, most=599)
    if 0 < status < 400 or (route == JOB and body.flag("afterEffect")):
        raise invalid('"status" must be an error status, and a job has no "afterEffect"')
    delay = body.number("delay", 0.0, least=0.0, most=MAX_DELAY_SECONDS)
    expires_in = (
        body.number("expiresIn", 0.0, least=-1e9, most=1e9) if "expiresIn" in body else None
    )
    rows_with = body.text("rowsWith", "", max_chars=200)
    if rows_with and (route != JOB or status):
        raise invalid('"rowsWith" is allowed only for import jobs without a "status"')
    if not status and not delay and expires_in is None and not rows_with:
        status = 503
    fault = Fault(
        route=route,
        status=status,
        code=body.text("code", "storage.injectedFault", max_chars=200),
        message=body.text("message", "Injected fault", max_chars=2000),
        delay=delay,
        after_effect=body.flag("afterEffect"),
        expires_in=expires_in,
        rows_with=rows_with,
    )
    return fault, body.integer("times", 1, least=1, most=MAX_TIMES)
