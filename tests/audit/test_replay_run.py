"""Many decisions made again: what was altered is named, what cannot be had again is counted by reason, and nothing else differs.

The log is altered as whoever can write it would: stored anew, with leaves that fit. `log verify` has nothing to say of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.access import FileVault, Unsealer
from postsale.agents import Agent, Policy
from postsale.agents.budget import BudgetState, budget_stream, evolve_budget
from postsale.agents.evidence import HealthReading, customer_evidence
from postsale.aggregates import decisions as d
from postsale.aggregates.budgets import BudgetCommitted, BudgetEvent, BudgetReleased, BudgetReserved
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.plans import PlanReceived, PlanRequested
from postsale.aggregates.risk import RiskCaseMoved, RiskCaseOpened
from postsale.audit import ReplayReport, Scope, replay_many
from postsale.audit.replay_again import FROM_HEALTH, OUTPUTS, Models
from postsale.audit.replay_history import History
from postsale.errors import LogDamaged, UnknownDecision
from postsale.events import Event, Lane, ManualClock, NewEvent, StreamId, decode, derive_id, from_us, to_us
from postsale.projections.customer_health import CUSTOMER_HEALTH
from postsale.projections.weighing import read_weights
from postsale.store import MemoryStore, Query, Submission
from postsale.store.log import Cause, Draft, Log
from tests.agents.planned import CALL, Planned
from tests.agents.world import DUNNING, NOON, NOVEMBER, World
from tests.app.support import ANNA, opened
from tests.app.support import failed as failed_signal
from tests.audit import own

Change = Callable[[Any], Event | None]
CUSTOMERS = {"c1": "offer", "c2": "email", "c3": "task", "c4": "suppressed"}


def replayed(log: Log, **more: Any) -> ReplayReport:
    return replay_many(log, "acme", Unsealer(log.vault), more.pop("scope", Scope()), **more)


def told(customers: Mapping[str, str] = CUSTOMERS) -> World:
    """A decision about each: an offer, a mail, a task, or a mail that is suppressed because nobody consented."""
    world = World()
    world.mode("act")
    for ref, what in customers.items():
        world.profile(ref, **{"offer": {"segment": "vip"}, "task": {}}.get(what, {"segment": "smb"}))
        world.subscribed(ref, 900)
        if what != "suppressed":
            world.consent(ref)
    for ref in customers:
        world.wait(minutes=1)
        world.attend(world.failed(ref), ref)
    return world


def stored_anew(
    log: Log, change: Change, *, more: Callable[[Log], None] = lambda _: None, by_customer: Mapping[str, Change] | None = None
) -> Log:
    """The log again, with every decision-lane event as `change`, or that of its customer, has it; None leaves it as it is."""
    clock = ManualClock(NOON)
    again = Log(MemoryStore(clock=clock), log.vault, clock)
    unseal = Unsealer(log.vault)
    for s in log.store.read(Query()):
        clock.move_to(s.recorded_at_us)
        recorded = decode(s, unseal)
        event = (by_customer or {}).get(s.stream.id, change)(recorded.data) if s.lane is Lane.DECISION else None
        if event is None:
            new = NewEvent(
                s.stream,
                s.lane,
                s.version - 1 if s.lane is Lane.DECISION else None,
                s.event_id,
                s.wire_name,
                s.schema,
                s.occurred_at_us,
                s.content_mac,
                s.header,
                s.data,
            )
        else:
            h = recorded.header
            cause = Cause(actor=h.actor, causation_id=h.causation_id, correlation_id=h.correlation_id, depth=h.depth, origin=h.origin)
            subject = h.subjects[0] if h.subjects else None
            new = again.decision(s.stream, s.version - 1, Draft(event, s.event_id, s.occurred_at_us, cause, subject))
        (outcome,) = again.store.append([Submission((new,))])
        assert not isinstance(outcome, Exception), outcome
    more(again)
    return again


def only(action: str, change: Callable[[d.DecisionRecorded], dict[str, Any]]) -> Change:
    """Decisions that took this action."""

    def changed(event: Any) -> Event | None:
        if not isinstance(event, d.DecisionRecorded) or event.action != action or event.disposition == "suppressed":
            return None
        return event.model_copy(update=change(event))

    return changed


def _intents(event: d.DecisionRecorded, **fields: Any) -> dict[str, Any]:
    return {"intents": tuple(intent.model_copy(update=fields) for intent in event.intents)}


def _arguments(event: d.DecisionRecorded, **fields: Any) -> dict[str, Any]:
    (first,) = orjson.loads(str(event.arguments))
    return {"arguments": orjson.dumps([{**first, **fields}], option=orjson.OPT_SORT_KEYS).decode()}


@pytest.fixture(scope="module")
def world() -> World:
    return told()


@pytest.fixture(scope="module")
def untouched(world: World) -> ReplayReport:
    return replayed(world.log, bind=True)


def test_what_was_not_altered_is_made_again_alike(world: World, untouched: ReplayReport) -> None:
    """Intents from evidence, evidence from the log, of four decisions with three effects; once more, the same digest of results."""
    assert untouched.ok
    assert untouched.counts == {"same": 4}
    assert untouched.intents == 3
    assert not untouched.reasons
    assert (untouched.strays, untouched.missing) == ([], {})
    copied = replayed(stored_anew(world.log, lambda _: None))
    assert copied.results_digest == untouched.results_digest


def _decision(change: Callable[[d.DecisionRecorded], dict[str, Any]]) -> Change:
    return lambda e: e.model_copy(update=change(e)) if isinstance(e, d.DecisionRecorded) else None


def _of(kind: type[Event], **fields: Any) -> Change:
    return lambda e: e.model_copy(update=fields) if isinstance(e, kind) else None


def test_many_decisions_take_several_sandboxes_one_after_the_other_to_the_same_result(
    world: World, untouched: ReplayReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a bounded time on the processor."""
    from postsale.audit import replay_run

    monkeypatch.setattr(replay_run, "_PER_PROCESS", 3)
    counted: list[tuple[int, int]] = []
    report = replayed(world.log, enforce=False, on_progress=lambda *how_far: counted.append(how_far))
    assert report.results_digest == untouched.results_digest
    assert counted == [(1, 4), (2, 4), (3, 4), (4, 4)]


