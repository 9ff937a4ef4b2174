"""Agents through the app: observe, propose, act; approvals, consent, kill switch, tokens, commands, overrides, outcomes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from postsale.access import Person
from postsale.agents import Agent, Policy, RenewalRescue
from postsale.agents.evidence import HealthReading
from postsale.agents.tools import Receipt, Tool, ToolModel
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import Scalar
from postsale.app import PostSale, Tenant
from postsale.errors import ApprovalRefused, InvalidInput, NotAllowed, UnknownDecision
from postsale.events import Id, ManualClock, Text
from postsale.projections.journal import Entry

from .support import ANNA, NOON, Where, cancelled, failed, head, opened, paid, subscribed

BEN = Person("ben", "token")

CALLS = """
name = "{name}"
version = 1
owner = "cs"
description = "Write to whoever's payment fails."

[inputs]
failed_payments = "integer"

[[trigger]]
id = "failing"
when = {{ failed_payments = ">= 1" }}

[[rule]]
id = "mail"
when = {{ failed_payments = ">= 1" }}
action = "mail"
tool = "acme.mail@1"
channel = "email"
arguments = {{ customer = "$customer", text = "$because" }}
approval = "{approval}"
because = "{{failed_payments}} failed."

[guardrails]
purpose = "service"
bound_to = ["failed_payments"]
frequency = [{{ count = 5, days = 30 }}]
approval_expires_h = 48

[outcome]
on = ["billing/invoice-paid"]
within_days = 14
"""


def policy(name: str = "mailer", approval: str = "none") -> Policy:
    return Policy.from_toml(CALLS.format(name=name, approval=approval))


class Mail(ToolModel):
    customer: Id
    text: Text


class Mailer(Tool):
    """A real tool that may look at the world when it is called."""

    name, version, kind, input = "acme.mail", 1, "idempotent", Mail

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.sent: list[Mail] = []
        self.meanwhile = meanwhile

    def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Receipt:
        self.meanwhile()
        self.sent.append(arguments)
        return Receipt(receipt=idempotency_key)


def world(where: Where, approval: str = "none", **more: Any) -> tuple[PostSale, Tenant, Mailer, ManualClock]:
    """A log with the mailer acting, a consenting customer with one failed payment."""
    clock, mailer = ManualClock(NOON), Mailer()
    ps = opened(where, clock=clock, agents=[Agent(policy(approval=approval))], tools=[mailer], sandbox=False, **more)
    acme = ps.tenant("acme")
    acme.agent("mailer").act(reason="test", by=ANNA)
    acme.record("cus_42", failed("f1"))
    acme.consent("cus_42", "email", "service", evidence="form")
    return ps, acme, mailer, clock


def only(acme: Tenant) -> Entry:
    (entry,) = acme.decisions("cus_42")
    return entry


# ---------------------------------------------------------------- autonomy


def test_a_new_agent_observes_then_proposes_then_acts(where: Where) -> None:
    """Each step changes what leaves: nothing, nothing without a person, what the policy allows."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        agent = acme.agent("renewal-rescue")
        assert agent.control.mode == "observe"

        def day(name: str) -> Entry:
            acme.record(name, subscribed(f"s-{name}", mrr_minor=60_000))
            acme.record(name, paid(f"p-{name}", NOON - timedelta(hours=1)))
            acme.record(name, failed(f"f-{name}", attempt=2))
            ps.run_once()
            return next(e for e in acme.decisions(name) if e.recorded.condition == "payment-failing")

        seen = day("one")
        assert (seen.disposition, seen.suppressed_by, seen.effects) == ("suppressed", "autonomy:observe", {})
        agent.propose(reason="looks right", by=ANNA)
        proposed = day("two")
        assert (proposed.disposition, list(proposed.effects.values())) == ("awaiting", ["held"])
        assert proposed in acme.approvals()
        agent.act(reason="still right", by=ANNA)
        acted = day("three")
        assert (acted.disposition, list(acted.effects.values())) == ("acted", ["succeeded"])
        assert [e.recorded.mode for e in (seen, proposed, acted)] == ["observe", "propose", "act"]
        sent = {c.idempotency_key for c in ps._toolbox.ledger.calls}
        assert {str(k) for k in acted.effects} <= sent
        assert {str(k) for k in proposed.effects}.isdisjoint(sent)


