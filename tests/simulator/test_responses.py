"""The same world twice: what an action changes is its effect, on its customer and on those it invites, and the truth says how much."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postsale.aggregates.signals import CampaignEngaged
from postsale.errors import InvalidInput
from postsale.simulator import ACTIONS, TROUBLED, Action, Arrival, Effect, Response, Vendor, VendorModel
from postsale.simulator.state import Fact

START = datetime(2026, 1, 5, tzinfo=UTC)
NOON = timedelta(hours=12)


def vendor(seed: int, days: int = 120, customers: int = 20, model: VendorModel = TROUBLED) -> Vendor:
    return Vendor(seed, customers=customers, start=START, days=days, model=model)


def lived(seed: int, acts: list[tuple[int, str, Action]], **more: int) -> tuple[Vendor, dict[str, list[Arrival]]]:
    """The whole story with these actions on their days; what reaches us by customer."""
    v = vendor(seed, **more)
    by_customer: dict[str, list[Arrival]] = {}
    for number in range(v.days):
        for day, customer, action in acts:
            if day == number:
                v.respond(customer, action, START + timedelta(days=day) + NOON)
        for arrival in v.day(number):
            by_customer.setdefault(arrival.customer, []).append(arrival)
    return v, by_customer


def of_group(name: str) -> str:
    """The customer of the start from whom another descends by invitations."""
    return name.partition("r")[0] if name.startswith("cus_") else name


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_with_no_actions_two_runs_are_equal_event_by_event(seed: int) -> None:
    assert list(vendor(seed, days=60).arrivals()) == list(vendor(seed, days=60).arrivals())


@settings(max_examples=10)
@given(
    seed=st.integers(0, 10**6),
    acts=st.lists(st.tuples(st.integers(0, 80), st.sampled_from(ACTIONS)), min_size=1, max_size=30),
)
def test_acting_on_one_customer_changes_nothing_of_any_other_but_whom_it_invites(seed: int, acts: list[tuple[int, Action]]) -> None:
    _, alone = lived(seed, [], days=90, customers=6)
    acted, told = lived(seed, [(day, "cus_003", action) for day, action in acts], days=90, customers=6)
    for name in alone.keys() | told.keys():
        if of_group(name) != "cus_003":
            assert told.get(name) == alone.get(name), f"seed {seed}"
    assert acted.truth().spared.mrr_minor == 0


def test_an_action_changes_nothing_before_it_reaches_its_customer_and_something_after() -> None:
    _, alone = lived(3, [])
    _, told = lived(3, [(50, f"cus_{n:03d}", "outreach") for n in range(1, 21)])
    moment = START + timedelta(days=50)

    def before(arrivals: dict[str, list[Arrival]]) -> dict[str, list[Arrival]]:
        return {name: [a for a in of if a.at < moment] for name, of in arrivals.items()}

    assert before(told) == {name: of for name, of in before(alone).items() if name in told}
    assert told != alone


def test_truth_is_the_difference_of_two_worlds_and_nothing_where_nobody_acted() -> None:
    quiet, _ = lived(3, [])
    assert quiet.truth().overall.mrr_minor == quiet.truth().overall.churned == quiet.truth().acted.customers == 0
    acts: list[tuple[int, str, Action]] = [(day, f"cus_{n:03d}", "renewal-call") for n in range(1, 21) for day in (20, 50, 80, 110)]
    v, _ = lived(3, acts)
    one, other = v.outcomes(), quiet.outcomes()
    assert v.truth().overall.mrr_minor == sum(o.mrr_minor for o in one.values()) - sum(o.mrr_minor for o in other.values())
    assert v.truth().acted.churned == sum((one[n].ended is not None) - (other[n].ended is not None) for n in other if one[n].acted)
    assert set(v.truth().by_action) == {"renewal-call"}
    assert v.truth().spared.customers == len(set(one) & set(other)) - v.truth().acted.customers


def test_goodwill_only_ever_keeps_customers_and_ill_will_only_ever_loses_them() -> None:
    def churned(goodwill: float, seed: int) -> set[str]:
        model = TROUBLED.changed(responses={"renewal-call": Response(goodwill=goodwill, contact=False)}, goodwill_days=1_000.0)
        v = Vendor(seed, customers=150, start=START, days=365, model=model)
        for n in range(1, 151):
            for day in range(0, 360, 30):
                v.respond(f"cus_{n:03d}", "renewal-call", START + timedelta(days=day))
        v.live()
        return {name for name, o in v.outcomes().items() if o.ended is not None and name.startswith("cus_") and "r" not in name}

    seed = 8
    none, more, less = churned(0.0, seed), churned(0.5, seed), churned(-0.5, seed)
    assert more < none < less, f"seed {seed}"


@pytest.mark.parametrize("action", ["payment-reminder", "onboarding-nudge"])
def test_an_action_that_meets_nothing_to_do_has_an_effect_of_exactly_zero(action: Action) -> None:
    model = VendorModel(fatigue=0.0, campaign_opened=0.0)
    model = model.changed(
        archetypes=tuple(a.model_copy(update={"card_fails_per_year": 0.0}) for a in model.archetypes), growth_per_year=0.0
    )
    v = Vendor(5, customers=25, start=START, days=60, model=model)
    for n in range(1, 26):
        v.respond(f"cus_{n:03d}", action, START + timedelta(days=30))

    def told(vendor: Vendor) -> list[Fact]:
        facts = (f for _, f in vendor.story() if isinstance(f, Fact))
        return [f for f in facts if f.kind is not CampaignEngaged]  # that it was written to is not what it does

    assert told(v) == told(v.twin())
    assert v.truth().by_action[action].customers > 20


def test_the_true_average_effect_of_an_action_is_that_of_its_parameters() -> None:
    seed, model = (
        6,
        TROUBLED.changed(responses={"renewal-call": Response(goodwill=3.0, contact=False, scale={"steady": 0.0})}, goodwill_days=1_000.0),
    )
    found = Vendor(seed, customers=150, start=START, days=200, model=model).effect_of("renewal-call", day=10)
    assert found.by_archetype["steady"].churned == found.by_archetype["steady"].mrr_minor == 0, f"seed {seed}"
    others = [effects for name, effects in found.by_archetype.items() if name != "steady"]
    assert sum(e.churned for e in others) < -5
    assert sum(e.mrr_minor for e in others) > 0
    assert found.acted.customers == sum(e.customers for e in found.by_archetype.values())
    assert found.acted.mean("churned") == found.acted.churned / found.acted.customers


def test_what_an_action_does_depends_on_the_archetype_and_may_be_harm() -> None:
    v = Vendor(5, customers=120, start=START, days=12)
    for number in range(12):
        if number == 10:
            for n in range(1, 121):
                v.respond(f"cus_{n:03d}", "referral-invitation", START + timedelta(days=10))
        v.day(number)
    without = v.twin()
    without.live()
    other = without.outcomes()
    change: dict[str, list[float]] = {}
    for name, o in v.outcomes().items():
        if o.acted and other[name].satisfaction < 0.95:
            change.setdefault(o.archetype, []).append(o.satisfaction - other[name].satisfaction)
    assert sum(change["growing"]) > 0
    assert max(change["unhappy"]) <= 0.01
    assert sum(change["unhappy"]) != 0


def test_the_fourth_message_in_thirty_days_hurts_and_each_further_one_more() -> None:
    model = VendorModel(responses={"outreach": Response()}, free_contacts=3, fatigue=0.02, satisfaction_pace=0.001)

    def satisfaction(messages: int, apart: int = 1) -> float:
        v = Vendor(5, customers=1, start=START, days=100, model=model)
        for k in range(messages):
            v.respond("cus_001", "outreach", START + timedelta(days=k * apart))
        v.live(messages * apart + 1 if apart > 1 else 9)
        return v.outcomes()["cus_001"].satisfaction

    quiet = satisfaction(0)
    assert satisfaction(3) == quiet
    first, second = quiet - satisfaction(4), quiet - satisfaction(5)
    assert first == pytest.approx(0.02, rel=0.1)
    assert second == pytest.approx(0.02 + 0.04, rel=0.1)


def test_months_between_messages_tire_nobody() -> None:
    model = VendorModel(responses={"outreach": Response()}, free_contacts=0, fatigue=0.02)
    spaced = Vendor(5, customers=1, start=START, days=100, model=model.changed(free_contacts=1))
    for day in (0, 31, 62):
        spaced.respond("cus_001", "outreach", START + timedelta(days=day))
    quiet = spaced.twin()
    spaced.live()
    quiet.live()
    assert spaced.outcomes()["cus_001"].satisfaction == quiet.outcomes()["cus_001"].satisfaction


def test_invitations_bring_customers_who_tell_who_invited_them() -> None:
    acts: list[tuple[int, str, Action]] = [(d, f"cus_{n:03d}", "referral-invitation") for n in range(1, 41) for d in (10, 45, 80)]
    v, told = lived(9, acts, days=200, customers=40)
    more = v.truth().overall.referrals
    assert more > 0
    came = [name for name in told if "r" in name.removeprefix("cus_") and name.startswith("cus_")]
    assert len(came) == sum(o.converted for o in v.outcomes().values())
    for name in came:
        kinds = {a.signal.kind: a.signal for a in told[name] if hasattr(a, "signal")}
        assert getattr(kinds["referral/accepted"], "referrer", None) == of_group(name) or "r" in of_group(name)


def test_an_effect_counts_once_however_often_it_is_handed_in() -> None:
    v = vendor(1)
    effects = [Effect(1, "cus_001", "outreach", START), Effect(2, "cus_001", "outreach", START)]
    assert v.act(effects) == 2
    assert v.act(effects) == 0
    v.live()
    assert v.outcomes()["cus_001"].acted == {"outreach": 2}


def test_an_action_in_the_past_reaches_its_customer_on_the_next_day_to_be_lived() -> None:
    v = vendor(1)
    v.live(30)
    v.respond("cus_001", "outreach", START)
    assert v.acts == ((30, "cus_001", "outreach"),)
    v.live(31)
    assert v.outcomes()["cus_001"].acted == {"outreach": 1}


@pytest.mark.parametrize(("customer", "action", "field"), [("cus_999", "offer", "customer"), ("cus_001", "shout", "action")])
def test_an_unknown_customer_or_action_is_refused(customer: str, action: Action, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        vendor(1).respond(customer, action, START)
    assert caught.value.field == field
