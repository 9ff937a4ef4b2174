"""Many visits together: the same events as one after another, in fewer reads and commits; nobody's trouble is anybody else's."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.access import FileVault
from postsale.agents import Agent, Policy
from postsale.agents.budget import budget_stream
from postsale.agents.engines import EmbeddedEngine
from postsale.agents.engines.engine import Attended, Visit
from postsale.agents.escrow import Escrow
from postsale.agents.lookup import reach_stream
from postsale.agents.reach import check, no_effects
from postsale.agents.tools import Receipt, Tool, Toolbox, ToolKind, ToolRefused, ToolUnavailable
from postsale.agents.tools.sandbox import Task
from postsale.agents.work import CALLS, UNSAFE, Claimed, Work, load, together
from postsale.audit.streams import canonical_lines, stream_hash
from postsale.errors import InvalidInput, LeaseLost, StoreUnavailable, ToolUnreachable
from postsale.events import ManualClock, StoredEvent
from postsale.store import MemoryStore, Query
from postsale.store.contract import LeaseName, Outcome, Submission
from postsale.store.leases import Leases
from tests.agents.world import ANNA, DUNNING, NOON, NOVEMBER, World

_BEFORE, _, _AFTER = DUNNING.partition("[[budget]]")
_OFFER = DUNNING[DUNNING.index('tool = "billing.offer') : DUNNING.index("risk_case")]
WITHOUT_BUDGET = (_BEFORE + "[outcome]" + _AFTER.partition("[outcome]")[2]).replace(
    _OFFER, 'tool = "crm.create_task@1"\narguments = { customer = "$customer", title = "Call" }\napproval = "required"\n'
)  # what is left of a budget tells who came first
RADIUS = DUNNING.replace("bound_to", "blast_radius = { decisions = 7, hours = 24 }\nbound_to", 1)
REFS = [f"c{i:02d}" for i in range(12)]


class Picky(Tool):
    """A task tool that fails for some customers at first, by their names."""

    name, version, kind, input = "crm.create_task", 1, "idempotent", Task
    backoff_s, max_attempts = 60.0, 3

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def call(self, arguments: Task, *, idempotency_key: str, timeout_s: float) -> Receipt:
        with self._lock:
            self.seen[arguments.customer] += 1
            turn = self.seen[arguments.customer]
        last = arguments.customer[-1]
        if last == "1" and turn < 3:
            raise ToolUnavailable(tool="crm.create_task@1", reason="busy")
        if last == "2":
            raise ToolRefused(tool="crm.create_task@1", reason="no")
        return Receipt(receipt=arguments.customer)


class Counted(MemoryStore):
    """A store that counts its calls, and lets a test do something just before one of its appends."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.appends = 0
        self.of: Counter[str] = Counter()  # by kind of event
        self.before: dict[str, Any] = {}  # kind of event -> what to do, once

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        kinds = {e.wire_name.partition("@")[0] for s in submissions for e in s.events}
        for kind in kinds & self.before.keys():
            self.before.pop(kind)()
        self.appends += 1
        self.of.update(kinds)
        return super().append(submissions)


def a_world(policy: str = DUNNING, **more: Any) -> tuple[World, Counted]:
    store = Counted(clock=ManualClock(NOON))
    w = World([Agent(Policy.from_toml(policy))], store=store, **more)
    w.mode("act")
    w.engine.install(w.tenant, "dunning")
    return w, store


def attend_all(w: World, visits: Sequence[Visit]) -> dict[str, Attended | Exception]:
    return {visit.stream.id: done for visit, done in w.engine.attend_many(visits)}


def troubles(w: World, refs: Sequence[str] = REFS) -> list[Visit]:
    return [Visit(w.stream(ref), w.failed(ref)) for ref in refs]


# ---------------------------------------------------------------- the same as one by one

step = st.tuples(st.sampled_from(REFS[:5]), st.sampled_from(["vip", "smb", "consent", "no consent", "failed", "failed", "paid", "ask"]))


