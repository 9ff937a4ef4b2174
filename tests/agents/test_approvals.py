"""Approvals: bound to arguments, values, consent, a person and a time; used once."""

from __future__ import annotations

from uuid import uuid4

import pytest

from postsale.access import Person
from postsale.agents import RenewalRescue
from postsale.agents.decide import macs_digest, values_digest
from postsale.agents.engines import EmbeddedEngine
from postsale.agents.tools import Receipt, Tool, Toolbox
from postsale.agents.tools.sandbox import Credit
from postsale.aggregates.decisions import ApprovalGranted, ApprovalLapsed, EffectUnknown
from postsale.errors import ApprovalRefused, InvalidInput, NotAllowed, UnknownDecision
from tests.agents.world import ANNA, BEN, NOVEMBER, World, calls


@pytest.fixture
def w() -> World:
    world = World()
    world.mode("act")
    return world


def test_approving_lets_exactly_the_proposed_arguments_leave(w: World) -> None:
    id_ = w.one_decision()
    w.engine.approvals.approve("acme", id_, BEN, reason="good customer")
    assert w.attend().called == 1
    assert calls(w) == [("billing.offer_credit@1", {"customer": "c1", "amount_minor": 4900, "currency": "EUR", "terms": "One month."})]
    (granted,) = [r for r in w.events() if isinstance(r.data, ApprovalGranted)]
    assert (granted.data.approver, granted.data.authenticated_by, granted.header.actor) == ("ben", "token", BEN.actor)
    assert granted.data.arguments_mac == macs_digest(w.decision(id_).data.intents)
    assert granted.data.values_digest == values_digest({"failed_payments": 2})


def test_an_approval_is_used_once(w: World) -> None:
    id_ = w.one_decision()
    w.engine.approvals.approve("acme", id_, BEN)
    for _ in range(2):
        with pytest.raises(ApprovalRefused, match="not waiting"):
            w.engine.approvals.approve("acme", id_, BEN)
        w.attend()
    with pytest.raises(ApprovalRefused, match="not waiting"):
        w.engine.approvals.reject("acme", id_, BEN, reason="too late")
    assert len(calls(w)) == 1


def test_arguments_other_than_those_proposed_are_refused(w: World) -> None:
    id_ = w.one_decision()
    shown = {"customer": "c1", "amount_minor": 4900, "currency": "EUR", "terms": "One month."}
    for altered in ([{**shown, "amount_minor": 9900}], [{**shown, "customer": "c2"}], [], [shown, shown]):
        with pytest.raises(ApprovalRefused, match="arguments differ"):
            w.engine.approvals.approve("acme", id_, BEN, seen=altered)
    w.engine.approvals.approve("acme", id_, BEN, seen=[shown])


def test_a_changed_bound_value_voids_the_request_for_good(w: World) -> None:
    id_ = w.one_decision()
    w.wait(hours=1)
    w.failed(attempt=3)
    with pytest.raises(ApprovalRefused, match="changed since the decision: failed_payments"):
        w.engine.approvals.approve("acme", id_, BEN)
    with pytest.raises(ApprovalRefused, match="not waiting"):
        w.engine.approvals.approve("acme", id_, BEN)
    (lapsed,) = [r.data for r in w.events() if isinstance(r.data, ApprovalLapsed)]
    assert (lapsed.why, lapsed.detail) == ("values-changed", "failed_payments")
    assert w.engine.desk.budget("acme", "retention").open == {}
    w.attend()
    assert calls(w) == []


def test_withdrawn_consent_voids_the_request(w: World) -> None:
    id_ = w.one_decision()
    w.consent(given=False)
    with pytest.raises(ApprovalRefused, match="consent:email/service"):
        w.engine.approvals.approve("acme", id_, BEN)


def test_a_fact_arriving_while_a_person_approves_is_seen(w: World) -> None:
    """The invoice is paid between the re-reading and the append: the append condition catches it."""
    id_ = w.one_decision()
    reread, done = w.engine.approvals._reread, []

    def slow(customer, agent):  # type: ignore[no-untyped-def]
        answer = reread(customer, agent)
        if not done:
            done.append(w.wait(hours=1))
            w.paid()
        return answer

    w.engine.approvals._reread = slow
    with pytest.raises(ApprovalRefused, match="failed_payments"):
        w.engine.approvals.approve("acme", id_, BEN)
    assert w.attend().called == 0


