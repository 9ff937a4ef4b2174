"""Evidence: the values that decisions look at, made from a customer's state, a health reading and a time.

Integers, texts, booleans or None (not known); floats are rounded before they are handed out. Nothing personal: sealed fields
never become evidence. Pure but for the source of health, which is passed in. May import projections, aggregates, events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from postsale.agents.expressions import InputType
from postsale.aggregates.customer import CustomerAggregate, KindSummary
from postsale.aggregates.decisions import ReadRef, Scalar
from postsale.errors import InvalidInput, NotAllowed
from postsale.events import DAY_US, MAX_INT, StreamId, to_us

PAID = "billing/invoice-paid"
FAILED = "billing/invoice-payment-failed"
CANCELLING = "billing/cancellation-scheduled"
ENDED = "billing/subscription-ended"
TERMS = (
    "billing/subscription-started",
    "billing/subscription-changed",
    "billing/subscription-paused",
    "billing/subscription-resumed",
    "billing/cancellation-withdrawn",
    CANCELLING,
    ENDED,
)
PROFILE = "crm/account-profiled"
RENEWAL = "crm/renewal-due"
USAGE = "product/usage-observed"
SURVEYS = ("survey/answered", "survey/revised")
STEP = "product/onboarding-step-completed"
MILESTONE = "product/milestone-reached"
LOST = "crm/account-churned"
RENEWED = "crm/renewal-called-finally"
ADVOCACY = "advocacy/given"
REVIEW = "advocacy/review-published"
INVITED = "referral/invited"
CONVERTED = "referral/converted"
DETRACTOR = 6  # an answer to "how likely are you to recommend us" up to here, of 10
TICKETS = ("ticketing/ticket-opened", "ticketing/ticket-solved", "ticketing/ticket-escalated")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReading:
    """What the read models say about one customer at one time. `position`: the customer's facts up to here are in it."""

    score: float | None = None  # 0 to 100
    band: str | None = None  # poor, fair, good
    trend: str | None = None  # such as falling, steady, rising
    features: Mapping[str, Any] = field(default_factory=dict)  # only integers, texts, booleans and None become evidence
    model: str | None = None  # digest of the health model
    row: str | None = None  # which row of it weighed this customer
    stage: str | None = None  # of the customer's lifecycle
    projection: str = "health"
    projection_version: int = 0
    position: int = 0
    state_hash: str = ""
    models: tuple[tuple[str, StreamId, int], ...] = ()  # names whose models were asked for, their streams and the versions of these


class HealthSource(Protocol):
    """Read models as agents see them. A read has seen every fact that was acknowledged before it."""

    @property
    def features(self) -> Mapping[str, InputType | None]:
        """Names that `HealthReading.features` may hold, with their types; None where only a value shows its type."""
        ...

    def read(self, customer: CustomerAggregate, at_us: int, wanted: frozenset[str]) -> HealthReading:
        """The reading of this customer at `at_us`. What is costly is made only when its evidence name is `wanted`."""
        ...


class NoHealth:
    """No read models: health is not known, everything else comes from the customer's own state."""

    @property
    def features(self) -> Mapping[str, InputType | None]:
        return {}

    def read(self, customer: CustomerAggregate, at_us: int, wanted: frozenset[str]) -> HealthReading:  # noqa: ARG002
        return HealthReading(position=customer.position)


class Offered(NamedTuple):
    """One evidence name: its type and what it means."""

    type: InputType
    meaning: str


