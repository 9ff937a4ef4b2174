"""Proposals that people edited, and decisions that say what asked for them: made again from the log alike, and told once by a what-if."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from postsale.agents import Policy
from postsale.aggregates.decisions import DecisionRecorded
from postsale.audit import WhatIf
from postsale.events import Event
from tests.agents.test_timed import HEAD, MONDAYS, SLAS, WAIT, nudged
from tests.agents.test_timed import world as timed
from tests.agents.world import BEN, DUNNING, World
from tests.audit.test_replay_run import replayed, stored_anew
from tests.audit.test_whatif import asked

NUDGED_BY_PEOPLE = HEAD.replace('because = "{asked_by} asks."', 'approval = "required"\nbecause = "{asked_by} asks."')


def edited(times: int = 1) -> World:
    """A proposal of 49.00 EUR of a budget of 100.00, which people made smaller by 10.00 each time."""
    w = World()
    w.mode("act")
    id_ = w.one_decision()
    for n in range(1, times + 1):
        w.wait(minutes=1)
        id_ = w.engine.approvals.edit("acme", id_, BEN, amount_minor=4900 - 1000 * n, reason="less will do")
    return w


def asked_by_time() -> World:
    """A trigger, a wait and a schedule; the wait's proposal edited twice."""
    w = timed(WAIT + MONDAYS, NUDGED_BY_PEOPLE)
    assert w.attend(w.failed()).called == 1
    w.wait(days=7)
    w.attend()
    waiting = next(id_ for id_, o in w.customer().decisions.items() if w.decision(id_).data.condition == "no-login" and o)
    for title in ("Call", "Call before noon"):
        shown = {"customer": "c1", "title": title, "note": "no-login asks."}
        waiting = w.engine.approvals.edit("acme", waiting, BEN, arguments=[shown], reason="better")
    return w


def altered(change: Callable[[DecisionRecorded], dict[str, Any]]) -> Callable[[Any], Event | None]:
    """Every decision that a person edited, with something else in it."""

    def changed(event: Any) -> Event | None:
        if not isinstance(event, DecisionRecorded) or event.condition != "edit-proposal":
            return None
        return event.model_copy(update=change(event))

    return changed


def places(log: Any) -> set[str]:
    return {where for one in replayed(log).different for where in (d.where for d in one.differences)}


@pytest.mark.parametrize("times", [1, 2])
def test_an_edited_proposal_is_replayed_with_the_money_that_the_old_one_gave_back(times: int) -> None:
    w = edited(times)
    assert [d.context["budget_left.retention"] for d in w.decisions()] == [10_000] * (1 + times)
    assert places(w.log) == set()


@pytest.mark.parametrize("left", [5100, 9999])
def test_other_money_than_the_old_proposal_gave_back_is_found(left: int) -> None:
    def change(event: DecisionRecorded) -> dict[str, Any]:
        return {"context": {**event.context, "budget_left.retention": left}}

    assert "context.budget_left.retention" in places(stored_anew(edited().log, altered(change)))


def test_what_asked_for_a_decision_is_had_again_from_the_log_also_of_an_edited_one() -> None:
    w = asked_by_time()
    by = [d.evidence["asked_by"] for d in w.decisions()]
    assert (sorted(by[:3]), by[3:]) == (["failing", "mondays", "no-login"], ["no-login"] * 2)
    assert places(w.log) == set()


def test_what_a_term_asks_for_is_had_again_from_the_log() -> None:
    w = nudged(SLAS)
    w.wait(days=2)
    w.attend()
    assert replayed(w.log).decisions == len(w.decisions())
    assert places(w.log) == set()


def test_another_asker_than_the_log_knows_is_found() -> None:
    def change(event: DecisionRecorded) -> dict[str, Any]:
        return {"evidence": {**event.evidence, "asked_by": "mondays"}}

    assert "evidence.asked_by" in places(stored_anew(asked_by_time().log, altered(change)))


# ---------------------------------------------------------------- what if


def against(w: World, text: str) -> WhatIf:
    return asked(w, Policy.from_toml(text))


def test_the_same_policy_changes_nothing_about_proposals_that_people_edited_and_counts_each_once() -> None:
    found = against(edited(2), DUNNING)
    assert (found.decisions, found.edits, found.changed) == (1, 2, [])
    assert found.before == found.after == {"awaiting": 1, "contacts": 1, "offers EUR": 4900, "budget retention EUR": 4900}


@pytest.mark.parametrize(("first", "second"), [('segment = "vip"', "suppressed"), ('segment = "vip", mrr_minor = "> 5000"', "awaiting")])
def test_an_edit_keeps_its_money_where_the_candidate_proposes_the_same_and_has_none_where_it_does_not(first: str, second: str) -> None:
    """The other customer is to get 62.00: too much while the edit holds 39.00 of 100.00."""
    w = edited()
    w.vip("c2", mrr_minor=6200)
    w.attend(w.failed("c2"), "c2")
    assert [d.suppressed_by for d in w.decisions("c2")] == ["budget:retention/2026-11"]
    found = against(w, DUNNING.replace('segment = "vip"', first))
    after = {c.customer: c.after.disposition for c in found.changed}
    assert found.edits == 1
    assert after.get("c2", "suppressed") == second


def test_a_candidate_that_looks_at_what_asked_is_told_what_did() -> None:
    w = World()
    w.mode("act")
    w.one_decision()
    looking = DUNNING.replace('time_zone = "text"', 'time_zone = "text"\nasked_by = "text"')
    assert against(w, looking.replace('segment = "vip"', 'asked_by = "failing"')).changed == []
    (changed,) = against(w, looking.replace('segment = "vip"', 'asked_by = "nobody"')).changed
    assert changed.after.rules == ("task",)
