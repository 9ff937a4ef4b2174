"""What the layers of the simulated vendor share: a customer's latent state, facts on their way to a source, and the world around.

The state is never seen by the library; only what happens is. May import `aggregates`, `events` and the simulator's model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from postsale.aggregates.signals import Signal
from postsale.simulator.draws import Stream
from postsale.simulator.model import Action, Archetype, Source, VendorModel

_DAY = timedelta(days=1)
_YEAR = 365.0


class Fact(NamedTuple):
    """Something that happened, as a source will say it if it says it right."""

    kind: type[Signal]
    source: Source
    id: str
    at: datetime
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ConsentGivenAt:
    """A customer agreeing to be written to, or (`given` False) taking that back."""

    at: datetime
    customer: str
    channel: str
    purpose: str
    given: bool = True


@dataclass(frozen=True, slots=True)
class ErasureRequestedAt:
    """A person at a customer asks that what is known about them is erased."""

    at: datetime
    customer: str
    contact: str


Happening = Fact | ConsentGivenAt | ErasureRequestedAt


@dataclass(frozen=True, slots=True)
class Tally:
    """How often something happened, and the mean and variance that the model gives that number."""

    count: float = 0
    expected: float = 0.0
    variance: float = 0.0

    @property
    def z(self) -> float:
        """Standard deviations by which the count is off what the model expects; 0 where nothing could vary."""
        return (self.count - self.expected) / math.sqrt(self.variance) if self.variance > 0 else 0.0


class World:
    """What all customers share: the parameters, the calendar, the season, the vendor's incidents, and tallies."""

    def __init__(self, model: VendorModel, seed: int, start: datetime) -> None:
        self.model, self.seed, self.start = model, seed, start
        self.stream = Stream(seed, "vendor")
        self._sums: dict[str, list[float]] = {}
        self.day = -1
        self.use = 0.0
        self.severity = 0.0
        self.working = True
        self.today = start
        self.coming: list[tuple[int, Customer]] = []  # who will come because somebody invited them

    def begin(self, day: int) -> None:
        """Move to a day: its date, what it does to use, and whether the vendor has an incident on it."""
        m = self.model
        self.day, self.today = day, self.start + day * _DAY
        self.use = self.seasonal(self.today)
        self.working = self.today.weekday() < 5
        draws = self.stream.of("incident", day)
        expected = daily(m.incidents_per_year)
        hit = draws.chance(expected)
        self.tally("incidents", hit, expected)
        self.severity = draws.between(0.3, 1.0) if hit else 0.0

    def seasonal(self, at: datetime) -> float:
        """Use on a date, per use on a working day of an average season."""
        m, day = self.model, at.timetuple().tm_yday
        factor = 1 + m.season * math.cos(2 * math.pi * (day - m.season_peak) / _YEAR)
        if (at.month, at.day) >= (12, 22) or (at.month, at.day) <= (1, 3):
            factor *= m.holidays
        return factor if at.weekday() < 5 else factor * m.weekend

    def at(self, minutes: float) -> datetime:
        """A time on this day."""
        return self.today + timedelta(seconds=round(minutes * 60))

    def tally(self, name: str, happened: float, expected: float, *, poisson: bool = False) -> None:
        """Count what happened (0 or 1, or a Poisson number) beside what was expected of it just before."""
        sums = self._sums.setdefault(name, [0.0, 0.0, 0.0])
        sums[0] += happened
        sums[1] += expected
        sums[2] += expected * (1.0 if poisson else 1 - expected)

    @property
    def tallies(self) -> dict[str, Tally]:
        return {name: Tally(*sums) for name, sums in self._sums.items()}


def daily(per_year: float) -> float:
    """The chance of a day that something with a rate a year happens (at least once)."""
    return 1 - math.exp(-per_year / _YEAR)


@dataclass(slots=True, eq=False)
class Customer:
    """One customer: who it is, its latent state, its contract, and what came of it."""

    name: str
    stream: Stream
    archetype: Archetype
    joined: int  # day, below 0 for customers of before the start
    seats: int
    price_minor: int
    annual: bool
    auto_renews: bool
    zone: str
    referrer: str | None = None

    # the latent state
    log_need: float = 0.0
    level: float = 0.0  # that log need returns to
    value: float = 0.0
    engagement: float = 0.6
    satisfaction: float = 0.7
    card_works: bool = True
    sponsor: bool = True
    price_pressure: float = 0.0
    advocacy: float = 0.2
    goodwill: float = 0.0
    # what actions leave behind, fading
    push_onboarding: float = 0.0
    push_repair: float = 0.0
    push_expansion: float = 0.0
    push_invitation: float = 0.0
    contacts: list[int] = field(default_factory=list)  # days of the last 30

    # journey, people, contract
    steps: int = 0
    sponsors: int = 1
    admins: int = 1
    owner: int = 0
    first_value: bool = False
    used: int = 0
    trial_until: int | None = None
    begun: bool = False
    renews: int = 0  # day on which the contract or the month ends
    terms: int = 0  # ends of contracts so far
    leaving: bool = False
    paused_until: int | None = None
    marketing: bool = False
    newsletter: int = -100  # month of the last one
    next_invoice: int = 0
    charges: list[tuple[int, str, int, int]] = field(default_factory=list)  # day, invoice, attempt, amount
    ended: int | None = None

    # what came of it
    due: int = 0
    renewed: int = 0
    avoidable: bool | None = None
    collected_minor: int = 0
    credited_minor: int = 0
    invited: int = 0
    converted: int = 0
    acted: dict[Action, int] = field(default_factory=dict)
    reached: list[tuple[Action, int]] = field(default_factory=list)  # contacts that it has not reacted to yet, and how many too many

    @property
    def need(self) -> float:
        return min(3.0, math.exp(self.log_need))

    @property
    def mrr_minor(self) -> int:
        return self.seats * self.price_minor

    @property
    def subscription(self) -> str:
        return f"sub_{self.name.removeprefix('cus_')}"

    @property
    def champion(self) -> str:
        return f"{self.name}-champion-{self.sponsors}"

    @property
    def admin(self) -> str:
        return f"{self.name}-admin-{self.admins}"

    def renewal_odds(self, m: VendorModel) -> float:
        """Log-odds of renewing a contract of a year, now."""
        return (
            m.renewal_base
            + m.renewal_value * (self.value - 0.5)
            + m.renewal_satisfaction * (self.satisfaction - 0.6)
            + m.renewal_engagement * (self.engagement - 0.6)
            + m.renewal_sponsor * self.sponsor
            - m.renewal_price * self.price_pressure
            + self.goodwill
        )

    def renewal_chance(self, m: VendorModel, doubt: float = 0.0) -> float:
        """The chance to stay at the end of the contract or of the month, now; with `doubt` taken off the log-odds."""
        leaves = 1 / (1 + math.exp(self.renewal_odds(m) - doubt))
        return 1 - leaves * (1.0 if self.annual else m.monthly_leaving)

    def terms_at(self, at: datetime, currency: str) -> dict[str, Any]:
        """The subscription's terms, as signals carry them whole."""
        return {
            "subscription_id": self.subscription,
            "mrr_minor": self.mrr_minor,
            "interval": "month",
            "currency": currency,
            "effective_at": at,
            "seats": self.seats,
            "plan": "team" if self.seats < 60 else "enterprise",
        }


def clipped(x: float, low: float = 0.0, high: float = 1.0) -> float:
    return low if x < low else high if x > high else x