def test_an_expired_request_cannot_be_approved(w: World) -> None:
    id_ = w.one_decision()
    w.wait(hours=48)
    with pytest.raises(ApprovalRefused, match="expired"):
        w.engine.approvals.approve("acme", id_, BEN)
    assert w.customer().decisions == {}


def test_neither_an_agent_nor_somebody_unproven_can_approve(w: World) -> None:
    id_ = w.one_decision()
    with pytest.raises(ApprovalRefused, match="agent"):
        w.engine.approvals.approve("acme", id_, Person("dunning", "token"))
    two = EmbeddedEngine(w.log, [*w.engine.agents.values(), RenewalRescue()])
    with pytest.raises(ApprovalRefused, match="its own or another's"):
        two.approvals.approve("acme", id_, Person("renewal-rescue", "token"))
    for nobody in ("ben", Person("ben", ""), Person(" ", "token"), None):
        with pytest.raises(NotAllowed):
            w.engine.approvals.approve("acme", id_, nobody)  # type: ignore[arg-type]
    with pytest.raises(UnknownDecision):
        w.engine.approvals.approve("acme", uuid4(), BEN)
    with pytest.raises(UnknownDecision):
        w.engine.approvals.approve("globex", id_, BEN)
    assert calls(w) == []


def test_a_paused_agent_s_request_waits_until_it_is_resumed(w: World) -> None:
    id_ = w.one_decision()
    w.engine.pause("acme", "dunning", person=ANNA, reason="check")
    with pytest.raises(ApprovalRefused, match="paused"):
        w.engine.approvals.approve("acme", id_, BEN)
    w.engine.resume("acme", "dunning", person=ANNA, reason="fine")
    w.engine.approvals.approve("acme", id_, BEN)


def test_the_contact_of_a_rejected_proposal_does_not_count(w: World) -> None:
    id_ = w.one_decision()
    assert len(w.customer().touches) == 1
    w.engine.approvals.reject("acme", id_, BEN, reason="no")
    assert w.customer().touches == ()
    with pytest.raises(InvalidInput, match="reason"):
        w.engine.approvals.reject("acme", id_, BEN, reason="")


def test_setting_a_decision_aside_stops_what_has_not_left(w: World) -> None:
    id_ = w.one_decision()
    w.engine.approvals.approve("acme", id_, BEN)
    w.engine.approvals.override("acme", id_, ANNA, reason="spoke to them")
    assert w.attend().called == 0
    assert w.engine.desk.budget("acme", "retention").open == {}


class FlakyCredit(Tool):
    """Acts, then breaks off."""

    name, version, kind, input, output = "billing.offer_credit", 1, "unsafe", Credit, Receipt
    made = 0

    def call(self, arguments: Credit, *, idempotency_key: str, timeout_s: float) -> Receipt:
        FlakyCredit.made += 1
        raise ConnectionResetError


def test_a_person_settles_what_nobody_knows() -> None:
    for happened, kind in ((True, "effect/succeeded"), (False, "effect/failed")):
        w = World(toolbox=Toolbox([FlakyCredit()], sandbox=False))
        w.mode("act")
        id_ = w.one_decision()
        w.engine.approvals.approve("acme", id_, BEN)
        w.attend()
        (unknown,) = [r.data for r in w.events() if isinstance(r.data, EffectUnknown)]
        with pytest.raises(InvalidInput, match="intent_id"):
            w.engine.approvals.settle_unknown("acme", id_, uuid4(), happened=happened, person=ANNA, reason="x")
        w.engine.approvals.settle_unknown("acme", id_, unknown.intent_id, happened=happened, person=ANNA, reason="looked")
        assert w.kinds()[-1] == kind
        sums = w.engine.desk.budget("acme", "retention").pages[NOVEMBER]
        assert (sums.committed, sums.released) == ((4900, 0) if happened else (0, 4900))