ALTERED: dict[str, tuple[str, Change, str]] = {
    "an argument": ("offer", _decision(lambda e: _arguments(e, amount_minor=90_000)), "arguments[0].amount_minor"),
    "a message": ("email", _decision(lambda e: _arguments(e, template="goodbye")), "arguments[0].template"),
    "to whom": ("task", _decision(lambda e: _arguments(e, customer="somebody-else")), "arguments[0].customer"),
    "the digest that binds arguments": ("task", _decision(lambda e: _intents(e, arguments_mac="0" * 32)), "intents[0].arguments_mac"),
    "a timer": ("email", _decision(lambda e: _intents(e, due_at=e.decided_at + timedelta(seconds=200))), "intents[0].due_at"),
    "until when it counts": ("offer", _decision(lambda e: {"outcome_by": e.outcome_by + timedelta(days=1)}), "outcome_by"),
    "the tool": ("task", _decision(lambda e: _intents(e, tool="email.send@1")), "intents[0].tool"),
    "an effect more": (
        "email",
        _decision(lambda e: {"intents": (*e.intents, *_intents(e, intent_id=derive_id(1))["intents"])}),
        "intents[1]",
    ),
    "an effect less": ("email", _decision(lambda e: {"intents": (), "arguments": None}), "arguments"),
    "why": ("task", _decision(lambda e: {"rationale": "Because."}), "rationale"),
    "a verdict": ("email", _decision(lambda e: {"verdicts": (_verdict(e), *e.verdicts[1:])}), "verdicts[0].reason"),
    "the disposition": ("suppressed", _decision(lambda e: {"disposition": "failed"}), "disposition"),
    "a value it looked at": ("task", _decision(lambda e: {"evidence": {**e.evidence, "mrr_minor": 901}}), "evidence.mrr_minor"),
    "a consent": ("email", _decision(lambda e: {"context": {**e.context, "consent.email": False}}), "context.consent.email"),
    "the money left": (
        "task",
        _decision(lambda e: {"context": {**e.context, "budget_left.retention": 5}}),
        "context.budget_left.retention",
    ),
    "a switch": ("task", _decision(lambda e: {"context": {**e.context, "paused_by": "agent"}}), "context.paused_by"),
    "how far it might go": ("task", _decision(lambda e: {"mode": "propose"}), "mode"),
    "what it read": ("task", _decision(lambda e: {"read_set": _read(e, decision_version=7)}), "read_set[0].decision_version"),
    "the state it read": ("task", _decision(lambda e: {"read_set": _read(e, state_hash="0" * 32)}), "read_set[0].state_hash"),
    "whom it read": ("task", _decision(lambda e: {"read_set": (*e.read_set, *e.read_set)}), "read_set"),
    "the trigger": ("task", _of(d.TriggerRaised, condition="another"), "condition"),
    "the depth of the trigger": ("task", _of(d.TriggerRaised, depth=1), "depth"),
    "the reason of a risk case": ("offer", _of(RiskCaseOpened, reason="another"), "risk case at position"),
    "nothing": ("offer", lambda _: None, ""),
}


