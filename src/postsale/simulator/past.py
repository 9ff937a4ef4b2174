"""A vendor's past in a log, with nobody acting; and what an agent would truly have changed in the same world.

For back-tests, whose figures come from the log alone, and for the truth beside them, which only a simulator knows. May import `app` and below.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from postsale.agents import Agent
from postsale.app import PostSale, Tenant
from postsale.events import ManualClock
from postsale.simulator.loop import EffectsLeft
from postsale.simulator.sources import Delivery
from postsale.simulator.state import ConsentGivenAt
from postsale.simulator.truth import Truth
from postsale.simulator.vendor import Vendor

_DAY = timedelta(days=1)
_TENANT = "vendor"


def fill(tenant: Tenant, clock: ManualClock, vendor: Vendor, on_day: Callable[[int], None] | None = None) -> None:
    """Record what reaches us, each day at its end, with nobody acting. `clock` is the one the log was opened with; it ends at the vendor's last day."""
    for day in range(vendor.days):
        _arrive(tenant, clock, vendor, day)
        (on_day or (lambda _: None))(1)


def true_effect(
    agent: Agent, vendor: Vendor, *, first_day: int = 0, every: timedelta = 7 * _DAY, on_day: Callable[[int], None] | None = None
) -> Truth:
    """What the agent truly changes when it acts in this vendor's world from a day on, looking `every` so often at 15:00 UTC; nobody approves.

    Both worlds are lived for it, from their start, in a log in memory.
    """
    world, clock = vendor.twin(), ManualClock(vendor.start)
    with PostSale.open("memory:", agents=[agent], clock=clock) as ps:
        tenant, left = ps.tenant(_TENANT), EffectsLeft(ps, _TENANT)
        tenant.agent(agent).act(reason="a simulation")
        for day in range(world.days):
            _arrive(tenant, clock, world, day)
            if day + 1 >= first_day and (day + 1 - first_day) % max(1, every // _DAY) == 0:
                clock.advance(timedelta(hours=15))
                ps.run_once()
                world.act(left.new())
            (on_day or (lambda _: None))(1)
        return world.truth()


def _arrive(tenant: Tenant, clock: ManualClock, vendor: Vendor, day: int) -> None:
    arrivals = vendor.day(day)
    clock.move_to(vendor.start + (day + 1) * _DAY)
    tenant.record_many((a.customer, a.signal) for a in arrivals if isinstance(a, Delivery))
    for a in arrivals:
        if isinstance(a, ConsentGivenAt):
            tenant.consent(a.customer, a.channel, a.purpose, given=a.given, evidence="their own word")
