"""An edit is a new proposal: judged anew, bound anew, made again byte by byte; the old one is closed, and nothing of it leaves."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from postsale.access import Person, Unsealer
from postsale.agents import Agent, Policy
from postsale.agents.rederive import rederive
from postsale.aggregates.asked import ApprovalReplaced
from postsale.aggregates.decisions import ApprovalGranted, ApprovalLapsed, CommandIssued, DecisionRecorded
from postsale.audit import check_dispositions, replay
from postsale.errors import ApprovalRefused, InvalidInput, NotAllowed, UnknownDecision
from postsale.projections.journal import read_journal
from tests.agents.planned import CALL, Planned
from tests.agents.test_approval_rules import CARA, DIRK, delegate, grant, ladder, of
from tests.agents.world import ANNA, BEN, DUNNING, World, calls

SHOWN = {"customer": "c1", "amount_minor": 4900, "currency": "EUR", "terms": "One month."}


@pytest.fixture
def w() -> World:
    world = World()
    world.mode("act")
    return world


def edit(w: World, id_: UUID, person: Person = BEN, **changes: Any) -> UUID:
    return w.engine.approvals.edit("acme", id_, person, reason="they asked for less", **changes)


def decided(w: World) -> list[DecisionRecorded]:
    return w.decisions()


def test_an_edit_closes_the_proposal_and_a_new_one_waits_with_what_was_edited(w: World) -> None:
    old = w.one_decision()
    new = edit(w, old, amount_minor=3000, terms="Two weeks.")
    (replaced,) = of(w, ApprovalReplaced)
    assert (replaced.decision_id, replaced.replaced_by, replaced.editor) == (old, new, "ben")
    assert replaced.changed == ("offer.amount_minor", "offer.terms")
    assert list(w.customer().decisions) == [new]
    recorded = w.decision(new).data
    assert (recorded.disposition, recorded.flags["edit.replaces"]) == ("awaiting", str(old))
    assert "ben" not in recorded.flags.values()  # flags are exported as they are; people only as pseudonyms
    assert recorded.offer is not None
    assert recorded.offer.amount_minor == 3000
    w.engine.approvals.approve("acme", new, ANNA)
    w.attend()
    assert calls(w) == [("billing.offer_credit@1", {**SHOWN, "amount_minor": 3000, "terms": "Two weeks."})]
    first, second = read_journal(w.store, "acme")
    assert (first.disposition, first.suppressed_by, first.replaced_by, second.disposition) == (
        "suppressed",
        "approval:replaced",
        new,
        "acted",
    )
    assert check_dispositions(w.store).problems == []


def test_the_old_proposal_cannot_be_approved_edited_or_rejected_any_more_nor_the_new_one_twice(w: World) -> None:
    old = w.one_decision()
    new = edit(w, old, amount_minor=3000)
    for act in (
        lambda: w.engine.approvals.approve("acme", old, ANNA),
        lambda: edit(w, old, amount_minor=2000),
        lambda: w.engine.approvals.reject("acme", old, ANNA, reason="x"),
    ):
        with pytest.raises(ApprovalRefused, match="not waiting"):
            act()
    with pytest.raises(ApprovalRefused, match="arguments differ"):
        w.engine.approvals.approve("acme", new, ANNA, seen=[SHOWN])  # what the old one showed
    w.engine.approvals.approve("acme", new, ANNA, seen=[{**SHOWN, "amount_minor": 3000}])
    with pytest.raises(ApprovalRefused, match="not waiting"):
        w.engine.approvals.approve("acme", new, ANNA)
    assert len(of(w, ApprovalGranted)) == 1


def test_money_and_contacts_of_the_replaced_proposal_are_given_back_in_the_same_append(w: World) -> None:
    old = w.one_decision()
    new = edit(w, old, amount_minor=10_000)  # all there is: only with what the old one gives back
    money = w.engine.desk.budget("acme", "retention")
    assert {k: v[1] for k, v in money.open.items()} == {w.decision(new).data.intents[0].intent_id: 10_000}
    assert [t.decision_id for t in w.customer().touches] == [new]


@pytest.mark.parametrize(("amount", "rule"), [(10_001, "budget:retention"), (0, "")])
def test_guardrails_judge_the_edit_and_one_that_does_not_pass_changes_nothing(w: World, amount: int, rule: str) -> None:
    old = w.one_decision()
    before = w.kinds()
    if rule:
        with pytest.raises(ApprovalRefused, match=rule):
            edit(w, old, amount_minor=amount)
        assert w.kinds() == before
        assert list(w.customer().decisions) == [old]
    else:
        assert w.decision(edit(w, old, amount_minor=amount)).data.disposition == "awaiting"  # also within authority: a person edited it


@pytest.mark.parametrize("amount", [-1, 2**60, True, 1.5, "7", float("nan")])
def test_an_amount_that_no_offer_has_is_refused_by_name_and_changes_nothing(w: World, amount: Any) -> None:
    old = w.one_decision()
    at = w.store.head()
    with pytest.raises(InvalidInput, match=r"offer\.amount_minor"):
        edit(w, old, amount_minor=amount)
    assert (list(w.customer().decisions), w.store.head()) == ([old], at)


@pytest.mark.parametrize("terms", ["\ud800", "a\x00b", "x" * 5_000, 7])
def test_terms_that_no_offer_has_are_refused_by_name_and_change_nothing(w: World, terms: Any) -> None:
    old = w.one_decision()
    with pytest.raises(InvalidInput, match=r"offer\.terms"):
        edit(w, old, terms=terms)
    assert (list(w.customer().decisions), of(w, ApprovalReplaced)) == ([old], [])


def test_quiet_hours_at_the_time_of_the_edit_refuse_it(w: World) -> None:
    old = w.one_decision()
    w.wait(hours=10)
    with pytest.raises(ApprovalRefused, match="quiet-hours"):
        edit(w, old, amount_minor=100)


def test_an_offer_above_the_authority_of_a_row_that_asks_nobody_is_refused() -> None:
    w = World([Agent(Policy.from_toml(DUNNING.replace("authority_limit_minor = 1000", 'authority_limit_minor = 1000\napproval = "none"')))])
    w.mode("propose")
    w.vip(mrr_minor=900)
    (old,) = w.attend(w.failed()).decided
    with pytest.raises(ApprovalRefused, match="authority:1000"):
        edit(w, old, amount_minor=1001)
    edit(w, old, amount_minor=1000)


def test_arguments_are_edited_by_name_and_what_follows_from_customer_or_offer_is_not_a_person_s_to_change() -> None:
    w = World()
    w.mode("propose")
    (old,) = w.attend(w.failed()).decided
    shown = {"customer": "c1", "title": "Payment failing", "note": "2 failed."}
    for wrong, place in (
        ({**shown, "customer": "c2"}, "arguments.customer"),
        ({**shown, "title": 7}, "arguments.title"),
        ({**shown, "cc": "x"}, "exactly the arguments"),
        ({"customer": "c1"}, "exactly the arguments"),
        ({**shown, "title": "\ud800"}, "without lone surrogates"),
        ({**shown, "title": "x" * 5_000}, "fit the input of crm.create_task@1"),
        (shown, "nothing was changed"),
    ):
        with pytest.raises(InvalidInput, match=place):
            edit(w, old, arguments=[wrong])
    with pytest.raises(InvalidInput, match="one for each effect"):
        edit(w, old, arguments=[shown, shown])
    with pytest.raises(InvalidInput, match="offers nothing"):
        edit(w, old, amount_minor=5)
    new = edit(w, old, arguments=[{**shown, "title": "Call before noon"}])
    assert of(w, ApprovalReplaced)[0].changed == ("0.title",)
    assert "Call before noon" not in str(w.store.find("acme", new))  # sealed, as every argument
    newer = edit(w, new, ANNA, arguments=[{**shown, "title": "Call before noon", "note": "Ask for Eve."}])
    w.engine.approvals.approve("acme", newer, CARA)
    w.attend()
    ((_, sent),) = calls(w)
    assert (sent["title"], sent["note"]) == ("Call before noon", "Ask for Eve.")
    assert w.decision(newer).data.flags["edit.arguments"] == "0.note,0.title"


def test_an_edited_decision_is_made_again_byte_by_byte_and_more_than_was_edited_is_found(w: World) -> None:
    old = w.one_decision()
    new = edit(w, old, amount_minor=3000, arguments=None)
    for id_ in (old, new):
        assert replay(w.log, "acme", id_, Unsealer(w.log.vault)).arguments_checked
    recorded = w.decision(new).data
    policy = next(iter(w.engine.agents.values())).policy
    mac = w.engine.desk.mac("acme")
    assert isinstance(recorded.arguments, str)
    altered = recorded.arguments.replace("One month.", "Two years.")  # not among what was edited
    assert rederive(recorded, altered, policy, mac).difference is not None
    more = recorded.model_copy(update={"flags": {**recorded.flags, "edit.amount_minor": 4000}})
    assert rederive(more, recorded.arguments, policy, mac).difference is not None
    assert rederive(recorded, None, policy, None).difference is None


def test_edited_arguments_that_were_erased_are_said_not_to_be_checked() -> None:
    w = World()
    w.mode("propose")
    (old,) = w.attend(w.failed()).decided
    new = edit(w, old, arguments=[{"customer": "c1", "title": "Call", "note": "2 failed."}])
    recorded, policy = w.decision(new).data, next(iter(w.engine.agents.values())).policy
    assert rederive(recorded, str(recorded.arguments), policy, w.engine.desk.mac("acme")).arguments_checked
    again = rederive(recorded, None, policy, w.engine.desk.mac("acme"))
    assert (again.difference, again.arguments_checked) == (None, False)


# ---------------------------------------------------------------- FAULTS 31, on this path


def test_values_that_changed_before_the_edit_void_the_old_proposal_instead(w: World) -> None:
    old = w.one_decision()
    w.wait(hours=1)
    w.failed(attempt=3)
    with pytest.raises(ApprovalRefused, match="failed_payments"):
        edit(w, old, amount_minor=3000)
    assert [e.why for e in of(w, ApprovalLapsed)] == ["values-changed"]
    assert of(w, ApprovalReplaced) == []


def test_values_that_change_after_the_edit_void_the_new_one(w: World) -> None:
    new = edit(w, w.one_decision(), amount_minor=3000)
    w.wait(hours=1)
    w.failed(attempt=3)
    with pytest.raises(ApprovalRefused, match="failed_payments"):
        w.engine.approvals.approve("acme", new, ANNA)
    w.attend()
    assert calls(w) == []


def test_a_fact_that_arrives_while_a_person_edits_is_seen(w: World) -> None:
    old = w.one_decision()
    reread, done = w.engine.approvals._reread, []

    def slow(customer: Any, agent: str) -> Any:
        answer = reread(customer, agent)
        if not done:
            done.append(w.wait(hours=1))
            w.paid()
        return answer

    w.engine.approvals._reread = slow
    with pytest.raises(ApprovalRefused):
        edit(w, old, amount_minor=3000)
    w.attend()
    assert calls(w) == []


def test_an_expired_proposal_is_not_edited(w: World) -> None:
    old = w.one_decision()
    w.wait(hours=48)
    with pytest.raises(ApprovalRefused, match="expired"):
        edit(w, old, amount_minor=3000)


def test_neither_an_agent_nor_somebody_unproven_edits_and_no_other_tenant_s(w: World) -> None:
    old = w.one_decision()
    with pytest.raises(ApprovalRefused, match="agent"):
        edit(w, old, Person("dunning", "token"), amount_minor=1)
    for nobody in ("ben", Person("ben", ""), None):
        with pytest.raises(NotAllowed):
            edit(w, old, nobody, amount_minor=1)  # type: ignore[arg-type]
    with pytest.raises(UnknownDecision):
        w.engine.approvals.edit("globex", old, BEN, reason="x", amount_minor=1)
    with pytest.raises(InvalidInput, match="reason"):
        w.engine.approvals.edit("acme", old, BEN, reason=" ", amount_minor=1)
    assert of(w, CommandIssued) == []


def test_whoever_edited_does_not_approve_where_the_policy_asks_for_somebody_else_nor_does_their_delegate() -> None:
    w = World([Agent(Policy.from_toml(ladder()))])
    w.mode("act")
    grant(w, "cara", "cs-lead")
    grant(w, "ben", "cs-lead")
    old = w.one_decision()
    new = edit(w, old, CARA, amount_minor=3000)
    with pytest.raises(ApprovalRefused, match="whoever edited"):
        w.engine.approvals.approve("acme", new, CARA)
    delegate(w, CARA, "emil")
    with pytest.raises(ApprovalRefused, match="nor does their delegate"):
        w.engine.approvals.approve("acme", new, Person("emil", "token"))
    assert w.engine.approvals.approve("acme", new, BEN)


def test_whoever_edited_first_does_not_approve_what_somebody_edited_further() -> None:
    """Else two people would get their changes through that nobody else looked at: one edits, the other adds a word, the first approves."""
    w = World([Agent(Policy.from_toml(ladder()))])
    w.mode("act")
    for login in ("anna", "ben", "cara"):
        grant(w, login, "cs-lead")
    delegate(w, ANNA, "emil")
    last = edit(w, edit(w, w.one_decision(), ANNA, amount_minor=3000), BEN, terms="Two weeks.")
    for person in (ANNA, BEN, Person("emil", "token")):
        with pytest.raises(ApprovalRefused, match="whoever edited"):
            w.engine.approvals.approve("acme", last, person)
    assert w.engine.approvals.approve("acme", last, CARA) is True


def test_an_edit_beyond_the_approver_s_limit_goes_to_somebody_with_a_higher_one() -> None:
    w = World([Agent(Policy.from_toml(ladder()))])
    w.mode("act")
    grant(w, "dirk", "cs-lead", 1)
    grant(w, "cara", "cs-lead", 5000)
    grant(w, "anna", "cs-head")
    new = edit(w, w.one_decision(), DIRK, amount_minor=6000)
    with pytest.raises(ApprovalRefused, match=r"60\.00 EUR"):
        w.engine.approvals.approve("acme", new, CARA)
    w.engine.approvals.approve("acme", new, ANNA)


def test_two_people_who_edit_at_once_make_one_new_proposal(w: World) -> None:
    old = w.one_decision()
    propose, done = w.engine.approvals._editor._propose, []
    assert propose is not None

    def slow(*given: Any) -> Any:
        if not done:
            done.append(1)
            done.append(edit(w, old, ANNA, amount_minor=2000))
        return propose(*given)

    w.engine.approvals._editor._propose = slow
    with pytest.raises(ApprovalRefused, match="not waiting"):
        edit(w, old, BEN, amount_minor=3000)
    assert list(w.customer().decisions) == [done[1]]


def test_what_a_planner_proposed_is_not_edited_and_no_planner_is_asked_for_it() -> None:
    questions: list[Any] = []
    w = Planned(lambda question: (questions.append(question), CALL)[1], mode="propose")
    (old,) = w.attend(w.failed()).decided
    assert len(questions) == 1
    arguments = [{"customer": "c1", "title": "Call", "note": "Say more."}]
    with pytest.raises((ApprovalRefused, InvalidInput)):
        w.engine.approvals.edit("acme", old, BEN, reason="more", arguments=arguments)
    assert len(questions) == 1
    assert list(w.customer().decisions) == [old]
