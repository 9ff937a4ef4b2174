"""What the CRM and billing say of an account: its people, its contract, its terms, renewals and their end.

One number per end of a contract, drawn once, says whether the customer stays: it does where that number is below its chance to. So what
raises the chance can only keep a customer. May import `aggregates` and the simulator's layers below.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal

from postsale.aggregates import signals as s
from postsale.simulator.latent import MONTH, YEAR
from postsale.simulator.state import ConsentGivenAt, Customer, ErasureRequestedAt, Fact, Happening, World, daily

_SMALL, _LARGE = 10, 60  # seats
_OWNERS = 7
_LAST_MINUTE = 1_439  # of a day; whatever else happens on it is earlier


def begin(c: Customer, world: World) -> Iterator[Happening]:
    """The first day on which anybody hears of a customer."""
    m, d = world.model, c.stream.of("begin")
    c.begun = True
    minute = d.between(1, 240)
    since = world.start + timedelta(days=c.joined, minutes=0 if c.joined < 0 else minute)
    at = world.at(minute)
    yield Fact(s.AccountProfiled, "crm", f"{c.name}-profile", at, profile(c, since))
    if c.annual:
        yield _renewal_due(c, world, at)
    terms = c.terms_at(since, m.currency)
    yield Fact(s.SubscriptionStarted, "billing", f"{c.name}-started", at, terms | {"trial": c.trial_until is not None})
    for who, role in ((c.champion, "champion"), (c.admin, "admin")):
        yield _person(at, who, role)
    if c.referrer is not None:
        accepted = {"referral_id": f"{c.name}-referral", "referrer": c.referrer}
        yield Fact(s.ReferralAccepted, "voice", f"{c.name}-accepted", at, accepted)
    agreed = at + timedelta(days=1, hours=6)
    if d.chance(m.consent_service):
        yield ConsentGivenAt(agreed, c.name, "email", "service")
    if d.chance(m.consent_marketing):
        c.marketing = True
        yield ConsentGivenAt(agreed, c.name, "email", "marketing")


def people(c: Customer, world: World, news: list[str]) -> Iterator[Happening]:
    """Who came, who left, who looks after the account, and who wants to be forgotten."""
    m, day = world.model, world.day
    d = c.stream.of("people", day)
    at = world.at(d.between(420, 1_000))
    for what in news:
        if what == "sponsor left":
            yield _person(at, c.champion, "champion", left=True)
        elif what == "sponsor found":
            yield _person(at, c.champion, "champion")
        else:
            fields = {"owner": _owner(c, c.owner), "before": _owner(c, c.owner - 1)}
            yield Fact(s.OwnerChanged, "crm", f"{c.name}-owner-{day}", at, fields)
    if d.chance(daily(m.erasures_per_year)):
        yield ErasureRequestedAt(at, c.name, c.admin)
        c.admins += 1
        yield _person(at + timedelta(minutes=5), c.admin, "admin")
    if d.chance(daily(m.consent_withdrawn_per_year)):
        yield ConsentGivenAt(at, c.name, "email", "marketing" if c.marketing else "service", given=False)
        c.marketing = False


def contract(c: Customer, world: World) -> Iterator[Happening]:
    """Trials, intents, renewals, and the end."""
    m, day = world.model, world.day
    if c.trial_until is not None:
        if day >= c.trial_until:
            yield from _after_trial(c, world)
        return
    left = c.renews - day
    window = m.intent_days if c.annual else MONTH - 2
    if left > window:
        return
    if left <= 0:
        yield from _at_the_end(c, world)
    elif left % 7 == 0:
        yield from _intent(c, world, m.renewal_doubt * left / window)
    if c.annual and left in (window // 7 * 7, 21):
        yield from _calls(c, world, left)


def growth(c: Customer, world: World) -> Iterator[Happening]:
    """More seats, fewer, a pause and its end, and the monthly count."""
    m, day = world.model, world.day
    d = c.stream.of("growth", day)
    up, down, pause, minute, used = d.uniform(), d.uniform(), d.uniform(), d.between(480, 1_000), d.between(0.85, 1.0)
    at = world.at(minute)
    if c.trial_until is not None or c.leaving:
        return
    if c.paused_until is not None:
        if day >= c.paused_until:
            c.paused_until = None
            yield Fact(s.SubscriptionResumed, "billing", f"{c.name}-resumed-{day}", at, c.terms_at(at, m.currency))
        return
    grows = daily(m.expansions_per_year * c.need * c.satisfaction * (1 + c.push_expansion))
    shrinks = daily(m.contractions_per_year / max(0.2, c.need))
    world.tally("expansions", up < grows, grows)
    if up < grows:
        c.seats += max(1, c.seats // 5)
    elif down < shrinks and c.seats > 1:
        c.seats -= max(1, c.seats // 7)
    elif not c.annual and pause < daily(m.pauses_per_year):
        c.paused_until = day + MONTH
        fields = c.terms_at(at, m.currency) | {"resumes_at": at + timedelta(days=MONTH)}
        yield Fact(s.SubscriptionPaused, "billing", f"{c.name}-paused-{day}", at, fields)
        return
    else:
        if (day + c.next_invoice) % MONTH == 3:
            given = min(c.seats, round(c.seats * used * min(1.0, 0.5 + c.engagement)))
            fields = {"subscription_id": c.subscription, "bought": c.seats, "assigned": given}
            yield Fact(s.SeatsCounted, "billing", f"{c.name}-seats-{day}", at, fields)
        return
    yield Fact(s.SubscriptionChanged, "billing", f"{c.name}-changed-{day}", at, c.terms_at(at, m.currency))


def profile(c: Customer, since: datetime) -> dict[str, object]:
    """The account as the CRM has it."""
    return {
        "name": f"Company {c.name}",
        "segment": "smb" if c.seats < _SMALL else "mid-market" if c.seats < _LARGE else "enterprise",
        "industry": ("software", "retail", "health", "logistics")[c.joined % 4],
        "time_zone": c.zone,
        "owner": _owner(c, c.owner),
        "seats": c.seats,
        "starts_at": since,
    }


def stop(c: Customer, world: World, reason: str, *, avoidable: bool) -> Iterator[Happening]:
    """The subscription ends with the day; the CRM closes the account days later."""
    c.ended, c.avoidable = world.day, avoidable
    m, at = world.model, world.at(_LAST_MINUTE)
    fields = c.terms_at(at, m.currency) | {"reason": reason, "avoidable": avoidable}
    yield Fact(s.SubscriptionEnded, "billing", f"{c.name}-ended", at, fields)
    closed = at + timedelta(days=c.stream.of("closed").between(0.2, 6))
    fields = {"reason": reason, "avoidable": avoidable}
    yield Fact(s.AccountChurned, "crm", f"{c.name}-churned", closed, fields)


# ---------------------------------------------------------------- the end of a contract


def _intent(c: Customer, world: World, doubt: float) -> Iterator[Happening]:
    """Once a week before the end: does it mean to stay?"""
    m, d = world.model, c.stream.of("renewal", c.terms)
    stays = d.chance(c.renewal_chance(m, doubt))
    if stays is not c.leaving:
        return
    c.leaving = not stays
    at = world.at(d.between(480, 1_000))
    ends = world.start + timedelta(days=c.renews)
    kind = s.CancellationScheduled if c.leaving else s.CancellationWithdrawn
    word = "cancelled" if c.leaving else "stays"
    yield Fact(kind, "billing", f"{c.name}-{word}-{world.day}", at, c.terms_at(ends, m.currency))
    if c.annual:
        notice = {"renews_at": ends, "given_by": "customer", "intends": "leave" if c.leaving else "renew"}
        yield Fact(s.RenewalNoticeGiven, "crm", f"{c.name}-notice-{world.day}", at, notice)


def _calls(c: Customer, world: World, left: int) -> Iterator[Happening]:
    """The deal, and what a model and a manager expect of it: the chance as they see it."""
    m, d = world.model, c.stream.of("calls", world.day)
    at, ends = world.at(d.between(480, 1_000)), world.start + timedelta(days=c.renews)
    deal = {"opportunity_id": f"{c.name}-renewal-{c.terms}", "stage": "open" if left > 21 else "negotiation", "closes_at": ends}
    yield Fact(s.OpportunityStageChanged, "crm", f"{c.name}-deal-{world.day}", at, deal)
    seen = c.renewal_chance(m) + 0.1 * d.normal()
    call = {"renews_at": ends, "call": _call(seen), "model": "crm-forecast"}
    yield Fact(s.RenewalCalledByModel, "crm", f"{c.name}-model-{world.day}", at, call)
    seen = c.renewal_chance(m) + 0.15 * d.normal() + 0.05  # people hope
    call = {"renews_at": ends, "call": _call(seen), "manager": _owner(c, c.owner)}
    yield Fact(s.RenewalCalledByManager, "crm", f"{c.name}-manager-{world.day}", at + timedelta(hours=3), call)


def _call(chance: float) -> Literal["renew", "unsure", "churn"]:
    return "renew" if chance > 0.7 else "unsure" if chance > 0.4 else "churn"


def _at_the_end(c: Customer, world: World) -> Iterator[Happening]:
    m, d = world.model, c.stream.of("renewal", c.terms)
    chance = c.renewal_chance(m)
    stays = d.chance(chance)
    world.tally("renewals of a year" if c.annual else "renewals of a month", stays, chance)
    at = world.at(d.between(480, 1_000))
    ends = world.start + timedelta(days=c.renews)
    dear, free, scarce = d.uniform(), d.uniform(), d.uniform()
    if c.annual:
        c.due += 1
        c.renewed += stays
        deal = {"opportunity_id": f"{c.name}-renewal-{c.terms}", "stage": "won" if stays else "lost", "closes_at": ends}
        yield Fact(s.OpportunityStageChanged, "crm", f"{c.name}-closed-{c.terms}", at, deal)
        final = {"renews_at": ends, "call": "renew" if stays else "churn"} | ({} if stays else {"avoidable": c.need >= 0.4})
        yield Fact(s.RenewalCalledFinally, "crm", f"{c.name}-final-{c.terms}", at, final)
    if not stays:
        if not c.leaving:  # it made up its mind in the last week
            yield Fact(s.CancellationScheduled, "billing", f"{c.name}-cancelled-{world.day}", at, c.terms_at(ends, m.currency))
        yield from stop(c, world, "not-renewed", avoidable=c.need >= 0.4)
        return
    if c.leaving:
        c.leaving = False
        yield Fact(s.CancellationWithdrawn, "billing", f"{c.name}-stays-{world.day}", at, c.terms_at(ends, m.currency))
    c.terms += 1
    c.renews += YEAR if c.annual else MONTH
    if c.annual:
        yield _renewal_due(c, world, at + timedelta(hours=1))
        if dear < 0.5 and m.uplift:
            c.price_minor = round(c.price_minor * (1 + m.uplift))
            c.price_pressure += 2 * m.uplift
        if free < m.discounts:
            cut = max(1, c.price_minor // 10)
            c.price_minor -= cut
            c.price_pressure = max(0.0, c.price_pressure - 0.2 * scarce)
            given = {"subscription_id": c.subscription, "amount_minor": cut * c.seats, "currency": m.currency, "granted_by": "sales"}
            yield Fact(s.DiscountApplied, "billing", f"{c.name}-discount-{world.day}", at, given)
        changed = at + timedelta(hours=2)
        yield Fact(s.SubscriptionChanged, "billing", f"{c.name}-renewed-{world.day}", changed, c.terms_at(ends, m.currency))


def _after_trial(c: Customer, world: World) -> Iterator[Happening]:
    m, d = world.model, c.stream.of("trial")
    at = world.at(d.between(480, 1_000))
    c.trial_until = None
    if d.chance(c.renewal_chance(m)):
        yield Fact(s.SubscriptionChanged, "billing", f"{c.name}-bought", at, c.terms_at(at, m.currency) | {"trial": False})
        return
    yield from stop(c, world, "trial-ended", avoidable=True)


def _renewal_due(c: Customer, world: World, at: datetime) -> Fact:
    fields = {"renews_at": world.start + timedelta(days=c.renews), "auto_renews": c.auto_renews}
    return Fact(s.RenewalDue, "crm", f"{c.name}-due-{c.terms}", at, fields)


def _person(at: datetime, who: str, role: str, *, left: bool = False) -> Fact:
    fields = {"contact": who, "name": f"Person {who}", "role": role, "left": left}
    return Fact(s.ContactProfiled, "crm", f"{who}-{'left' if left else 'came'}", at, fields)


def _owner(c: Customer, number: int) -> str:
    return f"owner-{1 + (c.joined + number) % _OWNERS}"
