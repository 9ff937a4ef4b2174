"""Undo: everything that descends from a decision, policy or tool is listed, approved by a person and taken back once."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any
from uuid import UUID, uuid4

import pytest

from postsale.access import Person, Unsealer
from postsale.agents import Agent, Policy
from postsale.agents.budget import Sums
from postsale.agents.outbox import Outbox
from postsale.agents.tools import Toolbox
from postsale.agents.tools.contract import Undo as Contract
from postsale.agents.tools.sandbox import CloseTask, CreateTask, Ledger
from postsale.agents.undo import Scope, items_of
from postsale.agents.undo_items import Undo
from postsale.agents.undo_text import tree
from postsale.agents.undoing import Undos
from postsale.audit.dispositions import check_dispositions
from postsale.audit.explain import explain
from postsale.errors import BadDeclaration, InvalidInput, NotAllowed, UndoRefused, UnknownDecision
from postsale.events import Actor, derive_id
from postsale.projections.journal import read_journal
from postsale.store.log import Cause
from tests.agents.planned import Planned
from tests.agents.world import ANNA, BEN, DUNNING, NOVEMBER, FixedHealth, World, calls

GENEROUS = DUNNING.replace("authority_limit_minor = 1000", "authority_limit_minor = 90000")
TASKS = "crm.create_task@1"


def acting(toolbox: Toolbox | None = None, text: str = GENEROUS) -> World:
    w = World([Agent(Policy.from_toml(text))], toolbox=toolbox)
    w.mode("act")
    return w


def undos(w: World, toolbox: Toolbox | None = None) -> Undos:
    box = toolbox or w.toolbox
    return Undos(w.engine.desk, box, Outbox(w.engine.desk, box), frozenset(w.engine.agents))


def policy(w: World) -> Scope:
    return Scope("policy", w.engine.agents["dunning"].policy.digest)


def credit(w: World, ref: str = "c1") -> UUID:
    return w.one_decision(ref)


def task(w: World, ref: str = "c1", cause: Cause | None = None) -> UUID:
    (id_,) = w.attend(w.failed(ref, 2, cause=cause), ref).decided
    return id_


def approved(u: Undos, w: World, scope: Scope) -> Undo:
    undo, _ = u.propose(w.tenant, scope, ANNA)
    return u.approve(w.tenant, undo.id, BEN, reason="wrong policy")


def effect_of(w: World, id_: UUID) -> UUID:
    return w.decision(id_).data.intents[0].intent_id


def called(w: World) -> list[str]:
    return [tool for tool, _ in calls(w)]


def caused_by_effect(w: World, id_: UUID) -> Cause:
    """What a callback of a decision's effect is caused by."""
    started = w.store.find(w.tenant, derive_id(effect_of(w, id_), "started", 1))
    assert started is not None
    return Cause(actor=Actor("source", "test"), causation_id=started.event_id, depth=1)


def test_an_effect_is_taken_back_with_the_arguments_its_contract_says_and_its_money_returns_by_an_entry_of_its_own() -> None:
    w = acting()
    id_ = credit(w)
    u = undos(w)
    before = w.engine.desk.budget(w.tenant, "retention")
    assert before.pages[NOVEMBER] == Sums(available=-4900, committed=4900)
    undo = u.run(w.tenant, approved(u, w, Scope("decision", str(id_))).id)
    assert [e.status for e in undo.items] == ["undone"]
    assert undo.state.status == "finished"
    effect = effect_of(w, id_)
    assert calls(w)[-1] == (
        "billing.withdraw_credit@1",
        {"customer": "c1", "credit": f"sandbox-{effect}", "amount_minor": 4900, "currency": "EUR"},
    )
    assert w.toolbox.ledger.calls[-1].idempotency_key == str(derive_id(effect, "undo"))
    after = w.engine.desk.budget(w.tenant, "retention")
    assert after.pages[NOVEMBER] == Sums(committed=4900, compensated=-4900)
    assert after.left(10_000, NOVEMBER) == 10_000


