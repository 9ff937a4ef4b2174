"""A simulated vendor's quarter, lived through day by day: what the tests of promises look into."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import groupby

from postsale.aggregates.signals import Signal
from postsale.app import PostSale, Tenant
from postsale.events import ManualClock
from postsale.simulator import TROUBLED, ConsentGivenAt, Delivery, Vendor

from .support import ANNA

START = datetime(2026, 7, 1, tzinfo=UTC)
STEPS = {0: "observe", 25: "propose", 55: "act"}


def lived_through(ps: PostSale, clock: ManualClock, *, seed: int, customers: int = 10, days: int = 91, pause_on: int = -1) -> Tenant:
    """The whole story of one seed: deliveries by the day, approvals and rejections every few days, a pause for a week."""
    acme = ps.tenant("acme")
    agent = acme.agent("renewal-rescue")
    vendor = Vendor(seed, customers=customers, start=START, days=days, model=TROUBLED)
    by_day = {day: list(part) for day, part in groupby(vendor.arrivals(), key=lambda a: (a.at - START).days)}
    for day in range(days):
        clock.move_to(START + timedelta(days=day, hours=13))
        if day in STEPS:
            getattr(agent, STEPS[day])(reason="time has come", by=ANNA)
        if day == pause_on:
            agent.pause(reason="strange mails", by=ANNA)
        if day == pause_on + 7:
            agent.resume(reason="looked into", by=ANNA)
        today = by_day.get(day - 1, [])
        signals: list[tuple[str, Signal]] = [(a.customer, a.signal) for a in today if isinstance(a, Delivery)]
        report = acme.record_many(signals)
        assert report.rejects == []
        for a in today:
            if isinstance(a, ConsentGivenAt):
                acme.consent(a.customer, a.channel, a.purpose, given=a.given, evidence="form")
        ps.run_once()
        for number, waiting in enumerate(acme.approvals() if day % 3 == 0 else []):
            if number % 3 == 0:
                acme.approve(waiting.id, by=ANNA, reason="agreed")
            elif number % 3 == 1:
                acme.reject(waiting.id, by=ANNA, reason="too dear")
        if day % 3 == 0:
            ps.run_once()
    return acme
