"""Slices of a budget: workers reserve without asking each other, sums hold through crashes, and the limit is never passed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import ExitStack
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
from postsale.agents.control import activate_policy
from postsale.agents.escrow import Escrow, close, read
from postsale.agents.rederive import rederive
from postsale.aggregates.budgets import BudgetReserved
from postsale.audit import check_budgets
from postsale.errors import BadDeclaration, VersionConflict
from postsale.events import Lane, ManualClock
from postsale.store import MemoryStore, Query
from postsale.store.log import Cause, Draft, Log
from tests.agents.budgeted import totals
from tests.agents.escrow_worker import BUDGETS, MONEY, opened, page_of, reserve
from tests.agents.world import ANNA, DUNNING, NOON, NOVEMBER, World
from tests.postgres import new_log

TORTURE = bool(os.environ.get("POSTSALE_TORTURE"))
MAIN = budget_stream("acme", "retention")
PAGE = page_of(MONEY)
GENEROUS = DUNNING.replace("authority_limit_minor = 1000", "authority_limit_minor = 90000")
WANTS: list[int | dict[str, int]] = [
    1, 400, 5_000, 19_999, 20_000, 20_001,
    {"mail": 1}, {"mail": 300}, {"risk": 20}, {"mail": 2, "risk": 5}, {"retention": 900, "mail": 1, "risk": 20}, {"retention": 1, "mail": 301},
]  # fmt: skip


def held(log: Log, budget: str = "retention") -> int:
    """What is reserved and spent in the budget and all its slices, counted from the events themselves."""
    sums = totals(log, budget, page_of(BUDGETS[budget]) if budget in BUDGETS else PAGE)
    return sums.reserved + sums.committed + sums.compensated


class Slices(RuleBasedStateMachine):
    """Three workers that reserve of several budgets at once, stop, die and are started again, over one log, against numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(NOON)
        self.log = Log(MemoryStore(clock=self.clock), FileVault.in_memory(), self.clock)
        self.workers = [Escrow(lease_s=60, share=4) for _ in range(3)]
        self.spent, self.n = dict.fromkeys(BUDGETS, 0), 0

    @rule(worker=st.integers(0, 2), wants=st.sampled_from(WANTS))
    def reserve(self, worker: int, wants: int | dict[str, int]) -> None:
        self.n += 4
        wanted = {"retention": wants} if isinstance(wants, int) else wants
        if reserve(self.log, self.workers[worker], UUID(int=self.n), wants):
            for name, amount in wanted.items():
                self.spent[name] += amount
            return
        lacks = [n for n, amount in wanted.items() if self.spent[n] + amount + self.away(n, worker) > BUDGETS[n].limit]
        assert lacks, "it was refused although every budget had enough"

    def away(self, budget: str, worker: int) -> int:
        """What lies free in living slices of the others."""
        slices, page = read(self.log, budget_stream("acme", budget)).slices, page_of(BUDGETS[budget])
        return sum(
            g.amount + read(self.log, slice_stream("acme", n)).sums(page).available
            for n, g in slices.items()
            if g.worker != self.workers[worker].worker and g.expires_at_us > self.clock.now_us()
        )

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
    def no_limit_is_passed_and_every_reservation_is_counted_once(self) -> None:
        for name, budget in BUDGETS.items():
            assert held(self.log, name) == self.spent[name] <= budget.limit
            sums = read(self.log, budget_stream("acme", name)).sums(page_of(budget))
            assert sums.balance == 0
            assert -sums.available <= budget.limit

    def teardown(self) -> None:
        """When every lease is over, everything that is not held can be had by one worker, of all budgets at once."""
        self.clock.advance(timedelta(seconds=61))
        left = {name: b.limit - self.spent[name] for name, b in BUDGETS.items() if b.limit > self.spent[name]}
        if left:
            assert reserve(self.log, Escrow(lease_s=60, share=4), UUID(int=2**100), left)
        assert {name: held(self.log, name) for name in BUDGETS} == {name: b.limit for name, b in BUDGETS.items()}


TestSlices = Slices.TestCase
TestSlices.settings = settings(stateful_step_count=25)


def test_a_worker_that_stood_still_cannot_reserve_from_a_slice_that_was_closed_behind_its_back() -> None:
    clock = ManualClock(NOON)
    log = Log(MemoryStore(clock=clock), FileVault.in_memory(), clock)
    purse = Escrow(lease_s=60).purse(log, MAIN, PAGE, MONEY.limit, 100)
    assert purse.slice is not None
    assert close(log, MAIN, purse.slice, "expired")
    assert not close(log, MAIN, purse.slice, "expired")
    taken = BudgetReserved(decision_id=UUID(int=1), intent_id=UUID(int=2), **PAGE._asdict(), amount=100)
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


