"""Help and the customer's voice: tickets, surveys, campaigns, events, reviews, advocacy, referrals, and reactions to being contacted.

May import `aggregates` and the simulator's layers below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta

from postsale.aggregates import signals as s
from postsale.simulator.draws import Draws
from postsale.simulator.latent import MONTH, new_customer
from postsale.simulator.product import trouble
from postsale.simulator.state import ConsentGivenAt, Customer, Fact, Happening, World, clipped, daily

_QUARTER = 91
_ACTS = ("reference-call", "case-study", "testimonial", "talk", "community-answer", "introduction")


def tickets(c: Customer, world: World) -> Iterator[Fact]:
    """The day's tickets; each costs satisfaction, an escalated one more, a fast solution gives some back."""
    m = world.model
    d = c.stream.of("tickets", world.day)
    mean = m.tickets_per_week / 7 * c.archetype.tickets * math.sqrt(c.seats / 10) * (2 - c.satisfaction) * (1 + 4 * trouble(c, world))
    if c.paused_until is not None:
        mean = 0.0
    number = d.poisson(mean)
    world.tally("tickets", number, mean, poisson=True)
    for n in range(number):
        yield from _ticket(c, world, f"{c.name}-ticket-{world.day}-{n + 1}", c.stream.of("ticket", 100 * world.day + n))


def surveys(c: Customer, world: World) -> Iterator[Fact]:
    """One NPS question a quarter."""
    m, day = world.model, world.day
    if (day + c.joined) % _QUARTER != 45:
        return
    d = c.stream.of("nps", day)
    answers = d.chance(m.nps_answered)
    world.tally("answers", answers, m.nps_answered)
    if answers:
        mean = 10 * (0.75 * c.satisfaction + 0.35 * c.value)
        score = int(clipped(round(mean + m.nps_sigma * d.normal()), 0, 10))
        id_, at = f"{c.name}-nps-{day}", world.at(d.between(420, 1_200))
        who = c.champion if c.sponsor else c.admin
        yield Fact(s.SurveyAnswered, "voice", id_, at, {"survey": "nps", "score": score, "contact": who, "response": id_})


def speaking_up(c: Customer, world: World) -> Iterator[Happening]:
    """Campaigns and reactions to our own messages, events, reviews, advocacy, invitations."""
    m, day = world.model, world.day
    d = c.stream.of("voice", day)
    review, advocate, event, invite = d.uniform(), d.uniform(), d.uniform(), d.uniform()
    at = world.at(d.between(480, 1_200))
    if c.reached:
        yield from _reactions(c, world, at)
    if c.marketing and (day + c.seats) % MONTH == 10 and c.newsletter < day // MONTH:  # seats may change within a month
        c.newsletter = day // MONTH
        yield from _campaign(c, world, f"newsletter-{day // MONTH}", c.stream.of("campaign", day), at, 0)
    if review < daily(m.reviews_per_year * c.advocacy):
        stars = 1 + min(4, int(5 * c.satisfaction + d.uniform()))
        yield Fact(s.ReviewPublished, "voice", f"{c.name}-review-{day}", at, {"site": "reviews.example", "stars": stars})
    if advocate < daily(m.advocacy_per_year * c.advocacy):
        yield Fact(s.AdvocacyGiven, "voice", f"{c.name}-advocacy-{day}", at, {"act": d.pick(_ACTS)})
    if event < daily(m.events_per_year * c.advocacy):
        fields = {"event": f"webinar-{day // MONTH}", "kind_of_event": "webinar"}
        yield Fact(s.EventAttended, "voice", f"{c.name}-event-{day}", at, fields)
    chance = min(1.0, daily(m.invites_per_year * c.advocacy) + c.push_invitation * c.advocacy)
    world.tally("invitations", invite < chance, chance)
    if invite < chance:
        yield from _invitation(c, world, at)


# ---------------------------------------------------------------- tickets


