"""The latent layer: how a customer's unseen state moves in a day, what an action does to it, and how a customer comes to be.

May import the simulator's model, draws and state.
"""

from __future__ import annotations

import math
from datetime import date

from postsale.simulator.draws import Stream
from postsale.simulator.model import Action, VendorModel
from postsale.simulator.state import Customer, World, clipped, daily

_ZONES = ("Europe/Berlin", "America/New_York", "Asia/Tokyo", "Europe/London")
_LOWEST, _HIGHEST = -1.5, 0.6  # of the level of log need
_FADES = 0.9  # what is left of a push after a day
MONTH = 30
YEAR = 365


def new_customer(world: World, name: str, joined: int | None = None, referrer: str | None = None) -> Customer:
    """A customer before anything happens to it; `joined` None: long before the start."""
    m, stream = world.model, Stream(world.seed, "customer", name)
    d = stream.of("who")
    archetype = m.archetypes[d.weighted([a.share for a in m.archetypes])]
    seats = max(1, min(5_000, round(m.seats_median * math.exp(m.seats_sigma * d.normal()))))
    price = max(10, round(m.price_median_minor * math.exp(m.price_sigma * d.normal()), -1))
    annual, renewing = d.chance(m.annual_share), d.chance(m.auto_renews)
    since, ends, in_december, zone = d.between(30, 700), d.uniform(), d.uniform(), d.pick(_ZONES)
    c = Customer(
        name=name,
        stream=stream,
        archetype=archetype,
        joined=-round(since) if joined is None else joined,
        seats=seats,
        price_minor=int(price),
        annual=annual,
        auto_renews=annual and renewing,
        zone=zone,
        referrer=referrer,
        satisfaction=clipped(archetype.content + d.between(-0.1, 0.1)),
        engagement=d.between(0.45, 1.0),
    )
    value, advocacy, trial, invoice = d.between(0.4, 0.9), d.between(0.1, 0.5), d.chance(m.trial_share), d.whole(MONTH)
    c.log_need = m.need_sigma * d.normal() / math.sqrt(1 - m.need_memory**2)  # as it stands after a long time
    if joined is None:
        c.steps, c.first_value, c.value, c.advocacy = m.onboarding_steps, True, value, advocacy
        c.renews = 1 + int(ends * (YEAR if annual else MONTH))
        if annual and in_december < m.year_end_share:
            first = date(world.start.year, 12, 1)
            c.renews = 1 + ((first - world.start.date()).days + int(ends * 31) - 1) % YEAR
        c.next_invoice = invoice
    else:
        c.renews = joined + (YEAR if annual else MONTH)
        c.trial_until = joined + 14 if trial and referrer is None else None
        c.next_invoice = joined + 14 if c.trial_until else joined
    return c


def live(c: Customer, world: World) -> list[str]:
    """One day of the latent state; returns which people came or went. Every number is drawn on every day, whatever the state."""
    m, a = world.model, c.archetype
    d = c.stream.of("latent", world.day)
    noise, sponsor, owner, card, money = d.normal(), d.uniform(), d.uniform(), d.uniform(), d.uniform()
    news = []

    level = clipped(math.log(a.drift) * (world.day - max(c.joined, 0)) / 7, _LOWEST, _HIGHEST)
    c.log_need = level + m.need_memory * (c.log_need - c.level) + m.need_sigma * noise
    c.level = level
    lively = c.need * (0.4 + 0.6 * c.value) * (0.5 + 0.5 * c.satisfaction) * (1.0 if c.sponsor else 0.6)
    if c.paused_until is not None:
        lively = 0.0
    c.engagement = clipped(c.engagement + m.engagement_pace * (lively - c.engagement), 0.02, 1.5)
    worth = min(1.0, 1.1 * c.engagement) * c.steps / m.onboarding_steps
    c.value += m.value_pace * (worth - c.value)
    c.satisfaction = clipped(c.satisfaction + m.satisfaction_pace * (a.content - c.satisfaction))
    c.advocacy = clipped(c.advocacy + m.advocacy_pace * (c.satisfaction * c.value - c.advocacy))

    chance = daily(m.sponsor_leaves_per_year) if c.sponsor else 1 / m.sponsor_found_days
    world.tally("sponsors left" if c.sponsor else "sponsors found", sponsor < chance, chance)
    if sponsor < chance:
        news.append("sponsor left" if c.sponsor else "sponsor found")
        c.sponsors += not c.sponsor
        c.sponsor = not c.sponsor
    if owner < daily(m.owner_leaves_per_year):
        news.append("owner")
        c.owner += 1
    if c.card_works:
        chance = daily(a.card_fails_per_year)
        world.tally("cards failed", card < chance, chance)
        c.card_works = card >= chance
    else:
        c.card_works = card < 1 / m.card_repaired_days + c.push_repair
    c.price_pressure *= math.exp(-1 / m.price_days)
    if money < daily(m.price_shock_per_year):
        c.price_pressure += 0.5
    c.goodwill *= math.exp(-1 / m.goodwill_days)
    c.push_onboarding *= _FADES
    c.push_repair *= _FADES
    c.push_expansion *= _FADES
    c.push_invitation *= _FADES
    return news


def respond(c: Customer, action: Action, m: VendorModel, day: int) -> None:
    """What an action does to a customer, on the day on which it reaches it. Draws nothing."""
    r = m.responses.get(action)
    if r is None or c.ended is not None:
        return
    c.acted[action] = c.acted.get(action, 0) + 1
    factor = r.scale.get(c.archetype.name, 1.0)
    holds = {
        "always": True,
        "onboarding": c.steps < m.onboarding_steps,
        "card-failing": not c.card_works,
        "satisfied": c.satisfaction >= 0.5,
    }[r.when]
    factor *= 1.0 if holds else r.otherwise
    tired = 0.0
    if r.contact:
        c.contacts = [at for at in c.contacts if at > day - MONTH] + [day]
        excess = max(0, len(c.contacts) - m.free_contacts)
        tired = m.fatigue * excess
        c.reached.append((action, excess))
    c.satisfaction = clipped(c.satisfaction + factor * r.satisfaction - tired)
    c.engagement = clipped(c.engagement + factor * r.engagement, 0.02, 1.5)
    c.goodwill += factor * r.goodwill
    c.price_pressure = max(0.0, c.price_pressure + factor * r.price)
    c.push_onboarding = max(0.0, c.push_onboarding + factor * r.onboarding)
    c.push_repair = max(0.0, c.push_repair + factor * r.repair)
    c.push_expansion = max(-1.0, c.push_expansion + factor * r.expansion)
    c.push_invitation = max(0.0, c.push_invitation + factor * r.invitation)
