"""The parameters of the simulated vendor: typed, frozen, bounded, and as JSON the same again. Equations: docs/the-simulated-vendor.md.

Every number has its unit, the range that is accepted, and where that range comes from: *measured* (on public data named there),
*definition*, or *assumed*, which means that nobody measured it for this project. Nothing is drawn here. May import `events` and `errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from postsale.events import Currency, Id, invalid_input

Source = Literal["crm", "billing", "ticketing", "product", "voice"]
SOURCES: tuple[Source, ...] = get_args(Source)
Action = Literal[
    "onboarding-nudge",
    "health-check-call",
    "payment-reminder",
    "offer",
    "renewal-call",
    "outreach",
    "upsell-offer",
    "referral-invitation",
]
ACTIONS: tuple[Action, ...] = get_args(Action)
When = Literal["always", "onboarding", "card-failing", "satisfied"]

TELCO = "measured: IBM's Telco data, 7,043 customers: of one-year contracts 11 % churned, month to month 43 %"


def _p(default: float, unit: str, low: float, high: float, why: str = "assumed") -> Any:
    return Field(default=default, ge=low, le=high, description=f"{unit}; {why}")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Archetype(_Part):
    """A way of being a customer. Shares need not sum to 1."""

    name: Id
    share: float = _p(1.0, "weight among archetypes", 0, 1_000)
    drift: float = _p(1.0, "need's level is multiplied by it weekly, until it has moved by exp(-1.5) or exp(0.6)", 0.7, 1.3)
    content: float = _p(0.75, "level that satisfaction returns to, 0 to 1", 0, 1)
    card_fails_per_year: float = _p(0.2, "times a year that the payment method stops working", 0, 20)
    tickets: float = _p(1.0, "multiplies the rate of tickets", 0, 20)


class Response(_Part):
    """What one action does to a customer, at once and known. `scale` multiplies it by archetype: 0 is no effect, below 0 harm."""

    when: When = "always"  # the effect is whole then, and multiplied by `otherwise` else
    otherwise: float = _p(1.0, "factor where `when` does not hold", -2, 2)
    satisfaction: float = _p(0.0, "added to satisfaction", -0.5, 0.5)
    engagement: float = _p(0.0, "added to engagement", -0.5, 0.5)
    goodwill: float = _p(0.0, "added to the log-odds of renewing; fades", -3, 3)
    price: float = _p(0.0, "added to price pressure", -1, 1)
    onboarding: float = _p(0.0, "added to the daily rate of onboarding steps; fades by a tenth a day", -1, 1)
    repair: float = _p(0.0, "added to the daily chance that a failing card is replaced; fades by a tenth a day", -1, 1)
    expansion: float = _p(0.0, "multiplies the rate of expansion by 1 + it; fades by a tenth a day", -1, 50)
    invitation: float = _p(0.0, "added to the daily rate of inviting somebody, x advocacy; fades by a tenth a day", -1, 1)
    contact: bool = True  # counts as a contact, towards fatigue
    scale: Mapping[str, float] = {}


_ARCHETYPES = (
    Archetype(name="steady", share=0.45),
    Archetype(name="growing", share=0.20, drift=1.03, content=0.8, tickets=1.3),
    Archetype(name="fading", share=0.15, drift=0.93, content=0.65, card_fails_per_year=0.4),
    Archetype(name="card trouble", share=0.12, drift=0.995, content=0.7, card_fails_per_year=5.0, tickets=1.2),
    Archetype(name="unhappy", share=0.08, drift=0.97, content=0.35, card_fails_per_year=0.5, tickets=5.0),
)
_RESPONSES: dict[Action, Response] = {
    "onboarding-nudge": Response(when="onboarding", otherwise=0.0, onboarding=0.15, engagement=0.03, scale={"fading": 0.3}),
    "health-check-call": Response(
        satisfaction=0.08, engagement=0.08, goodwill=0.3, scale={"steady": 0.5, "fading": 1.2, "card trouble": 0.0}
    ),
    "payment-reminder": Response(when="card-failing", otherwise=0.0, repair=0.12, scale={"unhappy": 0.5}),
    "offer": Response(goodwill=0.8, price=-0.3, scale={"steady": 0.2, "growing": 0.0, "card trouble": 0.2}),
    "renewal-call": Response(goodwill=0.6, satisfaction=0.03, scale={"growing": 0.2, "unhappy": 1.3}),
    "outreach": Response(engagement=0.1, satisfaction=0.02, goodwill=0.2, scale={"steady": 0.0, "unhappy": -0.5}),
    "upsell-offer": Response(when="satisfied", otherwise=-0.3, expansion=6.0, satisfaction=0.02, scale={"fading": -0.5, "unhappy": -1.0}),
    "referral-invitation": Response(when="satisfied", otherwise=-0.5, invitation=0.03, satisfaction=0.01, scale={"unhappy": -1.0}),
}
_DELAY_H: dict[Source, float] = {"crm": 6.0, "billing": 0.2, "ticketing": 1.0, "product": 12.0, "voice": 2.0}
Hours = Annotated[float, Field(gt=0, le=240)]


class VendorModel(_Part):
    """All parameters. `VendorModel()` is the default vendor; `changed` gives another; `to_json` and `from_json` are inverse."""

    # who the customers are
    archetypes: tuple[Archetype, ...] = Field(default=_ARCHETYPES, min_length=1)
    growth_per_year: float = _p(0.25, "new customers a year per customer at the start", 0, 5)
    seats_median: float = _p(10.0, "seats", 1, 5_000)
    seats_sigma: float = _p(1.0, "standard deviation of log seats", 0, 3)
    price_median_minor: float = _p(2_900.0, "minor units of the currency per seat and month", 10, 10_000_000)
    price_sigma: float = _p(0.4, "standard deviation of log price", 0, 3)
    currency: Currency = "EUR"
    annual_share: float = _p(0.6, "share with contracts of a year; the others can leave every month", 0, 1)
    auto_renews: float = _p(0.4, "share of contracts of a year", 0, 1)
    year_end_share: float = _p(0.3, "share of contracts of a year that end in December, the others any day", 0, 1)
    trial_share: float = _p(0.4, "share of new customers that begin with a trial of 14 days", 0, 1)
    consent_service: float = _p(0.8, "share that agrees to mails about its account", 0, 1)
    consent_marketing: float = _p(0.5, "share that agrees to marketing mails", 0, 1)
    consent_withdrawn_per_year: float = _p(0.05, "times a year", 0, 10)
    erasures_per_year: float = _p(0.03, "requests a year and customer", 0, 10)

    # the latent state, stepped once a day
    need_memory: float = _p(0.97, "share of need's distance from its level that is left after a day", 0, 0.999)
    need_sigma: float = _p(0.04, "standard deviation of a day's change of log need", 0, 0.5)
    engagement_pace: float = _p(0.05, "share of the way to its level, a day", 0.001, 1)
    value_pace: float = _p(0.03, "share of the way to its level, a day", 0.001, 1)
    satisfaction_pace: float = _p(0.03, "share of the way to its level, a day", 0.001, 1)
    advocacy_pace: float = _p(0.02, "share of the way to its level, a day", 0.001, 1)
    sponsor_leaves_per_year: float = _p(0.25, "times a year", 0, 10)
    sponsor_found_days: float = _p(60.0, "mean days without a sponsor", 1, 1_000)
    owner_leaves_per_year: float = _p(0.3, "times a year that somebody else looks after an account", 0, 10)
    price_shock_per_year: float = _p(0.3, "times a year that money gets scarce: price pressure + 0.5", 0, 10)
    price_days: float = _p(120.0, "days in which price pressure falls to 1/e", 1, 1_000)
    goodwill_days: float = _p(40.0, "days in which goodwill of actions falls to 1/e", 1, 1_000)

    # the journey and the product
    onboarding_steps: int = Field(default=5, ge=1, le=50, description="steps of the plan; definition")
    step_days: float = _p(6.0, "mean days per step at engagement 1", 0.5, 100)
    uses_per_seat: float = _p(3.0, "uses per seat and working day at engagement 1", 0, 1_000)
    weekend: float = _p(0.1, "use at weekends per use on working days", 0, 2)
    season: float = _p(0.15, "amplitude of the year's cosine, share of the mean", 0, 0.9)
    season_peak: float = _p(300.0, "day of the year on which use is highest", 0, 366)
    holidays: float = _p(0.4, "use from 22 December to 3 January per use otherwise", 0, 2)
    incidents_per_year: float = _p(6.0, "incidents of the vendor's a year", 0, 300)
    incident_reach: float = _p(0.4, "share of customers that an incident hits", 0, 1)

    # help
    tickets_per_week: float = _p(0.12, "tickets a week and customer of satisfaction 1 with 10 seats", 0, 50)
    resolution_median_min: float = _p(665.0, "minutes", 1, 100_000)
    resolution_sigma: float = _p(0.8, "standard deviation of log minutes", 0, 3)
    escalated: float = _p(0.2, "chance of a ticket, x (1 - satisfaction)", 0, 1)
    reopened: float = _p(0.06, "chance of a solved ticket", 0, 1)

    # money
    charge_fails: float = _p(0.01, "chance of one charge with a working card", 0, 1)
    bad_card_fails: float = _p(0.92, "chance of one charge with a failing card", 0, 1)
    card_repaired_days: float = _p(12.0, "mean days until a failing card is replaced by itself", 1, 1_000)
    refunds: float = _p(0.01, "chance of a paid invoice, doubled below satisfaction 0.5", 0, 0.5)
    uplift: float = _p(0.05, "share by which the price rises at a renewal", 0, 1)
    discounts: float = _p(0.1, "chance at a renewal of a year's contract", 0, 1)
    pauses_per_year: float = _p(0.15, "times a year and customer of a monthly contract", 0, 10)
    expansions_per_year: float = _p(0.4, "times a year x need x satisfaction", 0, 20)
    contractions_per_year: float = _p(0.15, "times a year / need", 0, 20)

    # renewing: log-odds of a contract of a year
    renewal_base: float = _p(2.0, "log-odds at value 0.5, satisfaction 0.6, engagement 0.6, no sponsor, no price pressure", -5, 8, TELCO)
    renewal_value: float = _p(2.0, "log-odds per unit of value", 0, 10)
    renewal_satisfaction: float = _p(3.0, "log-odds per unit of satisfaction", 0, 10)
    renewal_engagement: float = _p(1.5, "log-odds per unit of engagement", 0, 10)
    renewal_sponsor: float = _p(0.7, "log-odds of a sponsor's presence", 0, 5)
    renewal_price: float = _p(1.5, "log-odds per unit of price pressure", 0, 10)
    renewal_doubt: float = _p(
        0.8, "log-odds less when an intent is formed, falling to 0 at the end: many who cancel would have come back", 0, 5
    )
    monthly_leaving: float = _p(0.2, "chance to leave in a month per chance to leave at the end of a year", 0, 1, TELCO)
    intent_days: int = Field(default=60, ge=8, le=180, description="days before the end at which an intent is formed; assumed")

    # the customer's voice
    nps_answered: float = _p(0.4, "chance to answer a quarter's survey", 0, 1)
    nps_sigma: float = _p(1.5, "points of 0 to 10", 0, 5)
    csat_answered: float = _p(0.35, "chance per solved ticket", 0, 1)
    campaign_opened: float = _p(0.35, "chance per monthly campaign", 0, 1)
    events_per_year: float = _p(0.6, "events attended a year x advocacy", 0, 20)
    reviews_per_year: float = _p(0.3, "reviews a year x advocacy", 0, 20)
    advocacy_per_year: float = _p(0.8, "times a year x advocacy", 0, 20)
    invites_per_year: float = _p(1.2, "invitations a year x advocacy", 0, 50)
    invite_clicked: float = _p(0.6, "chance of an invitation", 0, 1)
    invite_registered: float = _p(0.5, "chance of a click", 0, 1)
    invite_converted: float = _p(0.4, "chance of a registration", 0, 1)

    # the five sources
    delay_h: Mapping[Source, Hours] = Field(default=_DELAY_H, description="mean hours from happening to arrival, exponential; assumed")
    late: float = _p(0.01, "share of deliveries that take days more", 0, 1)
    late_days: float = _p(4.0, "mean days that they take more", 0.1, 60)
    repeated: float = _p(0.04, "share of deliveries that come again, word for word, within 48 hours", 0, 1, "sources deliver at least once")
    silent_per_year: float = _p(2.0, "days a year on which a source says nothing; it catches up within two hours after", 0, 100)
    wrong: float = _p(0.03, "share of answers, subscriptions and profiles that say something wrong and are corrected later", 0, 1)
    corrected_days: float = _p(3.0, "mean days until the correction", 0.1, 60)

    # being contacted
    free_contacts: int = Field(default=3, ge=0, le=100, description="contacts in 30 days that nobody minds; assumed")
    fatigue: float = _p(0.03, "satisfaction lost per contact, x how many over the free ones it is", 0, 1)
    responses: Mapping[Action, Response] = Field(default=_RESPONSES, description="what actions do; assumed")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if sum(a.share for a in self.archetypes) <= 0:
            raise ValueError("expected an archetype with a share above 0")
        if missing := [s for s in SOURCES if s not in self.delay_h]:
            raise ValueError(f"delay_h lacks {', '.join(missing)}")
        return self

    def __init__(self, **values: Any) -> None:
        try:
            self.__pydantic_validator__.validate_python(values, self_instance=self)
            return
        except ValidationError as error:
            refusal = invalid_input("VendorModel", error)
        raise refusal

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def changed(self, **values: Any) -> VendorModel:
        """This model with other values, checked as new ones are. InvalidInput names the parameter."""
        return VendorModel(**{name: getattr(self, name) for name in type(self).model_fields} | values)

    def to_json(self) -> str:
        """The parameters as JSON; `from_json` reads it."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> VendorModel:
        """A model of its JSON; what is left out has its default. InvalidInput names the parameter that is wrong or unknown."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            refusal = invalid_input("VendorModel", error)
        raise refusal

    @classmethod
    def parameters(cls) -> dict[str, tuple[float | int, str]]:
        """Every single number: its default, and its unit with where its range comes from."""
        found = cls.model_fields.items()
        return {
            n: (f.default, f.description or "") for n, f in found if isinstance(f.default, int | float) and not isinstance(f.default, bool)
        }


TROUBLED = VendorModel(
    archetypes=(
        Archetype(name="steady", share=0.40),
        Archetype(name="growing", share=0.15, drift=1.03, content=0.8, tickets=1.3),
        Archetype(name="fading", share=0.20, drift=0.80, content=0.6, card_fails_per_year=0.4),
        Archetype(name="card trouble", share=0.13, drift=0.99, content=0.65, card_fails_per_year=12.0, tickets=1.2),
        Archetype(name="unhappy", share=0.12, drift=0.95, content=0.3, card_fails_per_year=0.5, tickets=6.0),
    ),
    card_repaired_days=40.0,
    renewal_base=1.0,
    renewal_doubt=1.5,
    monthly_leaving=0.35,
    intent_days=90,
)
"""A vendor with much to lose, so that a quarter of few customers shows everything: the demo's. Nobody's figures."""