def test_an_agent_needs_a_reason_and_a_person_for_each_step(where: Where) -> None:
    with opened(where, agents=[RenewalRescue()]) as ps:
        agent = ps.tenant("acme").agent("renewal-rescue")
        for step in (agent.observe, agent.propose, agent.act, agent.pause, agent.resume):
            with pytest.raises(InvalidInput):
                step(reason="  ", by=ANNA)
            with pytest.raises(NotAllowed):
                step(reason="why", by=Person("", "os-user"))
        assert head(ps) == 0


# ---------------------------------------------------------------- approval


def test_an_approval_lets_the_effect_leave_once(where: Where) -> None:
    """A second approval, of the same or another person, is refused and sends nothing."""
    ps, acme, mailer, _ = world(where, "required")
    with ps:
        ps.run_once()
        entry = only(acme)
        assert entry.disposition == "awaiting"
        acme.approve(entry.id, by=BEN, reason="fine")
        for by in (BEN, ANNA):
            with pytest.raises(ApprovalRefused):
                acme.approve(entry.id, by=by)
        ps.run_once()
        assert len(mailer.sent) == 1
        with pytest.raises(ApprovalRefused):
            acme.approve(entry.id, by=ANNA)
        ps.run_once()
        assert len(mailer.sent) == 1
        assert (only(acme).approver, only(acme).disposition) == ("ben", "acted")


def test_an_approval_is_void_when_the_evidence_changed(where: Where) -> None:
    """The value it is bound to differs now: refused with its name, recorded as lapsed, nothing leaves ever."""
    ps, acme, mailer, _ = world(where, "required")
    with ps:
        ps.run_once()
        entry = only(acme)
        acme.record("cus_42", failed("f2", NOON + timedelta(minutes=1), attempt=2))
        with pytest.raises(ApprovalRefused, match="failed_payments"):
            acme.approve(entry.id, by=ANNA)
        assert (only(acme).disposition, only(acme).suppressed_by) == ("suppressed", "approval:values-changed")
        with pytest.raises(ApprovalRefused):
            acme.approve(entry.id, by=ANNA)
        ps.run_once()
        assert mailer.sent == []


def test_an_approval_of_other_arguments_than_were_proposed_is_refused(where: Where) -> None:
    ps, acme, mailer, _ = world(where, "required")
    with ps:
        ps.run_once()
        entry = only(acme)
        shown = dict(acme.explain(entry.id).effects[0].arguments)  # type: ignore[arg-type]
        with pytest.raises(ApprovalRefused):
            acme.approve(entry.id, by=ANNA, seen=[{**shown, "text": "something nicer"}])
        with pytest.raises(ApprovalRefused):
            acme.approve(entry.id, by=ANNA, seen=[])
        acme.approve(entry.id, by=ANNA, seen=[shown])
        ps.run_once()
        assert [m.text for m in mailer.sent] == [shown["text"]]


def test_an_agent_cannot_approve(where: Where) -> None:
    """Neither its own proposal under its name, nor anybody who proved nothing."""
    ps, acme, mailer, _ = world(where, "required")
    with ps:
        ps.run_once()
        entry = only(acme)
        with pytest.raises(ApprovalRefused):
            acme.approve(entry.id, by=Person("mailer", "token"))
        with pytest.raises(ApprovalRefused):
            acme.reject(entry.id, by=Person("mailer", "token"), reason="r")
        for nobody in (Person("", "token"), Person("eve", ""), Person(" ", " ")):
            with pytest.raises(NotAllowed):
                acme.approve(entry.id, by=nobody)
        assert only(acme).disposition == "awaiting"
        ps.run_once()
        assert mailer.sent == []


