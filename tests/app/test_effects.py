"""The effect of agents from one's own log: arms as the draw made them, outcomes as the read models have them, by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from postsale.agents import Agent, Policy
from postsale.agents.holdout import Holdout, draw
from postsale.aggregates.signals import (
    ReferralConverted,
    ReferralInvited,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionStarted,
)
from postsale.app import PostSale
from postsale.app.effects import CHANGED
from postsale.audit import Difference, difference
from postsale.errors import InvalidInput
from postsale.events import ManualClock, derive_id

from .support import ANNA, Where, failed, opened, paid
from .test_agents import CALLS, Mailer
from .test_outcomes import terms

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
ENTRY, BEFORE = START + timedelta(days=5), START - timedelta(days=60)
HALF = Holdout(name="mail", percent=50)
ARM = 12  # customers in each


def held_out(percent: int = 50) -> Agent:
    text = CALLS.format(name="mailer", approval="none") + f'\n[holdout]\nname = "mail"\npercent = {percent}\n'
    return Agent(Policy.from_toml(text))


def refs() -> Iterator[str]:
    """References whose draws alternate: the customers t0, h0, t1, h1, … in that order are treated, held out, …"""
    arms: dict[bool, list[str]] = {False: [], True: []}
    n = 0
    while min(len(arm) for arm in arms.values()) < 2 * ARM:
        ref = derive_id("ref", n).hex
        drawn = draw(HALF, ref)
        assert drawn is not None
        arms[drawn.held].append(ref)
        n += 1
    return (arms[held][k] for k in range(2 * ARM) for held in (False, True))


NAMES = [f"{arm}{k}" for k in range(ARM) for arm in "th"]


def story(where: Where, names: list[str] = NAMES, agent: Agent | None = None) -> tuple[PostSale, ManualClock]:
    """Everybody pays 100; on day 5 a payment of everybody fails, and who is not held out is written to."""
    given, clock = refs(), ManualClock(BEFORE)
    ps = opened(where, clock=clock, agents=[agent or held_out()], tools=[Mailer()], sandbox=False, new_ref=lambda: next(given))
    acme = ps.tenant("acme")
    acme.agent("mailer").act(reason="test", by=ANNA)
    for name in names:
        acme.record(name, terms(SubscriptionStarted, f"s-{name}", BEFORE, 100, subscription_id=f"s-{name}"))
        acme.consent(name, "email", "service", evidence="form")
    clock.move_to(ENTRY)
    for name in names:
        acme.record(name, failed(f"f-{name}", ENTRY))
    ps.run_once()
    return ps, clock


def happens(ps: PostSale, kind: type, name: str, minor: int, day: int) -> None:
    at = START + timedelta(days=day)
    ps.tenant("acme").record(name, terms(kind, f"{name}-{day}", at, minor, subscription_id=f"s-{name}"))


def share(hits: int) -> list[float]:
    return [1.0] * hits + [0.0] * (ARM - hits)


def test_effects_are_the_difference_between_the_arms_by_hand(where: Where) -> None:
    """Of 12 each: treated lose 2, held out 5; treated grow by 50 in one; invoices paid in time 9 and 4; one referral bought of the treated."""
    ps, clock = story(where)
    with ps:
        acme = ps.tenant("acme")
        clock.move_to(END)
        for name in ("t0", "t1", "h0", "h1", "h2", "h3", "h4"):
            happens(ps, SubscriptionEnded, name, 100, 40)
        happens(ps, SubscriptionChanged, "t5", 150, 50)
        for k in range(9):
            acme.record(f"t{k}", paid(f"p-t{k}", ENTRY + timedelta(days=13)))
        for k in range(4):
            acme.record(f"h{k}", paid(f"p-h{k}", ENTRY + timedelta(days=1)))
        acme.record("h9", paid("late", ENTRY + timedelta(days=15)))  # the policy says within 14 days
        for id_, at in (("r0", ENTRY - timedelta(days=1)), ("r1", ENTRY + timedelta(days=3))):
            given = {"source": "voice", "occurred_at": at, "referral_id": id_, "program": "friends"}
            acme.record("t7", ReferralInvited(id=f"{id_}-i", **given, channel="email"))
            acme.record("t7", ReferralConverted(id=f"{id_}-c", **given, amount_minor=1, currency="EUR"))
        (found,) = acme.effects(START, END)
        assert (found.holdout, found.percent, found.agents) == ("mail", (50,), ("mailer",))
        assert (found.treated, found.held_out) == (ARM, ARM)
        expected = {
            "lost": difference(share(2), share(5)),
            "mrr-change": difference([-100.0] * 2 + [50.0] + [0.0] * 9, [-100.0] * 5 + [0.0] * 7),
            "expanded": difference(share(1), share(0)),
            "goal": difference(share(9), share(4)),
            "referrals-converted": difference(share(1), share(0)),
        }
        got = {e.name: e.estimate for e in found.effects}
        assert {n: e and e.to_dict() for n, e in got.items()} == {n: e.to_dict() for n, e in expected.items() if isinstance(e, Difference)}
        assert found.effect("mrr-change").currency == "EUR"
        told = found.to_dict()["effects"][0]["estimate"]
        assert (told["treated"], told["held_out"]["mean"]) == ({"customers": 12, "mean": round(2 / 12, 6)}, round(5 / 12, 6))


def test_the_world_is_read_at_the_end_of_the_period_and_as_it_was_known() -> None:
    ps, clock = story(None)
    with ps:
        clock.move_to(END)
        happens(ps, SubscriptionEnded, "t0", 100, 60)
        early = ps.tenant("acme").effects(START, START + timedelta(days=50))[0].effect("lost").estimate
        late = ps.tenant("acme").effects(START, END)[0].effect("lost").estimate
        before = ps.tenant("acme").effects(START, START + timedelta(days=50), known_at=START + timedelta(days=50))[0]
        assert early is not None
        assert late is not None
        assert (early.treated_mean, late.treated_mean) == (0, 1 / ARM)
        assert before.effect("lost").estimate == early


def test_without_a_hold_out_there_is_no_estimate() -> None:
    ps, clock = story(None, agent=Agent(Policy.from_toml(CALLS.format(name="mailer", approval="none"))))
    with ps:
        clock.move_to(END)
        with pytest.raises(InvalidInput, match="there is no estimate"):
            ps.tenant("acme").effects(START, END)


@pytest.mark.parametrize("asked", [{"holdout": "other"}, {"agent": "other"}])
def test_another_name_than_was_recorded_gives_no_estimate(asked: dict[str, str]) -> None:
    ps, clock = story(None)
    with ps:
        clock.move_to(END)
        assert len(ps.tenant("acme").effects(START, END, holdout="mail", agent="mailer")) == 1
        with pytest.raises(InvalidInput, match=f"of other|'{asked.get('holdout')}'"):
            ps.tenant("acme").effects(START, END, **asked)  # type: ignore[arg-type]


def test_who_entered_before_the_period_is_left_out_and_counted() -> None:
    ps, clock = story(None)
    with ps:
        clock.move_to(ENTRY + timedelta(days=40))
        later = [f"x{k}" for k in range(4)]
        for name in later:
            ps.tenant("acme").record(name, failed(f"f-{name}", ENTRY + timedelta(days=40)))
            ps.tenant("acme").consent(name, "email", "service", evidence="form")
        ps.tenant("acme").record("t0", paid("p0", ENTRY + timedelta(days=2)))
        ps.tenant("acme").record("t0", failed("again", ENTRY + timedelta(days=39)))
        ps.run_once()
        clock.move_to(END)
        (found,) = ps.tenant("acme").effects(ENTRY + timedelta(days=20), END)
        assert (found.treated + found.held_out, found.excluded) == (4, {"entered before the period": 2 * ARM})
        assert "are too few" in found.effect("goal").why
        assert found.effect("goal").estimate is None


def test_customers_merged_from_both_arms_belong_to_neither_and_from_one_they_are_one() -> None:
    ps, clock = story(None)
    with ps:
        clock.move_to(END)
        ps.tenant("acme").merge("h0", into="t0", reason="one company", by=ANNA)
        ps.tenant("acme").merge("t2", into="t1", reason="one company", by=ANNA)
        clock.advance(timedelta(seconds=1))
        (found,) = ps.tenant("acme").effects(START, END)
        assert (found.treated, found.held_out, found.excluded) == (ARM - 2, ARM - 1, {"merged from both arms": 1})


def test_a_share_that_changed_within_the_period_gives_no_estimate_of_both_together() -> None:
    ps, clock = story(None)
    with ps:
        acme = ps.tenant("acme")
        acme.activate(held_out(60).policy, reason="more of them", by=ANNA)
        clock.move_to(ENTRY + timedelta(days=10))
        acme.record("x", failed("f-x", ENTRY + timedelta(days=10)))
        acme.consent("x", "email", "service", evidence="form")
        ps.run_once()
        clock.move_to(END)
        (both,), (first,) = acme.effects(START, END), acme.effects(START, ENTRY + timedelta(days=9))
        assert (both.percent, both.effect("goal").why) == ((50, 60), CHANGED)
        assert (first.percent, first.effect("goal").why) == ((50,), "")


def test_an_outcome_whose_time_is_not_over_is_not_counted_as_missed() -> None:
    ps, clock = story(None)
    with ps:
        clock.move_to(ENTRY + timedelta(days=13))
        (found,) = ps.tenant("acme").effects(START, ENTRY + timedelta(days=13))
        assert found.effect("goal").excluded == {"the time for its outcome is not over": 2 * ARM}


def test_whom_something_else_stopped_does_not_enter_until_it_would_be_acted_on() -> None:
    """Without consent nobody is acted on, in either arm; with it, at the next failed payment, both enter then."""
    ps, clock = story(None)
    with ps:
        acme, later = ps.tenant("acme"), ENTRY + timedelta(days=20)
        for name in ("x", "y"):
            acme.record(name, failed(f"f-{name}", ENTRY))
        ps.run_once()
        clock.move_to(later)
        assert acme.effects(START, later)[0].treated + acme.effects(START, later)[0].held_out == 2 * ARM
        for name in ("x", "y"):
            acme.record(name, paid(f"p-{name}", later))
        ps.run_once()
        clock.advance(timedelta(hours=1))
        for name in ("x", "y"):
            acme.consent(name, "email", "service", evidence="form")
            acme.record(name, failed(f"again-{name}", later + timedelta(hours=1)))
        ps.run_once()
        clock.move_to(END)
        (found,) = acme.effects(later, END)
        assert (found.treated, found.held_out, found.excluded) == (1, 1, {"entered before the period": 2 * ARM})
