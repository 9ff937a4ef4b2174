"""Guardrails: each verdict, windows across midnight, daylight saving, periods, the fixed order."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.agents import Policy
from postsale.agents.budget_policy import Left
from postsale.agents.guardrails import Context, ToolRef, contacts, first_failed, is_quiet, judge, look
from postsale.aggregates.artifacts import AgentControl
from postsale.aggregates.customer import CustomerAggregate, Touch, empty
from postsale.aggregates.decisions import Offer
from postsale.events import DAY_US, to_us
from tests.agents.world import DUNNING

POLICY = Policy.from_toml(DUNNING)
ROW = {r.id: r for r in POLICY.rules}
TOOLS = {t: ToolRef(t, "idempotent", "d") for t in POLICY.tools}
FINE = Context(local_time="12:00", time_zone="UTC", consent={"email": True}, touches={30: 0}, budgets={"retention": Left(9_999, "2026-11")})
OFFER = Offer(kind="credit", amount_minor=900, currency="EUR", terms="x", authority_limit_minor=1000)


def verdicts(context: Context = FINE, *, row: str = "credit", offer: Offer | None = OFFER, mode: str = "act", depth: int = 0, tools=TOOLS):  # type: ignore[no-untyped-def]
    chosen = (ROW[row],) if row in ROW else ()
    return judge(POLICY, chosen, "no-rule", offer, context, mode=mode, depth=depth, tools=tools)  # type: ignore[arg-type]


def changed(**fields: object) -> Context:
    from dataclasses import replace

    return replace(FINE, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("context", "more", "rule"),
    [
        (FINE, {}, None),
        (changed(paused_by="tenant"), {}, "kill-switch:tenant"),
        (changed(merged=True), {}, "identity:merged"),
        (FINE, {"row": "nothing", "offer": None}, "policy:no-rule"),
        (FINE, {"row": "wait", "offer": None}, "policy:wait"),
        (FINE, {"depth": 3}, "depth:2"),
        (FINE, {"depth": 2}, None),
        (FINE, {"tools": {}}, "tool:billing.offer_credit@1"),
        (changed(consent={"email": False}), {}, "consent:email/service"),
        (changed(consent={}), {}, "consent:email/service"),
        (changed(consent={}), {"row": "task", "offer": None}, None),
        (changed(touches={30: 2}), {}, "frequency:2/30d"),
        (changed(touches={30: 1}), {}, None),
        (changed(local_time="20:00"), {}, "quiet-hours:20:00-08:00"),
        (changed(local_time="07:59"), {}, "quiet-hours:20:00-08:00"),
        (changed(local_time="08:00"), {}, None),
        (changed(local_time="20:00"), {"row": "task", "offer": None}, None),
        (changed(budgets={"retention": Left(899, "2026-11")}), {}, "budget:retention/2026-11"),
        (changed(budgets={"retention": Left(900, "2026-11")}), {}, None),
        (FINE, {"offer": OFFER.model_copy(update={"currency": "USD"})}, "budget:retention/2026-11"),
        (FINE, {"mode": "observe"}, "autonomy:observe"),
        (FINE, {"mode": "propose"}, None),
        (changed(consent={}, touches={30: 9}, paused_by="agent"), {"mode": "observe", "depth": 9}, "kill-switch:agent"),
    ],
)
def test_the_first_guardrail_that_fails_names_the_disposition(context: Context, more: dict[str, object], rule: str | None) -> None:
    assert first_failed(verdicts(context, **more)) == rule


def test_all_guardrails_are_judged_also_after_one_has_failed() -> None:
    worst = changed(paused_by="agent", merged=True, consent={}, touches={30: 9}, local_time="03:00", budgets={})
    found = verdicts(worst, mode="observe", depth=9, tools={})
    assert [v.guardrail for v in found] == [
        "kill-switch", "identity", "policy", "depth", "tool", "consent", "frequency", "quiet-hours", "budget", "authority", "autonomy",
    ]  # fmt: skip
    assert [v.guardrail for v in found if v.passed] == ["policy", "authority"]
    assert [v.guardrail for v in found] == [v.guardrail for v in verdicts()]


def test_an_offer_above_authority_passes_only_where_a_person_is_asked() -> None:
    above = OFFER.model_copy(update={"amount_minor": 1001})
    assert first_failed(verdicts(offer=above)) is None
    silent = ROW["credit"].model_copy(update={"approval": "none"})
    found = judge(POLICY, (silent,), "", above, FINE, mode="act", depth=0, tools=TOOLS)
    assert first_failed(found) == "authority:1000"


@given(minute=st.integers(0, 24 * 60 - 1), start=st.integers(0, 24 * 60 - 1), length=st.integers(1, 24 * 60 - 1))
def test_a_quiet_window_covers_exactly_its_minutes_also_across_midnight(minute: int, start: int, length: int) -> None:
    def clock(m: int) -> str:
        return f"{m // 60 % 24:02}:{m % 60:02}"

    covered = {(start + i) % (24 * 60) for i in range(length)}
    assert is_quiet(clock(minute), clock(start), clock(start + length)) is (minute in covered)


@pytest.mark.parametrize(
    ("at", "local"),
    [
        (datetime(2026, 3, 29, 0, 59, tzinfo=UTC), "01:59"),  # Berlin springs from 02:00 to 03:00
        (datetime(2026, 3, 29, 1, 0, tzinfo=UTC), "03:00"),
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "02:30"),  # falls back: this half hour comes twice
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "02:30"),
        (datetime(2026, 7, 1, 5, 59, tzinfo=UTC), "07:59"),
        (datetime(2026, 1, 1, 6, 59, tzinfo=UTC), "07:59"),
        (datetime(2028, 2, 29, 19, 0, tzinfo=UTC), "20:00"),
    ],
)
def test_local_time_follows_daylight_saving(at: datetime, local: str) -> None:
    assert look(POLICY, empty("acme", "c"), {"time_zone": "Europe/Berlin"}, now_us=to_us(at)).local_time == local


@pytest.mark.parametrize("zone", [None, "Mars/Olympus", "", "../etc/passwd", 5])
def test_a_zone_that_nobody_knows_is_the_policys_default(zone: object) -> None:
    context = look(POLICY, empty("acme", "c"), {"time_zone": zone}, now_us=0)  # type: ignore[dict-item]
    assert context.time_zone == "Europe/Berlin"


def test_contacts_are_counted_up_to_the_very_end_of_the_window() -> None:
    now_us = to_us(datetime(2026, 11, 16, tzinfo=UTC))
    at = [now_us - 30 * DAY_US - 1, now_us - 30 * DAY_US, now_us - DAY_US, now_us]
    customer = CustomerAggregate(stream=empty("a", "c").stream, touches=tuple(Touch(t, "email", uuid4()) for t in at))
    assert (contacts(customer, now_us, 30), contacts(customer, now_us, 31), contacts(customer, now_us, 1)) == (3, 4, 2)


def test_the_nearest_switch_that_is_thrown_is_named() -> None:
    on, off = AgentControl(paused=True), AgentControl()
    for states, name in (((off, off, off), ""), ((on, on, on), "agent"), ((off, on, off), "tenant"), ((off, off, on), "everything")):
        assert look(POLICY, empty("a", "c"), {}, now_us=0, switches=states).paused_by == name


@given(
    consent=st.dictionaries(st.sampled_from(["email", "phone", "in-app"]), st.booleans()),
    touches=st.dictionaries(st.integers(1, 365), st.integers(0, 64)),
    budgets=st.dictionaries(
        st.sampled_from(["retention", "e-mail.s", "risk"]),
        st.builds(Left, st.integers(0, 10**9), st.sampled_from(["2026-11", "2026-11-23"]), st.sampled_from(["", "retention-0a"])),
    ),
    paused=st.sampled_from(["", "agent"]),
    merged=st.booleans(),
)
def test_a_context_is_rebuilt_from_what_a_decision_records(consent, touches, budgets, paused, merged) -> None:  # type: ignore[no-untyped-def]
    context = changed(consent=consent, touches=touches, budgets=budgets, paused_by=paused, merged=merged)
    assert Context.from_scalars(context.scalars()) == context
