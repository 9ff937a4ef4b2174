"""Of each feature it is known who reads it: derived features, components of the model, policies of agents, health in between."""

from __future__ import annotations

from postsale.agents import ChurnOutreach, RenewalRescue
from postsale.agents.consumers import consumers
from postsale.aggregates.signals import InvoicePaid, TicketOpened
from postsale.projections import CUSTOMER_HEALTH, Component, Features, FeatureValues, HealthModel, count, derived


class Small(Features, version=1, owner="tests"):
    paid = count(InvoicePaid)
    tickets = count(TicketOpened)
    unread = count(TicketOpened)

    @derived()
    def both(paid: int, tickets: int) -> int:
        return paid + tickets


def _helper(values: FeatureValues) -> int:
    return values["tickets"]  # type: ignore[no-any-return]


def _score(values: FeatureValues) -> int:
    return max(0, *(values.of(Small.paid) for _ in range(1)), _helper(values))


MODEL = HealthModel("small", 1, Small, (Component("busy", 1, _score), Component("fresh", 1, lambda v: 0, fresh="both")))


def test_what_reads_a_feature_is_named_through_helpers_and_nested_code() -> None:
    found = consumers(MODEL)
    assert found == {
        "paid": ("feature both", "component busy of small"),
        "tickets": ("feature both", "component busy of small"),
        "unread": (),
        "both": ("component fresh of small",),
    }


def test_every_feature_that_a_shipped_component_touches_when_it_scores_is_among_those_it_is_said_to_read() -> None:
    """Held to the real thing: the values note which names are asked for while each component judges."""
    found = consumers(CUSTOMER_HEALTH)
    fold = CUSTOMER_HEALTH.fold
    plain = fold.finish(fold.empty(), 0)

    class Noting(FeatureValues):
        __slots__ = ("asked",)

        def __getitem__(self, name):
            self.asked.add(name)
            return {
                "purchases": 2,
                "seats": 3,
                "paid_90d": 1,
                "failed_90d": 1,
                "survey_micro": 5,
                "first_purchase": 1,
                "last_purchase": 2,
            }.get(name, super().__getitem__(name))

    for component in CUSTOMER_HEALTH.components:
        values = Noting(dict(plain), 10**15, None, 0)
        values.asked = set()
        component.score(values)
        assert values.asked
        for name in values.asked:
            assert f"component {component.name} of customer-health" in found[name], (component.name, name)


def test_an_agent_reads_what_its_policy_names_and_what_health_rests_on() -> None:
    """Directly, through evidence of another name, and through the score; an agent that looks at no score reads none of its features."""
    found = consumers(CUSTOMER_HEALTH, [RenewalRescue(), ChurnOutreach()])
    assert "agent renewal-rescue" in found["mrr_minor"]
    assert "agent renewal-rescue, through subscribed" in found["running"]
    assert "agent churn-outreach, through subscribed" in found["running"]
    through = {name for name, who in found.items() if "agent renewal-rescue, through health" in who}
    assert through == {name for name, who in found.items() if any(w.startswith("component") for w in who)}
    assert not any("agent churn-outreach, through health" in who for who in found.values())
