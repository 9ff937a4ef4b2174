"""The embedded engine on a log: triggers, dispositions, guardrails on real state, budgets, races."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from postsale.agents import Agent, ChurnOutreach, Policy, RenewalRescue
from postsale.agents.decide import decision_id
from postsale.agents.desk import Change
from postsale.agents.engines import EmbeddedEngine
from postsale.aggregates import commands
from postsale.aggregates.budgets import BudgetCommitted, BudgetReleased, BudgetReserved
from postsale.aggregates.decisions import DecisionRecorded, OutcomeObserved, TriggerRaised
from postsale.aggregates.risk import RiskCaseClosed
from postsale.aggregates.signals import InvoicePaid
from postsale.errors import ApprovalRefused, BadDeclaration, InvalidInput, NotAllowed, PolicyInvalid
from postsale.events import Actor, Lane, Origin, derive_id
from postsale.store import Query
from postsale.store.log import Cause
from tests.agents.world import ANNA, BEN, DUNNING, NOON, NOVEMBER, FixedHealth, World, calls


def test_a_new_installation_observes_and_says_why_it_did_nothing() -> None:
    w = World()
    w.profile(segment="other")
    done = w.attend(w.failed(attempt=2))
    (decision,) = w.decisions()
    assert (done.raised, len(done.decided), done.called) == (1, 1, 0)
    assert (decision.disposition, decision.suppressed_by, decision.action) == ("suppressed", "autonomy:observe", "task")
    assert [v.guardrail for v in decision.verdicts if not v.passed] == ["autonomy"]
    assert calls(w) == []


def test_an_agent_that_may_act_acts_once_and_the_effect_is_recorded() -> None:
    w = World()
    w.mode("act")
    done = w.attend(w.failed(attempt=2))
    assert calls(w) == [("crm.create_task@1", {"customer": "c1", "title": "Payment failing", "note": "2 failed.", "due_in_days": 0})]
    assert w.kinds() == ["agent/trigger-raised", "agent/decision-recorded", "effect/started", "effect/succeeded"]
    assert done.called == 1
    assert w.attend(None).decided == ()
    assert len(calls(w)) == 1


def test_the_same_fact_attended_twice_raises_one_trigger() -> None:
    w = World()
    fact = w.failed()
    w.attend(fact)
    before = w.store.head()
    again = w.attend(fact)
    assert (again.raised, again.decided) == (0, ())
    assert w.store.head() == before


def test_a_condition_that_stays_true_raises_no_second_trigger_until_it_was_false() -> None:
    w = World()
    w.attend(w.failed(attempt=1))
    w.wait(days=1)
    assert w.attend(w.failed(attempt=2)).raised == 0
    w.wait(days=1)
    w.attend(w.paid())
    assert w.kinds()[-1] == "agent/trigger-cleared"
    w.wait(days=1)
    assert w.attend(w.failed(attempt=1)).raised == 1
    assert len({t.trigger_id for t in w.decisions()}) == 2


def test_until_is_a_dead_band_so_that_hovering_asks_once() -> None:
    health = FixedHealth(score=45, band="poor")
    w = World([RenewalRescue()], health=health)
    w.subscribed()
    raised = []
    for score in (45, 55, 49, 58, 50, 61, 50):
        health.reading["score"] = score
        w.wait(minutes=1)
        raised.append(w.attend(w.says(InvoicePaid, amount_minor=1, currency="EUR")).raised)
    assert raised == [1, 0, 0, 0, 0, 0, 1]


def test_imported_facts_raise_no_trigger_in_the_live_world() -> None:
    w = World()
    fact = w.failed(cause=Cause(origin=Origin.IMPORT))
    assert w.attend(fact).raised == 0
    assert w.kinds() == []


def test_a_history_of_troubles_is_no_news_when_a_day_passes() -> None:
    w = World([ChurnOutreach()])
    for month in (1, 2, 3):
        w.paid(at=datetime(2026, month, 1, tzinfo=UTC), cause=Cause(origin=Origin.IMPORT))
    assert w.attend(None).raised == 0


def test_time_alone_raises_a_trigger_on_the_day_a_condition_becomes_true() -> None:
    w = World([ChurnOutreach()])
    for day in (1, 11, 21):
        w.paid(at=datetime(2026, 10, day, 12, tzinfo=UTC))
    raised = []
    for _ in range(20):
        raised.append(w.attend(None).raised)
        w.wait(days=1)
    # 10 days are typical; the condition asks for 200 % and at least 30 days: 21 October + 30 days = 20 November.
    assert raised == [0, 0, 0, 0, 1] + [0] * 15


def test_a_simulation_raises_triggers_from_imported_facts_and_reaches_sandboxes_only() -> None:
    w = World([ChurnOutreach()], origin=Origin.SIMULATION)
    for day in (1, 8, 15):
        w.paid(at=datetime(2026, 9, day, tzinfo=UTC), cause=Cause(origin=Origin.IMPORT))
    w.mode("act", "churn-outreach")
    done = w.attend(None)
    assert (done.raised, done.called) == (1, 1)
    assert all(r.header.origin is Origin.SIMULATION for r in w.events() if r.stored.lane is Lane.DECISION)


def test_unknown_consent_is_no_consent() -> None:
    w = World()
    w.mode("act")
    w.profile(segment="smb")
    w.attend(w.failed())
    assert w.decisions()[0].suppressed_by == "consent:email/service"
    w.consent()
    w.paid(at=w.now())
    w.attend()
    w.wait(minutes=1)
    w.attend(w.failed())
    assert w.decisions()[1].disposition == "acted"


def test_the_frequency_cap_counts_contacts_made_and_promised() -> None:
    w = World()
    w.mode("act")
    w.profile(segment="smb")
    w.consent()
    for _ in range(4):
        w.wait(days=1)
        w.attend(w.failed())
        w.wait(hours=1)
        w.attend(w.paid())
    assert [x.disposition for x in w.decisions()] == ["acted", "acted", "suppressed", "suppressed"]
    assert w.decisions()[2].suppressed_by == "frequency:2/30d"
    assert w.decisions()[2].context["touches.30d"] == 2
    assert len(calls(w)) == 2
    w.wait(days=31)
    w.attend(w.failed())
    assert w.decisions()[-1].disposition == "acted"


@pytest.mark.parametrize(
    ("zone", "hour_utc", "suppressed"),
    [("Asia/Tokyo", 12, True), ("America/New_York", 12, True), ("America/New_York", 14, False), (None, 12, False), (None, 20, True)],
)
def test_quiet_hours_are_counted_on_the_customers_clock(zone: str | None, hour_utc: int, suppressed: bool) -> None:
    w = World(at=NOON.replace(hour=hour_utc))
    w.mode("act")
    w.profile(segment="smb", time_zone=zone)
    w.consent()
    w.attend(w.failed())
    decision = w.decisions()[0]
    assert decision.disposition == ("suppressed" if suppressed else "acted")
    assert decision.suppressed_by == ("quiet-hours:20:00-08:00" if suppressed else None)


def test_a_chain_of_our_own_effects_ends_at_the_depth_limit() -> None:
    """A feedback loop: each effect's callback comes back as a fact one deeper, and triggers again."""
    w = World()
    w.mode("act")
    cause = Cause()
    dispositions = []
    for _ in range(5):
        w.wait(hours=1)
        w.attend(w.failed(cause=cause))
        dispositions.append(w.decisions()[-1].suppressed_by or w.decisions()[-1].disposition)
        last = [r for r in w.events() if r.stored.lane is Lane.DECISION][-1]
        cause = Cause(actor=Actor("source", "tool"), causation_id=last.event_id, depth=max(last.header.depth, cause.depth))
        w.wait(hours=1)
        w.attend(w.paid())
    assert dispositions == ["acted", "acted", "acted", "depth:2", "depth:2"]
    assert len(calls(w)) == 3


