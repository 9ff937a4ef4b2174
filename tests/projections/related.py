"""A declaration across customers, of every leaf operation, for the tests of it."""

from __future__ import annotations

from typing import ClassVar

from postsale.aggregates.signals import InvoicePaid, Signal
from postsale.events import Id, Int, Text
from postsale.projections import (
    Features,
    across,
    count,
    days,
    decayed,
    derived,
    distinct,
    first_seen,
    history,
    last_seen,
    latest,
    maximum,
    minimum,
    total,
)


class Invited(Signal):
    """A customer says who brought it in."""

    wire_name: ClassVar[str] = "tests.related/invited@1"
    referrer: Id | None = None
    note: Text | None = None
    points: Int | None = None


INVITED = "tests.related/invited"


class Friends(Features, version=1, owner="growth"):
    """What invited customers paid."""

    invited_by = latest(Invited, lambda e: e.referrer)
    paid = total(InvoicePaid, lambda e: e.amount_minor, by=lambda e: e.currency)
    friends_paid = across(invited_by, total(InvoicePaid, lambda e: e.amount_minor, by=lambda e: e.currency))
    friends_invoices = across(invited_by, count(InvoicePaid, window=days(30)))

    @derived(unit="EUR cents")
    def all_paid(paid: dict[str, int], friends_paid: dict[str, int]) -> int:
        return paid.get("EUR", 0) + friends_paid.get("EUR", 0)


class Everyone(Features, version=1, owner="tests"):
    """Each operation read across, by two relations, one of them with a condition."""

    invited_by = latest(Invited, lambda e: e.referrer)
    lately = latest(Invited, lambda e: e.referrer, where=lambda e: e.points > 0)
    own = count(Invited)
    n = across(invited_by, count(InvoicePaid))
    n_2d = across(invited_by, count((InvoicePaid, Invited), window=days(2)))
    paid_by = across(invited_by, total(InvoicePaid, lambda e: e.amount_minor, by=lambda e: e.currency))
    last = across(invited_by, latest(Invited, lambda e: e.points))
    last_by_3d = across(lately, latest(Invited, lambda e: e.points, by=lambda e: e.note, window=days(3)))
    first = across(lately, first_seen(InvoicePaid))
    seen = across(invited_by, last_seen(Invited, by=lambda e: e.note))
    least = across(lately, minimum(Invited, lambda e: e.points))
    most = across(invited_by, maximum(Invited, lambda e: e.points, window=days(3)))
    notes = across(invited_by, distinct(Invited, lambda e: e.note))
    about = across(lately, distinct(Invited, lambda e: e.points, window=days(2), approximate=True))
    fading = across(invited_by, decayed(InvoicePaid, lambda e: e.amount_minor, half_life=days(1)))
    past = across(lately, history(Invited, lambda e: e.points, window=days(2)))

    @derived(unit="ratio")
    def share(own: int, n: int) -> float | None:
        return own / n if n else None
