"""Approvals under rules: who may answer, several people, escalation, silence. Each refusal is provoked, none is assumed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from postsale.access import Person
from postsale.agents import Agent, Policy, RenewalRescue
from postsale.agents.engines import EmbeddedEngine
from postsale.aggregates.asked import ApprovalEscalated, ApprovalReplaced, ApprovalSigned, ApprovalTimedOut
from postsale.aggregates.decisions import ApprovalGranted, ApprovalLapsed, ApprovalRejected, CustomerEvent, DecisionOverridden
from postsale.audit import check_dispositions
from postsale.errors import ApprovalRefused, InvalidInput, NotAllowed, PolicyInvalid
from postsale.events import iso
from postsale.projections.journal import read_journal
from tests.agents.world import ANNA, BEN, DUNNING, NOON, World, calls

CARA = Person("cara", "token")
DIRK = Person("dirk", "token")
CALENDAR = """
[calendar]
zone = "Europe/Berlin"
holidays = ["2026-11-18"]
[calendar.hours]
mon = ["09:00-17:00"]
tue = ["09:00-17:00"]
wed = ["09:00-17:00"]
thu = ["09:00-17:00"]
fri = ["09:00-17:00"]
"""
LADDER = (
    DUNNING
    + CALENDAR
    + """
[approvals]
people = {people}
edits = "other"
[[approvals.level]]
name = "lead"
role = "cs-lead"
within_business_h = 8
on_timeout = "escalate"
[[approvals.level]]
name = "head"
role = "cs-head"
within_business_h = 16
on_timeout = "{silence}"
"""
)


def ladder(people: int = 1, silence: str = "lapse") -> str:
    return LADDER.replace("{people}", str(people)).replace("{silence}", silence)


def world(text: str | None = None, **more: Any) -> World:
    w = World([Agent(Policy.from_toml(ladder() if text is None else text))], **more)
    w.mode("act")
    return w


def grant(w: World, login: str, role: str, limit_minor: int | None = None) -> None:
    currency = None if limit_minor is None else "EUR"
    w.engine.approvals.authority.grant("acme", login, role, limit_minor=limit_minor, currency=currency, person=DIRK, reason="staff list")


def delegate(w: World, giver: Person, taker: str, role: str = "cs-lead", hours: float = 24, limit_minor: int | None = None) -> UUID:
    begin = w.now()
    money: dict[str, Any] = {} if limit_minor is None else {"limit_minor": limit_minor, "currency": "EUR"}
    return w.engine.approvals.authority.delegate(
        "acme", taker, role, begin=begin, end=begin + timedelta(hours=hours), person=giver, reason="on leave", **money
    )


def of(w: World, kind: type[CustomerEvent]) -> list[Any]:
    return [r.data for r in w.events() if isinstance(r.data, kind)]


@pytest.fixture
def w() -> World:
    made = world()
    grant(made, "cara", "cs-lead", 5000)
    grant(made, "anna", "cs-head")
    return made


# ---------------------------------------------------------------- who


def test_the_role_decides_who_may_answer_and_the_yes_says_by_which_role(w: World) -> None:
    id_ = w.one_decision()
    with pytest.raises(ApprovalRefused, match=r"ben has no authority as cs-lead or cs-head up to 49\.00 EUR"):
        w.engine.approvals.approve("acme", id_, BEN)
    assert w.engine.approvals.approve("acme", id_, CARA) is True
    (signed,) = of(w, ApprovalSigned)
    assert (signed.approver, signed.role, signed.on_behalf_of) == ("cara", "cs-lead", None)
    assert w.attend().called == 1


def test_an_offer_above_the_limit_of_a_role_needs_somebody_with_a_higher_one() -> None:
    w = world()
    grant(w, "cara", "cs-lead", 4899)
    grant(w, "anna", "cs-head")
    id_ = w.one_decision()
    with pytest.raises(ApprovalRefused, match="no authority"):
        w.engine.approvals.approve("acme", id_, CARA)
    assert w.engine.approvals.approve("acme", id_, ANNA)  # a higher level may always answer


def test_a_limit_in_another_currency_covers_nothing(w: World) -> None:
    w.engine.approvals.authority.grant("acme", "ben", "cs-lead", limit_minor=10**9, currency="USD", person=DIRK, reason="x")
    with pytest.raises(ApprovalRefused, match="no authority"):
        w.engine.approvals.approve("acme", w.one_decision(), BEN)


def test_a_role_that_was_taken_away_before_the_yes_gives_no_right(w: World) -> None:
    id_ = w.one_decision()
    assert w.engine.approvals.authority.revoke("acme", "cara", "cs-lead", person=DIRK, reason="left")
    assert not w.engine.approvals.authority.revoke("acme", "cara", "cs-lead", person=DIRK, reason="left")
    with pytest.raises(ApprovalRefused, match="no authority"):
        w.engine.approvals.approve("acme", id_, CARA)


def test_a_role_that_is_taken_away_between_the_look_and_the_append_gives_no_right(w: World) -> None:
    id_ = w.one_decision()
    authority_of, done = w.engine.desk.authority, []

    def slow(tenant: str) -> Any:
        known = authority_of(tenant)  # what this process knows before the other one speaks
        if not done:
            done.append(1)
            w.engine.approvals.authority.revoke("acme", "cara", "cs-lead", person=DIRK, reason="left")
        return known

    w.engine.desk.authority = slow  # type: ignore[method-assign]
    with pytest.raises(ApprovalRefused, match="no authority"):
        w.engine.approvals.approve("acme", id_, CARA)
    assert done == [1]
    assert of(w, ApprovalGranted) == []


def test_nobody_gives_a_role_to_themselves_but_the_first_and_an_agent_gets_none(w: World) -> None:
    authority = w.engine.approvals.authority
    with pytest.raises(NotAllowed, match="themselves"):
        authority.grant("acme", "ben", "cs-head", person=BEN, reason="why not")
    authority.grant("globex", "ben", "cs-head", person=BEN, reason="I begin alone")
    for person, login in ((BEN, "dunning"), (Person("dunning", "token"), "ben")):
        with pytest.raises(NotAllowed, match="agent"):
            authority.grant("acme", login, "cs-lead", person=person, reason="x")
    for nobody in ("ben", Person("ben", ""), None):
        with pytest.raises(NotAllowed):
            authority.grant("acme", "cara", "cs-lead", person=nobody, reason="x")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="reason"):
        authority.grant("acme", "cara", "cs-lead", person=BEN, reason=" ")
    with pytest.raises(InvalidInput, match="currency"):
        authority.grant("acme", "cara", "cs-lead", limit_minor=5, person=BEN, reason="x")


def test_an_agent_that_only_the_log_knows_cannot_approve_either(w: World) -> None:
    two = World([RenewalRescue()], store=w.store, vault=w.log.vault)
    two.mode("act", "renewal-rescue")
    id_ = w.one_decision()
    assert "renewal-rescue" not in w.engine.agents
    with pytest.raises(ApprovalRefused, match="an agent cannot settle"):
        w.engine.approvals.approve("acme", id_, Person("renewal-rescue", "token"))


# ---------------------------------------------------------------- delegation


def test_a_delegate_answers_for_somebody_within_both_limits_and_the_period(w: World) -> None:
    made = delegate(w, CARA, "ben", hours=2)
    id_ = w.one_decision()
    assert w.engine.approvals.approve("acme", id_, BEN)
    (signed,) = of(w, ApprovalSigned)
    assert (signed.approver, signed.on_behalf_of, signed.delegation_id) == ("ben", "cara", made)


@pytest.mark.parametrize("why", ["over", "revoked", "limit", "giver lost the role"])
def test_a_delegation_that_does_not_hold_when_it_is_used_is_worth_nothing(w: World, why: str) -> None:
    made = delegate(w, CARA, "ben", hours=1, limit_minor=4899 if why == "limit" else None)
    id_ = w.one_decision()
    authority = w.engine.approvals.authority
    match why:
        case "over":
            w.wait(hours=1)
        case "revoked":
            assert authority.call_back("acme", made, person=ANNA, reason="back again")
            assert not authority.call_back("acme", made, person=ANNA, reason="back again")
        case "giver lost the role":
            authority.revoke("acme", "cara", "cs-lead", person=DIRK, reason="left")
    with pytest.raises(ApprovalRefused, match="ben has no authority"):
        w.engine.approvals.approve("acme", id_, BEN)
    assert calls(w) == []


def test_authority_passes_on_through_two_people_but_never_in_a_circle_nor_to_an_agent(w: World) -> None:
    delegate(w, CARA, "ben")
    delegate(w, BEN, "emil")
    for giver, taker in ((Person("emil", "token"), "cara"), (BEN, "cara"), (CARA, "cara"), (Person("emil", "token"), "ben")):
        with pytest.raises(NotAllowed, match="circle"):
            delegate(w, giver, taker)
    with pytest.raises(NotAllowed, match="agent"):
        delegate(w, CARA, "dunning")
    with pytest.raises(NotAllowed, match="no such authority"):
        delegate(w, Person("frida", "token"), "ben")
    with pytest.raises(NotAllowed, match="no such authority"):
        delegate(w, CARA, "frida", limit_minor=5001)
    with pytest.raises(InvalidInput, match="end"):
        delegate(w, CARA, "frida", hours=0)
    id_ = w.one_decision()
    assert w.engine.approvals.approve("acme", id_, Person("emil", "token"))
    assert of(w, ApprovalSigned)[0].on_behalf_of == "cara"


# ---------------------------------------------------------------- several people


def test_two_different_people_have_to_say_yes_and_a_delegate_is_not_a_second_one() -> None:
    w = world(ladder(people=2))
    grant(w, "cara", "cs-lead")
    grant(w, "anna", "cs-head")
    delegate(w, CARA, "ben")
    id_ = w.one_decision()
    assert w.engine.approvals.approve("acme", id_, CARA) is False
    assert w.attend().called == 0
    with pytest.raises(ApprovalRefused, match="answered already"):
        w.engine.approvals.approve("acme", id_, CARA)
    with pytest.raises(ApprovalRefused, match="same person's"):
        w.engine.approvals.approve("acme", id_, BEN)
    assert w.engine.approvals.approve("acme", id_, ANNA) is True
    assert [s.approver for s in of(w, ApprovalSigned)] == ["cara", "anna"]
    assert w.attend().called == 1
    with pytest.raises(ApprovalRefused, match="not waiting"):
        w.engine.approvals.approve("acme", id_, ANNA)


def test_what_changes_between_the_two_yeses_voids_the_first() -> None:
    w = world(ladder(people=2))
    grant(w, "cara", "cs-lead")
    grant(w, "anna", "cs-head")
    id_ = w.one_decision()
    w.engine.approvals.approve("acme", id_, CARA)
    w.wait(hours=1)
    w.failed(attempt=3)
    assert w.engine.approvals.changed("acme", id_) == ("failed_payments",)
    with pytest.raises(ApprovalRefused, match="failed_payments"):
        w.engine.approvals.approve("acme", id_, ANNA)
    assert of(w, ApprovalGranted) == []


# ---------------------------------------------------------------- time


def test_the_arguments_that_were_shown_bind_each_yes_of_several() -> None:
    w = world(ladder(people=2))
    grant(w, "cara", "cs-lead")
    id_ = w.one_decision()
    shown = {"customer": "c1", "amount_minor": 4900, "currency": "EUR", "terms": "One month."}
    with pytest.raises(ApprovalRefused, match="arguments differ"):
        w.engine.approvals.approve("acme", id_, CARA, seen=[{**shown, "amount_minor": 1}])
    assert of(w, ApprovalSigned) == []
    assert w.engine.approvals.approve("acme", id_, CARA, seen=[shown]) is False


def test_an_unanswered_request_goes_up_after_so_many_business_hours_once_and_then_lapses(w: World) -> None:
    """Asked on Monday at 13:00 in Berlin: eight open hours end on Tuesday at 13:00; sixteen more, over a holiday, on Friday at 13:00."""
    id_ = w.one_decision()
    customer = w.customer()
    assert iso(w.engine.next_due_us(customer) or 0) == "2026-11-17T12:00:00.000000Z"
    w.wait(hours=23, minutes=59)
    w.attend()
    assert of(w, ApprovalEscalated) == []
    w.wait(minutes=1)
    for _ in range(3):
        due = w.attend().next_due_us
    (up,) = of(w, ApprovalEscalated)
    assert (up.level, up.name, up.by) == (1, "head", None)
    assert iso(due or 0) == "2026-11-20T12:00:00.000000Z"
    with pytest.raises(ApprovalRefused, match="cara has no authority as cs-head"):
        w.engine.approvals.approve("acme", id_, CARA)
    w.wait(days=3)
    assert w.attend().lapsed == 1
    assert [e.why for e in of(w, ApprovalLapsed)] == ["expired"]
    assert w.customer().decisions == {}


def test_a_clock_that_was_moved_back_escalates_once(w: World) -> None:
    w.one_decision()
    w.wait(days=1)
    w.attend()
    w.clock.move_to(NOON)
    w.attend()
    w.wait(days=1)
    w.attend()
    assert len(of(w, ApprovalEscalated)) == 1


def test_who_answers_late_answers_at_the_level_that_is_asked_by_then(w: World) -> None:
    """Nobody ran in between: the escalation is recorded with the answer."""
    id_ = w.one_decision()
    w.wait(days=1)
    with pytest.raises(ApprovalRefused, match="cara has no authority as cs-head"):
        w.engine.approvals.approve("acme", id_, CARA)
    w.engine.approvals.approve("acme", id_, ANNA)
    assert [type(e) for e in of(w, ApprovalEscalated)] == [ApprovalEscalated]


def test_a_person_hands_it_up_and_no_further_than_the_last_level(w: World) -> None:
    id_ = w.one_decision()
    assert w.engine.approvals.escalate("acme", id_, CARA, reason="too much for me") == "head"
    with pytest.raises(ApprovalRefused, match="no level above"):
        w.engine.approvals.escalate("acme", id_, CARA, reason="still")
    with pytest.raises(ApprovalRefused, match="agent"):
        w.engine.approvals.escalate("acme", id_, Person("dunning", "token"), reason="x")
    with pytest.raises(NotAllowed):
        w.engine.approvals.escalate("acme", id_, Person("cara", ""), reason="x")


def test_three_levels_go_up_by_time_and_by_hand_each_once() -> None:
    middle = '[[approvals.level]]\nname = "middle"\nwithin_h = 24\nrole = "cs-middle"\non_timeout = "escalate"\n'
    w = world(ladder().replace('[[approvals.level]]\nname = "head"', middle + '[[approvals.level]]\nname = "head"'))
    id_ = w.one_decision()
    w.engine.approvals.escalate("acme", id_, CARA, reason="x")
    w.wait(days=1)
    w.attend()  # the first level's time is over: it went up by hand already
    w.engine.approvals.escalate("acme", id_, CARA, reason="x")
    w.wait(days=1)
    w.attend()
    assert [(e.level, e.name, e.by) for e in of(w, ApprovalEscalated)] == [(1, "middle", "cara"), (2, "head", "cara")]


def test_silence_rejects_where_the_policy_says_so_and_a_late_yes_is_refused() -> None:
    w = world(ladder(silence="reject"))
    grant(w, "anna", "cs-head")
    id_ = w.one_decision()
    w.wait(days=4)
    with pytest.raises(ApprovalRefused, match="nobody answered in time, which by its policy means to reject"):
        w.engine.approvals.approve("acme", id_, ANNA)
    (out,) = of(w, ApprovalTimedOut)
    assert (out.outcome, out.level) == ("reject", "head")
    assert w.engine.desk.budget("acme", "retention").open == {}
    (entry,) = read_journal(w.store, "acme")
    assert (entry.disposition, entry.suppressed_by) == ("suppressed", "approval:timed-out")


SILENT = """
name = "dunning"
version = 1
owner = "cs"
description = "A task after three days, unless somebody objects."
hit = "first"
[inputs]
failed_payments = "integer"
[[trigger]]
id = "failing"
when = { failed_payments = ">= 1" }
[[rule]]
id = "task"
action = "task"
tool = "crm.create_task@1"
arguments = { customer = "$customer", title = "Call", note = "$because" }
approval = "required"
risk = "low"
because = "{failed_payments} failed."
[guardrails]
purpose = "service"
bound_to = ["failed_payments"]
[approvals]
edits = "other"
[[approvals.level]]
name = "team"
within_h = 72
on_timeout = "approve"
"""


def silent() -> tuple[World, UUID]:
    w = world(SILENT)
    (id_,) = w.attend(w.failed()).decided
    assert calls(w) == []
    return w, id_


def test_silence_approves_only_where_the_policy_says_so_in_words() -> None:
    w, id_ = silent()
    w.wait(hours=72)
    assert w.attend().called == 1
    (out,) = of(w, ApprovalTimedOut)
    assert (out.outcome, out.decision_id) == ("approve", id_)
    assert of(w, ApprovalGranted) == []  # no person said so
    assert read_journal(w.store, "acme")[0].history[1][1] == "approved by silence of team, as its policy says"
    assert check_dispositions(w.store).problems == []


def test_a_worker_without_the_agent_leaves_its_silence_to_one_that_has_it() -> None:
    w, _ = silent()
    w.wait(hours=72)
    other = EmbeddedEngine(w.log, [RenewalRescue()])
    assert other.attend(w.stream()).called == 0
    assert of(w, ApprovalTimedOut) == []
    assert w.attend().called == 1


@pytest.mark.parametrize(
    ("what", "why"), [("changed", "values-changed"), ("paused", "paused"), ("propose", "expired"), ("edited", "expired")]
)
def test_silence_is_no_yes_to_what_changed_to_a_paused_agent_to_one_that_may_only_propose_nor_to_an_edit(what: str, why: str) -> None:
    w, id_ = silent()
    match what:
        case "changed":
            w.wait(hours=1)
            w.failed(attempt=5)
        case "paused":
            w.engine.pause("acme", "dunning", person=ANNA, reason="x")
        case "propose":
            w.mode("propose")
        case "edited":
            arguments = [{"customer": "c1", "title": "Call now", "note": "2 failed."}]
            w.engine.approvals.edit("acme", id_, BEN, reason="urgent", arguments=arguments)
    w.wait(hours=72)
    assert w.attend().called == 0
    assert [e.why for e in of(w, ApprovalLapsed)] == [why]
    assert calls(w) == []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (('on_timeout = "escalate"', 'on_timeout = "lapse"'), "'lead', on_timeout"),
        (('on_timeout = "lapse"', 'on_timeout = "escalate"'), "'head', on_timeout"),
        (('on_timeout = "lapse"', 'on_timeout = "approve"'), "of low risk"),
        (('name = "head"', 'name = "lead"'), "the same name twice"),
        (('on_timeout = "lapse"\n', ""), "on_timeout"),
        (("within_business_h = 16", "within_business_h = 16\nwithin_h = 3"), "exactly one"),
        ((CALENDAR, ""), "business hours need"),
    ],
)
def test_rules_that_leave_silence_open_or_cannot_be_are_refused(change: tuple[str, str], place: str) -> None:
    with pytest.raises(PolicyInvalid, match=place):
        Policy.from_toml(ladder().replace(*change))


# ---------------------------------------------------------------- saying no, and changing


BESIDE = ladder().replace('edits = "other"', 'edits = "other"\nrejected_by = "csm"\nedited_by = "csm"')


def settle(w: World, how: str, id_: UUID, person: Person) -> None:
    if how == "reject":
        w.engine.approvals.reject("acme", id_, person, reason="too dear")
    else:
        w.engine.approvals.edit("acme", id_, person, reason="too dear", amount_minor=100)


def test_no_and_an_edit_take_a_role_that_a_yes_takes_without_its_limit_in_money() -> None:
    for how in ("reject", "edit"):
        w = world()
        grant(w, "anna", "cs-lead", 1)  # may approve next to nothing, and say no to anything
        grant(w, "ben", "support")
        id_ = w.one_decision()
        for wrong in (BEN, CARA):
            head = w.store.head()
            with pytest.raises(ApprovalRefused, match=r"no authority as cs-lead or cs-head.*postsale authority grant"):
                settle(w, how, id_, wrong)
            assert w.store.head() == head
        settle(w, how, id_, ANNA)
        (said,) = of(w, ApprovalRejected if how == "reject" else ApprovalReplaced)
        assert (said.role, said.on_behalf_of) == ("cs-lead", None)
        first, *others = read_journal(w.store, "acme")
        assert (first.disposition, len(others)) == ("suppressed", int(how == "edit"))
        assert " as cs-lead: too dear" in str(first.history) or " as cs-lead" in str(first.history)
        assert check_dispositions(w.store).ok


def test_a_delegate_says_no_or_edits_in_somebodys_place_and_after_its_end_no_more() -> None:
    for how in ("reject", "edit"):
        w = world()
        grant(w, "anna", "cs-lead")
        first = w.one_decision("c1")
        second = w.one_decision("c2")
        delegation = delegate(w, ANNA, "ben", hours=1)
        settle(w, how, first, BEN)
        (said,) = of(w, ApprovalRejected if how == "reject" else ApprovalReplaced)
        assert (said.role, said.on_behalf_of, said.delegation_id) == ("cs-lead", "anna", delegation)
        w.wait(hours=1)
        with pytest.raises(ApprovalRefused, match="no authority"):
            settle(w, how, second, BEN)


def test_a_role_taken_away_while_somebody_says_no_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    grant(w, "anna", "cs-lead")
    id_ = w.one_decision()
    append = w.store.append

    def overtaken(submissions: Any) -> Any:
        monkeypatch.setattr(w.store, "append", append)
        w.engine.approvals.authority.revoke("acme", "anna", "cs-lead", person=DIRK, reason="left")
        return append(submissions)

    monkeypatch.setattr(w.store, "append", overtaken)
    with pytest.raises(ApprovalRefused, match="no authority"):
        w.engine.approvals.reject("acme", id_, ANNA, reason="x")
    assert of(w, ApprovalRejected) == []


def test_a_policy_may_let_another_role_say_no_or_edit_that_may_not_approve() -> None:
    for how in ("reject", "edit"):
        w = world(BESIDE)
        grant(w, "ben", "csm")
        id_ = w.one_decision()
        with pytest.raises(ApprovalRefused, match="no authority as cs-lead"):
            w.engine.approvals.approve("acme", id_, BEN)
        settle(w, how, id_, BEN)
        (said,) = of(w, ApprovalRejected if how == "reject" else ApprovalReplaced)
        assert said.role == "csm"
    w = world(BESIDE.replace("csm", "anyone"))
    settle(w, "reject", w.one_decision(), CARA)
    assert of(w, ApprovalRejected)[0].role is None


def test_from_the_level_that_is_asked_upwards_roles_may_say_no() -> None:
    w = world()
    grant(w, "anna", "cs-lead")
    grant(w, "ben", "cs-head")
    first, second = w.one_decision("c1"), w.one_decision("c2")
    w.engine.approvals.reject("acme", first, BEN, reason="the head may at any level")
    w.engine.approvals.escalate("acme", second, CARA, reason="too large for me")
    with pytest.raises(ApprovalRefused, match="no authority as cs-head;"):
        w.engine.approvals.reject("acme", second, ANNA, reason="x")
    w.engine.approvals.reject("acme", second, BEN, reason="no")


def test_whoever_may_not_say_no_may_still_stop_it_by_an_override_that_is_recorded_with_name_and_reason() -> None:
    w = world()
    id_ = w.one_decision()
    with pytest.raises(ApprovalRefused):
        w.engine.approvals.reject("acme", id_, CARA, reason="x")
    with pytest.raises(InvalidInput, match="reason"):
        w.engine.approvals.override("acme", id_, CARA, reason=" ")
    w.engine.approvals.override("acme", id_, CARA, reason="the customer just called")
    (entry,) = read_journal(w.store, "acme")
    assert (entry.disposition, entry.suppressed_by) == ("suppressed", "override")
    (told,) = [r.data for r in w.events() if isinstance(r.data, DecisionOverridden)]
    assert (told.by, told.reason) == ("cara", "the customer just called")
    assert calls(w) == []
    assert check_dispositions(w.store).ok


def test_without_rules_any_authenticated_person_says_no_or_edits_as_any_approves() -> None:
    for how in ("reject", "edit"):
        w = world(DUNNING)
        settle(w, how, w.one_decision(), CARA)
        assert check_dispositions(w.store).ok