def _verdict(event: d.DecisionRecorded) -> d.Verdict:
    return event.verdicts[0].model_copy(update={"reason": "thrown"})


def _read(event: d.DecisionRecorded, **fields: Any) -> tuple[d.ReadRef, ...]:
    return (event.read_set[0].model_copy(update=fields),)


@pytest.fixture(scope="module")
def caught() -> tuple[ReplayReport, dict[str, list[str]]]:
    """All of them in one log, each about a customer of its own; where each differs."""
    refs = {f"a{n}": what for n, what in enumerate(ALTERED)}
    world = told({ref: ALTERED[what][0] for ref, what in refs.items()})
    report = replayed(stored_anew(world.log, lambda _: None, by_customer={ref: ALTERED[what][1] for ref, what in refs.items()}))
    found = {what: [] for what in ALTERED}  # type: dict[str, list[str]]
    for outcome in report.different:
        found[refs[outcome.stream.rpartition("/")[2]]] = [difference.where for difference in outcome.differences]
    return report, found


@pytest.mark.parametrize("what", sorted(ALTERED))
def test_what_was_altered_is_caught_by_name(what: str, caught: tuple[ReplayReport, dict[str, list[str]]]) -> None:
    report, found = caught
    where = ALTERED[what][2]
    assert any(w.startswith(where) for w in found[what]) if where else not found[what], found[what]
    assert "90000" not in str(report.to_dict())  # arguments are named, never shown
    assert "goodbye" not in str(report.to_dict())


def _append(log: Log, stream: StreamId, event: Event) -> None:
    (version,) = log.store.versions([stream])
    log.append([log.decision(stream, version, Draft(event, derive_id("extra", stream, version), log.clock.now_us(), Cause()))])


def test_money_set_aside_that_is_not_what_the_decision_says_is_caught(world: World) -> None:
    report = replayed(stored_anew(world.log, _of(BudgetReserved, amount=1)), enforce=False)
    assert ("reservations", "1 EUR of retention/2026-11") in [(x.where, x.recorded) for o in report.different for x in o.differences]


def test_a_write_that_no_decision_intended_is_caught_by_name(world: World) -> None:
    """An effect without an intent, one of a decision that acts on nothing, money nobody meant to set aside, one of no decision at all."""
    decisions = {e.data.action: e for c in ("c1", "c2", "c3") for e in world.events(c) if isinstance(e.data, d.DecisionRecorded)}
    suppressed = next(e for e in world.events("c4") if isinstance(e.data, d.DecisionRecorded))
    assert suppressed.data.disposition == "suppressed"
    nobody = derive_id("nobody")

    def more(log: Log) -> None:
        mail, task = decisions["email"], decisions["task"]
        _append(log, mail.stored.stream, d.EffectSucceeded(intent_id=nobody, decision_id=mail.event_id, attempt=1, sandbox=True))
        _append(log, budget_stream("acme", "retention"), _reserved(task.event_id))
        _append(log, world.stream("c1"), d.EffectStarted(intent_id=nobody, decision_id=nobody, attempt=1))
        _append(log, suppressed.stored.stream, d.EffectStarted(intent_id=nobody, decision_id=suppressed.event_id, attempt=1))

    report = replayed(stored_anew(world.log, lambda _: None, more=more), enforce=False)
    found = {(o.decision_id, x.where.split(" at ")[0], x.regenerated) for o in report.different for x in o.differences}
    assert found == {
        (decisions["email"].event_id, "effect/succeeded", "no such intent"),
        (decisions["task"].event_id, "reservations", "nothing"),
        (suppressed.event_id, "effect/started", "no such intent"),
    }
    assert [what for _, what in report.strays] == ["effect/started names a decision that was not taken about this customer"]
    assert not report.ok


