"""One run at a time, among all processes: who waits, who is told what, and what becomes of a run that another one took over."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from postsale.agents import RenewalRescue
from postsale.agents.tools import Receipt, Tool
from postsale.agents.tools.sandbox import Task
from postsale.app import PostSale
from postsale.app.postsale import RUN
from postsale.errors import LeaseHeld, LeaseLost, StoreUnavailable
from postsale.events import ManualClock
from postsale.store import Query, SQLiteStore
from tests.nursery import Fork

from .support import ANNA, NOON, Where, failed, head, opened, subscribed, url_of, used


class Meanwhile(Tool):
    """A real tool, in whose calls something happens that takes a while."""

    name, version, kind, input = "crm.create_task", 1, "idempotent", Task

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.meanwhile: Callable[[], object] = lambda: None

    def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Receipt:
        self.calls[idempotency_key] += 1
        self.meanwhile()
        return Receipt(receipt="done")


def troubled(where: Where, clock: ManualClock, tool: Tool, customers: int = 3) -> PostSale:
    """A log with customers that an acting agent makes two tasks for, each."""
    ps = opened(where, clock=clock, agents=[RenewalRescue()], tools=[tool], sandbox=False)
    acme = ps.tenant("acme")
    acme.agent("renewal-rescue").act(reason="test", by=ANNA)
    for n in range(customers):
        acme.record(f"cus_{n}", subscribed(f"s{n}", mrr_minor=60_000))
        acme.record(f"cus_{n}", failed(f"f{n}", attempt=2))
    return ps


def test_a_second_run_is_told_who_runs_and_does_nothing(lasting: Where) -> None:
    clock, tool = ManualClock(NOON), Meanwhile()
    told: list[LeaseHeld] = []
    with troubled(lasting, clock, tool) as ps, opened(lasting, clock=clock, agents=[RenewalRescue()]) as other:

        def meanwhile() -> None:
            before = head(ps)
            with pytest.raises(LeaseHeld) as held:
                other.run_once(wait_s=0)
            told.append(held.value)
            assert head(ps) == before

        tool.meanwhile = meanwhile
        report = ps.run_once()
        assert report.called == len(told) == 6
        assert {(e.lease, e.holder) for e in told} == {("_system/run", ps.leases._holder)}
        done = other.run_once(wait_s=0)  # given back
        assert (done.folded, done.decided, done.called) == (0, 0, 0)


@pytest.mark.parametrize("whose", ["everybody's", "the other's"])
def test_a_run_that_was_overtaken_decides_nothing_more_and_still_records_what_its_tool_did(lasting: Where, whose: str) -> None:
    """It hangs in a tool for longer than its lease, or another clock says so. The other does the rest, and no call is made twice."""
    clock, tool = ManualClock(NOON), Meanwhile()
    ahead = clock if whose == "everybody's" else ManualClock(NOON)
    more: dict[str, Any] = {"agents": [RenewalRescue()], "tools": [tool], "sandbox": False}
    with troubled(lasting, clock, tool) as ps, opened(lasting, clock=ahead, **more) as other:
        leases, heads = [], []

        def meanwhile() -> None:
            tool.meanwhile = lambda: None
            ahead.advance(timedelta(seconds=61))
            leases.append(other.leases.acquire(RUN))
            heads.append(head(ps))

        tool.meanwhile = meanwhile
        with pytest.raises(LeaseLost):
            ps.run_once(wait_s=0)
        under_way = sum(tool.calls.values())  # calls are made side by side
        kinds = [event.kind for event in ps.log.store.read(Query(after=heads[0]))]
        assert (set(kinds), 1 <= len(kinds) <= under_way) == ({"effect/succeeded"}, True)
        leases[0].release()
        assert other.run_once(wait_s=0).called == 6 - under_way
        assert set(tool.calls.values()) == {1}
        decisions = ps.tenant("acme").decisions()
        assert [status for e in decisions for status in e.effects.values()] == ["succeeded"] * 6
        assert len(decisions) == len({e.recorded.trigger_id for e in decisions})
        again = ps.run_once(wait_s=0)
        assert (again.raised, again.decided, again.called, again.problems) == (0, 0, 0, [])


def test_a_run_finds_at_its_end_that_another_one_did_everything(lasting: Where) -> None:
    clock, ahead, tool = ManualClock(NOON), ManualClock(NOON + timedelta(seconds=61)), Meanwhile()
    more: dict[str, Any] = {"agents": [RenewalRescue()], "tools": [tool], "sandbox": False}
    with troubled(lasting, clock, tool) as ps, opened(lasting, clock=ahead, **more) as other:

        def meanwhile() -> None:
            tool.meanwhile = lambda: None
            assert other.run_once(wait_s=0).called == 5

        tool.meanwhile = meanwhile
        with pytest.raises(LeaseLost):
            ps.run_once(wait_s=0)
        assert set(tool.calls.values()) == {1}


def test_a_run_of_slow_tools_keeps_its_lease(lasting: Where) -> None:
    """Each call takes two thirds of the lease's term, and a visit makes two: nobody gets in between."""
    clock, tool = ManualClock(NOON), Meanwhile()
    with troubled(lasting, clock, tool, customers=1) as ps, opened(lasting, clock=clock) as other:

        def meanwhile() -> None:
            clock.advance(timedelta(seconds=40))
            with pytest.raises(LeaseHeld):
                other.run_once(wait_s=0)

        tool.meanwhile = meanwhile
        assert ps.run_once().called == 2