def test_an_offer_above_authority_waits_and_its_money_is_reserved() -> None:
    w = World()
    w.mode("act")
    id_ = w.one_decision()
    decision = w.decision(id_).data
    assert (decision.disposition, decision.offer.amount_minor if decision.offer else None) == ("awaiting", 4900)
    assert w.engine.desk.budget("acme", "retention").pages[NOVEMBER].reserved == 4900
    assert w.customer().cases
    assert calls(w) == []


def test_the_budget_is_never_promised_twice_and_its_sums_hold() -> None:
    w = World()
    w.mode("act")
    ids = [w.one_decision(f"c{i}") for i in range(4)]  # 4900 each, 10000 in all
    assert [w.decision(i).data.disposition for i in ids] == ["awaiting", "awaiting", "suppressed", "suppressed"]
    assert w.decision(ids[2]).data.suppressed_by == "budget:retention/2026-11"
    w.engine.approvals.approve("acme", ids[0], BEN)
    w.attend(ref="c0")
    w.engine.approvals.reject("acme", ids[1], BEN, reason="no")
    sums = w.engine.desk.budget("acme", "retention").pages[NOVEMBER]
    assert (sums.reserved, sums.committed, sums.released) == (0, 4900, 4900)
    assert w.decision(w.one_decision("c9")).data.disposition == "awaiting"
    money = [r.data for r in w.log.events(Query(tenant="acme", category="budgets"))]
    assert [type(m) for m in money] == [BudgetReserved, BudgetReserved, BudgetCommitted, BudgetReleased, BudgetReserved]


