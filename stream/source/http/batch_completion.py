"""The answer to a request with many records, composed from the outcomes of all sinks.

A record counts as accepted when every sink has stored it, as rejected when a sink rejects it
permanently, and as failed when a sink can't store it now. With several sinks, some may have stored
a record that counts as rejected or failed. In that case the answer contains the number of records
that each sink has stored, and a header contains the total number of stored rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import attrs

from stream.definition.key import SourceKey
from stream.sink.outcome import PROCESSED, Stored
from stream.source.batch import Reason, RowBlock
from stream.source.http import responses
from stream.source.http.completions import (
    Connection,
    Received,
    ReportFailure,
    SinkCompletion,
)
from stream.source.http.result_document import count_stored, outcome_members

__all__ = ["BatchCompletion", "BlockCompletion"]

MULTI_STATUS = 207

MAX_KINDS_OF_ERRORS = 100
"""Maximum number of rejection reasons in the answer; the positions of all records are listed."""

_OTHER = Reason(400, "stream.in.recordsRejected", "Other errors.", "")


class BlockCompletion(SinkCompletion):
    """The completion of one sink's block."""

    __slots__ = ("block",)

    def __init__(self, all_completions: BatchCompletion, sink_id: str, block: RowBlock) -> None:
        super().__init__(all_completions, sink_id)
        self.block = block


class BatchCompletion:
    """The answer to a batch, sent when all of its records are decided.

    :param count: number of records in the batch.
    :param place_name: name of the member with a record's position in the answer.
    :param sinks: sources in the order of the answer, with the IDs and blocks of their sinks.
    :param received: counts the records in the metrics.

    :ivar sources: completions of the sinks of each source.
    """

    def __init__(
        self,
        connection: Connection,
        count: int,
        place_name: str,
        sinks: Sequence[tuple[SourceKey, Sequence[tuple[str, RowBlock]]]],
        verbose: bool,
        report: ReportFailure,
        received: Received,
    ) -> None:
        self._received = received
        self._connection = connection
        self._count = count
        self._place_name = place_name
        self._verbose = verbose
        self._report = report
        self.sources = tuple(
            (source, tuple(BlockCompletion(self, sink_id, block) for sink_id, block in blocks))
            for source, blocks in sinks
        )
        self._missing = sum(len(answers) for _, answers in self.sources)

    def one_more(self) -> None:
        """Handle the answer of a sink."""
        self._missing -= 1
        if not self._missing:
            for source, answers in self.sources:
                errors = [(a.sink_id, a.error) for a in answers if a.error is not None]
                self._count_records(source, answers)
                if errors:
                    self._report(source, len(answers), errors)
            if self._connection.pending is self:
                self._answer()
            self.sources = ()  # breaks a reference cycle that would keep all rows

    def _answer(self) -> None:
        self._connection.finish(self.document())

    def _count_records(self, source: SourceKey, answers: Sequence[BlockCompletion]) -> None:
        """Count the records; the bytes of the body are counted once, if possible as accepted."""
        if not self._count:
            return
        if all(answer.error is None and not answer.block.rejected for answer in answers):
            self._received.answered(source, failed=False, records=self._count)
            return
        failed = len({r.place for answer in answers for r in answer.block.rejected})
        if any(answer.error is not None for answer in answers):
            failed = self._count
        received = self._received
        if failed < self._count:
            received.answered(source, failed=False, records=self._count - failed)
            received = attrs.evolve(received, size=0)
        if failed:
            received.answered(source, failed=True, records=failed)

    def document(self) -> bytes:
        """Return the answer; every sink must have answered."""
        answers = [answer for _, answers in self.sources for answer in answers]
        if not self._verbose and answers and all(map(self._is_stored, answers)):
            return _all_accepted(self._count, max(PROCESSED, *(each.status for each in answers)))
        rejected = len({r.place for answer in answers for r in answer.block.rejected})
        is_failed = any(answer.error is not None for answer in answers)
        failed = self._count - rejected if is_failed else 0
        accepted = self._count - rejected - failed
        stored = _count_stored(self._count, answers)
        status = self._status(answers, stored, rejected)
        members: dict[str, Any] = {"statusCode": status}
        if is_failed:
            members["error"] = "stream.in.writeFailed"
        elif rejected:
            members["error"] = "stream.in.recordsRejected"
        members["message"] = (
            f"Accepted {accepted}/{self._count} records." if answers else "No enabled sink found."
        )
        if is_failed and len(answers) == 1 and answers[0].error is not None:
            members["message"] += f" {responses.error_message(answers[0].error)}"
        members |= {"accepted": accepted, "rejected": rejected}
        if failed:
            members["failed"] = failed
        if rejected:
            members["errors"] = self._errors()
        if self._verbose or is_failed or (rejected and len(answers) > 1):
            members["sources"] = self._sources()
        return responses.document(status, members, responses.stored_header(stored))

    def _is_stored(self, answer: BlockCompletion) -> bool:
        """Return whether the sink of *answer* has stored all records of the batch."""
        block = answer.block
        return answer.error is None and not block.rejected and block.count == self._count

    def _sources(self) -> list[dict[str, Any]]:
        """Return the outcome of the batch at each sink."""
        members = outcome_members(
            [
                (source, [(answer.sink_id, answer.status, answer.error) for answer in answers])
                for source, answers in self.sources
            ]
        )
        for source, (_, answers) in zip(members, self.sources, strict=True):
            for sink, answer in zip(source.get("sinks", ()), answers, strict=True):
                sink["stored"] = 0 if answer.error is not None else answer.block.count
        return members

    @staticmethod
    def _status(answers: Sequence[BlockCompletion], stored: Stored, rejected: int) -> int:
        if any(answer.error is not None for answer in answers):
            return max(answer.status for answer in answers)
        if not rejected:
            return max([PROCESSED, *(answer.status for answer in answers)])
        if stored.stored:
            return MULTI_STATUS
        return max(r.error.status for answer in answers for r in answer.block.rejected)

    def _errors(self) -> list[dict[str, Any]]:
        """Return why records were rejected; equal reasons of one sink are reported once."""
        groups: dict[tuple[int, str, Reason], list[int]] = {}
        for source, answers in self.sources:
            for answer in answers:
                for rejection in answer.block.rejected:
                    group = (source.branch_id, answer.sink_id, rejection.reason)
                    if len(groups) >= MAX_KINDS_OF_ERRORS and group not in groups:
                        group = (source.branch_id, answer.sink_id, _OTHER)
                    groups.setdefault(group, []).append(rejection.place)
        return [
            {
                "branchId": branch_id,
                "sinkId": sink_id,
                "statusCode": reason.status,
                "error": reason.name,
                "message": reason.message,
                **({"hint": reason.hint} if reason.hint else {}),
                self._place_name: places,
            }
            for (branch_id, sink_id, reason), places in groups.items()
        ]


@lru_cache(maxsize=1024)
def _all_accepted(count: int, status: int) -> bytes:
    """Return the most common answer, which batches of the same size share."""
    members = {
        "statusCode": status,
        "message": f"Accepted {count}/{count} records.",
        "accepted": count,
        "rejected": 0,
    }
    return responses.document(status, members)


def _count_stored(records: int, answers: Sequence[BlockCompletion]) -> Stored:
    """Return the number of stored rows, and the number if all sinks had stored every record."""
    known = count_stored((answer.block.count, answer.error) for answer in answers)
    return attrs.evolve(known, rows=records * len(answers))