def test_an_approval_expires(where: Where) -> None:
    ps, acme, mailer, clock = world(where, "required")
    with ps:
        ps.run_once()
        entry = only(acme)
        clock.advance(timedelta(hours=48))
        with pytest.raises(ApprovalRefused, match="expired"):
            acme.approve(entry.id, by=ANNA)
        ps.run_once()
        assert mailer.sent == []
        assert only(acme).suppressed_by == "approval:expired"


def test_a_rejection_needs_a_reason_and_ends_it(where: Where) -> None:
    ps, acme, mailer, _ = world(where, "required")
    with ps:
        ps.run_once()
        entry = only(acme)
        with pytest.raises(InvalidInput):
            acme.reject(entry.id, by=ANNA, reason=" ")
        acme.reject(entry.id, by=ANNA, reason="not now")
        with pytest.raises(ApprovalRefused):
            acme.approve(entry.id, by=BEN)
        ps.run_once()
        assert mailer.sent == []
        assert (only(acme).suppressed_by, only(acme).approver) == ("approval:rejected", "anna")


def test_a_log_opened_without_the_agent_can_settle_what_a_policy_alone_proposed(tmp_path: Path) -> None:
    """The command line opens no agents: the policy is in the log. Approving still reads the bound evidence again."""
    ps, acme, _, clock = world(tmp_path, "required")
    with ps:
        acme.record("other", failed("o1"))
        acme.consent("other", "email", "service", evidence="form")
        ps.run_once()
        first, second = (e.id for e in acme.decisions())
    with opened(tmp_path, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.approve(first, by=ANNA)
        acme.record("other", failed("o2", NOON + timedelta(minutes=2), attempt=2))
        with pytest.raises(ApprovalRefused, match="failed_payments"):
            acme.approve(second, by=ANNA)
        assert acme.replay(first).decider_is_installed


# ---------------------------------------------------------------- switches and consent


@pytest.mark.parametrize("name", ["mailer", "all"])
def test_a_pause_between_approval_and_run_lets_nothing_leave_until_resumed(name: str, where: Where) -> None:
    """Of the agent, or of all agents of the tenant; paused, nothing can be approved either."""
    ps, acme, mailer, clock = world(where, "required")
    with ps:
        ps.run_once()
        entry = only(acme)
        acme.approve(entry.id, by=ANNA)
        acme.agent(name).pause(reason="stop", by=BEN)
        assert acme.agent("mailer").control.paused
        for _ in range(3):
            ps.run_once()
            clock.advance(timedelta(hours=1))
        assert mailer.sent == []
        acme.agent(name).resume(reason="go on", by=BEN)
        ps.run_once()
        assert len(mailer.sent) == 1


def test_while_paused_a_trigger_is_decided_as_suppressed_by_the_switch(where: Where) -> None:
    ps, acme, mailer, _ = world(where)
    with ps:
        acme.agent("mailer").pause(reason="stop", by=BEN)
        ps.run_once()
        assert only(acme).suppressed_by == "kill-switch:agent"
        acme.agent("mailer").resume(reason="go on", by=BEN)
        ps.run_once()
        assert mailer.sent == []  # what was suppressed is not made up for


def test_without_consent_nothing_leaves(where: Where) -> None:
    """Unknown, withdrawn, given for another channel or purpose: all are no."""
    with opened(where, agents=[Agent(policy())], tools=[mailer := Mailer()], sandbox=False) as ps:
        acme = ps.tenant("acme")
        acme.agent("mailer").act(reason="test", by=ANNA)
        for n, consents in enumerate(
            ([], [("phone", "service", True)], [("email", "marketing", True)], [("email", "service", True), ("email", "service", False)])
        ):
            name = f"cus_{n}"
            acme.record(name, failed(f"f{n}"))
            for channel, purpose, given in consents:
                assert acme.consent(name, channel, purpose, given=given, evidence="form")
        ps.run_once()
        assert {e.suppressed_by for e in acme.decisions()} == {"consent:email/service"}
        assert mailer.sent == []


def test_consent_withdrawn_between_decision_and_dispatch_stops_the_effect(where: Where) -> None:
    """Approved while consent was given, withdrawn before it left: the effect is cancelled, not sent, not sent later either."""
    ps, acme, mailer, clock = world(where, "required")
    with ps:
        ps.run_once()
        entry = only(acme)
        acme.approve(entry.id, by=ANNA)
        acme.consent("cus_42", "email", "service", given=False, evidence="unsubscribed")
        ps.run_once()
        assert mailer.sent == []
        assert list(only(acme).effects.values()) == ["cancelled"]
        assert only(acme).disposition == "failed"
        assert "consent" in acme.explain(entry.id).decision.history[-1][1]
        acme.consent("cus_42", "email", "service", evidence="form again")
        clock.advance(timedelta(days=1))
        ps.run_once()
        assert mailer.sent == []


def test_consent_withdrawn_before_approval_voids_the_request(where: Where) -> None:
    ps, acme, mailer, _ = world(where, "required")
    with ps:
        ps.run_once()
        acme.consent("cus_42", "email", "service", given=False, evidence="unsubscribed")
        with pytest.raises(ApprovalRefused, match="consent:email/service"):
            acme.approve(only(acme).id, by=ANNA)
        ps.run_once()
        assert mailer.sent == []


def test_consent_withdrawn_while_a_retry_waits_stops_the_retry(where: Where) -> None:
    """The first attempt certainly did nothing; before the second the customer said no."""
    from postsale.errors import ToolUnavailable

    ps, acme, mailer, clock = world(where)
    with ps:
        mailer.meanwhile = _unavailable(ToolUnavailable(tool="acme.mail@1", reason="busy"))
        ps.run_once()
        assert list(only(acme).effects.values()) == ["retry"]
        mailer.meanwhile = lambda: None
        acme.consent("cus_42", "email", "service", given=False, evidence="unsubscribed")
        clock.advance(timedelta(hours=2))
        ps.run_once()
        assert mailer.sent == []
        assert list(only(acme).effects.values()) == ["cancelled"]


def _unavailable(error: Exception) -> Callable[[], None]:
    def raising() -> None:
        raise error

    return raising


def test_a_tool_that_writes_back_into_the_log_neither_locks_nor_loops(where: Where) -> None:
    """A callback that records a fact about the same customer during the call is a fact like any other."""
    ps, acme, mailer, clock = world(where)
    with ps:
        mailer.meanwhile = lambda: acme.record("cus_42", paid("from-the-tool")) and None
        for _ in range(3):
            ps.run_once()
            clock.advance(timedelta(days=1))
        assert len(mailer.sent) == 1
        assert acme.customer("cus_42").facts["billing/invoice-paid"].count == 1


# ---------------------------------------------------------------- people


def test_a_token_stands_for_its_owner_and_no_other_text_does(where: Where) -> None:
    """Shown once; what is kept is a digest; survives reopening."""
    ps, acme, _, _ = world(where, "required")
    with ps:
        ps.run_once()
        token = ps.issue_token("dora")
        assert ps.authenticate(token) == Person("dora", "token")
        for other in ("", token[:-1], token + "x", token.lower(), "dora"):
            with pytest.raises(NotAllowed) as caught:
                ps.authenticate(other)
            assert token not in str(caught.value)
        acme.approve(only(acme).id, by=ps.authenticate(token))
        assert only(acme).approver == "dora"
        assert "dora" in str(acme.explain(only(acme).id))
    if isinstance(where, Path):
        assert token.encode() not in b"".join(p.read_bytes() for p in where.iterdir())


@pytest.mark.parametrize("login", ["", " ", "a\nb", "x" * 201])
def test_a_token_is_issued_to_a_name_that_can_be_recorded(login: str) -> None:
    """An approval under it could never be stored, so it is refused at once."""
    with opened(None) as ps, pytest.raises(InvalidInput) as caught:
        ps.issue_token(login)
    assert caught.value.field == "login"


def test_a_person_may_ask_an_agent_to_decide_now(where: Where) -> None:
    """The command is a trigger of its own with one decision; asking an agent that is not here is an error."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_42", paid("p"))
        trigger = acme.ask("cus_42", "renewal-rescue", "look-now", reason="they called", by=BEN)
        assert acme.decisions() == []
        ps.run_once()
        entry = only(acme)
        assert (entry.recorded.trigger_id, entry.recorded.condition) == (trigger, "look-now")
        assert entry.disposition == "suppressed"
        clock.advance(timedelta(seconds=1))
        acme.ask("cus_42", "renewal-rescue", "look-now", reason="they called again", by=BEN)
        ps.run_once()
        assert len(acme.decisions("cus_42")) == 2
        with pytest.raises(InvalidInput):
            acme.ask("cus_42", "renewal-rescue", "look-now", reason=" ", by=BEN)


def test_an_override_cancels_what_has_not_left_and_keeps_who_approved(where: Where) -> None:
    ps, acme, mailer, _ = world(where, "required")
    with ps:
        ps.run_once()
        entry = only(acme)
        acme.approve(entry.id, by=BEN)
        with pytest.raises(InvalidInput):
            acme.override(entry.id, by=ANNA, reason="")
        acme.override(entry.id, by=ANNA, reason="they have paid by cheque")
        ps.run_once()
        assert mailer.sent == []
        after = only(acme)
        assert (after.disposition, after.suppressed_by, after.approver) == ("suppressed", "override", "ben")
        assert list(after.effects.values()) == ["cancelled"]


def test_settling_a_decision_of_another_tenant_is_unknown_there(where: Where) -> None:
    ps, acme, _, _ = world(where, "required")
    with ps:
        ps.run_once()
        id_ = only(acme).id
        other = ps.tenant("other")
        for call in (other.explain, other.replay, lambda i: other.approve(i, by=ANNA), lambda i: other.override(i, by=ANNA, reason="r")):
            with pytest.raises(UnknownDecision):
                call(id_)
        assert only(acme).disposition == "awaiting"


# ---------------------------------------------------------------- outcomes


def test_a_success_in_time_is_observed_and_closes_the_case(where: Where) -> None:
    """The invoice was paid after the agent acted: outcome success, the risk case is recovered, at_risk ends."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        acme.agent("renewal-rescue").act(reason="test", by=ANNA)
        acme.record("cus_42", subscribed("s", mrr_minor=60_000))
        for n in range(9):
            acme.record("cus_42", paid(f"p{n}", NOON - timedelta(days=n + 1)))
        acme.record("cus_42", failed("f", attempt=2))
        ps.run_once()
        assert acme.customer("cus_42").cases
        assert [r.open_case for r in acme.customers(at_risk=True)] == [True]
        clock.advance(timedelta(days=2))
        acme.record("cus_42", paid("saved", NOON + timedelta(days=2)))
        ps.run_once()
        entry = next(e for e in acme.decisions() if e.recorded.condition == "payment-failing")
        assert entry.outcome == "success"
        assert not acme.customer("cus_42").cases
        assert acme.customers(at_risk=True) == []
        assert "outcome: success" in str(acme.explain(entry.id))


def test_no_success_in_time_is_an_outcome_too(where: Where) -> None:
    ps, acme, _, clock = world(where)
    with ps:
        ps.run_once()
        clock.advance(timedelta(days=14, seconds=1))
        ps.run_once()
        assert only(acme).outcome == "none"
        acme.record("cus_42", paid("late", NOON + timedelta(days=14, seconds=1)))
        ps.run_once()
        assert only(acme).outcome == "none"


def test_a_broken_customer_stops_nobody_else(tmp_path: Path) -> None:
    """One stored decision event that cannot be read any more: that customer is reported, the others are served."""
    from .support import execute
    from .test_promises import triggers_of

    ps, acme, mailer, clock = world(tmp_path)
    with ps:
        ps.run_once()
        broken = acme.customer("cus_42").stream
        last = [e.position for e in acme.timeline("cus_42")][-1]
    execute(
        tmp_path / "log.db",
        *(f"DROP TRIGGER {name}" for name in triggers_of(tmp_path / "log.db")),
        f"UPDATE events SET data = X'7b7d' WHERE position = {last}",
    )
    with opened(tmp_path, clock=clock, agents=[Agent(policy())], tools=[mailer], sandbox=False) as ps:
        acme = ps.tenant("acme")
        acme.record("fine", failed("ok"))
        acme.consent("fine", "email", "service", evidence="form")
        acme.record("cus_42", failed("f9", attempt=2))
        sent = len(mailer.sent)
        report = ps.run_once()
        assert [stream for stream, _ in report.problems] == [str(broken)]
        assert len(mailer.sent) == sent + 1


def test_an_agent_whose_evidence_raises_for_one_customer_serves_the_others_on_every_kind_of_run(tmp_path: Path) -> None:
    class Broken(Agent):
        def evidence(self, customer: CustomerAggregate, health: HealthReading, at_us: int) -> dict[str, Scalar]:
            if customer.ref == bad:
                raise ZeroDivisionError("canary.bird@example.com")
            return {}

    bad, clock = "", ManualClock(NOON)
    with opened(tmp_path, clock=clock, agents=[Broken(policy())], tools=[Mailer()]) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", failed("f1"))
        acme.record("cus_2", failed("f2"))
        bad = acme.customer("cus_1").stream.id
        for expected in (1, 0):  # the first run looks at everybody, the next one at what is due
            report = ps.run_once()
            assert report.problems == [(f"acme/customers/{bad}", "agent mailer: it raised ZeroDivisionError")]
            assert report.decided == expected
            clock.advance(timedelta(hours=1))
        bad = ""
        assert ps.run_once().decided == 1, "the fact that asked is not forgotten by the visits that failed"
        assert ps.tenant("acme").decisions("cus_1")[0].recorded.condition == "failing"
        assert ps.run_once().decided == 0


def test_what_time_alone_asks_is_asked_although_the_visits_of_that_day_failed(tmp_path: Path) -> None:
    class Broken(Agent):
        def evidence(self, customer: CustomerAggregate, health: HealthReading, at_us: int) -> dict[str, Scalar]:
            if broken:
                raise ZeroDivisionError
            return {}

    broken, clock = False, ManualClock(NOON)
    text = CALLS.format(name="mailer", approval="none").replace('failed_payments = ">= 1"', 'days_since_last_payment = ">= 30"', 1)
    silent = Policy.from_toml(text.replace("[inputs]", '[inputs]\ndays_since_last_payment = "integer"'))
    with opened(tmp_path, clock=clock, agents=[Broken(silent)], tools=[Mailer()]) as ps:
        ps.tenant("acme").record("cus_1", paid("p1"))
        assert ps.run_once().decided == 0
        clock.advance(timedelta(days=29))
        assert ps.run_once().decided == 0
        broken = True
        for _ in range(3):
            clock.advance(timedelta(days=1))
            assert len(ps.run_once().problems) == 1
        broken = False
        assert ps.run_once().decided == 1


def test_two_conditions_at_once_are_two_triggers_with_a_decision_each(where: Where) -> None:
    """A cancelled contract makes a customer unwell too. Both are recorded; the frequency cap counts them together."""
    with opened(where, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        acme.agent("renewal-rescue").act(reason="test", by=ANNA)
        acme.record("cus_42", subscribed("s"))
        acme.record("cus_42", cancelled("c"))
        acme.consent("cus_42", "email", "service", evidence="form")
        ps.run_once()
        assert sorted(e.recorded.condition for e in acme.decisions()) == ["cancellation", "unwell"]


@pytest.mark.parametrize("name", ["Renewal-Rescue", "renewal_rescue", "renewal-rescue ", "nobody", ""])
def test_a_misspelt_kill_switch_is_refused_and_does_not_look_thrown(name: str) -> None:
    """Whoever stops an agent must not believe it stopped when only a name was written down."""
    with opened(None, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        acme.agent("renewal-rescue").act(reason="ready", by=ANNA)
        before = ps.log.store.head()
        with pytest.raises(InvalidInput) as refused:
            acme.agent(name)
        assert "renewal-rescue" in str(refused.value)
        assert ps.log.store.head() == before
        assert not acme.agent("renewal-rescue").control.paused