def _reserved(id_: Any) -> BudgetReserved:
    return BudgetReserved(decision_id=id_, intent_id=derive_id(id_, 0), unit="EUR", period="2026-11", amount=1)


def test_an_effect_before_its_approval_and_one_approved_with_other_arguments_are_caught() -> None:
    world = World()
    world.mode("propose")
    id_ = world.one_decision()
    world.engine.approvals.approve("acme", id_, ANNA, reason="fine")
    world.wait(minutes=1)
    world.attend()
    assert replayed(world.log, enforce=False).counts == {"same": 1}

    def other(event: Any) -> Event | None:
        return event.model_copy(update={"arguments_mac": "0" * 64}) if isinstance(event, d.ApprovalGranted) else None

    (outcome,) = replayed(stored_anew(world.log, other), enforce=False).different
    assert [(x.where.split(" at ")[0], x.recorded) for x in outcome.differences] == [("approval", "over other arguments")]

    def unapproved(event: Any) -> Event | None:
        return RiskCaseMoved(case_id=id_, stage="saving", reason="x") if isinstance(event, d.ApprovalGranted) else None

    (outcome,) = replayed(stored_anew(world.log, unapproved), enforce=False).different
    assert {x.regenerated for x in outcome.differences} == {"nothing leaves: awaiting"}


# ---------------------------------------------------------------- code that was changed


_CODE = """
from postsale.agents import Agent, Policy
from tests.agents.world import DUNNING

class Edited(Agent):
    offers = {{"overdue": "integer"}}

    def __init__(self):
        super().__init__(Policy.from_toml(DUNNING.replace('[inputs]', '[inputs]\\noverdue = "integer"')))

    def evidence(self, customer, health, at_us):
        return {{"overdue": {value}}}
"""


def test_a_decider_that_was_edited_since_is_another_digest_and_another_outcome(tmp_path: Path) -> None:
    """The same code: certified. The same values by other source: not certified, and counted. Other values: a difference."""
    import subprocess
    import sys

    program = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}]
from pathlib import Path
from postsale import PostSale
from postsale.events import ManualClock
from tests.app.support import NOON, failed
from deciding import Edited
with PostSale.open("sqlite:///{tmp_path / "log.db"}", agents=[Edited()], clock=ManualClock(NOON)) as ps:
    acme = ps.tenant("acme")
    if not ps.tenants():
        acme.record("cus_1", failed("f1"))
        ps.run_once()
    found = acme.replay_many()
    print(found.counts, dict(found.reasons), [x.where for o in found.different for x in o.differences])
"""

    def run(value: str) -> str:
        (tmp_path / "deciding.py").write_text(_CODE.format(value=value))
        done = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run("7") == "Counter({'same': 1}) {} []"
    assert run("3 + 4") == "Counter({'unverifiable': 1}) {'other-code': 1} []"
    assert run("70") == "Counter({'different': 1}) {'other-code': 1} ['evidence.overdue']"


# ---------------------------------------------------------------- what cannot be had again


def test_erased_arguments_are_still_told_by_their_digest() -> None:
    """Destroying the customer's key hides them; they are made again from what is left, and their keyed digest must fit."""
    world = World()
    world.mode("act")
    world.one_decision()
    changed = stored_anew(world.log, _decision(lambda e: _intents(e, arguments_mac="0" * 32)))
    world.log.vault.destroy("acme", "c1")
    assert replayed(world.log, enforce=False).counts == {"same": 1}
    assert replayed(changed, enforce=False).counts == {"different": 1}


def _is(event: Any) -> bool:
    return isinstance(event, d.DecisionRecorded)