def test_a_run_that_only_stood_still_goes_on(tmp_path: Path) -> None:
    """Nobody took over meanwhile: the lease is renewed."""
    clock, tool = ManualClock(NOON), Meanwhile()
    with troubled(tmp_path, clock, tool) as ps:
        tool.meanwhile = lambda: clock.advance(timedelta(minutes=5))
        assert ps.run_once().called == 6


def test_a_long_run_with_nothing_to_decide_keeps_its_lease(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    with opened(tmp_path, clock=clock, agents=[RenewalRescue()]) as ps, opened(tmp_path, clock=clock) as other:
        acme = ps.tenant("acme")
        acme.record_many([(f"c{n}", used(f"u{n}")) for n in range(8)])
        ps.run_once()
        acme.record_many([(f"c{n}", used(f"v{n}")) for n in range(8)])

        def progress(_: int) -> None:
            clock.advance(timedelta(seconds=25))
            with pytest.raises(LeaseHeld):
                other.run_once(wait_s=0)

        assert ps.run_once(on_progress=progress).visited == 8


def test_people_act_while_a_run_is_under_way(tmp_path: Path) -> None:
    """Consent, commands and switches are nobody's lease."""
    clock, tool = ManualClock(NOON), Meanwhile()
    with troubled(tmp_path, clock, tool) as ps:
        acme = ps.tenant("acme")
        tool.meanwhile = lambda: (
            acme.consent("cus_2", "email", "service", evidence="form") and acme.agent("renewal-rescue").pause(reason="stop", by=ANNA)
        )
        assert 1 <= ps.run_once().called <= 3  # of six: those that were made side by side when the switch was thrown
        assert ps.run_once().called == 0


_RUN = """
import sys
from postsale import PostSale
with PostSale.open(sys.argv[1]) as ps:
    print("ready", flush=True)
    sys.stdin.readline()
    print(ps.run_once().folded, flush=True)
"""


def test_of_many_processes_one_does_the_work_and_the_others_wait_and_find_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as ps:
        ps.tenant("acme").record_many([(f"c{n % 50}", failed(f"f{n}")) for n in range(3_000)])
    with ExitStack() as stack:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        processes = [stack.enter_context(Fork("-c", _RUN, url_of(tmp_path), **pipes)) for _ in range(3)]
        assert [process.stdout and process.stdout.readline() for process in processes] == ["ready\n"] * 3
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert sorted(int(process.communicate()[0]) for process in processes) == [0, 0, 3_000]


_HOLD = """
import sys
from postsale import PostSale
from postsale.app.postsale import RUN
with PostSale.open(sys.argv[1]) as ps, ps.leases.held(RUN, ttl_s=3600):
    print(ps.leases.look(RUN).holder, flush=True)
    sys.stdin.readline()
"""


def test_the_command_line_names_the_process_that_runs_and_what_to_do(tmp_path: Path) -> None:
    from tests.cli.support import run

    url = url_of(tmp_path)
    with opened(tmp_path) as ps:
        ps.tenant("acme").record("c1", failed("f1"))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with Fork("-c", _HOLD, url, **pipes) as holder:
        assert holder.stdout is not None
        name = holder.stdout.readline().strip()
        assert name.startswith(f"process {holder.pid} on ")
        done = run("run", "--db", url, env={"COLUMNS": "400"})
        assert (done.code, done.out) == (5, "")
        assert f"LeaseHeld: lease _system/run is held by {name} until 20" in done.err
        assert "Let the holder finish" in done.err
        holder.communicate("end\n")
    assert run("run", "--db", url).code == 0


def test_a_run_that_was_killed_is_taken_over_when_its_lease_expires(tmp_path: Path) -> None:
    """Real SIGKILL while the lease is held; its clock is the system's, ours is ahead of it."""
    url = url_of(tmp_path)
    with opened(tmp_path) as ps:
        ps.tenant("acme").record("c1", failed("f1"))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with Fork("-c", _HOLD, url, **pipes) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with PostSale.open(url) as ps:
        with pytest.raises(LeaseHeld):
            ps.run_once(wait_s=0)
        found = ps.leases.look(RUN)
        assert found is not None
    with opened(tmp_path, clock=ManualClock(found.until_us)) as ps:
        assert ps.run_once(wait_s=0).folded == 1


def test_a_log_that_cannot_be_written_is_not_run(tmp_path: Path) -> None:
    with opened(tmp_path) as ps:
        ps.tenant("acme").record("c1", failed("f1"))
        ps.log.store.close()
        with pytest.raises(StoreUnavailable):
            ps.run_once()
    store = SQLiteStore(tmp_path / "log.db")
    assert len(list(store.read(Query()))) == 2
    store.close()
