"""Summary statistics of a vendor's customers: one definition for a log of your own and for a simulated story, so that they can be compared.

One pass; memory is a few numbers per customer, ticket and answer. Nothing personal is kept. May import `store` and everything below it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from statistics import median
from typing import Any, NamedTuple

from postsale.aggregates.identity import CUSTOMERS
from postsale.errors import InvalidInput
from postsale.events import DAY_US, Lane, Origin, from_us, to_us
from postsale.simulator.model import SOURCES
from postsale.simulator.state import Customer, Fact, Happening
from postsale.store.contract import Query
from postsale.store.log import Log

_HOUR_US = DAY_US // 24
_YEAR = 365.0
_SETTLED_US = 30 * DAY_US  # until then a correction of the first terms is one, not a change
_TERMS = ("billing/subscription-started", "billing/subscription-changed")
_PER_YEAR = {
    "crm/owner-changed": "owners a year",
    "marketing/event-attended": "events a year",
    "advocacy/review-published": "reviews a year",
    "advocacy/given": "advocacy a year",
    "referral/invited": "invitations a year",
    "ticketing/ticket-opened": "tickets a year",
    "billing/subscription-paused": "pauses a year",
}


class Stat(NamedTuple):
    """A statistic, and of how many things it is one: events of a rate, trials of a share, values of a median."""

    value: float
    n: int


class Said(NamedTuple):
    """A fact as it counts here. `delay_us` is None where nobody can know when it arrived."""

    customer: str
    kind: str
    at_us: int
    fields: Mapping[str, Any]
    source: str = ""
    delay_us: int | None = None


@dataclass(slots=True)
class _One:
    first_us: int
    ended_us: int | None = None
    begun_us: int | None = None
    terms: tuple[int, int] | None = None  # seats, minor units per seat: the first ones, corrected
    seats: int = 0
    annual: bool = False


@dataclass(frozen=True, slots=True)
class Statistics:
    """What `fit` goes by. `numbers` are by name; `months` counts facts of each kind by month of occurrence."""

    customers: int
    start: datetime
    days: int
    numbers: Mapping[str, Stat]
    months: Mapping[str, Mapping[str, int]]


def statistics_of(log: Log, tenant: str) -> Statistics:
    """Of a tenant's facts in a log. Raises InvalidInput for a tenant of whom no customer has a subscription."""
    return summarised(_from_log(log, tenant), what=tenant)


def statistics_of_story(told: Iterable[tuple[Customer, Happening]]) -> Statistics:
    """Of what happens in a simulated story, before any source says it wrong or late."""
    facts = ((c.name, f) for c, f in told if isinstance(f, Fact))
    return summarised((Said(name, f.kind.wire_name.partition("@")[0], to_us(f.at), f.fields, f.source) for name, f in facts), what="story")


def _from_log(log: Log, tenant: str) -> Iterator[Said]:
    for recorded in log.events(Query(tenant=tenant, category=CUSTOMERS, lane=Lane.FACT)):
        stored, header = recorded.stored, recorded.header
        delay = stored.recorded_at_us - stored.occurred_at_us if header.origin is Origin.LIVE else None
        payload = recorded.data.payload()
        yield Said(stored.stream.id, stored.kind, stored.occurred_at_us, payload, header.source or "", delay)


def summarised(said: Iterable[Said], *, what: str) -> Statistics:
    """The statistics of facts, in any order."""
    sums = _Sums()
    for fact in said:
        sums.add(fact)
    return sums.done(what)


