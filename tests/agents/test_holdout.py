"""Hold-outs: who is left alone is drawn by name and reference, recorded, stopped by nothing else, and made again from the record."""

from __future__ import annotations

from typing import Any

import pytest

from postsale.access import Unsealer
from postsale.agents import Agent, Policy
from postsale.agents.holdout import Holdout, draw, drawn_of
from postsale.agents.rederive import rederive
from postsale.agents.widening import widenings
from postsale.audit import replay_many
from postsale.errors import PolicyInvalid
from postsale.events import derive_id
from tests.agents.planned import Planned
from tests.agents.world import DUNNING, World, calls
from tests.audit.test_replay_run import stored_anew

HALF = Holdout(name="everybody", percent=50)
HELD = DUNNING + '\n[holdout]\nname = "everybody"\npercent = 50\n'
REFS = [f"c{n}" for n in range(40)]
HELD_OUT = next(ref for ref in REFS if draw(HALF, ref).held)  # type: ignore[union-attr]
TREATED = next(ref for ref in REFS if not draw(HALF, ref).held)  # type: ignore[union-attr]


def told(ref: str, text: str = HELD, mode: str = "act") -> Any:
    """The decision about a customer whose mail the policy would send, and the world that it was taken in."""
    world = World([Agent(Policy.from_toml(text))])
    world.mode(mode)
    world.profile(ref, segment="smb")
    world.consent(ref)
    world.attend(world.failed(ref), ref)
    (event,) = world.decisions(ref)
    return event, world


def test_the_share_that_is_held_out_is_the_stated_one_and_names_draw_for_themselves() -> None:
    """Of 20,000 references 20 % within 4 standard deviations, sqrt(0.2 x 0.8 / 20,000) = 0.28 %; of those of one name 20 % of another's."""
    refs = [str(derive_id("ref", n)) for n in range(20_000)]
    one, other = ({r for r in refs if draw(Holdout(name=n, percent=20), r).held} for n in ("one", "other"))  # type: ignore[union-attr]
    assert len(one) / len(refs) == pytest.approx(0.2, abs=4 * 0.0028)
    assert len(one & other) / len(one) == pytest.approx(0.2, abs=4 * 0.0063)
    more = {r for r in refs if draw(Holdout(name="one", percent=40), r).held}  # type: ignore[union-attr]
    assert one < more


def test_who_is_held_out_is_left_alone_and_the_decision_says_by_which_draw() -> None:
    event, world = told(HELD_OUT)
    assert (event.disposition, event.suppressed_by) == ("suppressed", "holdout:everybody")
    assert (event.action, event.rule) == ("email", "mail")  # what would have been done
    assert drawn_of(event.context) == draw(HALF, HELD_OUT)
    assert event.intents == ()
    assert calls(world) == []


def test_who_is_not_held_out_is_acted_on_and_its_draw_is_recorded_too() -> None:
    event, world = told(TREATED)
    assert (event.disposition, event.action) == ("acted", "email")
    drawn = drawn_of(event.context)
    assert drawn == draw(HALF, TREATED)
    assert drawn is not None
    assert not drawn.held
    assert len(calls(world)) == 1


def test_without_a_hold_out_nothing_is_drawn() -> None:
    event, _ = told(HELD_OUT, DUNNING)
    assert event.disposition == "acted"
    assert drawn_of(event.context) is None
    assert not any(v.guardrail == "holdout" for v in event.verdicts)


@pytest.mark.parametrize(
    ("change", "by"),
    [
        (("count = 2\n", "count = 0\n"), "frequency:0/30d"),
        (('action = "email"', 'action = "email"\nrisk_case = true'), "holdout:everybody"),
    ],
)
def test_only_what_nothing_else_stops_is_said_to_be_held_out(change: tuple[str, str], by: str) -> None:
    event, world = told(HELD_OUT, HELD.replace(*change))
    assert event.suppressed_by == by
    assert "risk/case-opened" not in world.kinds(HELD_OUT)


def test_an_agent_that_observes_holds_nobody_out() -> None:
    event, _ = told(HELD_OUT, mode="observe")
    assert event.suppressed_by == "autonomy:observe"


@pytest.mark.parametrize("ref", [HELD_OUT, TREATED])
def test_the_decision_is_made_again_from_its_record_and_from_the_log(ref: str) -> None:
    event, world = told(ref)
    assert rederive(event, event.arguments if event.intents else None, Policy.from_toml(HELD), None).difference is None
    report = replay_many(world.log, world.tenant, Unsealer(world.log.vault))
    assert (report.decisions, report.different) == (1, [])


def test_a_draw_that_was_altered_is_named_by_replay() -> None:
    event, world = told(HELD_OUT)
    altered = event.model_copy(update={"context": {**event.context, "draw_ppm": 999_999}})
    log = stored_anew(world.log, lambda e: altered if e == event else None)
    (outcome,) = replay_many(log, world.tenant, Unsealer(world.log.vault)).different
    assert "context.draw_ppm" in [d.where for d in outcome.differences]


def test_of_who_is_held_out_no_planner_is_asked() -> None:
    held = next(r for r in REFS if draw(Holdout(name="p", percent=50), r).held)  # type: ignore[union-attr]
    w = Planned(changes=(("[guardrails]", '[holdout]\nname = "p"\npercent = 50\n\n[guardrails]'),))
    assert w.decided(held).suppressed_by == "holdout:p"
    assert w.said.asked == []


@pytest.mark.parametrize(
    ("old", "new", "wider"),
    [
        (HELD, HELD, False),
        (DUNNING, HELD, False),
        (HELD, DUNNING, True),
        (HELD, HELD.replace("percent = 50", "percent = 49"), True),
        (HELD, HELD.replace("percent = 50", "percent = 51"), False),
        (HELD, HELD.replace('name = "everybody"', 'name = "others"'), True),
    ],
)
def test_leaving_fewer_customers_alone_or_others_is_wider(old: str, new: str, wider: bool) -> None:
    found = [w.where for w in widenings(Policy.from_toml(old), Policy.from_toml(new))]
    assert found == (["holdout"] if wider else [])


@pytest.mark.parametrize("percent", ["0", "100", "20.0", '"20"'])
def test_a_share_that_leaves_nobody_or_everybody_alone_is_refused(percent: str) -> None:
    with pytest.raises(PolicyInvalid, match="holdout"):
        Policy.from_toml(HELD.replace("percent = 50", f"percent = {percent}"))


def test_the_table_says_who_is_left_alone() -> None:
    assert "50 % of customers are left alone at random, by the name everybody" in Policy.from_toml(HELD).table()