def test_without_the_tenants_key_erased_arguments_are_counted_as_such() -> None:
    world = World()
    world.mode("act")
    world.one_decision()
    stranger = Log(world.store, FileVault.in_memory(), world.clock)
    report = replayed(stranger, enforce=False)
    assert (report.counts, report.reasons) == ({"unverifiable": 1}, {"erased": 1})


def test_a_read_model_that_was_retired_leaves_its_values_out_and_the_rest_is_compared(world: World) -> None:
    """A decision that names another model: what may come from one is counted, what cannot is still held to the log."""
    other = stored_anew(world.log, only("task", lambda e: {"model": "0" * 32}))
    report = replayed(other, models=Models(CUSTOMER_HEALTH), enforce=False)
    (outcome,) = report.unverifiable
    assert outcome.reasons == {"view-retired"}
    assert set(outcome.unverifiable) == {"model", "evidence.mrr_minor"}
    both = stored_anew(other, only("task", lambda e: {"evidence": {**e.evidence, "failed_payments": 3}}))
    (outcome,) = replayed(both, models=Models(CUSTOMER_HEALTH), enforce=False).different
    assert "evidence.failed_payments" in {x.where for x in outcome.differences}


def test_what_came_from_outside_the_log_is_named_and_counted(world: World) -> None:
    """A flag and a draw are taken as they were recorded, and never pass as verified."""
    flagged = stored_anew(world.log, only("task", lambda e: {"flags": {"new-copy": True}, "draw_ppm": 5}))
    report = replayed(flagged, enforce=False)
    assert report.reasons["third-party"] == 1
    (outcome,) = [*report.unverifiable, *report.different]
    assert outcome.unverifiable == {"flags.new-copy": "third-party", "draw_ppm": "third-party"}


def test_built_in_evidence_that_is_not_of_the_read_model_never_depends_on_it() -> None:
    """The list of what is lost with a read model is complete: any other name has the same value with any reading."""
    world = told()
    for ref in ("c1", "c2", "c3"):
        customer = world.customer(ref)
        reading = HealthReading(
            score=11.0,
            band="poor",
            trend="up",
            row="x/y",
            stage="leaving",
            features={"known": True, "running": False, "cancelling": True, "mrr_minor": 7, "currency": "USD", "seats": 3},
        )
        with_it, without = (customer_evidence(customer, r, world.clock.now_us()) for r in (reading, HealthReading()))
        differ = {n for n in without if with_it[n] != without[n]}
        assert differ <= FROM_HEALTH


def test_every_field_of_a_decision_is_an_input_or_an_output() -> None:
    """An output is blanked before it goes to the sandbox, and has a value to stand in for it that the kind accepts."""
    assert set(OUTPUTS) < set(d.DecisionRecorded.model_fields)


# ---------------------------------------------------------------- which, and of which log


def test_a_scope_narrows_by_agent_customer_time_and_id(world: World) -> None:
    """One log of four decisions, one minute apart."""
    first = world.events("c1")
    id_ = next(e.event_id for e in first if _is(e.data))
    at_us = to_us(NOON)
    minute = 60_000_000
    wanted = {
        Scope(agent="another"): 0,
        Scope(agent="dunning", begin_us=at_us + 2 * minute): 3,
        Scope(streams=(world.stream("c2"), world.stream("c1")), begin_us=at_us + 2 * minute, end_us=at_us + 2 * minute): 1,
        Scope(ids=frozenset({id_})): 1,
    }
    for scope, count in wanted.items():
        report = replayed(world.log, scope=scope, enforce=False)
        assert (report.ok, report.decisions) == (True, count), scope
    with pytest.raises(UnknownDecision):
        replayed(world.log, scope=Scope(ids=frozenset({first[0].event_id})), enforce=False)


def test_a_replay_that_is_bound_to_the_tree_names_an_event_that_is_not_of_it(world: World) -> None:
    """A byte of a fact that was read, changed in place: without the leaf it would be a difference of evidence, here it is damage."""

    class Altered(MemoryStore):
        def read(self, query: Query) -> Any:
            for s in super().read(query):
                yield s._replace(data=s.data.replace(b'"attempt":2', b'"attempt":3'))

    store = Altered(clock=world.clock)
    store.__dict__.update(world.store.__dict__)
    with pytest.raises(LogDamaged):
        replayed(Log(store, world.log.vault, world.clock), bind=True, enforce=False)