def test_a_second_run_and_a_second_plan_do_nothing() -> None:
    w = acting()
    scope = Scope("decision", str(credit(w)))
    u = undos(w)
    undo = approved(u, w, scope)
    u.run(w.tenant, undo.id)
    head, done = w.store.head(), called(w)
    assert u.run(w.tenant, undo.id).state.status == "finished"
    assert (w.store.head(), called(w)) == (head, done)
    again = u.plan(w.tenant, scope)
    assert (again.items, again.done) == ((), 1)
    with pytest.raises(UndoRefused, match="nothing is left"):
        u.propose(w.tenant, scope, ANNA)


def test_descent_goes_through_callbacks_to_decisions_about_other_customers_and_no_further() -> None:
    """A friend converts because of an effect; the referrer is rewarded because of that; a stranger fails to pay by himself."""
    w = acting()
    friend = task(w, "friend")
    converted = w.paid("friend", cause=caused_by_effect(w, friend))
    (reward,) = w.attend(w.failed("referrer", 2, cause=Cause(causation_id=converted.event_id, depth=1)), "referrer").decided
    stranger = task(w, "stranger")
    u = undos(w)
    plan = u.plan(w.tenant, Scope("decision", str(friend)))
    assert [(i.decision, i.parent, i.what) for i in plan.items] == [(reward, friend, "undo"), (friend, None, "undo")]
    assert {i.decision for i in u.plan(w.tenant, policy(w)).items} == {friend, reward, stranger}
    done = u.run(w.tenant, approved(u, w, Scope("decision", str(friend))).id)
    assert [e.status for e in done.items] == ["undone", "undone"]
    tasks = [arguments["customer"] for tool, arguments in calls(w) if tool == "crm.close_task@1"]
    assert tasks == ["referrer", "friend"], "from the leaves up"


def test_what_an_undo_itself_causes_is_not_part_of_the_descent() -> None:
    w = acting()
    id_ = task(w)
    u = undos(w)
    u.run(w.tenant, approved(u, w, Scope("decision", str(id_))).id)
    started = w.store.find(w.tenant, derive_id(derive_id(effect_of(w, id_), "undo"), "started", 1))
    assert started is not None
    task(w, "other", cause=Cause(causation_id=started.event_id, depth=1))
    assert u.plan(w.tenant, Scope("decision", str(id_))).items == ()


def test_an_effect_without_undo_is_listed_with_what_to_do_by_hand_and_alone_is_no_undo() -> None:
    w = acting()
    w.profile(segment="smb")
    w.consent()
    id_ = task(w)
    u = undos(w)
    (item,) = u.plan(w.tenant, Scope("decision", str(id_))).items
    assert (item.what, item.because) == ("by-hand", "email.send@1 declares no undo")
    assert item.by_hand.startswith("A message cannot be called back")
    assert f"sandbox-{effect_of(w, id_)}" in item.by_hand
    with pytest.raises(UndoRefused, match="by hand"):
        u.propose(w.tenant, Scope("decision", str(id_)), ANNA)


class ShortTask(CreateTask):
    name, undo = "acme.short_task", Contract("crm.close_task@1", {"customer": "$arguments.customer", "task": "$receipt"}, within_s=3600.0)


def test_past_its_window_an_effect_is_for_people_and_a_plan_made_before_is_void() -> None:
    ledger = Ledger()
    w = acting(Toolbox([ShortTask(ledger)], ledger=ledger), GENEROUS.replace(TASKS, "acme.short_task@1"))
    scope = Scope("decision", str(task(w)))
    u = undos(w)
    undo = approved(u, w, scope)
    w.wait(minutes=60)
    assert u.plan(w.tenant, scope).items[0].what == "undo", "exactly at its end it still is in time"
    w.wait(seconds=1)
    (item,) = u.plan(w.tenant, scope).items
    assert item.because == "it could be taken back for 3600 s, and those are over"
    with pytest.raises(UndoRefused, match="the log moved"):
        u.run(w.tenant, undo.id)
    assert called(w) == ["acme.short_task@1"]


