"""A policy with budgets of all units, and worlds under it, for the tests of budgets."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from postsale.agents import Agent, Policy
from postsale.agents.budget import Page, Sums, budget_stream, slice_stream
from postsale.agents.escrow import read
from postsale.aggregates.budgets import BudgetSliceGranted
from postsale.events import Lane
from postsale.store import Query
from postsale.store.log import Log
from tests.agents.world import DUNNING, World

MAIL = """[[budget]]
name = "mail"
unit = "contacts"
channel = "email"
limit = 3
per = "day"

"""
RISK = """[[budget]]
name = "risk"
unit = "risk"
weights = { low = 1, medium = 5, high = 20 }
limit = 60
per = "day"
of = "agent"

"""
FREE = DUNNING.replace("authority_limit_minor = 1000", "authority_limit_minor = 90000").replace("count = 2\n", "count = 50\n")
THREE = FREE.replace("[outcome]", MAIL + RISK + "[outcome]")
ASKING = THREE.replace("authority_limit_minor = 90000", "authority_limit_minor = 1000")  # a person decides about each credit
BOTH = (
    THREE.replace('hit = "first"', 'hit = "collect"')
    .replace('[[rule]]\nid = "wait"\naction = "none"\nbecause = "Once is no pattern."\n', "")
    .replace('when = { failed_payments = ">= 2" }\naction', "action")
)  # a credit and a task, or an e-mail and a task
EUR, CONTACTS, POINTS = Page("EUR", "2026-11"), Page("contacts/email", "2026-11-16"), Page("risk", "2026-11-16")
PAGES = {"retention": EUR, "mail": CONTACTS, "risk:dunning": POINTS}
LIMITS = {"retention": 10_000, "mail": 3, "risk:dunning": 60}


def acting(text: str = THREE, **more: Any) -> World:
    w = World([Agent(Policy.from_toml(text))], **more)
    w.mode("act")
    return w


def smb(w: World, ref: str) -> UUID:
    """A customer who is sent an e-mail: the decision's id."""
    w.profile(ref, segment="smb")
    w.consent(ref)
    (id_,) = w.attend(w.failed(ref), ref).decided
    return id_


def totals(log: Log, budget: str, page: Page) -> Sums:
    """A page of a budget with all slices taken in; what is free in slices counts as available."""
    main = read(log, budget_stream("acme", budget))
    sums = main.sums(page)
    granted = log.events(Query(tenant="acme", streams=(budget_stream("acme", budget),), lane=Lane.DECISION))
    names = [r.data.slice for r in granted if isinstance(r.data, BudgetSliceGranted) and Page(r.data.unit, r.data.period) == page]
    parts = [read(log, slice_stream("acme", name)).sums(page) for name in names]
    held = sum(p.reserved + p.committed for p in parts)
    return Sums(
        available=sums.available + sums.sliced - held,
        reserved=sums.reserved + sum(p.reserved for p in parts),
        committed=sums.committed + sum(p.committed for p in parts),
        compensated=sums.compensated,
        released=sums.released + sum(p.released for p in parts),
    )


def balances(w: World, field: str) -> dict[str, int]:
    """One account of each of the three budgets, all slices taken in."""
    return {name: getattr(totals(w.log, name, page), field) for name, page in PAGES.items()}