def test_facts_that_arrive_while_it_decides_are_no_difference() -> None:
    """The read set names the position; what came between it and the decision was not read, and the moment that was is found."""
    world = World()
    world.mode("act")
    world.profile("c1", segment="smb")
    world.consent("c1")
    read, raced = world.engine.health.read, []

    def slow(customer: CustomerAggregate, at_us: int, wanted: frozenset[str]) -> HealthReading:
        if customer.pending and not raced:
            raced.append(world.profile("c1", segment="vip"))
        return read(customer, at_us, wanted)

    world.engine.health.read = slow  # type: ignore[method-assign]
    world.attend(world.failed())
    (decision,) = world.decisions()
    assert raced
    assert (decision.evidence["segment"], decision.action) == ("smb", "email")
    assert replayed(world.log, enforce=False).counts == {"same": 1}
    lied = stored_anew(world.log, _decision(lambda e: {"evidence": {**e.evidence, "segment": "gold"}}))
    assert replayed(lied, enforce=False).counts == {"different": 1}


def test_customers_that_were_linked_and_merged_are_folded_as_they_were_then() -> None:
    """A decision before the merge, one after it, one after the split: each on the streams that were its customer's at the time."""
    with opened(None, agents=[Agent(Policy.from_toml(DUNNING.replace("smb", "any")))]) as ps:
        acme, clock = ps.tenant("acme"), ps.clock
        assert isinstance(clock, ManualClock)
        for n, step in enumerate(("apart", "merged", "split")):
            clock.advance(timedelta(days=40))
            if step == "merged":
                acme.merge("cus_2", into="cus_1", reason="the same")
            if step == "split":
                acme.split("cus_2", reason="not the same")
            for who in ("cus_1", "cus_2"):
                acme.record(who, failed_signal(f"f{n}{who}", from_us(clock.now_us()), attempt=2))
            ps.run_once()
            clock.advance(timedelta(days=1))
            for who in ("cus_1", "cus_2"):
                acme.record(who, _paid(f"p{n}{who}", from_us(clock.now_us())))
            ps.run_once()
        report = acme.replay_many()
        assert report.decisions >= 4
        assert (report.counts["different"], report.counts["unverifiable"]) == (0, 0), report.to_dict()


def _paid(id_: str, at: Any) -> Any:
    from tests.app.support import paid

    return paid(id_, at)


# ---------------------------------------------------------------- what surrounds decisions


@given(st.lists(st.tuples(st.sampled_from(["reserve", "commit", "release"]), st.integers(0, 4), st.integers(1, 50)), max_size=25))
def test_money_left_is_what_the_budgets_own_fold_says_at_every_position(steps: list[tuple[str, int, int]]) -> None:
    """Reservations twice, settlements of what is not reserved, and all orders of them."""
    world, state, expected = World(), BudgetState(), {0: 100}
    stream = budget_stream("acme", "retention")
    for n, (step, who, minor) in enumerate(steps):
        id_ = derive_id("decision", who)
        entry: dict[str, Any] = {"decision_id": id_, "intent_id": id_, "unit": "EUR", "period": "2026-11", "amount": minor}
        made: BudgetEvent
        match step:
            case "reserve":
                made = BudgetReserved(**entry)
            case "commit":
                made = BudgetCommitted(**entry)
            case _:
                made = BudgetReleased(**entry, reason="x")
        log = world.log
        done = log.append([log.decision(stream, n, Draft(made, derive_id("step", n), log.clock.now_us(), Cause()))])
        state = evolve_budget(state, made, done.positions[-1])
        expected[done.positions[-1]] = state.left(100, NOVEMBER)
    history = History(world.log, "acme", world.store.head())
    for position, left in expected.items():
        assert history.left("retention", NOVEMBER, 100, position, position + 1) == {left}
    assert history.left("retention", NOVEMBER, 100, 0, world.store.head() + 1) == set(expected.values())


# ---------------------------------------------------------------- somebody's own code