def test_money_of_every_expired_request_comes_back_in_one_append() -> None:
    w = World()
    w.mode("act")
    w.one_decision()
    w.wait(hours=1)
    w.attend(w.paid())
    w.wait(hours=1)
    w.attend(w.failed())
    assert w.engine.desk.budget("acme", "retention").pages[NOVEMBER].reserved == 9800
    w.wait(hours=60)
    assert w.attend().lapsed == 2
    assert w.engine.desk.budget("acme", "retention").pages[NOVEMBER].reserved == 0


def test_a_fact_that_must_not_have_changed_makes_the_engine_decide_again() -> None:
    """The invoice is paid between reading and recording: the decision that is stored knows it."""
    w = World()
    w.mode("act")

    class Interfering(FixedHealth):
        done = False

        def read(self, customer, at_us, wanted):  # type: ignore[no-untyped-def]
            if customer.pending and not self.done:
                self.done = True
                w.paid(at=w.now())
            return super().read(customer, at_us, wanted)

    w.engine.health = Interfering()
    w.attend(w.failed())
    (decision,) = w.decisions()
    assert decision.evidence["failed_payments"] == 0
    assert decision.rule == "wait"


def test_a_trigger_whose_evidence_never_rests_fails_and_is_recorded() -> None:
    w = World()
    w.mode("act")

    class Restless(FixedHealth):
        def read(self, customer, at_us, wanted):  # type: ignore[no-untyped-def]
            if customer.pending:
                w.paid(at=NOON.replace(year=2020))
            return super().read(customer, at_us, wanted)

    w.engine.health = Restless()
    w.attend(w.failed())
    (decision,) = w.decisions()
    assert (decision.disposition, decision.intents) == ("failed", ())
    assert "kept changing" in decision.rationale
    assert calls(w) == []


def test_evidence_code_that_raises_leaves_a_failed_decision_not_a_hole() -> None:
    class Broken(Agent):
        def evidence(self, customer, health, at_us):  # type: ignore[no-untyped-def]
            if customer.pending:
                raise ZeroDivisionError("anna@example.org")
            return {}

    w = World([Broken(Policy.from_toml(DUNNING))])
    w.mode("act")
    w.attend(w.failed())
    for _ in range(2):
        w.wait(minutes=2)
        w.attend()
    (decision,) = w.decisions()
    assert decision.disposition == "failed"
    assert "ZeroDivisionError" in decision.rationale
    assert "anna" not in decision.rationale