OFFERED: Mapping[str, Offered] = {
    "health": Offered("integer", "health score, 0 to 100, rounded as its band is"),
    "health_band": Offered("text", "poor, fair or good"),
    "health_trend": Offered("text", "which way the score moves"),
    "health_row": Offered("text", "which row of the health model weighed this customer, such as enterprise/renewal or default"),
    "lifecycle_stage": Offered("text", "onboarding, adoption, renewal, leaving or churned"),
    "subscribed": Offered("boolean", "whether a subscription runs; missing when none was ever reported"),
    "mrr_minor": Offered("integer", "monthly recurring revenue, minor units of `currency`"),
    "currency": Offered("text", "of the subscription, else of the newest payment"),
    "plan": Offered("text", "of the subscription"),
    "cancellation_scheduled": Offered("boolean", "whether the running subscription was cancelled"),
    "days_to_cancellation": Offered("integer", "whole days until a scheduled cancellation takes effect"),
    "days_to_renewal": Offered("integer", "whole days until the contract ends unless renewed; negative when over"),
    "auto_renews": Offered("boolean", "whether it renews by itself"),
    "failed_payments": Offered("integer", "failed attempts on the newest unpaid invoice; 0 after a payment"),
    "payments": Offered("integer", "payments or purchases ever"),
    "days_since_last_payment": Offered("integer", "whole days"),
    "typical_gap_days": Offered("integer", "mean days between payments, rounded half up; missing below two payments"),
    "overdue_percent": Offered("integer", "days since the last payment in percent of the typical gap"),
    "days_since_first_seen": Offered("integer", "whole days since the first fact of any kind"),
    "days_since_last_usage": Offered("integer", "whole days"),
    "open_tickets": Offered("integer", "tickets opened less tickets solved, never below 0"),
    "escalations": Offered("integer", "tickets escalated, ever"),
    "survey_score": Offered("integer", "of the newest survey answer, on its own scale"),
    "survey": Offered("text", "nps, csat or ces, of that answer"),
    "days_since_last_survey": Offered("integer", "whole days since the newest survey answer"),
    "days_since_detractor": Offered("integer", "whole days since somebody at the customer last answered 0 to 6 of 10 to an NPS survey"),
    "onboarding_steps_done": Offered("integer", "onboarding steps reported done, ever"),
    "onboarding_steps_left": Offered("integer", "of the plan, never below 0; missing before the first step"),
    "days_since_onboarding_step": Offered("integer", "whole days since the newest step"),
    "milestones": Offered("integer", "milestones reported reached, ever"),
    "seat_use_percent": Offered("integer", "active users in the newest usage, in percent of the seats"),
    "renewal_outcome": Offered("text", "how the newest renewal ended: renew, expand, contract, churn or unsure"),
    "days_since_renewal": Offered("integer", "whole days since that was said"),
    "account_lost": Offered("boolean", "whether the CRM closed the account, and neither terms nor a payment came after it"),
    "advocacy_acts": Offered("integer", "times the customer spoke up for us, ever"),
    "days_since_advocacy": Offered("integer", "whole days since the customer last spoke up for us or reviewed us in public"),
    "review_stars": Offered("integer", "of the newest public review"),
    "referrals_invited": Offered("integer", "people the customer invited, ever"),
    "days_since_referral_invited": Offered("integer", "whole days since the newest invitation"),
    "referrals_converted": Offered("integer", "of those who were invited, how many bought"),
    "risk_case_open": Offered("boolean", "whether a risk case is open"),
    "awaiting_approval": Offered("integer", "decisions about this customer that wait for a person"),
    "segment": Offered("text", "from the CRM"),
    "country": Offered("text", "from the CRM"),
    "industry": Offered("text", "from the CRM"),
    "seats": Offered("integer", "of the subscription, else from the CRM"),
    "time_zone": Offered("text", "IANA name, from the CRM"),
    "asked_by": Offered("text", "which trigger, schedule, wait, sla or command asks; missing until one does"),
}


