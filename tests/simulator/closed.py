"""Closed loops whose truth is known: agents act on a vendor's customers, half of whom are held out; beside it the same world with nobody acting."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files

from postsale.agents import SHIPPED, Agent, Policy
from postsale.app import PostSale, Tenant
from postsale.events import ManualClock
from postsale.simulator import Arrival, ConsentGivenAt, Delivery, EffectsLeft, Meaning, Outcome, Truth, Vendor, VendorModel

START = datetime(2026, 1, 5, tzinfo=UTC)
HELD = '\n[holdout]\nname = "everybody"\npercent = 50\n'
SETTLE = 25  # days that late deliveries and corrections have to arrive, after the period that is measured
OPENED = START + timedelta(days=3)  # by now every customer of the start is told of


def seven() -> list[Agent]:
    """The shipped agents as they are, but for a hold-out that they share."""
    texts = {name: (files("postsale.agents") / "policies" / f"{name}.toml").read_text(encoding="utf-8") for name in SHIPPED}
    return [SHIPPED[name](policy=Policy.from_toml(text + HELD)) for name, text in texts.items()]


@dataclass(frozen=True)
class Measured:
    """Two logs of one period, and what truly became of everybody at its end."""

    seed: int
    vendor: Vendor
    acted: Tenant
    twin: Tenant
    end: datetime
    truth: Truth
    outcomes: dict[str, Outcome]  # with agents
    without: dict[str, Outcome]  # the same customers with nobody acting

    def cohort(self) -> Iterator[tuple[str, Outcome, Outcome]]:
        """Customers of the start in both worlds."""
        return ((name, o, self.without[name]) for name, o in self.outcomes.items() if o.joined < 0)


@contextmanager
def closed_loop(
    seed: int, agents: list[Agent], model: VendorModel, *, customers: int, days: int, every: int, meanings: tuple[Meaning, ...] = ()
) -> Iterator[Measured]:
    """Agents look every so many days; what left reaches the vendor; both worlds are recorded as their sources tell of them."""
    vendor = Vendor(seed, customers=customers, start=START, days=days + SETTLE, model=model)
    numbers = iter(range(10**9))

    def ref() -> str:
        return hashlib.sha256(f"{seed} {next(numbers)}".encode()).hexdigest()[:32]  # so that who is held out is the seed's

    clock, other = ManualClock(START), ManualClock(START)
    with PostSale.open("memory:", agents=agents, clock=clock, new_ref=ref) as ps, PostSale.open("memory:", clock=other) as quiet:
        acme, left = ps.tenant("acme"), EffectsLeft(ps, "acme", meanings=meanings)
        for agent in agents:
            acme.agent(agent.name).act(reason="a test")
        for day in range(days):
            clock.move_to(START + timedelta(days=day + 1, hours=13))
            told(acme, vendor.day(day))
            if day % every == every - 1:
                ps.run_once()
                vendor.act(left.new())
                for waiting in acme.approvals():  # a person agrees; it leaves with the next look
                    acme.approve(waiting.id, reason="agreed")
        truth, outcomes, twin = vendor.truth(), vendor.outcomes(), vendor.twin()
        for day in range(days, days + SETTLE):
            clock.move_to(START + timedelta(days=day + 1, hours=13))
            told(acme, vendor.day(day))
        without: dict[str, Outcome] = {}
        for day in range(days + SETTLE):
            other.move_to(START + timedelta(days=day + 1, hours=13))
            told(quiet.tenant("acme"), twin.day(day))
            without = twin.outcomes() if day == days - 1 else without
        yield Measured(seed, vendor, acme, quiet.tenant("acme"), START + timedelta(days=days), truth, outcomes, without)


def told(tenant: Tenant, arrivals: Iterable[Arrival]) -> None:
    """As a user would wire it."""
    arrivals = list(arrivals)
    report = tenant.record_many((a.customer, a.signal) for a in arrivals if isinstance(a, Delivery))
    assert report.rejects == []
    for a in arrivals:
        if isinstance(a, ConsentGivenAt):
            tenant.consent(a.customer, a.channel, a.purpose, given=a.given, evidence="form")