@given(st.lists(st.lists(step, max_size=12), min_size=1, max_size=4))
def test_visits_made_together_record_what_visits_made_singly_do(rounds: list[list[tuple[str, str]]]) -> None:
    vault = FileVault.in_memory()
    told = []
    for pooled in (False, True):
        w = World([Agent(Policy.from_toml(WITHOUT_BUDGET))], vault=vault, toolbox=Toolbox([Picky()], sandbox=False))
        w.mode("act")
        w.engine.install(w.tenant, "dunning")
        for steps in rounds:
            causes: dict[str, StoredEvent | None] = dict.fromkeys(REFS[:5])
            for ref, what in steps:
                match what:
                    case "vip" | "smb":
                        w.profile(ref, segment=what)
                    case "consent" | "no consent":
                        w.consent(ref, given=what == "consent")
                    case "ask":
                        w.engine.ask(w.stream(ref), "dunning", f"look {next(w.numbers)}", person=ANNA, reason="test")
                    case _:
                        causes[ref] = w.failed(ref) if what == "failed" else w.paid(ref)
            visits = [Visit(w.stream(ref), cause) for ref, cause in causes.items()]
            done: dict[str, Attended | Exception] = {}
            if pooled:
                done |= attend_all(w, visits)
            else:
                done |= {v.stream.id: w.engine.attend(v.stream, v.cause) for v in visits}
            assert not any(isinstance(x, Exception) for x in done.values()), done
            told.append({ref: (stream_hash(w.events(ref)), canonical_lines(w.events(ref)), done[ref]) for ref in sorted(done)})
            w.wait(days=2)
    half = len(told) // 2
    assert told[:half] == told[half:]


def test_many_decisions_share_their_appends_and_every_effect_leaves_once() -> None:
    tool = Picky()
    w, store = a_world(toolbox=Toolbox([tool], sandbox=False))
    refs = [f"c{i:02d}0" for i in range(40)]
    visits = troubles(w, refs)
    before = store.appends
    done = attend_all(w, visits)
    assert all(isinstance(x, Attended) and (x.raised, len(x.decided), x.called) == (1, 1, 1) for x in done.values())
    assert set(tool.seen.values()) == {1}
    assert store.appends - before < 2 * len(refs)  # singly it is four for each


def test_a_tool_that_fails_for_some_is_tried_again_for_these_alone() -> None:
    tool = Picky()
    w, _ = a_world(toolbox=Toolbox([tool], sandbox=False))
    attend_all(w, troubles(w))
    for _ in range(3):
        w.wait(minutes=10)
        attend_all(w, [Visit(w.stream(ref)) for ref in REFS])
    ends = {ref: [k for k in w.kinds(ref) if k.startswith("effect/") and k != "effect/started"] for ref in REFS}
    assert ends["c00"] == ["effect/succeeded"]
    assert ends["c01"] == ["effect/failed", "effect/failed", "effect/succeeded"]
    assert ends["c02"] == ["effect/failed"]
    assert tool.seen == {ref: 3 if ref[-1] == "1" else 1 for ref in REFS}