@dataclass(slots=True)
class _Sums:
    ones: dict[str, _One] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    months: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    uses: dict[int, float] = field(default_factory=lambda: defaultdict(float))  # per seat, summed over customers, by day
    used: int = 0
    tickets: dict[str, float] = field(default_factory=dict)  # log minutes
    answered: dict[str, int] = field(default_factory=dict)
    revised: dict[str, int] = field(default_factory=dict)
    delays: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    last_us: int = 0

    def add(self, f: Said) -> None:
        one = self.ones.get(f.customer)
        if one is None:
            one = self.ones[f.customer] = _One(f.at_us)
        one.first_us = min(one.first_us, f.at_us)
        self.last_us = max(self.last_us, f.at_us)
        self.counts[f.kind] += 1
        at = from_us(f.at_us)
        self.months[f.kind][f"{at.year}-{at.month:02d}"] += 1
        if f.delay_us is not None:
            self.delays[f.source].append(max(f.delay_us, 1) / _HOUR_US)
        self._look(one, f)

    def _look(self, one: _One, f: Said) -> None:
        g, kind = f.fields, f.kind
        if kind == "product/usage-observed":
            self.used += 1
            self.uses[f.at_us // DAY_US] += g.get("count", 1) / (one.seats or 1)
        elif kind in _TERMS:
            self._terms(one, f)
        elif kind == "billing/subscription-ended":
            one.ended_us = f.at_us
            self.counts[f"ended {g.get('reason', '')}"] += 1
            self.counts["left a month"] += not one.annual and g.get("reason") not in ("unpaid", "trial-ended")
        elif kind == "billing/invoice-payment-failed":
            self.counts["failed first"] += g.get("attempt", 1) == 1
        elif kind == "crm/renewal-due":
            if not one.annual:
                self.counts["auto"] += bool(g.get("auto_renews"))
            one.annual = True
        elif kind == "crm/renewal-called-finally":
            self.counts["lost at renewal"] += g.get("call") == "churn"
        elif kind == "crm/contact-profiled":
            self.counts["sponsors left"] += bool(g.get("left"))
        elif kind == "ticketing/ticket-solved" and g.get("resolution_min") is not None:
            minutes = math.log(max(1, g["resolution_min"]))
            self.tickets[g["ticket_id"]] = min(minutes, self.tickets.get(g["ticket_id"], minutes))
        elif kind == "survey/answered":
            self.counts[f"answers {g['survey']}"] += 1
            if g.get("response"):
                self.answered[g["response"]] = f.at_us
        elif kind == "survey/revised" and g.get("response"):
            self.revised[g["response"]] = f.at_us
        elif kind == "billing/discount-applied":
            self.counts["discounts of sales"] += g.get("granted_by") == "sales"

    def _terms(self, one: _One, f: Said) -> None:
        seats = f.fields.get("seats")
        if f.kind == _TERMS[0]:
            one.begun_us = f.at_us
            effective = f.fields.get("effective_at")
            effective = datetime.fromisoformat(effective) if isinstance(effective, str) else effective
            self.counts["came"] += effective is not None and abs(to_us(effective) - f.at_us) < 7 * DAY_US
            self.counts["came on trial"] += bool(f.fields.get("trial"))
        if not seats:
            return
        if one.terms is None or f.at_us - one.first_us < _SETTLED_US:
            one.terms = (seats, f.fields["mrr_minor"] // seats)
        if one.seats and f.kind == _TERMS[1]:
            self.counts["more seats"] += seats > one.seats
            self.counts["fewer seats"] += seats < one.seats
        one.seats = seats

    def done(self, what: str) -> Statistics:
        ones = [one for one in self.ones.values() if one.begun_us is not None]
        if not ones:
            raise InvalidInput(what="statistics", field=what, reason="no customer with a subscription; there is nothing to fit to")
        first_us = min(one.first_us for one in ones) // DAY_US * DAY_US
        years = sum((one.ended_us or self.last_us) - one.first_us for one in ones) / DAY_US / _YEAR
        monthly = sum((one.ended_us or self.last_us) - one.first_us for one in ones if not one.annual) / DAY_US / _YEAR
        n: dict[str, Stat] = {}
        self._who(n, ones)
        for kind, name in _PER_YEAR.items():
            n[name] = Stat(self.counts[kind] / years if years else 0.0, self.counts[kind])
        for name, count, of in self._shares(len(ones), monthly, years, (self.last_us - first_us) / DAY_US):
            n[name] = Stat(count / of if of else 0.0, round(count if name.endswith("a year") else of))
        if self.tickets:
            n["log minutes"], n["log minutes' deviation"] = _location(list(self.tickets.values()))
        waits = [(at - self.answered[r]) / DAY_US for r, at in self.revised.items() if r in self.answered and at > self.answered[r]]
        n["days until revised"] = Stat(sum(waits) / len(waits) if waits else 0.0, len(waits))
        self._use(n, ones, first_us)
        self._delays(n)
        months = {kind: dict(sorted(of.items())) for kind, of in sorted(self.months.items())}
        return Statistics(len(ones), from_us(first_us), (self.last_us - first_us) // DAY_US + 1, n, months)

    def _who(self, n: dict[str, Stat], ones: list[_One]) -> None:
        terms = [one.terms for one in ones if one.terms is not None]
        n["log seats"], n["log seats' deviation"] = _location([math.log(seats) for seats, _ in terms])
        n["log price"], n["log price's deviation"] = _location([math.log(price) for _, price in terms if price])
        n["contracts of a year"] = Stat(sum(one.annual for one in ones) / len(ones), len(ones))

    def _shares(self, customers: int, monthly: float, years: float, days: float) -> list[tuple[str, float, float]]:
        c = self.counts
        annual = sum(one.annual for one in self.ones.values())
        came = c["came"] - c["referral/accepted"]  # who came of itself
        before = customers - c["came"]
        return [
            ("automatic renewals", c["auto"], annual),
            ("newcomers a year", came, before * days / _YEAR),
            ("trials of newcomers", c["came on trial"], came),
            ("escalations", c["ticketing/ticket-escalated"], c["ticketing/ticket-opened"]),
            ("reopened", c["ticketing/ticket-reopened"], c["ticketing/ticket-opened"]),
            ("csat answers", c["answers csat"], c["ticketing/ticket-opened"]),
            ("nps answers", c["answers nps"], 4 * years * _YEAR / 364),
            ("first charges failed", c["failed first"], c["billing/invoice-paid"] + c["ended unpaid"]),
            ("refunds", c["billing/invoice-refunded"], c["billing/invoice-paid"]),
            ("lost at renewal", c["lost at renewal"], c["crm/renewal-called-finally"]),
            ("left a month a year", c["left a month"], monthly),
            ("sponsors left a year", c["sponsors left"], years),
            ("more seats a year", c["more seats"], years),
            ("fewer seats a year", c["fewer seats"], years),
            ("discounts", c["discounts of sales"], c["crm/renewal-called-finally"] - c["lost at renewal"]),
            ("clicks", c["referral/clicked"], c["referral/invited"]),
            ("registrations", c["referral/registered"], c["referral/clicked"]),
            ("conversions", c["referral/converted"], c["referral/registered"]),
            ("revised answers", len(self.revised), len(self.answered)),
        ]

    def _use(self, n: dict[str, Stat], ones: list[_One], first_us: int) -> None:
        """Use per seat, averaged over the customers who are there, by date; from it the week's, the year's and the holidays' shape."""
        begin, end = first_us // DAY_US, self.last_us // DAY_US
        change: Counter[int] = Counter()
        for one in ones:
            change[one.first_us // DAY_US] += 1
            change[(one.ended_us // DAY_US if one.ended_us else end) + 1] -= 1
        here, days = 0, []
        for day in range(begin, end + 1):
            here += change[day]
            if here:
                at = date(1970, 1, 1) + timedelta(days=day)
                days.append((at, self.uses[day] / here))
        weekend = [r for at, r in days if at.weekday() >= 5]
        plain = [(at, r) for at, r in days if at.weekday() < 5 and not _holiday(at)]
        mean = sum(r for _, r in plain) / len(plain) if plain else 0.0
        n["uses a seat and working day"] = Stat(mean, self.used)
        n["weekends"] = Stat(sum(weekend) / len(weekend) / mean if weekend and mean else 0.0, len(weekend))
        breaks = [r for at, r in days if at.weekday() < 5 and _holiday(at)]
        n["holidays"] = Stat(sum(breaks) / len(breaks) / mean if breaks and mean else 0.0, len(breaks))
        for name, wave in (("cosine", math.cos), ("sine", math.sin)):
            part = sum(r * wave(2 * math.pi * at.timetuple().tm_yday / _YEAR) for at, r in plain)
            n[name] = Stat(2 * part / len(plain) / mean if plain and mean else 0.0, len(plain))

    def _delays(self, n: dict[str, Stat]) -> None:
        for source in SOURCES:
            hours = self.delays.get(source, [])
            n[f"delay {source}"] = Stat(median(hours) / math.log(2) if hours else 0.0, len(hours))  # of an exponential


def _location(values: list[float]) -> tuple[Stat, Stat]:
    """Median, and the standard deviation by quartiles: a few wrong values change neither much."""
    if not values:
        return Stat(0.0, 0), Stat(0.0, 0)
    ordered = sorted(values)
    spread = ordered[int(0.75 * (len(ordered) - 1))] - ordered[int(0.25 * (len(ordered) - 1))]
    return Stat(median(ordered), len(ordered)), Stat(spread / 1.349, len(ordered))


def _holiday(at: date) -> bool:
    return (at.month, at.day) >= (12, 22) or (at.month, at.day) <= (1, 3)