def customer_evidence(customer: CustomerAggregate, health: HealthReading, at_us: int) -> dict[str, Scalar]:
    """Every name of `OFFERED` at `at_us`, and the reading's features under their own names (never over ours)."""
    facts, paid = customer.facts, customer.facts.get(PAID)
    terms = _newest(customer, TERMS)
    kind, running = terms if terms is not None else ("", None)
    survey = _newest(customer, SURVEYS)
    answer = survey[1].latest if survey is not None else {}
    f = health.features  # these know several subscriptions apart; the customer's state only the newest terms
    several = bool(f.get("known")) and "running" in f and "cancelling" in f
    subscribed = bool(f["running"]) if several else None if running is None else kind != ENDED
    scheduled = bool(f["cancelling"]) if several else None if running is None else kind == CANCELLING
    profile = facts[PROFILE].latest if PROFILE in facts else {}
    renewal = facts[RENEWAL].latest if RENEWAL in facts else {}
    gap = _gap_days(paid)
    since_paid = _days_since(paid, at_us)
    opened, solved, escalated = (facts[k].count if k in facts else None for k in TICKETS)
    terms_now = _terms_of(running, kind)
    seats = next((x for x in map(_int, (f.get("seats"), terms_now.get("seats"), profile.get("seats"))) if x is not None), None)
    active = _int(customer.latest(USAGE, "active_users"))
    done = _count(facts.get(STEP))
    plan = _int(customer.latest(STEP, "steps"))
    values: dict[str, Scalar] = {n: rounded(v) for n, v in f.items() if v is None or isinstance(v, int | str | float)}
    values |= {
        "health": rounded(health.score),
        "health_band": health.band,
        "health_trend": health.trend,
        "health_row": health.row,
        "lifecycle_stage": health.stage,
        "subscribed": subscribed,
        "mrr_minor": _int(f.get("mrr_minor")) if f.get("mrr_minor") is not None else _int(terms_now.get("mrr_minor")),
        "currency": _text(f.get("currency")) or _text(terms_now.get("currency")) or (_text(paid.latest.get("currency")) if paid else None),
        "plan": _text(terms_now.get("plan")),
        "cancellation_scheduled": scheduled,
        "days_to_cancellation": _days_until(terms_now.get("effective_at"), at_us) if scheduled else None,
        "days_to_renewal": _days_until(renewal.get("renews_at"), at_us),
        "auto_renews": renewal.get("auto_renews", False) is True if renewal else None,
        "failed_payments": _failed(facts.get(FAILED), paid),
        "payments": paid.count if paid else 0,
        "days_since_last_payment": since_paid,
        "typical_gap_days": gap,
        "overdue_percent": None if not gap or since_paid is None else since_paid * 100 // gap,
        "days_since_first_seen": _days(at_us - min(s.first_at_us for s in facts.values())) if facts else None,
        "days_since_last_usage": _days_since(facts.get(USAGE), at_us),
        "open_tickets": None if opened is None else max(0, opened - (solved or 0)),
        "escalations": escalated or 0,
        "survey_score": _int(answer.get("score")),
        "survey": _text(answer.get("survey")),
        "days_since_last_survey": None if survey is None else _days_since(survey[1], at_us),
        "days_since_detractor": _days_since_detractor(f, survey, at_us),
        "onboarding_steps_done": done,
        "onboarding_steps_left": None if plan is None else max(0, plan - done),
        "days_since_onboarding_step": _days_since(facts.get(STEP), at_us),
        "milestones": _count(facts.get(MILESTONE)),
        "seat_use_percent": None if not seats or active is None else active * 100 // seats,
        "renewal_outcome": _text(customer.latest(RENEWED, "call")),
        "days_since_renewal": _days_since(facts.get(RENEWED), at_us),
        "account_lost": _lost(facts.get(LOST), running, paid),
        "advocacy_acts": _count(facts.get(ADVOCACY)),
        "days_since_advocacy": min(
            (x for x in (_days_since(facts.get(k), at_us) for k in (ADVOCACY, REVIEW)) if x is not None), default=None
        ),
        "review_stars": _int(customer.latest(REVIEW, "stars")),
        "referrals_invited": _count(facts.get(INVITED)),
        "days_since_referral_invited": _days_since(facts.get(INVITED), at_us),
        "referrals_converted": _count(facts.get(CONVERTED)),
        "risk_case_open": bool(customer.cases),
        "awaiting_approval": sum(1 for o in customer.decisions.values() if o.disposition == "awaiting"),
        "segment": _text(profile.get("segment")),
        "country": _text(profile.get("country")),
        "industry": _text(profile.get("industry")),
        "seats": seats,
        "time_zone": _text(profile.get("time_zone")),
        "asked_by": None,
    }
    return values


def rounded(value: Scalar | float) -> Scalar:
    """A value fit for thresholds: floats rounded to an integer, halves to the even one; NaN and infinity are not known."""
    if isinstance(value, float):
        return round(value) if math.isfinite(value) and abs(value) < MAX_INT else None
    return value


