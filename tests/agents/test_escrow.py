"""Slices of a budget: workers reserve without asking each other, sums hold through crashes, and the limit is never passed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from postsale import PostSale
from postsale.access import FileVault
from postsale.agents import Agent, Policy
from postsale.agents.budget import Sums, budget_stream, slice_stream
from postsale.agents.escrow import Escrow, close, read
from postsale.agents.rederive import rederive
from postsale.aggregates.budgets import BudgetReserved
from postsale.errors import BadDeclaration, VersionConflict
from postsale.events import Lane, ManualClock
from postsale.store import MemoryStore, Query
from postsale.store.log import Cause, Draft, Log
from tests.agents.escrow_worker import BUDGET, PERIOD, log_of, reserve
from tests.agents.world import ANNA, DUNNING, NOON, World

MAIN = budget_stream("acme", "retention")
GENEROUS = DUNNING.replace("authority_limit_minor = 1000", "authority_limit_minor = 90000")


def held(log: Log) -> int:
    """What is reserved and spent in the budget and all its slices, counted from the events themselves."""
    states = [read(log, MAIN)]
    slices = {e.stream for e in log.store.read(Query(tenant="acme", category="slices", lane=Lane.DECISION))}
    states += [read(log, s) for s in slices]
    sums = [s for state in states for s in state.periods.values()]
    return sum(s.reserved_minor + s.committed_minor - s.compensated_minor for s in sums)


class Slices(RuleBasedStateMachine):
    """Three workers that reserve, stop, die and are started again, over one log, against a number."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(NOON)
        self.log = Log(MemoryStore(clock=self.clock), FileVault.in_memory(), self.clock)
        self.workers = [Escrow(lease_s=60, share=4) for _ in range(3)]
        self.spent, self.n = 0, 0

    @rule(worker=st.integers(0, 2), minor=st.sampled_from([1, 400, 5_000, 19_999, 20_000, 20_001]))
    def reserve(self, worker: int, minor: int) -> None:
        self.n += 4
        if reserve(self.log, self.workers[worker], UUID(int=self.n), minor):
            self.spent += minor
        else:
            away = sum(
                g.amount_minor - sum(s.reserved_minor + s.committed_minor for s in read(self.log, slice_stream("acme", n)).periods.values())
                for n, g in read(self.log, MAIN).slices.items()
                if g.worker != self.workers[worker].worker and g.expires_at_us > self.clock.now_us()
            )
            assert self.spent + minor + away > BUDGET.amount_minor, "it was refused although enough was free"

    @rule(worker=st.integers(0, 2))
    def die(self, worker: int) -> None:
        self.workers[worker] = Escrow(lease_s=60, share=4)

    @rule(worker=st.integers(0, 2))
    def stop(self, worker: int) -> None:
        self.workers[worker].give_back(self.log)

    @rule(seconds=st.sampled_from([1, 44, 46, 61]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @invariant()
    def the_limit_holds_and_every_reservation_is_counted_once(self) -> None:
        assert held(self.log) == self.spent <= BUDGET.amount_minor
        sums = read(self.log, MAIN).periods.get(PERIOD, Sums())
        assert sums.reserved_minor + sums.committed_minor + sums.sliced_minor <= BUDGET.amount_minor

    def teardown(self) -> None:
        """When every lease is over, everything that is not held can be had by one worker."""
        self.clock.advance(timedelta(seconds=61))
        left = BUDGET.amount_minor - self.spent
        if left:
            assert reserve(self.log, Escrow(lease_s=60, share=4), UUID(int=2**100), left)
        assert held(self.log) == BUDGET.amount_minor


TestSlices = Slices.TestCase
TestSlices.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_worker_that_stood_still_cannot_reserve_from_a_slice_that_was_closed_behind_its_back() -> None:
    clock = ManualClock(NOON)
    log = Log(MemoryStore(clock=clock), FileVault.in_memory(), clock)
    purse = Escrow(lease_s=60).purse(log, "acme", BUDGET, PERIOD, 100)
    assert purse.slice is not None
    assert close(log, MAIN, purse.slice, "expired")
    assert not close(log, MAIN, purse.slice, "expired")
    taken = BudgetReserved(decision_id=UUID(int=1), period=PERIOD, amount_minor=100, currency="EUR")
    with pytest.raises(VersionConflict):
        log.append([log.decision(slice_stream("acme", purse.slice), purse.version, Draft(taken, UUID(int=2), 0, Cause()))])


def test_a_living_workers_slice_is_left_to_it_while_its_lease_runs_and_taken_when_it_is_over() -> None:
    clock = ManualClock(NOON)
    log = Log(MemoryStore(clock=clock), FileVault.in_memory(), clock)
    assert reserve(log, Escrow(lease_s=60, share=1), UUID(int=4), 100)
    other = Escrow(lease_s=60, share=1)
    clock.advance(timedelta(seconds=59))
    assert not reserve(log, other, UUID(int=8), 100)
    clock.advance(timedelta(seconds=1))
    assert reserve(log, other, UUID(int=8), 19_900)
    assert held(log) == 20_000


def test_workers_that_reserve_do_not_write_to_the_budgets_own_stream() -> None:
    clock = ManualClock(NOON)
    log = Log(MemoryStore(clock=clock), FileVault.in_memory(), clock)
    escrow = Escrow(share=2)
    for n in range(50):
        assert reserve(log, escrow, UUID(int=4 * n + 4), 100)
    assert read(log, MAIN).version == 1, "one slice was granted, and nothing else"


def acting() -> World:
    w = World([Agent(Policy.from_toml(GENEROUS))])
    w.mode("act")
    w.engine.desk.escrow = Escrow(share=2)
    return w


def test_a_decision_names_its_slice_is_settled_there_and_is_made_again_from_its_record() -> None:
    w = acting()
    event = w.decision(w.one_decision()).data
    state = read(w.log, slice_stream("acme", str(event.context["budget_slice"])))
    assert state.periods["2026-11"] == Sums(committed_minor=4900)
    policy = w.engine.desk.active_policy("acme", "dunning")[0]
    assert policy is not None
    assert rederive(event, event.arguments, policy, w.engine.desk.mac("acme")).difference is None


def test_a_larger_offer_than_the_slice_has_exchanges_it_and_one_above_the_limit_is_suppressed() -> None:
    w = acting()
    w.one_decision("c1")
    w.one_decision("c2")
    assert {x.kind for x in w.store.read(Query(tenant="acme", category="slices", lane=Lane.DECISION))} >= {"budget/slice-closed"}
    w.vip("c3")
    w.attend(w.failed("c3"), "c3")
    assert [x.suppressed_by for x in w.decisions("c3")] == ["budget:retention/2026-11"]
    assert held(w.log) == 9800


def test_what_is_released_after_its_slice_was_closed_is_the_budgets_again() -> None:
    w = World([Agent(Policy.from_toml(DUNNING))])  # above the authority limit: it waits
    w.mode("act")
    w.engine.desk.escrow = escrow = Escrow(share=2)
    id_ = w.one_decision()
    escrow.give_back(w.log)
    assert read(w.log, MAIN).left_minor(10_000, "2026-11") == 5100
    w.engine.approvals.reject("acme", id_, ANNA, reason="no")
    assert read(w.log, MAIN).left_minor(10_000, "2026-11") == 10_000
    assert held(w.log) == 0


def test_what_an_agent_only_observes_takes_no_slice() -> None:
    w = acting()
    w.mode("observe")
    w.one_decision()
    assert read(w.log, MAIN).version == 0


def test_an_escrow_that_cannot_work_is_refused() -> None:
    for wrong in ({"lease_s": 0}, {"share": 0}):
        with pytest.raises(BadDeclaration):
            Escrow(**wrong)  # type: ignore[arg-type]


@pytest.mark.torture
def test_workers_killed_for_real_never_pass_the_limit_and_what_they_held_returns(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    rand = random.Random(seed)
    log = log_of(tmp_path)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.agents.escrow_worker", str(tmp_path), str(rand.randrange(2**32)), "3600"]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)

    workers = [start() for _ in range(3)]
    acknowledged = 0
    for worker in workers:  # each is killed after so many reservations, wherever it is then
        assert worker.stdout is not None
        for _ in range(rand.randrange(5, 25)):
            acknowledged += worker.stdout.readline() == "1\n"
        worker.kill()
        acknowledged += worker.stdout.read().count("1\n")
        worker.wait()
        worker.stdout.close()
    taken = Counter(e.kind for e in log.store.read(Query(tenant="acme", lane=Lane.DECISION)))
    assert acknowledged <= taken["budget/reserved"] <= acknowledged + len(workers), f"seed {seed}"
    assert 0 < held(log) <= BUDGET.amount_minor, f"seed {seed}"
    for name in read(log, MAIN).slices:  # as after their leases; an hour is not waited for here
        close(log, MAIN, name, "expired")
    left = BUDGET.amount_minor - held(log)
    assert read(log, MAIN).left_minor(BUDGET.amount_minor, PERIOD) == left, f"seed {seed}"
    assert left == 0 or reserve(log, Escrow(), UUID(int=2**100), left), f"seed {seed}"
    assert held(log) == BUDGET.amount_minor, f"seed {seed}"
    log.store.close()


def test_a_log_that_is_closed_gives_its_slices_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    with PostSale.open(url, escrow=Escrow()) as ps:
        assert ps.engine.desk.escrow is ps.engine_of([]).desk.escrow is not None
        assert reserve(ps.log, ps.engine.desk.escrow, UUID(int=4), 100)
        assert len(read(ps.log, MAIN).slices) == 1
    with PostSale.open(url) as ps:
        assert read(ps.log, MAIN).slices == {}
        assert read(ps.log, MAIN).left_minor(BUDGET.amount_minor, PERIOD) == BUDGET.amount_minor - 100
