"""What a company declares itself: a signal, features over it, a health model of these, an agent that reads both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from postsale.agents import Agent, Policy
from postsale.agents.evidence import HealthReading
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import Scalar
from postsale.aggregates.signals import InvoicePaid, Signal
from postsale.events import Count
from postsale.projections import Component, Features, HealthModel, count, latest


class SeatsLost(Signal):
    """Somebody's own kind of fact."""

    wire_name: ClassVar[str] = "tests.audit/seats-lost@1"
    seats: Count


class Seats(Features, version=3, owner="tests"):
    """Seats and payments."""

    losses = count(SeatsLost)
    newest = latest(SeatsLost, lambda e: e.seats)
    payments = count(InvoicePaid)


OWN = HealthModel(
    name="own",
    version=1,
    features=Seats,
    components=(
        Component("losses", 2, lambda v: max(0, 100 - 20 * v["losses"]) * 1_000_000),
        Component("payments", 1, lambda v: min(100, 10 * v["payments"]) * 1_000_000),
    ),
)

WEIGHTS = """
model = "own"
model_version = 1
version = 1
weights = { losses = 1, payments = 3 }
bands = { poor = 40, fair = 75, good = 100 }
"""

POLICY = """
name = "seats"
version = 1
owner = "cs"
description = "Whoever loses seats."
[inputs]
health = "integer"
health_trend = "text"
newest = "integer"
doubled = "integer"
payments = "integer"
[[trigger]]
id = "lost"
when = { doubled = ">= 1" }
[[rule]]
id = "task"
when = { doubled = ">= 1" }
action = "task"
tool = "crm.create_task@1"
arguments = { customer = "$customer", title = "Seats", note = "$because" }
approval = "none"
because = "{newest} lost, health {health} {health_trend}."
[guardrails]
purpose = "service"
"""


class SeatWatch(Agent):
    """Reads the model's features and gives twice the newest loss."""

    offers: ClassVar = {"doubled": "integer"}

    def __init__(self) -> None:
        super().__init__(Policy.from_toml(POLICY))

    def evidence(self, customer: CustomerAggregate, health: HealthReading, at_us: int) -> Mapping[str, Scalar]:
        newest = health.features.get("newest")
        return {"doubled": None if newest is None else 2 * newest}