def test_an_effect_that_left_for_real_is_not_taken_back_in_a_sandbox_nor_the_other_way_round() -> None:
    class RealTask(CreateTask):
        sandbox = False

        def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Any:
            return super().call(arguments, idempotency_key=idempotency_key, timeout_s=timeout_s)

    real = Toolbox([RealTask(Ledger())], sandbox=False)
    w = acting(real)
    (item,) = undos(w).plan(w.tenant, Scope("decision", str(task(w)))).items
    assert item.because == "it left for real, and crm.close_task@1 is a sandbox here"


def test_a_contract_that_changed_since_or_is_not_installed_is_for_people() -> None:
    class Other(CreateTask):
        risk_tier = "high"

    w = acting()
    scope = Scope("decision", str(task(w)))
    (item,) = undos(w, Toolbox([Other()])).plan(w.tenant, scope).items
    assert item.because == f"the contract of {TASKS} changed since"
    ledger = Ledger()
    w = acting(Toolbox([ShortTask(ledger)], ledger=ledger), GENEROUS.replace(TASKS, "acme.short_task@1"))
    (item,) = undos(w, Toolbox()).plan(w.tenant, Scope("decision", str(task(w)))).items
    assert item.because == "acme.short_task@1 is not installed here"


def test_what_has_not_left_is_cancelled_and_its_reserved_money_is_released() -> None:
    w = World([Agent(Policy.from_toml(DUNNING))])  # a credit above the authority limit waits for a person
    w.mode("act")
    id_ = credit(w)
    u = undos(w)
    (item,) = u.plan(w.tenant, Scope("decision", str(id_))).items
    assert item.what == "cancel"
    done = u.run(w.tenant, approved(u, w, Scope("decision", str(id_))).id)
    assert [e.status for e in done.items] == ["cancelled"]
    assert called(w) == []
    assert w.engine.desk.budget(w.tenant, "retention").pages[NOVEMBER] == Sums(released=4900)
    (entry,) = read_journal(w.store, w.tenant)
    assert (entry.disposition, entry.suppressed_by) == ("suppressed", "override")


def test_of_a_tool_only_its_own_effects_and_what_came_of_them_are_named() -> None:
    w = acting()
    w.profile("mailed", segment="smb")
    w.consent("mailed")
    mailed, done = task(w, "mailed"), task(w, "c1")
    u = undos(w)
    assert [i.decision for i in u.plan(w.tenant, Scope("tool", TASKS)).items] == [done]
    assert [i.decision for i in u.plan(w.tenant, Scope("tool", "email.send@1")).items] == [mailed]
    with pytest.raises(InvalidInput, match="no decision here"):
        u.plan(w.tenant, Scope("tool", "crm.nothing@1"))


BOTH = (
    GENEROUS.replace('hit = "first"', 'hit = "collect"')
    .replace('[[rule]]\nid = "wait"\naction = "none"\nbecause = "Once is no pattern."\n', "")
    .replace('when = { failed_payments = ">= 2" }\naction', "action")
)


def test_of_several_effects_of_a_decision_money_returns_with_the_one_that_carried_the_offer() -> None:
    w = acting(text=BOTH)
    id_ = credit(w)
    u = undos(w)
    items = u.plan(w.tenant, Scope("decision", str(id_))).items
    assert {(i.tool, bool(i.back)) for i in items} == {("billing.offer_credit@1", True), (TASKS, False)}
    assert [i.tool for i in u.plan(w.tenant, Scope("tool", TASKS)).items] == [TASKS]
    u.run(w.tenant, approved(u, w, Scope("tool", TASKS)).id)
    assert w.engine.desk.budget(w.tenant, "retention").pages[NOVEMBER] == Sums(available=-4900, committed=4900)
    u.run(w.tenant, approved(u, w, Scope("decision", str(id_))).id)
    assert w.engine.desk.budget(w.tenant, "retention").left(10_000, NOVEMBER) == 10_000
    assert called(w) == ["billing.offer_credit@1", TASKS, "crm.close_task@1", "billing.withdraw_credit@1"]


# ---------------------------------------------------------------- approval


