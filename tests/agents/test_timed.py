"""Schedules, waits and terms of risk cases under a test clock: each fires once, at its time, also when clocks change or go back."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.agents import Agent, Policy
from postsale.agents.schedules import Schedule, latest, upcoming, zone_of
from postsale.aggregates import commands
from postsale.aggregates.decisions import ApprovalLapsed, TriggerRaised
from postsale.aggregates.signals import UsageObserved
from postsale.aggregates.timed import Came, ScheduleCame, SlaBreached, SlaWarned, WaitBegan, WaitEnded
from postsale.audit import check_dispositions
from postsale.errors import ApprovalRefused, PolicyInvalid
from postsale.events import Origin, from_us, iso, to_us
from postsale.store.log import Cause
from tests.agents.test_approval_rules import CALENDAR, of
from tests.agents.world import ANNA, BEN, World, calls

HEAD = """
name = "dunning"
version = 1
owner = "cs"
description = "Nudge, then look whether it helped."
hit = "first"
[inputs]
failed_payments = "integer"
asked_by = "text"
[[trigger]]
id = "failing"
when = { failed_payments = ">= 1" }
[[rule]]
id = "nudge"
when = { asked_by = "failing" }
action = "nudge"
tool = "crm.create_task@1"
arguments = { customer = "$customer", title = "Nudge", note = "$because" }
risk_case = true
because = "{failed_payments} failed."
[[rule]]
id = "again"
action = "look"
tool = "crm.create_task@1"
arguments = { customer = "$customer", title = "Look", note = "$because" }
because = "{asked_by} asks."
[guardrails]
purpose = "service"
"""
WAIT = """
[[wait]]
id = "no-login"
after = "nudge"
unless = ["product/usage-observed"]
within_days = 7
"""
MONDAYS = """
[[schedule]]
id = "mondays"
at = "09:00"
weekdays = ["mon"]
"""
SLAS = """
[[sla]]
id = "first-look"
measure = "first-action"
within_business_h = 8
warn_percent = 75
asks = ["breach"]
[[sla]]
id = "plan"
measure = "stage"
stage = "at-risk"
within_days = 3
"""


def world(more: str = "", text: str = HEAD, mode: str = "act", **options: Any) -> World:
    w = World([Agent(Policy.from_toml(text + CALENDAR + more))], **options)
    w.mode(mode)
    return w


def used(w: World, **more: Any) -> None:
    w.says(UsageObserved, feature="export", **more)


def raised(w: World) -> list[str]:
    return [e.condition for e in of(w, TriggerRaised)]


def due(w: World) -> str:
    return iso(w.engine.next_due_us(w.customer()) or 0)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


# ---------------------------------------------------------------- waits


def nudged(more: str = WAIT, **options: Any) -> World:
    w = world(more, **options)
    assert w.attend(w.failed()).called == 1
    return w


def test_a_wait_begins_in_the_append_that_says_the_effect_happened_and_wakes_the_engine_at_its_end() -> None:
    w = nudged()
    succeeded, began = w.events()[-2:]
    assert (succeeded.stored.kind, began.stored.kind) == ("effect/succeeded", "wait/began")
    assert succeeded.stored.recorded_at_us // 1000 == began.stored.recorded_at_us // 1000
    assert (began.data.wait, began.data.kinds) == ("no-login", ("product/usage-observed",))
    assert due(w) == "2026-11-23T12:00:00.000000Z"


def test_nothing_arrived_and_the_agent_is_asked_once() -> None:
    w = nudged()
    w.wait(days=7, seconds=-1)
    assert w.attend().raised == 0
    w.wait(seconds=1)
    for _ in range(3):
        w.attend()
    assert raised(w) == ["failing", "no-login"]
    assert [a["title"] for _, a in calls(w)] == ["Nudge", "Look"]
    assert w.decisions()[-1].evidence["asked_by"] == "no-login"
    assert [e.result for e in of(w, WaitEnded)] == ["due"]
    assert check_dispositions(w.store).problems == []


def test_a_fact_in_time_ends_the_wait_without_asking() -> None:
    w = nudged()
    w.wait(days=3)
    used(w)
    w.attend()
    w.wait(days=30)
    w.attend()
    assert raised(w) == ["failing"]
    assert [e.result for e in of(w, WaitEnded)] == ["met"]
    assert w.customer().waits == {}


@pytest.mark.parametrize(("hours", "counts"), [(-1.0, False), (0.0, False), (0.001, True), (7 * 24 - 0.001, True), (7 * 24.0, False)])
def test_what_counts_is_when_a_fact_says_it_happened_after_the_beginning_and_before_the_end(hours: float, counts: bool) -> None:
    """The fact becomes known after the end, but before anybody looked."""
    w = nudged()
    happened = w.now() + timedelta(hours=hours)
    w.wait(days=8)
    used(w, at=happened)
    w.attend()
    assert (raised(w) == ["failing"]) is counts


def test_a_fact_that_arrives_after_the_agent_was_asked_and_claims_to_be_earlier_is_recorded_as_late_and_undoes_nothing() -> None:
    w = nudged()
    happened = w.now() + timedelta(days=2)
    w.wait(days=7)
    w.attend()
    used(w, at=happened)
    for _ in range(2):
        w.attend()
    assert [e.result for e in of(w, WaitEnded)] == ["due", "late"]
    assert raised(w) == ["failing", "no-login"]
    assert len(calls(w)) == 2


def test_a_fact_that_is_late_for_one_wait_and_not_for_the_next_of_its_kind_is_both_late_and_no_answer_to_the_next() -> None:
    w = nudged()
    happened = w.now() + timedelta(days=2)
    w.wait(days=7)
    w.attend()
    w.paid()
    w.attend()  # the condition is over, so that it can rise again
    w.wait(hours=1)
    w.attend(w.failed())
    assert len(of(w, WaitBegan)) == 2
    used(w, at=happened)
    w.attend()
    assert [e.result for e in of(w, WaitEnded)] == ["due", "late"]
    assert [x.wait for x in w.customer().waits.values()] == ["no-login"]


def test_a_late_fact_voids_an_approval_that_is_still_asked_for_because_of_the_wait() -> None:
    text = HEAD.replace('because = "{asked_by} asks."', 'approval = "required"\nbecause = "{asked_by} asks."')
    w = world(WAIT, text)
    w.attend(w.failed())
    happened = w.now() + timedelta(days=2)
    w.wait(days=7)
    (id_,) = w.attend().decided
    used(w, at=happened)
    with pytest.raises(ApprovalRefused, match="wait:no-login"):
        w.engine.approvals.approve("acme", id_, BEN)
    assert [e.detail for e in of(w, ApprovalLapsed)] == ["wait:no-login"]
    assert len(calls(w)) == 1


def test_an_imported_fact_ends_a_wait_and_raises_nothing() -> None:
    w = nudged()
    w.wait(days=1)
    used(w, cause=Cause(origin=Origin.IMPORT))
    w.wait(days=7)
    w.attend()
    assert (raised(w), [e.result for e in of(w, WaitEnded)]) == (["failing"], ["met"])


def test_a_wait_whose_condition_does_not_hold_at_its_end_ends_idle() -> None:
    w = nudged(WAIT + "when = { failed_payments = '>= 1' }\n")
    w.wait(days=1)
    w.paid()
    w.wait(days=7)
    w.attend()
    assert (raised(w), [e.result for e in of(w, WaitEnded)]) == (["failing"], ["idle"])


def test_no_wait_begins_for_an_effect_that_did_not_happen() -> None:
    w = world(WAIT, mode="propose")
    (id_,) = w.attend(w.failed()).decided
    w.engine.approvals.reject("acme", id_, ANNA, reason="no")
    w.wait(days=8)
    w.attend()
    assert of(w, WaitBegan) == []


def test_a_clock_moved_back_fires_a_wait_once() -> None:
    w = nudged()
    begun = w.now()
    w.wait(days=7)
    w.attend()
    w.clock.move_to(begun)
    w.attend()
    w.wait(days=7)
    w.attend()
    assert raised(w) == ["failing", "no-login"]


def test_a_wait_in_business_hours_ends_by_the_calendar() -> None:
    """Begun on Monday at 13:00 in Berlin: 20 open hours, Wednesday a holiday."""
    w = nudged(WAIT.replace("within_days = 7", "within_business_h = 20"))
    assert due(w) == "2026-11-19T16:00:00.000000Z"


# ---------------------------------------------------------------- schedules


def test_a_schedule_asks_on_the_customer_s_own_clock_and_says_whose_zone_it_was() -> None:
    w = world(MONDAYS)
    w.profile("c1", time_zone="America/New_York")
    w.profile("c2")
    w.attend(ref="c1")
    w.attend(ref="c2")
    assert iso(w.engine.next_due_us(w.customer("c2")) or 0) == "2026-11-23T08:00:00.000000Z"
    assert due(w) == "2026-11-16T14:00:00.000000Z"
    w.wait(hours=2)
    for _ in range(3):
        w.attend(ref="c1")
        w.attend(ref="c2")
    (came,) = of(w, ScheduleCame)
    assert (came.zone, came.zone_of, came.day, came.raised) == ("America/New_York", "customer", "2026-11-16", True)
    w.wait(days=7)
    w.attend(ref="c2")
    (other,) = [r.data for r in w.events("c2") if isinstance(r.data, ScheduleCame)]
    assert (other.zone, other.zone_of) == ("Europe/Berlin", "policy")


def test_a_policy_without_any_zone_counts_in_utc_and_says_so() -> None:
    assert zone_of("customer", None, None) == ("UTC", "utc")
    assert zone_of("customer", "Mars/Base", None) == ("UTC", "utc")
    assert zone_of("Asia/Tokyo", "Europe/Berlin", None) == ("Asia/Tokyo", "schedule")


def test_what_was_missed_is_made_up_once_and_a_clock_moved_back_fires_nothing_again() -> None:
    w = world(MONDAYS)
    w.profile()
    w.attend()  # the policy is active from here on
    begun = w.now()
    w.wait(days=22)  # three Mondays
    w.attend()
    assert [e.day for e in of(w, ScheduleCame)] == ["2026-12-07"]
    w.clock.move_to(begun)
    w.attend()
    w.wait(days=22)
    w.attend()
    assert [e.day for e in of(w, ScheduleCame)] == ["2026-12-07"]
    assert raised(w) == ["mondays"]
    assert w.customer().up == frozenset()  # it asks once, and does not last


def test_a_customer_who_moves_to_another_zone_is_asked_about_once_a_day() -> None:
    w = world(MONDAYS, at=datetime(2026, 11, 16, 7, tzinfo=UTC))
    w.profile(time_zone="Europe/Berlin")
    w.attend()
    w.wait(hours=2)
    w.attend()
    w.profile(time_zone="America/New_York")  # where it is still before nine
    w.wait(hours=8)
    w.attend()
    assert [e.day for e in of(w, ScheduleCame)] == ["2026-11-16"]


def test_a_schedule_whose_condition_does_not_hold_is_looked_at_once_and_raises_nothing() -> None:
    w = world(MONDAYS + "when = { failed_payments = '>= 2' }\n")
    w.profile()
    w.attend()
    w.wait(days=7)
    w.attend()
    w.failed(attempt=2)
    w.attend()
    assert [e.raised for e in of(w, ScheduleCame)] == [False]
    assert "mondays" not in raised(w)


def test_open_days_only_leaves_out_holidays() -> None:
    s = Schedule(id="s", at="09:00", weekdays=("wed",), open_days_only=True, zone="Europe/Berlin")
    calendar = Policy.from_toml(HEAD + CALENDAR).calendar
    assert upcoming(s, calendar, "Europe/Berlin", to_us(at("2026-11-16T00:00:00+00:00"))) == to_us(at("2026-11-25T09:00:00+01:00"))


def test_a_day_that_a_zone_leaves_out_has_no_firing_nor_has_another_day_in_its_place() -> None:
    """Samoa had no 30 December 2011, which would have been a Friday."""
    s = Schedule(id="s", at="09:00", weekdays=("fri",), zone="Pacific/Apia")
    assert iso(upcoming(s, None, "Pacific/Apia", to_us(at("2011-12-29T00:00:00+00:00"))) or 0) == "2012-01-05T19:00:00.000000Z"


@pytest.mark.parametrize(
    ("days", "after", "expected"),
    [
        ((29,), "2027-02-01", "2027-03-29"),  # no 29 February in 2027
        ((29,), "2028-02-01", "2028-02-29"),
        ((-1,), "2028-02-01", "2028-02-29"),
        ((-1,), "2027-02-01", "2027-02-28"),
        ((31,), "2026-11-16", "2026-12-31"),
    ],
)
def test_days_of_the_month_in_short_months_and_leap_years(days: tuple[int, ...], after: str, expected: str) -> None:
    s = Schedule(id="s", at="09:00", month_days=days, zone="UTC")
    assert iso(upcoming(s, None, "UTC", to_us(at(f"{after}T00:00:00+00:00"))) or 0)[:10] == expected


def test_a_leap_day_schedule_comes_every_four_or_eight_years() -> None:
    s = Schedule(id="s", at="09:00", month_days=(29,), months=(2,), zone="UTC")
    assert iso(upcoming(s, None, "UTC", to_us(at("2096-03-01T00:00:00+00:00"))) or 0)[:10] == "2104-02-29"
    with pytest.raises(ValueError, match="none of these days"):
        Schedule(id="s", at="09:00", month_days=(30,), months=(2,), zone="UTC")


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (date(2026, 3, 28), "2026-03-28T01:30:00.000000Z"),
        (date(2026, 3, 29), "2026-03-29T01:30:00.000000Z"),  # 02:30 does not exist: as without the change, which is 03:30 on the clock
        (date(2026, 10, 25), "2026-10-25T00:30:00.000000Z"),  # 02:30 comes twice: the first
        (date(2026, 10, 26), "2026-10-26T01:30:00.000000Z"),
    ],
)
def test_a_time_that_does_not_exist_or_comes_twice_is_one_instant(day: date, expected: str) -> None:
    s = Schedule(id="s", at="02:30", weekdays=("mon", "tue", "wed", "thu", "fri", "sat", "sun"), zone="Europe/Berlin")
    before = to_us(datetime(day.year, day.month, day.day, tzinfo=UTC)) - 3_600 * 1_000_000
    assert iso(upcoming(s, None, "Europe/Berlin", before) or 0) == expected


@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Havana", "Asia/Kathmandu"]),
    st.sampled_from(["00:00", "00:30", "02:00", "02:15", "09:00", "23:59"]),
    st.integers(to_us(at("2011-12-20T00:00:00+00:00")), to_us(at("2012-04-20T00:00:00+00:00"))),
    st.lists(st.integers(-30, 90), min_size=1, max_size=12),
)
def test_however_often_and_late_somebody_looks_a_daily_schedule_comes_once_for_each_day_that_exists(
    zone: str, clock: str, start: int, steps: list[int]
) -> None:
    s = Schedule(id="s", at=clock, weekdays=("mon", "tue", "wed", "thu", "fri", "sat", "sun"), zone=zone)
    last: Came | None = None
    now, seen = start, []
    for hours in steps:
        now += hours * 3_600 * 1_000_000
        after = max(start, last.due_us if last else 0)
        firing = latest(s, None, zone, after, now, last) if now >= start else None
        expected = []  # by the clock on the wall: the days whose time has come since
        for minute in range(max(0, now - after) // 60_000_000 + 1) if hours <= 48 and now > after else ():
            shown = from_us(after + minute * 60_000_000).astimezone(ZoneInfo(zone))
            if shown.strftime("%H:%M") == clock and shown.fold == 0 and after < to_us(shown.replace(second=0, microsecond=0)) <= now:
                expected.append(shown.date())
        if firing is not None:
            assert start < firing.due_us <= now
            assert firing.day not in seen
            seen.append(firing.day)
            if expected:
                assert firing.day >= expected[-1]
            last = Came(uuid4(), firing.due_us, firing.day.isoformat())
        else:
            assert not [day for day in expected if day not in seen and (not seen or day > seen[-1])]
    assert seen == sorted(seen)


# ---------------------------------------------------------------- terms of risk cases


def cased(**options: Any) -> World:
    """A risk case that nobody acted on: its proposal waits."""
    w = world(SLAS, mode="propose", **options)
    w.attend(w.failed())
    assert len(w.customer().cases) == 1
    return w


def case_of(w: World) -> Any:
    (case,) = w.customer().cases.values()
    return case


def test_a_term_warns_once_and_is_breached_once_by_business_hours_and_asks_where_the_policy_says_so() -> None:
    """Opened on Monday at 13:00 in Berlin: 6 of 8 open hours are over on Tuesday at 11:00, all at 13:00."""
    w = cased()
    assert due(w) == "2026-11-17T10:00:00.000000Z"
    w.wait(hours=22)
    for _ in range(2):
        w.attend()
    (warned,) = of(w, SlaWarned)
    assert (warned.sla, iso(to_us(warned.due_at))) == ("first-look", "2026-11-17T12:00:00.000000Z")
    assert due(w) == "2026-11-17T12:00:00.000000Z"
    w.wait(hours=2)
    for _ in range(2):
        w.attend()
    assert [e.sla for e in of(w, SlaBreached)] == ["first-look"]
    assert raised(w) == ["failing", "first-look"]
    w.wait(days=3)
    w.attend()
    assert [e.sla for e in of(w, SlaBreached)] == ["first-look", "plan"]
    assert raised(w) == ["failing", "first-look"]
    assert check_dispositions(w.store).problems == []


def test_a_breach_that_is_noticed_late_is_one_breach_without_a_warning() -> None:
    w = cased()
    w.wait(days=2)
    w.attend()
    assert (of(w, SlaWarned), [e.sla for e in of(w, SlaBreached)]) == ([], ["first-look"])


def test_an_action_in_time_stops_the_term_of_the_first_action() -> None:
    w = world(SLAS)
    assert w.attend(w.failed()).called == 1
    assert case_of(w).acted_us is not None
    w.wait(days=2)
    w.attend()
    assert of(w, SlaBreached) == []


def test_a_stage_has_a_term_of_its_own_each_time_it_is_entered() -> None:
    w = cased()

    def move(stage: Any) -> None:
        w.engine.approvals.move_case(w.stream(), case_of(w).case_id, stage, person=ANNA, reason="met them")

    w.wait(days=2)
    move("plan-in-place")
    assert commands.move_case(w.customer(), case_of(w).case_id, "plan-in-place", "again") == ()
    w.wait(days=5)
    w.attend()
    assert [e.sla for e in of(w, SlaBreached)] == []  # a person acted, and left the stage
    move("at-risk")
    w.wait(days=3)
    w.attend()
    assert [e.sla for e in of(w, SlaBreached)] == ["plan"]
    move("saving")
    move("at-risk")
    w.wait(days=3)
    w.attend()
    assert [e.sla for e in of(w, SlaBreached)] == ["plan", "plan"]


def test_a_clock_moved_back_says_nothing_twice() -> None:
    w = cased()
    begun = w.now()
    w.wait(days=2)
    w.attend()
    w.clock.move_to(begun)
    w.attend()
    w.wait(days=2)
    w.attend()
    assert [e.sla for e in of(w, SlaBreached)] == ["first-look"]


# ---------------------------------------------------------------- together


def test_the_kill_switch_stops_what_time_asks_for_and_says_so() -> None:
    w = nudged(WAIT + MONDAYS)
    w.engine.pause("acme", "dunning", person=ANNA, reason="x")
    w.wait(days=7)
    w.attend()
    assert raised(w) == ["failing", "mondays", "no-login"]
    assert {d.suppressed_by for d in w.decisions()[1:]} == {"kill-switch:agent"}
    assert len(calls(w)) == 1


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (WAIT.replace("nudge", "sing"), "wait 'no-login', after"),
        (WAIT.replace("within_days = 7", ""), "exactly one"),
        (WAIT + WAIT, "used twice"),
        (MONDAYS.replace("mondays", "failing"), "used twice"),
        (MONDAYS.replace('weekdays = ["mon"]', ""), "weekdays or month_days"),
        (MONDAYS + "when = { asked_by = 'x' }", "nothing asks yet"),
        (MONDAYS.replace('"09:00"', '"9"'), "schedule 1 'mondays', at"),
        (SLAS.replace("warn_percent = 75", 'asks = ["warning"]').replace('asks = ["breach"]', ""), "no warning"),
        (SLAS.replace('stage = "at-risk"', ""), "stage"),
    ],
)
def test_times_that_cannot_be_are_refused_with_their_place(text: str, place: str) -> None:
    with pytest.raises(PolicyInvalid, match=place):
        Policy.from_toml(HEAD + CALENDAR + text)


def test_business_hours_without_a_calendar_are_refused() -> None:
    with pytest.raises(PolicyInvalid, match="need a \\[calendar\\]"):
        Policy.from_toml(HEAD + SLAS)


@pytest.mark.parametrize(
    ("now", "zone", "local", "whose"),
    [
        ("2026-03-29T00:59:00+00:00", "Europe/Berlin", "01:59", "customer"),
        ("2026-03-29T01:00:00+00:00", "Europe/Berlin", "03:00", "customer"),  # two o'clock does not come
        ("2026-10-25T00:30:00+00:00", "Europe/Berlin", "02:30", "customer"),
        ("2026-10-25T01:30:00+00:00", "Europe/Berlin", "02:30", "customer"),  # and now again
        ("2026-10-25T01:30:00+00:00", None, "02:30", "policy"),
    ],
)
def test_quiet_hours_are_what_the_customer_s_clock_shows_also_when_it_changes(now: str, zone: str | None, local: str, whose: str) -> None:
    w = World(at=at(now))
    w.mode("act")
    w.vip()
    w.profile(segment="vip", **({} if zone is None else {"time_zone": zone}))
    w.attend(w.failed())
    (decision,) = w.decisions()
    assert (decision.context["local_time"], decision.context["time_zone_of"]) == (local, whose)
    assert decision.suppressed_by == "quiet-hours:20:00-08:00"