@pytest.mark.parametrize(("its_kind", "most"), [("idempotent", CALLS), ("unsafe", CALLS // UNSAFE)])
def test_no_more_effects_than_calls_at_a_time_are_claimed_without_a_result(its_kind: ToolKind, most: int) -> None:
    w, _ = a_world()
    worst = 0

    class Watching(Picky):
        kind = its_kind

        def call(self, arguments: Task, *, idempotency_key: str, timeout_s: float) -> Receipt:
            nonlocal worst
            told = Counter(e.kind for e in w.store.read(Query(tenant=w.tenant)))
            worst = max(worst, told["effect/started"] - told["effect/succeeded"])
            return super().call(arguments, idempotency_key=idempotency_key, timeout_s=timeout_s)

    w.engine = EmbeddedEngine(w.log, w.engine.agents.values(), Toolbox([Watching()], sandbox=False))
    attend_all(w, troubles(w, [f"c{i:02d}0" for i in range(3 * CALLS)]))
    assert 1 < worst <= most


# ---------------------------------------------------------------- money and limits


def offers(w: World, refs: Sequence[str] = REFS, mrr_minor: int = 900) -> list[Visit]:
    for ref in refs:
        w.vip(ref, mrr_minor)
    return troubles(w, refs)


def test_reservations_of_one_budget_are_made_in_one_append_and_none_beyond_the_limit() -> None:
    w, store = a_world()
    visits = offers(w)  # 12 times 9.00 of 100.00
    attend_all(w, visits)
    state = w.engine.desk.budget(w.tenant, "retention")
    ends = Counter(x.disposition for ref in REFS for x in w.decisions(ref))
    assert ends == {"acted": 11, "suppressed": 1}
    assert sum(s.reserved + s.committed for s in state.pages.values()) == 11 * 900
    assert [state.version] == store.versions([budget_stream(w.tenant, "retention")])
    assert store.of["budget/reserved"] == 1


def test_slices_of_a_budget_are_contended_for_by_one_at_a_time_and_nobody_fails() -> None:
    w, _ = a_world(toolbox=Toolbox())
    w.engine.desk.escrow = Escrow(share=2)
    attend_all(w, offers(w, mrr_minor=500))
    assert Counter(x.disposition for ref in REFS for x in w.decisions(ref)) == {"acted": 12}


def test_a_blast_radius_counts_decisions_that_are_made_together() -> None:
    w, store = a_world(RADIUS)
    attend_all(w, troubles(w))
    assert Counter(x.disposition for ref in REFS for x in w.decisions(ref)) == {"acted": 7, "suppressed": 5}
    assert store.versions([reach_stream(w.tenant, "dunning")]) == [7]
    assert store.of["agent/decision-recorded"] == 1


# ---------------------------------------------------------------- what comes in between


@pytest.mark.parametrize("just_before", ["agent/decision-recorded", "effect/started"])
def test_a_switch_thrown_while_an_append_is_on_its_way_stops_everybody_in_it(just_before: str) -> None:
    tool = Picky()
    w, store = a_world(toolbox=Toolbox([tool], sandbox=False))
    store.before[just_before] = lambda: w.engine.pause("acme", person=ANNA, reason="stop")
    done = attend_all(w, troubles(w))
    assert not any(isinstance(x, Exception) for x in done.values())
    assert not tool.seen
    acted = [x.disposition for ref in REFS for x in w.decisions(ref)]
    assert set(acted) == ({"suppressed"} if just_before == "agent/decision-recorded" else {"acted"})
    assert len(acted) == len(REFS)


def test_a_fact_that_a_decision_depends_on_makes_that_one_decide_anew_and_no_other() -> None:
    w, store = a_world()
    visits = offers(w, REFS[:4])
    store.before["agent/decision-recorded"] = lambda: w.paid("c02")
    done = attend_all(w, visits)
    assert all(isinstance(x, Attended) and len(x.decided) == 1 for x in done.values())
    for ref in REFS[:4]:
        (made,) = w.decisions(ref)
        assert made.evidence["failed_payments"] == (0 if ref == "c02" else 2)
    assert w.engine.desk.budget(w.tenant, "retention").left(10_000, NOVEMBER) == 10_000 - 4 * 900


def test_two_visits_to_one_customer_at_once_do_each_thing_once() -> None:
    tool = Picky()
    w, _ = a_world(toolbox=Toolbox([tool], sandbox=False))
    visits = troubles(w, ["c00"] * 6)
    done = list(w.engine.attend_many(visits))
    assert not any(isinstance(x, Exception) for _, x in done)
    assert tool.seen == {"c00": 1}
    assert len(w.decisions("c00")) == 1


# ---------------------------------------------------------------- trouble


def test_one_customers_erased_key_is_that_customers_trouble() -> None:
    w, _ = a_world()
    visits = offers(w, REFS[:4])
    w.log.vault.destroy(w.tenant, "c02")
    done = attend_all(w, visits)
    assert [ref for ref, x in done.items() if isinstance(x, Exception)] == ["c02"]
    assert all(len(w.decisions(ref)) == (ref != "c02") for ref in REFS[:4])


def test_a_customer_that_cannot_be_read_is_that_customers_trouble() -> None:
    w, store = a_world()
    visits = troubles(w, REFS[:4])
    decode = store.read

    def read(query: Any) -> Iterator[StoredEvent]:
        for event in decode(query):
            broken = event.stream.id == "c01" and event.stream.category == "customers"
            yield event._replace(data=b"{") if broken else event

    store.read = read  # type: ignore[method-assign, assignment]
    done = attend_all(w, visits)
    assert [ref for ref, x in done.items() if isinstance(x, Exception)] == ["c01"]
    assert sum(isinstance(x, Attended) and len(x.decided) for x in done.values()) == 3


def test_a_lease_that_is_lost_stops_what_has_not_left_and_results_are_recorded_all_the_same() -> None:
    w, store = a_world()
    leases = Leases(store.kv, w.clock)
    lease = leases.acquire(LeaseName("acme", "run"), 60)
    assert lease is not None

    class Slow(Picky):
        def call(self, arguments: Task, *, idempotency_key: str, timeout_s: float) -> Receipt:
            with self._lock:
                if not self.seen:
                    lease.release()
            return super().call(arguments, idempotency_key=idempotency_key, timeout_s=timeout_s)

    tool = Slow()
    w.engine = EmbeddedEngine(w.log, w.engine.agents.values(), Toolbox([tool], sandbox=False)).under(lease)
    refs = [f"c{i:02d}0" for i in range(3 * CALLS)]
    done = attend_all(w, troubles(w, refs))
    lost = {ref for ref, x in done.items() if isinstance(x, LeaseLost)}
    assert tool.seen.keys() == done.keys() - lost
    assert lost
    assert tool.seen
    for ref in refs:
        assert w.kinds(ref).count("effect/succeeded") == w.kinds(ref).count("effect/started") == (ref not in lost)


def test_a_store_that_is_away_fails_those_whose_turn_it_was_with_its_own_error() -> None:
    w, store = a_world()
    visits = troubles(w, REFS[:3])

    def away() -> None:
        raise StoreUnavailable(url="memory:", reason="away")

    store.before["agent/decision-recorded"] = away
    done = attend_all(w, visits)
    assert {type(x) for x in done.values()} == {StoreUnavailable}
    again = attend_all(w, [Visit(w.stream(ref)) for ref in REFS[:3]])
    assert all(isinstance(x, Attended) and len(x.decided) == 1 for x in again.values())


def test_where_no_effect_may_leave_none_does_in_any_thread() -> None:
    tool = Picky()
    w, _ = a_world(toolbox=Toolbox([tool], sandbox=False))
    with no_effects("test"):
        done = attend_all(w, troubles(w, REFS[:3]))
    assert {type(x) for x in done.values()} == {ToolUnreachable}
    assert not tool.seen
    assert all("effect/started" not in w.kinds(ref) for ref in REFS[:3])


# ---------------------------------------------------------------- the driver


def test_a_call_is_made_in_the_context_of_whoever_drives_the_works() -> None:
    w, _ = a_world()

    def work() -> Work[str]:
        found: str = yield Claimed(lambda: check("a.tool@1", simulated=False) or "reached")
        return found

    assert dict(together(w.engine.pooled().desk, [work()])) == {0: "reached"}
    with no_effects("test"):
        ((_, error),) = together(w.engine.pooled().desk, [work()])
    assert isinstance(error, ToolUnreachable)


def test_the_next_work_is_asked_for_only_when_there_is_room() -> None:
    w, _ = a_world()
    under_way = most = 0

    def work(ref: str) -> Work[str]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        yield from load(w.stream(ref))
        under_way -= 1
        return ref

    done = dict(together(w.engine.pooled().desk, (work(ref) for ref in REFS), width=5))
    assert done == dict(enumerate(REFS))
    assert most == 5


def test_what_a_work_raises_is_its_own_result() -> None:
    w, _ = a_world()

    def work(ref: str) -> Work[str]:
        yield from load(w.stream(ref))
        if ref == "c03":
            raise InvalidInput(what="work", field="ref", reason="test")
        return ref

    done = dict(together(w.engine.pooled().desk, map(work, REFS)))
    assert [no for no, x in done.items() if isinstance(x, InvalidInput)] == [3]