def test_only_an_authenticated_person_approves_with_a_reason_once_exactly_the_plan_that_was_shown() -> None:
    w = acting()
    scope = Scope("decision", str(task(w)))
    u = undos(w)
    undo, plan = u.propose(w.tenant, scope, ANNA)
    with pytest.raises(UndoRefused, match="nobody approved"):
        u.run(w.tenant, undo.id)
    for nobody in (Person("", "token"), Person("anna", ""), "anna"):
        with pytest.raises(NotAllowed):
            u.approve(w.tenant, undo.id, nobody, reason="x")  # type: ignore[arg-type]
    for agent in ("dunning", "undo"):
        with pytest.raises(UndoRefused, match="an agent"):
            u.approve(w.tenant, undo.id, Person(agent, "token"), reason="x")
    with pytest.raises(InvalidInput, match="reason"):
        u.approve(w.tenant, undo.id, ANNA, reason=" ")
    with pytest.raises(UndoRefused, match="another one"):
        u.approve(w.tenant, undo.id, ANNA, reason="x", digest="0" * 64)
    assert u.approve(w.tenant, undo.id, ANNA, reason="x", digest=plan.digest).state.status == "approved"
    with pytest.raises(UndoRefused, match="does not wait"):
        u.approve(w.tenant, undo.id, BEN, reason="x")
    assert called(w) == [TASKS]


@pytest.mark.parametrize("when", ["before approval", "before it is begun"])
def test_a_plan_is_void_when_the_log_moved_so_that_it_is_another_one_and_stands_when_it_is_not(when: str) -> None:
    w = acting()
    task(w)
    u = undos(w)
    undo, _ = u.propose(w.tenant, policy(w), ANNA)
    w.paid("somebody")
    if when != "before approval":
        undo = u.approve(w.tenant, undo.id, ANNA, reason="x")
    born = task(w, "c2")
    with pytest.raises(UndoRefused, match="the log moved"):
        u.approve(w.tenant, undo.id, ANNA, reason="x") if when == "before approval" else u.run(w.tenant, undo.id)
    assert u.get(w.tenant, undo.id).state.status == "void"
    with pytest.raises(UndoRefused):
        u.run(w.tenant, undo.id)
    assert "crm.close_task@1" not in called(w)
    again, plan = u.propose(w.tenant, policy(w), ANNA)
    assert again.id != undo.id
    assert born in {i.decision for i in plan.items}


def test_a_proposal_expires_and_is_void_then() -> None:
    w = acting()
    task(w)
    u = undos(w)
    undo = approved(u, w, policy(w))
    w.wait(hours=72)
    with pytest.raises(UndoRefused, match="time is over"):
        u.run(w.tenant, undo.id)
    assert u.get(w.tenant, undo.id).state.status == "void"


def test_what_is_born_after_it_was_begun_is_listed_by_the_next_plan() -> None:
    w = acting()
    first = task(w)
    u = undos(w)
    undo = approved(u, w, policy(w))
    w.engine.pause(w.tenant, "undo", person=ANNA, reason="test")  # begun, and nothing leaves
    u.run(w.tenant, undo.id)
    born = task(w, "c2")
    w.engine.resume(w.tenant, "undo", person=ANNA, reason="test")
    done = u.run(w.tenant, undo.id)
    assert ([e.item.decision for e in done.items], done.state.status) == ([first], "finished")
    assert [i.decision for i in u.plan(w.tenant, policy(w)).items] == [born]


def test_the_agents_own_pause_does_not_stop_an_undo_and_the_switch_of_all_does() -> None:
    w = acting()
    task(w)
    u = undos(w)
    w.engine.pause(w.tenant, "dunning", person=ANNA, reason="incident")
    w.engine.pause(w.tenant, person=ANNA, reason="incident")
    undo = approved(u, w, policy(w))
    assert [e.status for e in u.run(w.tenant, undo.id).items] == ["ordered"]
    assert called(w) == [TASKS]
    w.engine.resume(w.tenant, person=ANNA, reason="over")
    assert [e.status for e in u.run(w.tenant, undo.id).items] == ["undone"]