def test_two_engines_over_one_log_make_one_decision() -> None:
    w = World()
    w.mode("act")
    other = EmbeddedEngine(w.log, [Agent(Policy.from_toml(DUNNING))], w.toolbox)
    w.engine.watch(w.stream(), w.failed())
    (trigger,) = w.customer().pending

    class Racing(FixedHealth):
        def read(self, customer, at_us, wanted):  # type: ignore[no-untyped-def]
            w.wait(seconds=1)
            other.handle(w.stream(), trigger)
            return super().read(customer, at_us, wanted)

    w.engine.health = Racing()
    assert w.engine.handle(w.stream(), trigger) is None
    assert [type(r.data) for r in w.events()].count(DecisionRecorded) == 1
    assert decision_id(trigger) == w.events()[-1].event_id


def test_a_success_in_time_is_observed_and_closes_the_risk_case() -> None:
    w = World()
    w.mode("act")
    id_ = w.one_decision()
    w.engine.approvals.approve("acme", id_, BEN)
    w.attend()
    w.wait(days=3)
    fact = w.paid()
    assert w.attend(fact).outcomes == 1
    observed = [r.data for r in w.events() if isinstance(r.data, OutcomeObserved | RiskCaseClosed)]
    assert [type(x) for x in observed] == [OutcomeObserved, RiskCaseClosed]
    assert observed[0].fact_event == fact.event_id
    assert w.customer().cases == {}
    assert w.customer().decisions == {}


def test_time_running_out_is_an_outcome_too() -> None:
    w = World()
    w.mode("act")
    w.attend(w.failed())
    due = w.attend().next_due_us
    assert due is not None
    w.clock.move_to(due)
    assert w.attend().outcomes == 1
    assert w.attend().next_due_us is None


def test_a_command_of_a_person_is_a_trigger() -> None:
    w = World()
    w.failed()
    trigger = w.engine.ask(w.stream(), "dunning", "look-again", person=ANNA, reason="customer called")
    assert w.attend().decided == (decision_id(trigger),)
    assert w.decisions()[0].condition == "look-again"
    with pytest.raises(InvalidInput, match="reason"):
        w.engine.ask(w.stream(), "dunning", "again", person=ANNA, reason=" ")


def test_a_policy_is_published_and_activated_once_and_a_newer_one_decides() -> None:
    w = World()
    assert w.engine.install("acme", "dunning") is True
    assert w.engine.install("acme", "dunning") is False
    newer = Agent(Policy.from_toml(DUNNING.replace("Once is no pattern.", "Wait.").replace("version = 1", "version = 2")))
    second = EmbeddedEngine(w.log, [newer], w.toolbox)
    assert second.install("acme", "dunning", person=ANNA, reason="shorter") is True
    w.attend(w.failed(attempt=1))  # the first engine was made with version 1, but the log says what decides
    assert w.decisions()[0].policy == newer.policy.digest
    assert w.decisions()[0].rationale == "Wait."
    assert w.engine.install("acme", "dunning") is True  # back to version 1: activated again, not published again
    kinds = [r.stored.kind for r in w.log.events(Query(tenant="acme", category="policies"))]
    assert kinds == ["artifact/published", "artifact/activated", "artifact/published", "artifact/activated", "artifact/activated"]


def test_a_policy_activated_while_deciding_is_the_one_that_decides() -> None:
    w = World()
    newer = Agent(Policy.from_toml(DUNNING.replace("version = 1", "version = 2")))
    second = EmbeddedEngine(w.log, [newer], w.toolbox)

    class Racing(FixedHealth):
        def read(self, customer, at_us, wanted):  # type: ignore[no-untyped-def]
            if customer.pending:
                second.install("acme", "dunning")
            return super().read(customer, at_us, wanted)

    w.engine.health = Racing()
    w.attend(w.failed())
    assert w.decisions()[0].policy == newer.policy.digest


