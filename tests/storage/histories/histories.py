"""Random histories of a whole cluster: races, crashes between transactions, retries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from twisted.internet import reactor as _reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.python.failure import Failure

import stream.definition.repository as definition_repository
import stream.storage.store.repository as storage_repository
from stream.errors import UserError
from stream.etcd import EtcdClient, Session
from tests.storage.histories.interleaving import race
from tests.storage.histories.model import OPERATIONS, Cluster, Crashed, MortalClient

reactor: Any = _reactor
__all__ = ["Histories", "run_histories"]

_NAMES = st.sampled_from(OPERATIONS)
_PICKS = st.integers(0, 50)


def _wait(awaitable: Coroutine[Any, Any, Any]) -> Any:
    """Wait in Hypothesis' thread for a call in the reactor's thread."""
    return blockingCallFromThread(reactor, ensureDeferred, awaitable)


class Histories(RuleBasedStateMachine):
    """A state machine of random histories.

    :ivar figures: counts of all histories together.
    :ivar found: violations of the invariants.
    """

    etcd: EtcdClient
    session: Session
    mortal: MortalClient
    figures: Counter[str]
    found: list[str]

    def __init__(self) -> None:
        super().__init__()
        _wait(self.etcd.delete_prefix(""))
        self.mortal.lives = 0
        self.cluster = Cluster(self.mortal, self.etcd, self.session)
        self.is_violated = False
        self.figures["histories"] += 1

    @initialize()
    def define(self) -> None:
        for name, pick in (("create_source", 0), ("create_sink", 0), ("create_sink", 1)):
            self._take((name, pick))

    @rule(name=_NAMES, pick=_PICKS)
    def step(self, name: str, pick: int) -> None:
        """Run one operation."""
        self._take((name, pick))

    @rule(name=_NAMES, pick=_PICKS, lives=st.integers(1, 4), written=st.booleans())
    def crash(self, name: str, pick: int, lives: int, written: bool) -> None:
        """Run one operation whose process dies before or after one of its transactions."""
        self.mortal.lives, self.mortal.writes_last = lives, written
        self._take((name, pick))

    @rule(one=_NAMES, other=_NAMES, pick=_PICKS, other_pick=_PICKS)
    def race(self, one: str, other: str, pick: int, other_pick: int) -> None:
        """Run two operations concurrently, perhaps on the same file."""
        self.figures["races"] += 1
        self._take((one, pick), (other, other_pick))

    def _take(self, *operations: tuple[str, int]) -> None:
        _wait(self._run(operations))
        self.mortal.lives = 0
        self._must_hold(_wait(self.cluster.violations()))

    def _must_hold(self, violations: list[str]) -> None:
        if violations:
            self.is_violated = True
            self.found += violations
            raise AssertionError(f"violated: {violations}")

    async def _run(self, operations: Sequence[tuple[str, int]]) -> None:
        for result in await race([getattr(self.cluster, name)(pick) for name, pick in operations]):
            self.figures["operations"] += 1
            if not isinstance(result, Failure):
                continue
            if result.check(UserError):
                self.figures["refused"] += 1
            elif result.check(Crashed):
                self.figures["crashes"] += 1
            else:
                result.raiseException()

    def teardown(self) -> None:
        """Check that all operations complete, and that nothing is lost or duplicated."""
        if self.is_violated:
            return
        self._must_hold(_wait(self.cluster.settle()))
        self._must_hold(_wait(self.cluster.violations()))
        self.figures["imports"] += len(self.cluster.jobs)
        self.figures["records"] += self.cluster.received


async def run_histories(
    etcd: EtcdClient,
    etcd_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    histories: int,
    steps: int,
    derandomize: bool,
    shrink: bool = True,
) -> Counter[str]:
    """Run the histories and return the counts. Raises the first violation.

    :param shrink: whether to search for a shorter history with the same violation.
    """
    # Small parts, so that crashes occur between the transactions of one operation.
    monkeypatch.setattr(storage_repository, "SLICES_PER_TRANSACTION", 2)
    monkeypatch.setattr(definition_repository, "MAX_OPERATIONS", 10)
    mortal = MortalClient(reactor, [etcd_url], etcd.namespace)
    session = Session(etcd, ttl=60, reactor=reactor)
    Histories.etcd, Histories.mortal, Histories.session = etcd, mortal, session
    Histories.figures, Histories.found = Counter(), []
    chosen = settings(
        max_examples=histories,
        stateful_step_count=steps,
        deadline=None,
        derandomize=derandomize,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=tuple(Phase) if shrink else (Phase.generate,),
        report_multiple_bugs=False,
    )
    await mortal.startService()
    await session.startService()
    try:
        await deferToThread(run_state_machine_as_test, Histories, settings=chosen)
    finally:
        await session.stopService()
        await mortal.stopService()
    return Histories.figures