# ---------------------------------------------------------------- once


def test_two_undos_that_name_the_same_effect_take_it_back_once() -> None:
    w = acting()
    id_ = task(w)
    u = undos(w)
    one, other = approved(u, w, Scope("decision", str(id_))), approved(u, w, policy(w))
    u.run(w.tenant, one.id)
    with pytest.raises(UndoRefused, match="the log moved"):
        u.run(w.tenant, other.id)
    assert called(w).count("crm.close_task@1") == 1


def test_several_workers_at_once_take_each_effect_back_once() -> None:
    w = acting()
    for n in range(5):
        task(w, f"c{n}")
    u = undos(w)
    undo = approved(u, w, policy(w))
    failed: list[BaseException] = []

    def work() -> None:
        try:
            undos(w).run(w.tenant, undo.id)
        except BaseException as error:  # told below, with all the others
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert u.run(w.tenant, undo.id).state.status == "finished"
    assert called(w).count("crm.close_task@1") == 5


def test_a_worker_whose_undo_another_one_carried_out_between_its_two_looks_finds_it_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    w = acting()
    task(w)
    u, other = undos(w), undos(w)
    undo, plan = approved(u, w, policy(w)), Undos.plan

    def overtaken(self: Undos, *args: Any, **kwargs: Any) -> Any:
        if self is u:
            other.run(w.tenant, undo.id)
        return plan(self, *args, **kwargs)

    monkeypatch.setattr(Undos, "plan", overtaken)
    assert u.run(w.tenant, undo.id).state.status == "finished"
    assert called(w).count("crm.close_task@1") == 1


def test_an_effect_is_taken_back_from_a_customer_that_was_merged_meanwhile() -> None:
    w = acting()
    id_ = task(w)
    from postsale.aggregates.identity import MergedInto

    c = w.customer()
    w.engine.desk.append_to(c.stream, c.version, [(MergedInto(survivor="c9", reason="same"), uuid4())], Cause())
    u = undos(w)
    assert [e.status for e in u.run(w.tenant, approved(u, w, Scope("decision", str(id_))).id).items] == ["undone"]


# ---------------------------------------------------------------- the record


def test_a_plan_is_a_pure_function_of_the_log_at_a_position_and_its_items_survive_being_recorded() -> None:
    w = acting()
    credit(w)
    u = undos(w)
    position, at = w.store.head(), w.clock.now_us()
    plan = u.plan(w.tenant, policy(w))
    task(w, "c2")
    u.run(w.tenant, approved(u, w, policy(w)).id)
    w.wait(days=3)
    again = u.plan(w.tenant, policy(w), position=position, at_us=at)
    assert (again.digest, again) == (plan.digest, plan)
    assert items_of(plan.content) == plan.items
    assert dataclasses.replace(plan, items=plan.items[:-1]).digest != plan.digest


def test_explain_shows_that_it_was_taken_back_by_whom_and_dispositions_still_hold() -> None:
    w = acting()
    id_ = credit(w)
    u = undos(w)
    u.run(w.tenant, approved(u, w, policy(w)).id)
    told = str(explain(w.log, w.tenant, id_, Unsealer(w.log.vault)))
    assert "billing.offer_credit@1 → succeeded, taken back" in told
    assert "to be taken back with billing.withdraw_credit@1, approved by ben" in told
    report = check_dispositions(w.store)
    assert (report.ok, report.decisions) == (True, 1)


def test_the_tree_shows_what_caused_what() -> None:
    w = acting()
    friend = task(w, "friend")
    converted = w.paid("friend", cause=caused_by_effect(w, friend))
    w.attend(w.failed("referrer", 2, cause=Cause(causation_id=converted.event_id, depth=1)), "referrer")
    shown = tree(undos(w).plan(w.tenant, policy(w)), {"friend": "Fred", "referrer": "Rita"}).splitlines()
    assert shown[0].startswith("Undo of policy")
    assert "2 customers: 2 to take back, 0 to cancel before they leave, 0 for a person to do by hand" in shown[0]
    assert shown[2].startswith("dunning did task for Fred (decision")
    assert shown[3] == "├─ take back crm.create_task@1 with crm.close_task@1"
    assert shown[4].startswith("└─ caused by it: dunning did task for Rita")
    assert shown[5] == "   └─ take back crm.create_task@1 with crm.close_task@1"