@pytest.mark.parametrize("weighed", [False, True])
def test_signals_features_models_and_agents_of_ones_own_are_replayed(weighed: bool, tmp_path: Path) -> None:
    """Declared in a module: loaded by the process that decides again, before it is closed. A model may be weighed by a file."""
    model = read_weights(own.WEIGHTS, own.OWN) if weighed else own.OWN
    clock = ManualClock(NOON)
    with opened(tmp_path, agents=[own.SeatWatch()], health=model, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", _paid("p1", NOON - timedelta(days=60)))
        for n, days in enumerate((0, 10, 50)):
            clock.move_to(to_us(NOON + timedelta(days=days)))
            at = from_us(clock.now_us())
            acme.record("cus_1", own.SeatsLost(source="own", id=f"l{n}", occurred_at=at, seats=n + 1))
            ps.run_once()
            acme.ask("cus_1", "seats", "look", reason="often", by=ANNA)
            ps.run_once()
        report = acme.replay_many(bind=True)
        assert (report.counts, report.missing) == ({"same": report.decisions}, {})
        assert report.decisions >= 4
        trends = {e.recorded.evidence["health_trend"] for e in acme.decisions()}
        assert trends & {"up", "down", "steady"}
    with opened(tmp_path, agents=[own.SeatWatch()], health=own.OWN if weighed else model, clock=clock) as ps:
        report = ps.tenant("acme").replay_many()
        expected = "view-retired" if weighed else None
        assert set(report.reasons) == ({expected} if expected else set())
        assert report.ok


def test_a_model_that_no_module_declares_is_named_and_its_values_are_not_claimed(tmp_path: Path) -> None:
    """It cannot be loaded by another process."""
    nowhere = replace(own.OWN, name="nowhere")
    with opened(tmp_path, agents=[own.SeatWatch()], health=nowhere, clock=ManualClock(NOON)) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", own.SeatsLost(source="own", id="l", occurred_at=NOON, seats=1))
        ps.run_once()
        report = acme.replay_many()
        assert report.missing == {"health": "PicklingError"}
        assert (report.ok, report.counts, set(report.reasons)) == (True, {"unverifiable": 1}, {"view-retired"})


# ---------------------------------------------------------------- planners


def test_a_plan_is_made_again_from_the_recorded_answer_and_counted_as_from_outside() -> None:
    """No planner goes into the sandbox. The choice, its values and arguments follow from the answer; the answer itself is nobody's proof."""
    w = Planned(CALL)
    w.attend(w.failed())
    agents = tuple(w.engine.agents.values())
    report = replayed(w.log, agents=agents)
    (outcome,) = report.unverifiable
    assert (report.ok, outcome.unverifiable, report.missing) == (True, {"plan.answer": "third-party"}, {})
    assert (report.intents, len(w.said.asked)) == (1, 1)
    for change, where in (
        (_decision(lambda e: _arguments(e, note="Something else.")), "arguments[0].note"),
        (_decision(lambda e: {"flags": {**e.flags, "plan.option": "wait"}}), "flags.plan.option"),
        (_of(PlanReceived, answer='{"option":"wait","rationale":"x"}'), "action"),
        (_of(PlanReceived, request_id=derive_id("another")), "plan.received"),
        (_of(PlanRequested, planner="another"), "plan.planner"),
        (_of(PlanRequested, prompt="0" * 64), "plan.prompt"),
    ):
        found = replayed(stored_anew(w.log, change), agents=agents, enforce=False)
        assert where in [x.where for o in found.different for x in o.differences], where
        assert "Something else" not in str(found.to_dict())
    w.log.vault.destroy("acme", "c1")
    report = replayed(w.log, agents=agents, enforce=False)
    (outcome,) = report.unverifiable
    assert (report.ok, outcome.unverifiable) == (True, {"plan.answer": "erased"})


@pytest.mark.parametrize("said", ["garbage", {"option": "wait", "rationale": "x"}], ids=["no plan", "nothing"])
def test_an_answer_that_came_to_nothing_comes_to_nothing_again(said: Any) -> None:
    w = Planned(said)
    w.attend(w.failed())
    report = replayed(w.log, agents=tuple(w.engine.agents.values()), enforce=False)
    assert (report.ok, report.reasons) == (True, {"third-party": 1})