def test_a_slice_is_of_the_limit_under_which_it_was_granted_and_a_smaller_limit_is_not_passed_with_it() -> None:
    clock = ManualClock(NOON)
    log = Log(MemoryStore(clock=clock), FileVault.in_memory(), clock)
    escrow = Escrow(share=4)
    assert reserve(log, escrow, UUID(int=4), 4_000)
    small = escrow.purse(log, MAIN, PAGE, 4_100, 200)
    assert small.left < 200, "1,000 lie in the slice, and 100 are left under this limit"
    assert escrow.purse(log, MAIN, PAGE, 4_100, 100).left == 100, "what the worker holds under the other limit keeps nobody waiting"
    assert escrow.purse(log, MAIN, PAGE, 3_000, 1).left == 0
    assert escrow.purse(log, MAIN, PAGE, MONEY.limit, 5_000).left >= 5_000


def test_a_limit_that_is_lowered_in_mid_month_holds_from_then_on_whatever_lies_in_slices() -> None:
    w = acting()
    w.engine.desk.escrow = Escrow(share=1)
    w.one_decision("c1")
    w.engine.install("acme", "dunning")
    lower = Policy.from_toml(GENEROUS.replace("limit = 10000\n", "limit = 6000\n"))
    activate_policy(w.engine.desk, "acme", lower, person=ANNA, reason="less")
    w.one_decision("c2")
    assert [x.suppressed_by for x in w.decisions("c2")] == ["budget:retention/2026-11"]
    assert held(w.log) == 4900
    assert check_budgets(w.store).problems == []


def acting() -> World:
    w = World([Agent(Policy.from_toml(GENEROUS))])
    w.mode("act")
    w.engine.desk.escrow = Escrow(share=2)
    return w


def test_a_decision_names_its_slice_is_settled_there_and_is_made_again_from_its_record() -> None:
    w = acting()
    event = w.decision(w.one_decision()).data
    state = read(w.log, slice_stream("acme", str(event.context["budget_slice.retention"])))
    assert event.reservations[0].slice == event.context["budget_slice.retention"]
    assert state.pages[NOVEMBER] == Sums(available=-4900, committed=4900)
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
    assert read(w.log, MAIN).left(10_000, NOVEMBER) == 5100
    w.engine.approvals.reject("acme", id_, ANNA, reason="no")
    assert read(w.log, MAIN).left(10_000, NOVEMBER) == 10_000
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
@pytest.mark.parametrize("where", ["sqlite", "postgres"] if TORTURE else ["sqlite"])
def test_workers_killed_for_real_never_pass_a_limit_of_any_unit_and_what_they_held_returns(where: str, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    rand = random.Random(seed)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with ExitStack() as stack:
        place = [str(tmp_path)]
        if where == "postgres":
            place += stack.enter_context(new_log())
        log = stack.enter_context(opened(place))

        def start() -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "tests.agents.escrow_worker", str(rand.randrange(2**32)), "3600", *place]
            return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)

        workers = [start() for _ in range(3 if TORTURE else 2)]
        acknowledged = 0
        for worker in workers:  # each is killed after so many decisions, wherever it is then
            assert worker.stdout is not None
            for _ in range(rand.randrange(5, 25)):
                acknowledged += worker.stdout.readline() == "1\n"
            worker.kill()
            acknowledged += worker.stdout.read().count("1\n")
            worker.wait()
            worker.stdout.close()
        entries = [e.data for e in log.events(Query(tenant="acme", lane=Lane.DECISION)) if isinstance(e.data, BudgetReserved)]
        assert acknowledged <= len({e.decision_id for e in entries}) <= acknowledged + len(workers), f"seed {seed}"
        for name, budget in BUDGETS.items():
            main = budget_stream("acme", name)
            assert 0 < held(log, name) <= budget.limit, f"seed {seed}"
            for slice_ in read(log, main).slices:  # as after their leases; an hour is not waited for here
                close(log, main, slice_, "expired")
            assert read(log, main).left(budget.limit, page_of(budget)) == budget.limit - held(log, name), f"seed {seed}"
        left = {name: b.limit - held(log, name) for name, b in BUDGETS.items() if b.limit > held(log, name)}
        assert not left or reserve(log, Escrow(), UUID(int=2**100), left), f"seed {seed}"
        assert {name: held(log, name) for name in BUDGETS} == {name: b.limit for name, b in BUDGETS.items()}, f"seed {seed}"
        found = {p.what for p in check_budgets(log.store).problems}
        assert found == {"orphan"}, f"seed {seed}"  # no decision backs these, and nothing else is wrong with them


def test_a_log_that_is_closed_gives_its_slices_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    with PostSale.open(url, escrow=Escrow()) as ps:
        assert ps.engine.desk.escrow is ps.engine_of([]).desk.escrow is not None
        assert reserve(ps.log, ps.engine.desk.escrow, UUID(int=4), 100)
        assert len(read(ps.log, MAIN).slices) == 1
    with PostSale.open(url) as ps:
        assert read(ps.log, MAIN).slices == {}
        assert read(ps.log, MAIN).left(MONEY.limit, PAGE) == MONEY.limit - 100