def test_no_agent_may_be_called_undo_and_a_window_is_above_zero() -> None:
    with pytest.raises(BadDeclaration):
        Agent(Policy.from_toml(DUNNING), name="undo")

    class Wrong(CreateTask):
        name, undo = "acme.wrong", Contract("crm.close_task@1", {"customer": "$arguments.customer", "task": "$receipt"}, within_s=0)

    with pytest.raises(BadDeclaration, match="within_s"):
        Toolbox([Wrong()])


def test_a_decision_or_a_digest_that_is_not_there_is_said_so() -> None:
    w = acting()
    id_ = task(w)
    u = undos(w)
    for name in ("nonsense", str(uuid4())):
        with pytest.raises(UnknownDecision):
            u.plan(w.tenant, Scope("decision", name))
    with pytest.raises(InvalidInput, match="begins so"):
        u.plan(w.tenant, Scope("policy", "zz"))
    with pytest.raises(InvalidInput, match="begins so"):
        u.plan(w.tenant, Scope("prompt", "zz"))
    digest = w.decision(id_).data.policy
    assert u.plan(w.tenant, Scope("policy", digest[:10])).scope == Scope("policy", digest)


def test_by_prompt_and_by_model_the_decisions_that_a_planner_made_are_named() -> None:
    w = Planned()
    made = w.decided()
    assert made.prompt is not None
    u = Undos(w.engine.desk, w.toolbox, w.engine.outbox)
    model = str(made.flags["plan.model"])
    for scope in (Scope("prompt", made.prompt), Scope("prompt", made.prompt[:12]), Scope("model", model)):
        plan = u.plan(w.tenant, scope)
        assert [(i.what, i.tool) for i in plan.items] == [("undo", TASKS)], scope
    undo = u.approve(w.tenant, u.propose(w.tenant, Scope("prompt", made.prompt), ANNA)[0].id, BEN, reason="a bad prompt")
    assert [e.status for e in u.run(w.tenant, undo.id).items] == ["undone"]


def test_by_model_the_decisions_that_its_reading_was_evidence_for_are_named() -> None:
    w = World([Agent(Policy.from_toml(GENEROUS))], health=FixedHealth(model="a" * 64 + " churn:" + "b" * 64))
    w.mode("act")
    id_ = task(w)
    for name in ("a" * 64, "b" * 64, "churn:", "bbbb"):
        assert [i.decision for i in undos(w).plan(w.tenant, Scope("model", name)).items] == [id_]
    with pytest.raises(InvalidInput, match="begins so"):
        undos(w).plan(w.tenant, Scope("model", "cccc"))


@pytest.mark.parametrize("happened", [True, False])
def test_a_person_settles_a_taking_back_of_which_nobody_knows_whether_it_happened(happened: bool) -> None:
    class BreaksOff(CloseTask):
        kind = "unsafe"
        sandbox = False

        def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Any:
            raise ConnectionResetError

    class RealTask(CreateTask):
        sandbox = False

        def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Any:
            return super().call(arguments, idempotency_key=idempotency_key, timeout_s=timeout_s)

    w = acting(Toolbox([RealTask(Ledger()), BreaksOff(Ledger())], sandbox=False))
    id_ = task(w)
    u = undos(w)
    undo = u.run(w.tenant, approved(u, w, Scope("decision", str(id_))).id)
    assert [e.status for e in undo.items] == ["unknown"]
    (order,) = [r.event_id for r in w.events() if r.data.wire_name == "undo/ordered@1"]
    taking_back = derive_id(effect_of(w, id_), "undo")
    w.engine.approvals.settle_unknown(w.tenant, order, taking_back, happened=happened, person=ANNA, reason="looked")
    assert [e.status for e in u.run(w.tenant, undo.id).items] == ["undone" if happened else "failed"]
