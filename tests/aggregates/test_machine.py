"""Any interleaving of facts, commands, crashes and late results, held against a small model of what must be true.

The model knows nothing of evolve: it is the sentence "every trigger has exactly one current disposition", written down.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.customer import MAX_TOUCHES
from postsale.errors import PostSaleError
from postsale.events import Event, derive_id, from_us

from .story import AGENT, APPROVAL, DAY_US, Story, decision, intent, paid
from .strategies import visited

SETTLED = {"succeeded", "failed", "cancelled"}


@dataclass
class Truth:
    """What must be true of one decision."""

    disposition: str
    effects: dict[UUID, str]
    kinds: dict[UUID, str]
    channels: dict[UUID, str | None]
    expires_us: int | None
    outcome_open: bool

    def become(self, disposition: str) -> None:
        self.disposition = disposition
        if disposition in {"suppressed", "failed"}:
            self.outcome_open = False

    def close_unless_left(self) -> None:
        self.effects = {k: "cancelled" if s in {"held", "ready", "retry"} else s for k, s in self.effects.items()}

    def settle_effect(self, intent_id: UUID, status: str) -> None:
        self.effects[intent_id] = status
        if self.disposition != "suppressed" and all(s in {"failed", "cancelled"} for s in self.effects.values()):
            self.become("failed")

    @property
    def open(self) -> bool:
        return self.disposition == "awaiting" or self.outcome_open or not set(self.effects.values()) <= SETTLED

    @property
    def contacts(self) -> int:
        alive = [k for k, s in self.effects.items() if s not in {"failed", "cancelled"} and self.channels[k]]
        return len(alive)


class Customer(RuleBasedStateMachine):
    """One customer under agents, people, workers that crash, and sources that deliver as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.story = Story()
        self.truths: dict[UUID, Truth] = {}
        self.waiting: dict[UUID, int] = {}  # triggers without a disposition
        self.decided: dict[UUID, UUID] = {}  # trigger -> its decision
        self.consents: dict[tuple[str, str], bool] = {}
        self.facts: dict[str, int] = {}
        self.causes = 0
        self.intents = 0
        self.deliveries = 0

    # ------------------------------------------------------------ helpers

    def twice(self, command: Any, *args: Any, event_id: UUID | None = None, **kwargs: Any) -> tuple[Event, ...]:
        """Carry a command out; giving it again changes nothing or is refused."""
        try:
            events: tuple[Event, ...] = command(self.story.state, *args, **kwargs)
        except PostSaleError:
            return ()
        self.story.tell(events, event_id)
        try:
            again = command(self.story.state, *args, **kwargs)
        except PostSaleError:
            again = ()
        assert again == ()
        return events

    def some_decision(self, data: st.DataObject) -> UUID:
        return data.draw(st.sampled_from([*self.truths, UUID(int=0)]))

    # ------------------------------------------------------------ the world

    @initialize()
    def begin(self) -> None:
        self.story = Story()

    @rule(late_us=st.integers(-DAY_US, DAY_US), page=st.sampled_from("ab"))
    def a_visit(self, late_us: int, page: str) -> None:
        self.deliveries += 1
        self.story.happens(visited(self.deliveries, self.story.now_us + late_us, page))
        self.facts["tests.aggregates/visited"] = self.facts.get("tests.aggregates/visited", 0) + 1

    @rule(late_us=st.integers(-DAY_US, DAY_US))
    def a_payment(self, late_us: int) -> None:
        self.deliveries += 1
        self.story.happens(paid(self.deliveries, self.story.now_us + late_us))
        self.facts["billing/invoice-paid"] = self.facts.get("billing/invoice-paid", 0) + 1

    @rule(hours=st.integers(1, 72))
    def time_passes(self, hours: int) -> None:
        self.story.now_us += hours * 3_600_000_000

    # ------------------------------------------------------------ triggers and decisions

    @rule(condition=st.sampled_from(["payment-failed", "usage-fell"]), by_command=st.booleans())
    def a_trigger(self, condition: str, by_command: bool) -> None:
        self.causes += 1
        trigger_id = derive_id(AGENT, condition, self.causes)
        cause: Any = "command" if by_command else "fact"
        raised = d.TriggerRaised(agent=AGENT, condition=condition, cause=cause, causing_event=UUID(int=self.causes))
        if self.twice(commands.raise_trigger, trigger_id, raised, event_id=trigger_id):
            self.waiting[trigger_id] = self.causes

    @rule(condition=st.sampled_from(["payment-failed", "usage-fell"]))
    def a_condition_clears(self, condition: str) -> None:
        self.twice(commands.clear_trigger, d.TriggerCleared(agent=AGENT, condition=condition, causing_event=UUID(int=1)))

    @precondition(lambda self: self.waiting)
    @rule(
        data=st.data(),
        disposition=st.sampled_from(["acted", "awaiting", "suppressed", "failed"]),
        kinds=st.lists(
            st.tuples(st.sampled_from(["idempotent", "queryable", "unsafe"]), st.sampled_from(["email", "phone", None])), max_size=3
        ),
        expires=st.booleans(),
        outcome=st.booleans(),
    )
    def a_decision(self, data: st.DataObject, disposition: Any, kinds: list[tuple[Any, str | None]], expires: bool, outcome: bool) -> None:
        trigger_id = data.draw(st.sampled_from(list(self.waiting)))
        intents = []
        for kind, channel in kinds:
            self.intents += 1
            intents.append(intent(self.intents, kind, channel))
        expires_us = self.story.now_us + DAY_US if expires and disposition == "awaiting" else None
        made = decision(
            trigger_id,
            disposition,
            self.story.now_us,
            intents,
            approval_expires_at=from_us(expires_us) if expires_us else None,
            outcome_kinds=("billing/invoice-paid",),
            outcome_by=from_us(self.story.now_us + 3 * DAY_US) if outcome else None,
        )
        decision_id = derive_id(trigger_id, "decision")
        self.story.tell((made,), decision_id)
        status = {"acted": "ready", "awaiting": "held"}.get(disposition, "cancelled")
        self.truths[decision_id] = Truth(
            disposition,
            {i.intent_id: status for i in intents},
            {i.intent_id: i.tool_kind for i in intents},
            {i.intent_id: i.channel for i in intents},
            expires_us,
            outcome and disposition in {"acted", "awaiting"},
        )
        del self.waiting[trigger_id]
        assert trigger_id not in self.decided
        self.decided[trigger_id] = decision_id

    # ------------------------------------------------------------ people

    @rule(data=st.data(), changed=st.booleans(), by_agent=st.booleans(), forged=st.booleans())
    def approve(self, data: st.DataObject, changed: bool, by_agent: bool, forged: bool) -> None:
        decision_id = self.some_decision(data)
        how = {
            **APPROVAL,
            "now_us": self.story.now_us,
            "changed": ("seats",) if changed else (),
            "approver": AGENT if by_agent else "maria",
            "offered_mac": "forged" if forged else APPROVAL["offered_mac"],
        }
        truth = self.truths.get(decision_id)
        may = truth is not None and truth.disposition == "awaiting" and not by_agent and not forged
        expired = may and truth is not None and truth.expires_us is not None and self.story.now_us >= truth.expires_us
        events = self.twice(commands.approve, decision_id, **how)
        assert [type(e) for e in events] == ([] if not may else [d.ApprovalLapsed] if expired or changed else [d.ApprovalGranted])
        if truth is None or not may:
            return
        if expired or changed:
            truth.become("suppressed")
            truth.close_unless_left()
        else:
            truth.become("acted")
            truth.effects = dict.fromkeys(truth.effects, "ready")

    @rule(data=st.data())
    def reject(self, data: st.DataObject) -> None:
        decision_id = self.some_decision(data)
        truth = self.truths.get(decision_id)
        events = self.twice(commands.reject, decision_id, approver="maria", authenticated_by="token", reason="no")
        assert bool(events) == (truth is not None and truth.disposition == "awaiting")
        if truth is not None and events:
            truth.become("suppressed")
            truth.close_unless_left()

    @rule()
    def requests_expire(self) -> None:
        lapsed = self.twice(commands.lapse_expired, self.story.now_us)
        due = {
            k
            for k, t in self.truths.items()
            if t.disposition == "awaiting" and t.expires_us is not None and t.expires_us <= self.story.now_us
        }
        assert {e.decision_id for e in lapsed if isinstance(e, d.ApprovalLapsed)} == due
        for decision_id in due:
            self.truths[decision_id].become("suppressed")
            self.truths[decision_id].close_unless_left()

    @rule(data=st.data())
    def override(self, data: st.DataObject) -> None:
        decision_id = self.some_decision(data)
        truth = self.truths.get(decision_id)
        events = self.twice(commands.override, decision_id, by="maria", reason="called them")
        assert bool(events) == (truth is not None and truth.open and truth.disposition != "suppressed")
        if truth is not None and events:
            truth.become("suppressed")
            truth.close_unless_left()

    @rule(channel=st.sampled_from(["email", "phone"]), purpose=st.sampled_from(["service", "marketing"]), given=st.booleans())
    def consent(self, channel: str, purpose: str, given: bool) -> None:
        events = self.twice(commands.give_consent if given else commands.withdraw_consent, channel, purpose, "form")
        assert bool(events) == (self.consents.get((channel, purpose)) is not given)
        self.consents[channel, purpose] = given

    # ------------------------------------------------------------ workers

    @rule(data=st.data(), ending=st.sampled_from(["succeeds", "fails", "retries", "times out", "crashes"]))
    def a_worker(self, data: st.DataObject, ending: str) -> None:
        """Claims an effect that is due, calls the tool, and then one of five things happens."""
        due = [(o.decision_id, e.intent.intent_id) for o, e in commands.effects_due(self.story.state, self.story.now_us)]
        workable = {k: t for k, t in self.truths.items() if t.disposition != "awaiting"}
        assert all(self.truths[k].effects[i] in {"ready", "started", "retry"} for k, i in due)
        assert all((k, i) in due for k, t in workable.items() for i, s in t.effects.items() if s in {"ready", "started"})
        if not due:
            return
        decision_id, intent_id = data.draw(st.sampled_from(due))
        truth, effect = self.truths[decision_id], self.story.open(decision_id).effects[intent_id]
        may_have_left = truth.effects[intent_id] == "started" or effect.ambiguous
        (claim,) = commands.start_effect(self.story.state, decision_id, intent_id)
        self.story.tell((claim,))
        if may_have_left and (truth.disposition == "suppressed" or truth.kinds[intent_id] == "unsafe"):
            assert isinstance(claim, d.EffectUnknown)
            truth.effects[intent_id] = "unknown"
            return
        if truth.disposition == "suppressed":
            assert isinstance(claim, d.EffectCancelled)
            truth.settle_effect(intent_id, "cancelled")
            return
        assert isinstance(claim, d.EffectStarted)
        assert claim.attempt == effect.attempt + 1
        truth.effects[intent_id] = "started"
        if ending != "crashes":
            self.finish(decision_id, intent_id, ending)

    @rule(data=st.data(), ending=st.sampled_from(["succeeds", "fails", "retries", "times out"]))
    def a_slow_worker_reports(self, data: st.DataObject, ending: str) -> None:
        """The result of an attempt that was under way arrives late, perhaps after a person set the decision aside."""
        under_way = [(k, i) for k, t in self.truths.items() for i, s in t.effects.items() if s == "started"]
        if under_way:
            self.finish(*data.draw(st.sampled_from(under_way)), ending)

    def finish(self, decision_id: UUID, intent_id: UUID, ending: str) -> None:
        of: Any = {"intent_id": intent_id, "decision_id": decision_id, "attempt": 1}
        if ending == "succeeds":
            self.story.tell((d.EffectSucceeded(**of, sandbox=True),))
            self.truths[decision_id].settle_effect(intent_id, "succeeded")
            return
        final = ending == "fails"
        self.story.tell((d.EffectFailed(**of, final=final, reason="down", ambiguous=ending == "times out"),))
        self.truths[decision_id].settle_effect(intent_id, "failed" if final else "retry")

    @rule(data=st.data())
    def a_person_settles_what_is_unknown(self, data: st.DataObject) -> None:
        unknown = [(k, i) for k, t in self.truths.items() for i, s in t.effects.items() if s == "unknown"]
        if unknown:
            self.finish(*data.draw(st.sampled_from(unknown)), data.draw(st.sampled_from(["succeeds", "fails"])))

    @rule()
    def outcomes(self) -> None:
        observed = self.twice(commands.observe_outcomes, self.story.now_us)
        for event in observed:
            assert isinstance(event, d.OutcomeObserved)
            truth = self.truths[event.decision_id]
            assert truth.disposition == "acted"
            assert truth.outcome_open
            truth.outcome_open = False

    # ------------------------------------------------------------ risk cases

    @rule(cause=st.integers(1, 1_000))
    def a_case_opens(self, cause: int) -> None:
        before = len(self.story.state.cases)
        events = self.twice(commands.open_case, "payment failed", UUID(int=cause))
        assert bool(events) == (before == 0)

    @rule(result=st.sampled_from(["recovered", "lost"]))
    def a_case_closes(self, result: Any) -> None:
        for case_id in list(self.story.state.cases):
            self.twice(commands.close_case, case_id, result, "over")

    # ------------------------------------------------------------ what is always true

    @invariant()
    def every_trigger_has_exactly_one_disposition_or_waits_for_it(self) -> None:
        state = self.story.state
        assert set(state.pending) == set(self.waiting)
        assert set(state.decisions) == {k for k, t in self.truths.items() if t.open}
        for decision_id, known in state.decisions.items():
            truth = self.truths[decision_id]
            assert known.disposition == truth.disposition
            assert {k: e.status for k, e in known.effects.items()} == truth.effects

    @invariant()
    def contacts_are_those_that_were_made_or_are_still_promised(self) -> None:
        counted = [t.decision_id for t in self.story.state.touches]
        expected = {k: t.contacts for k, t in self.truths.items() if t.contacts}
        if sum(expected.values()) <= MAX_TOUCHES:
            assert {k: counted.count(k) for k in counted} == expected

    @invariant()
    def facts_are_counted_and_consent_is_what_was_said_last(self) -> None:
        state = self.story.state
        assert {k: s.count for k, s in state.facts.items()} == self.facts
        for channel in ("email", "phone"):
            for purpose in ("service", "marketing"):
                assert state.may_contact(channel, purpose) is self.consents.get((channel, purpose), False)
        assert len(state.cases) <= 1
        assert len(state.touches) <= MAX_TOUCHES

    @invariant()
    def the_stored_events_say_everything(self) -> None:
        if len(self.story.log) % 5 == 0:  # often enough: a difference would stay
            assert self.story.replayed() == self.story.state

    def teardown(self) -> None:
        """At the end everything comes to an end: nothing stays open but what a person must look at."""
        for trigger_id in list(self.waiting):
            self.story.tell((decision(trigger_id, "suppressed", self.story.now_us, suppressed_by="autonomy:observe"),))
            del self.waiting[trigger_id]
        self.story.now_us += 400 * DAY_US
        for decision_id, truth in self.truths.items():
            if truth.disposition == "awaiting":
                self.story.tell(commands.reject(self.story.state, decision_id, approver="maria", authenticated_by="token", reason="old"))
                truth.become("suppressed")
                truth.close_unless_left()
        for o, e in commands.effects_due(self.story.state, self.story.now_us):
            self.story.tell(commands.start_effect(self.story.state, o.decision_id, e.intent.intent_id))
        for o in list(self.story.state.decisions.values()):
            for e in o.effects.values():
                if not e.settled:
                    self.finish(o.decision_id, e.intent.intent_id, "succeeds")
        self.story.tell(commands.observe_outcomes(self.story.state, self.story.now_us))
        state = self.story.state
        assert (state.pending, state.decisions) == ({}, {})
        assert self.story.replayed() == state
        super().teardown()


Customer.TestCase.settings = settings(stateful_step_count=50)


class TestCustomer(Customer.TestCase):  # type: ignore[misc,name-defined]
    """Runs the machine."""


def test_a_machine_that_is_told_a_lie_notices() -> None:
    """The model can fail: a decision that acted without its trigger's decision being recorded is found."""
    machine = Customer()
    machine.begin()
    machine.a_trigger("payment-failed", by_command=True)
    machine.waiting.clear()
    with pytest.raises(AssertionError):
        machine.every_trigger_has_exactly_one_disposition_or_waits_for_it()
