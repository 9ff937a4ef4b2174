"""A tenant's customers by segment and stage: single reads and lists agree, both clocks hold, a model of weights is in use everywhere."""

from __future__ import annotations

from datetime import timedelta

from postsale.aggregates.signals import AccountProfiled, SubscriptionEnded
from postsale.events import ManualClock
from postsale.projections import CUSTOMER_HEALTH, Component, Features, HealthModel, count, read_weights

from .support import NOON, Where, failed, opened, paid, subscribed, used

WEIGHTS = """
model = "customer-health"
model_version = 1
version = 1
weights = { payments = 25, usage = 25, adoption = 15, support = 20, survey = 15, contract = 100, purchasing = 100 }
bands = { poor = 50, fair = 75, good = 100 }

[[rows]]
segment = "enterprise"
stage = "onboarding"
weights = { usage = 0 }
"""


def profile(id: str, at=NOON, **more) -> AccountProfiled:
    return AccountProfiled(source="crm", id=id, occurred_at=at, **more)


def test_the_stage_is_true_at_one_time_and_known_at_another(where: Where) -> None:
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", used("u1"))
        before_the_profile = NOON + timedelta(minutes=1)
        clock.move_to(NOON + timedelta(days=1))
        acme.record("cus_1", profile("p", NOON, starts_at=NOON - timedelta(days=200)))
        assert acme.lifecycle("cus_1").stage == "adoption"
        assert acme.lifecycle("cus_1", known_at=before_the_profile).stage == "onboarding"
        assert acme.lifecycle("cus_1", as_of=NOON + timedelta(days=80), known_at=before_the_profile).stage == "onboarding"
        assert acme.lifecycle("cus_1", as_of=NOON + timedelta(days=90), known_at=before_the_profile).stage == "adoption"
        assert acme.lifecycle("cus_1", as_of=NOON - timedelta(days=1)).stage is None


def test_the_list_and_the_single_read_say_the_same_row_segment_and_stage(where: Where) -> None:
    model = read_weights(WEIGHTS, CUSTOMER_HEALTH)
    with opened(where, health=model) as ps:
        acme = ps.tenant("acme")
        acme.record("big", profile("p1", segment="enterprise"))
        for name in ("big", "small"):
            acme.record(name, used(f"u-{name}"))
        rows = {row.name: row for row in acme.customers()}
        for name, expected in (("big", "enterprise/onboarding"), ("small", "default")):
            health, row = acme.health(name), rows[name]
            assert health.applied.name == row.row == expected
            assert (row.segment, row.stage) == (health.applied.segment, health.applied.stage)
            assert row.stage == acme.lifecycle(name).stage == "onboarding"
            assert (row.score, health.model) == (health.score, model.digest)
        assert rows["big"].score is None  # only usage is known, and this row leaves it out
        assert rows["small"].score == 80.0
        assert rows["big"].to_dict() | {"ref": ""} == {
            "customer": "big", "ref": "", "score": None, "band": None, "segment": "enterprise", "stage": "onboarding",
            "row": "enterprise/onboarding", "at_risk": False, "open_case": False,
        }  # fmt: skip


def test_a_model_of_ones_own_without_stages_has_the_shipped_ones_as_a_read_model(where: Where) -> None:
    class Payments(Features, version=1, owner="tests"):
        n = count(type(paid("x")))

    model = HealthModel("paying", 1, Payments, (Component("paying", 1, lambda v: min(100, v["n"]) * 1_000_000),))
    with opened(where, health=model) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", used("u1"))
        assert (acme.lifecycle("cus_1").stage, acme.health("cus_1").applied.stage) == ("onboarding", None)


def test_a_customer_whose_last_subscription_ended_is_poor_and_not_at_risk(where: Where) -> None:
    """Its health stays what it was; there is nothing left to lose. One that only fails to pay is at risk."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        for name in ("gone", "here"):
            acme.record(name, subscribed(f"s-{name}", NOON - timedelta(days=300)))
            acme.record_many([(name, failed(f"f-{name}-{n}", NOON - timedelta(days=n), attempt=3)) for n in range(4)])
        ended = {"subscription_id": "sub_1", "mrr_minor": 19900, "interval": "month", "currency": "EUR", "effective_at": NOON}
        acme.record("gone", SubscriptionEnded(source="stripe", id="e", occurred_at=NOON, **ended))
        rows = {row.name: row for row in acme.customers()}
        assert {name: (row.band, row.ended, row.at_risk) for name, row in rows.items()} == {
            "gone": ("poor", True, False),
            "here": ("poor", False, True),
        }
        assert [row.name for row in acme.customers(at_risk=True)] == ["here"]