class EvidenceRecorder:
    """Hands out declared names only, and keeps what it handed out: the decision records exactly this."""

    def __init__(self, agent: str, declared: Mapping[str, InputType], values: Mapping[str, Scalar], read_set: tuple[ReadRef, ...]) -> None:
        self._agent = agent
        self._declared = declared
        self._values = values
        self._seen: dict[str, Scalar] = {}
        self.read_set = read_set

    def read(self, name: str) -> Scalar:
        """One value, None when it is not known. NotAllowed for an undeclared name; InvalidInput for a value of another type."""
        if name not in self._declared:
            raise NotAllowed(actor=f"agent:{self._agent}", action=f"read {name!r}", reason="its policy does not declare this input")
        value = rounded(self._values.get(name))
        if value is not None and not _fits(value, self._declared[name]):
            raise InvalidInput(what="evidence", field=name, reason=f"expected {self._declared[name]}, as the policy declares")
        self._seen[name] = value
        return value

    def everything(self) -> dict[str, Scalar]:
        """All declared values, by name, sorted."""
        return {name: self.read(name) for name in sorted(self._declared)}

    @property
    def seen(self) -> Mapping[str, Scalar]:
        """What was handed out so far."""
        return dict(self._seen)


def read_set(customer: CustomerAggregate, health: HealthReading) -> tuple[ReadRef, ...]:
    """What a decision about this customer has read, precisely enough to read it again; the customer first."""
    at = min(customer.position, health.position)
    own = ReadRef(
        stream=str(customer.stream),
        fact_position=at,
        decision_version=customer.version,
        projection=health.projection,
        projection_version=health.projection_version,
        state_hash=health.state_hash,
    )
    others = (ReadRef(stream=str(s), fact_position=at, decision_version=0) for s in customer.joined)
    return (own, *others)


def _fits(value: Scalar, kind: InputType) -> bool:
    return {"integer": type(value) is int, "boolean": type(value) is bool, "text": type(value) is str}[kind]


def _newest(customer: CustomerAggregate, kinds: tuple[str, ...]) -> tuple[str, KindSummary] | None:
    known = [(kind, customer.facts[kind]) for kind in kinds if kind in customer.facts]
    return max(known, key=lambda item: (item[1].latest_at_us, item[1].latest_position), default=None)


def _failed(failed: KindSummary | None, paid: KindSummary | None) -> int:
    if failed is None or (paid is not None and paid.latest_at_us >= failed.latest_at_us):
        return 0
    attempt = failed.latest.get("attempt", 1)
    return attempt if type(attempt) is int else 1


def _count(summary: KindSummary | None) -> int:
    return 0 if summary is None else summary.count


def _terms_of(running: KindSummary | None, kind: str) -> Mapping[str, Any]:
    return {} if running is None or kind == ENDED else running.latest


def _lost(lost: KindSummary | None, terms: KindSummary | None, paid: KindSummary | None) -> bool:
    return lost is not None and all(lost.latest_at_us >= later.latest_at_us for later in (terms, paid) if later is not None)


def _days_since_detractor(features: Mapping[str, Any], survey: tuple[str, KindSummary] | None, at_us: int) -> int | None:
    """As the read models remember it; without them only the newest answer is known."""
    if "last_detracted" in features:
        last_us = features["last_detracted"]
        return None if last_us is None else _days(at_us - last_us)
    if survey is None or survey[1].latest.get("survey") != "nps":
        return None
    score = _int(survey[1].latest.get("score"))
    return _days_since(survey[1], at_us) if score is not None and score <= DETRACTOR else None


def _gap_days(paid: KindSummary | None) -> int | None:
    if paid is None or paid.count < 2:
        return None
    return (2 * (paid.latest_at_us - paid.first_at_us) // (paid.count - 1) + DAY_US) // (2 * DAY_US)


def _days(us: int) -> int:
    return us // DAY_US


def _days_since(summary: KindSummary | None, at_us: int) -> int | None:
    return None if summary is None else _days(at_us - summary.latest_at_us)


def _days_until(at: object, now_us: int) -> int | None:
    """Whole days until an ISO time in a stored payload, rounded down; negative when it is over."""
    if not isinstance(at, str):
        return None
    return _days(to_us(datetime.fromisoformat(at)) - now_us)


def _text(value: object) -> str | None:
    return value if type(value) is str else None


def _int(value: object) -> int | None:
    return value if type(value) is int else None
