"""All seven agents at once over one customer: one conversation and one budget of contacts, whatever happens in whatever order."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from postsale.agents import SHIPPED, control
from postsale.agents.conversation import conversations
from postsale.agents.readings import RunnerHealth
from postsale.agents.rederive import rederive
from postsale.aggregates.conversations import ContactLimit, ConversationEnded
from postsale.aggregates.decisions import DecisionRecorded
from postsale.aggregates.signals import (
    AccountChurned,
    AdvocacyGiven,
    CancellationScheduled,
    CancellationWithdrawn,
    MilestoneReached,
    OnboardingStepCompleted,
    ReferralInvited,
    RenewalCalledFinally,
    SubscriptionChanged,
    SubscriptionEnded,
    SurveyAnswered,
    TicketEscalated,
    TicketOpened,
    TicketSolved,
    UsageObserved,
)
from postsale.audit.dispositions import check_dispositions
from postsale.errors import ApprovalRefused
from postsale.events import DAY_US, to_us
from postsale.projections import CUSTOMER_HEALTH, MemoryViews, Runner
from postsale.projections.journal import read_journal
from tests.agents.world import ANNA, BEN, World

BUDGET = ContactLimit(1, 30)  # less than any policy allows by itself, so that it is the budget that holds


def seven(order: list[str] | None = None) -> World:
    w = World([SHIPPED[name]() for name in order or SHIPPED])
    w.engine.health = RunnerHealth(Runner(w.store, MemoryViews(), CUSTOMER_HEALTH.fold, clock=w.clock))
    for name in SHIPPED:
        w.mode("act", name)
    for purpose in ("service", "marketing"):
        w.consent(purpose=purpose)
    control.set_contact_budget(w.engine.desk, w.tenant, "email", BUDGET, person=ANNA, reason="test")
    return w


def terms(w: World, **more: Any) -> dict[str, Any]:
    at = w.now() + timedelta(days=20)
    return {"subscription_id": "s1", "mrr_minor": 12_000, "interval": "month", "currency": "EUR", "effective_at": at, **more}


FACTS: dict[str, Any] = {
    "paid": lambda w: w.paid(),
    "failed": lambda w: w.failed(attempt=2),
    "small": lambda w: w.says(SubscriptionChanged, **terms(w, mrr_minor=4_900, plan="starter", seats=10)),
    "cancelled": lambda w: w.says(CancellationScheduled, **terms(w)),
    "stays": lambda w: w.says(CancellationWithdrawn, **terms(w, plan="starter", seats=10)),
    "ended": lambda w: w.says(SubscriptionEnded, **terms(w)),
    "used": lambda w: w.says(UsageObserved, feature="x", count=9, active_users=10),
    "step": lambda w: w.says(OnboardingStepCompleted, step="one", steps=5),
    "milestone": lambda w: w.says(MilestoneReached, milestone="first", value=True),
    "ticket": lambda w: w.says(TicketOpened, ticket_id="t1"),
    "solved": lambda w: w.says(TicketSolved, ticket_id="t1"),
    "escalated": lambda w: w.says(TicketEscalated, ticket_id="t1"),
    "promoter": lambda w: w.says(SurveyAnswered, survey="nps", score=10),
    "detractor": lambda w: w.says(SurveyAnswered, survey="nps", score=3),
    "spoke": lambda w: w.says(AdvocacyGiven, act="testimonial"),
    "invited": lambda w: w.says(ReferralInvited, referral_id="r1"),
    "renewed": lambda w: w.says(RenewalCalledFinally, renews_at=w.now(), call="renew"),
    "lost": lambda w: w.says(AccountChurned),
    "profile": lambda w: w.profile(segment="smb", time_zone="Europe/Berlin"),
}


def talking(w: World) -> set[str]:
    """Who has a conversation under way, by the journal, which the agents do not read."""
    now_us, by_kind = w.clock.now_us(), [(r.stored.kind, r.stored.occurred_at_us) for r in w.events()]
    out = set()
    for e in read_journal(w.store, w.tenant):
        by_us = to_us(e.recorded.outcome_by) if e.recorded.outcome_by else 0
        reached = any(kind in e.recorded.outcome_kinds and to_us(e.decided_at) < at <= by_us for kind, at in by_kind)
        if not reached and (e.disposition == "awaiting" or (e.disposition == "acted" and e.outcome is None and now_us <= by_us)):
            out.add(e.agent)
    return out


def contacts(w: World) -> list[int]:
    """When the customer was contacted, or was promised to be, by the journal."""
    out = []
    for e in read_journal(w.store, w.tenant):
        channels = {i.intent_id for i in e.recorded.intents if i.channel}
        out += [to_us(e.decided_at) for id_, status in e.effects.items() if id_ in channels and status not in {"failed", "cancelled"}]
    return sorted(out)


class Seven(RuleBasedStateMachine):
    """Facts, questions by people, answers to proposals and days go by in any order."""

    @initialize(order=st.permutations(list(SHIPPED)))
    def begin(self, order: list[str]) -> None:
        self.w = seven(order)
        self.w.attend(self.w.subscribed(mrr_minor=12_000))

    @rule(names=st.lists(st.sampled_from(sorted({*FACTS} - {"small"})), min_size=1, max_size=2))
    def happens(self, names: list[str]) -> None:
        for name in names:
            self.w.wait(minutes=1)
            fact = FACTS[name](self.w)
        self.w.attend(fact)

    @rule()
    def goals_are_reached(self) -> None:
        """What is under way ends well, and a week goes by: room for the next one."""
        self.w.wait(minutes=1)
        for name in ("paid", "small", "step", "used", "invited"):
            fact = FACTS[name](self.w)
        self.w.attend(fact)
        self.w.wait(days=7)

    @rule(agents=st.lists(st.sampled_from(sorted(SHIPPED)), min_size=1, max_size=3, unique=True), dispatch=st.booleans())
    def people_ask(self, agents: list[str], dispatch: bool) -> None:
        self.w.wait(minutes=1)
        for agent in agents:
            self.w.engine.ask(self.w.stream(), agent, "look", person=ANNA, reason="test")
        if dispatch:
            self.w.attend()
        else:
            self.w.engine.visit(self.w.stream())  # decided; what it comes to has not left yet

    @rule(days=st.sampled_from([1, 7, 25]))
    def time_passes(self, days: int) -> None:
        self.w.wait(days=days)
        self.w.attend(since_us=self.w.clock.now_us() - days * DAY_US)

    @rule(yes=st.booleans())
    def a_person_answers(self, yes: bool) -> None:
        waiting = [e for e in read_journal(self.w.store, self.w.tenant) if e.disposition == "awaiting"]
        for entry in waiting[:1]:
            try:
                if yes:
                    self.w.engine.approvals.approve(self.w.tenant, entry.id, BEN)
                else:
                    self.w.engine.approvals.reject(self.w.tenant, entry.id, BEN, reason="no")
            except ApprovalRefused:
                pass  # it lapsed, which is recorded
        self.w.attend()

    @rule(purpose=st.sampled_from(["service", "marketing"]), given_=st.sampled_from([True, True, False]))
    def consent_changes(self, purpose: str, given_: bool) -> None:
        self.w.consent(purpose=purpose, given=given_)
        self.w.attend()

    @invariant()
    def one_conversation(self) -> None:
        assert len(talking(self.w)) <= 1, talking(self.w)
        assert len({o.agent for o in conversations(self.w.customer(), self.w.clock.now_us())}) <= 1

    @invariant()
    def nobody_takes_over_from_a_more_important_agent(self) -> None:
        rank = {e.id: list(SHIPPED).index(e.agent) for e in read_journal(self.w.store, self.w.tenant)}
        for r in self.w.events():
            if isinstance(r.data, ConversationEnded) and r.data.by is not None and r.data.why == "taken-over":
                assert rank[r.data.by] < rank[r.data.decision_id]

    @invariant()
    def within_the_budget(self) -> None:
        times = contacts(self.w)
        for at in times:
            within = [t for t in times if at - BUDGET.days * DAY_US <= t <= at]
            assert len(within) <= BUDGET.most, within

    def teardown(self) -> None:
        assert check_dispositions(self.w.store).ok
        policies = {a.policy.digest: a.policy for a in self.w.engine.agents.values()}
        for r in self.w.events():
            if isinstance(r.data, DecisionRecorded):
                arguments = r.data.arguments if isinstance(r.data.arguments, str) else None
                assert rederive(r.data, arguments, policies[r.data.policy], self.w.engine.desk.mac(self.w.tenant)).difference is None


TestSeven = Seven.TestCase
TestSeven.settings = settings(max_examples=6, stateful_step_count=20)