def _ticket(c: Customer, world: World, ticket: str, d: Draws) -> Iterator[Fact]:
    m, at = world.model, world.at(d.between(420, 1_140))
    priority = ("low", "normal", "normal", "high", "urgent")[d.whole(5)]
    fields = {"ticket_id": ticket, "priority": priority, "contact": c.admin}
    yield Fact(s.TicketOpened, "ticketing", f"{ticket}-opened", at, fields)
    minutes = max(5, round(m.resolution_median_min * math.exp(m.resolution_sigma * d.normal())))
    first = max(1, round(minutes * d.between(0.05, 0.4)))
    escalates, opens_again, rated, points = d.chance(m.escalated * (1 - c.satisfaction)), d.chance(m.reopened), d.uniform(), d.normal()
    replied = {"ticket_id": ticket, "after_min": first}
    yield Fact(s.TicketReplied, "ticketing", f"{ticket}-replied", at + timedelta(minutes=first), replied)
    if escalates:
        yield Fact(s.TicketEscalated, "ticketing", f"{ticket}-escalated", at + timedelta(minutes=minutes * 0.7), {"ticket_id": ticket})
    solved = {"ticket_id": ticket, "first_reply_min": first, "resolution_min": minutes}
    done = at + timedelta(minutes=minutes)
    yield Fact(s.TicketSolved, "ticketing", f"{ticket}-solved", done, solved)
    if opens_again:
        yield Fact(s.TicketReopened, "ticketing", f"{ticket}-reopened", done + timedelta(hours=5), {"ticket_id": ticket})
        longer = solved | {"resolution_min": minutes + 1_200}
        yield Fact(s.TicketSolved, "ticketing", f"{ticket}-solved-again", done + timedelta(hours=20), longer)
    fast = minutes < m.resolution_median_min
    c.satisfaction = clipped(c.satisfaction - 0.02 - 0.05 * escalates - 0.02 * opens_again + 0.01 * fast)
    if rated < m.csat_answered:
        score = int(clipped(round(1 + 4 * (c.satisfaction + 0.1 * fast) + 0.7 * points), 1, 5))
        asked = {"survey": "csat", "score": score, "scale_min": 1, "scale_max": 5, "contact": c.admin, "about": ticket}
        yield Fact(s.SurveyAnswered, "voice", f"{ticket}-csat", done + timedelta(hours=2), asked | {"response": f"{ticket}-csat"})


# ---------------------------------------------------------------- messages


def _reactions(c: Customer, world: World, at: datetime) -> Iterator[Happening]:
    reached, c.reached = c.reached, []
    for action, excess in reached:
        yield from _campaign(c, world, f"{action}-{world.day}", c.stream.of(f"reached {action}", world.day), at, excess)


def _campaign(c: Customer, world: World, campaign: str, d: Draws, at: datetime, excess: int) -> Iterator[Happening]:
    opened, clicked, replied, gone = d.chance(world.model.campaign_opened), d.chance(0.25), d.chance(0.08), d.chance(0.004 + 0.03 * excess)
    done = [("opened", opened), ("clicked", opened and clicked), ("replied", opened and replied), ("unsubscribed", gone)]
    for minute, (what, happened) in enumerate(done):
        if happened:
            fields = {"campaign": campaign, "action": what, "channel": "email", "contact": c.admin}
            yield Fact(s.CampaignEngaged, "voice", f"{c.name}-{campaign}-{what}", at + timedelta(minutes=minute), fields)
    if gone:
        c.marketing = False
        yield ConsentGivenAt(at + timedelta(minutes=10), c.name, "email", "marketing", given=False)


# ---------------------------------------------------------------- referrals


def _invitation(c: Customer, world: World, at: datetime) -> Iterator[Fact]:
    """Somebody is invited; whoever buys in the end is a customer of its own from that day on."""
    m, d = world.model, c.stream.of("referral", world.day)
    name = f"{c.name}r{world.day}"
    clicks, registers, converts = d.chance(m.invite_clicked), d.chance(m.invite_registered), d.chance(m.invite_converted)
    until_click, until_registered, until_bought = d.exponential(2), d.exponential(4), d.exponential(15)
    withdrawn = d.chance(0.2)
    fields = {"referral_id": f"{name}-referral", "program": "friends"}
    c.invited += 1
    yield Fact(s.ReferralInvited, "voice", f"{name}-invited", at, fields | {"channel": "email"})
    if clicks:
        at += timedelta(days=until_click)
        yield Fact(s.ReferralClicked, "voice", f"{name}-clicked", at, fields)
    if clicks and registers:
        at += timedelta(days=until_registered)
        yield Fact(s.ReferralRegistered, "voice", f"{name}-registered", at, fields)
        if converts:
            at += timedelta(days=until_bought)
            comes = new_customer(world, name, (at - world.start).days + 1, c.name)
            world.coming.append((comes.joined, comes))
            bought = {"amount_minor": comes.mrr_minor, "currency": m.currency}
            yield Fact(s.ReferralConverted, "voice", f"{name}-converted", at, fields | bought)
            return
    if withdrawn:
        yield Fact(s.ReferralWithdrawn, "voice", f"{name}-withdrawn", at + timedelta(days=30), fields | {"reason": "expired"})