def test_pausing_is_an_event_and_every_level_stops_the_agent() -> None:
    from postsale.agents.control import pause_everything, resume_everything

    w = World()
    w.mode("act")
    w.engine.pause("acme", "dunning", person=ANNA, reason="odd mails")
    w.engine.pause("acme", person=ANNA, reason="all of them")
    pause_everything(w.engine.desk, person=ANNA, reason="everywhere")
    found = []
    for undo in (
        lambda: w.engine.resume("acme", "dunning", person=ANNA, reason="ok"),
        lambda: w.engine.resume("acme", person=ANNA, reason="ok"),
        lambda: resume_everything(w.engine.desk, person=ANNA, reason="ok"),
        lambda: None,
    ):
        w.wait(hours=1)
        w.attend(w.failed())
        found.append(w.decisions()[-1].suppressed_by)
        w.wait(hours=1)
        w.attend(w.paid())
        undo()
    assert found == ["kill-switch:agent", "kill-switch:tenant", "kill-switch:everything", None]
    with pytest.raises(InvalidInput, match="reason"):
        w.engine.pause("acme", person=ANNA, reason="")
    with pytest.raises(NotAllowed):
        w.engine.pause("acme", person="anna", reason="x")  # type: ignore[arg-type]


def test_a_kill_switch_thrown_while_deciding_stops_the_decision() -> None:
    w = World()
    w.mode("act")

    class Throwing(FixedHealth):
        def read(self, customer, at_us, wanted):  # type: ignore[no-untyped-def]
            if customer.pending:
                w.engine.pause("acme", "dunning", person=ANNA, reason="now")
            return super().read(customer, at_us, wanted)

    w.engine.health = Throwing()
    w.attend(w.failed())
    assert w.decisions()[0].suppressed_by == "kill-switch:agent"


def test_facts_of_a_merged_customer_count_for_the_survivor() -> None:
    w = World()
    w.failed("c2")
    mine, others = commands.merge(w.customer("c1"), w.customer("c2"), "same company")
    w.engine.desk.append(w.customer("c1"), Change(tuple(w.engine.desk.draft(e, derive_id("m", i), Cause()) for i, e in enumerate(mine))))
    w.engine.desk.append(w.customer("c2"), Change(tuple(w.engine.desk.draft(e, derive_id("n", i), Cause()) for i, e in enumerate(others))))
    w.wait(hours=1)
    w.attend(w.failed("c2"), "c2")
    assert len(w.decisions("c1")) == 1
    assert w.decisions("c2") == []
    assert [ref.stream for ref in w.decisions("c1")[0].read_set] == ["acme/customers/c1", "acme/customers/c2"]


def test_what_an_engine_cannot_run_is_refused_when_it_is_made() -> None:
    w = World()
    agent = Agent(Policy.from_toml(DUNNING))
    with pytest.raises(BadDeclaration, match="two agents"):
        EmbeddedEngine(w.log, [agent, agent])
    with pytest.raises(PolicyInvalid, match=r"crm\.fax@1 is not installed"):
        EmbeddedEngine(w.log, [Agent(Policy.from_toml(DUNNING.replace("crm.create_task@1", "crm.fax@1")))])
    with pytest.raises(PolicyInvalid, match="takes no such argument"):
        EmbeddedEngine(w.log, [Agent(Policy.from_toml(DUNNING.replace("template = ", "subject = ")))])
    with pytest.raises(PolicyInvalid, match=r"inputs\.mood"):
        EmbeddedEngine(w.log, [Agent(Policy.from_toml(DUNNING.replace("[inputs]", '[inputs]\nmood = "text"')))])
    with pytest.raises(InvalidInput, match="no agent named"):
        w.engine.set_mode("acme", "ghost", "act", person=ANNA, reason="x")


def test_an_approval_needs_a_person_and_observing_proposing_acting_are_steps() -> None:
    w = World()
    w.mode("propose")
    w.attend(w.failed())
    (decision,) = w.decisions()
    assert decision.disposition == "awaiting"
    with pytest.raises(ApprovalRefused):
        w.engine.approvals.approve("acme", decision_id(decision.trigger_id), ANNA._replace(login="dunning"))


def test_a_condition_that_is_up_does_not_rise_again_whoever_asks() -> None:
    w = World()
    fact = w.failed()
    w.attend(fact)
    again = TriggerRaised(agent="dunning", condition="failing", cause="fact", causing_event=uuid4())
    assert commands.raise_trigger(w.customer(), uuid4(), again) == ()
    asked = again.model_copy(update={"cause": "command"})
    assert commands.raise_trigger(w.customer(), uuid4(), asked) == (asked,)
