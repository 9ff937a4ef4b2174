"""Recurring revenue of a period: MRR and its movements, GRR, NRR and logo churn, for an opening cohort and per currency. Pure.

| measure | formula |
|---|---|
| GRR | sum over the opening cohort of min(MRR at start, MRR at end) / sum of MRR at start |
| NRR | sum over the opening cohort of MRR at end / sum of MRR at start |
| logo churn | customers of the start that are lost at the end / customers at the start |

Movements are netted per customer and currency, so that moving from one plan to another is one change. Currencies are never added: each has
its own measures, or `Rates` convert all. A customer that left one currency for another within the period is in neither's cohort, with
that reason. Imports books, intervals, measure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from postsale.events import from_us, iso
from postsale.projections.outcomes.books import Book, Standing
from postsale.projections.outcomes.intervals import ratio_interval, wilson
from postsale.projections.outcomes.measure import Frame, Measure, Rates

FORGOTTEN: Final = "terms older than ten years"
NO_RATE: Final = "no exchange rate"
SWITCHED: Final = "changed its currency"
NOT_DUE: Final = "contract does not end in the period"


@dataclass(frozen=True, slots=True)
class Movements:
    """How the MRR of one currency went from start to end: opening plus all of them is closing. Minor units."""

    currency: str
    opening: int
    new: int  # of customers that never paid before
    reactivation: int  # of customers that had paid before, and paid nothing at the start
    expansion: int
    contraction: int  # at most 0; a pause is one
    churn: int  # at most 0; of customers that have no running subscription left
    switched: int  # moved here from another currency, or away
    closing: int

    @property
    def net(self) -> int:
        return self.new + self.reactivation + self.expansion + self.contraction + self.churn + self.switched

    def to_dict(self) -> dict[str, Any]:
        names = ("currency", "opening", "new", "reactivation", "expansion", "contraction", "churn", "switched", "closing")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class MrrPoint:
    """The MRR of one currency just before a time."""

    at_us: int
    currency: str
    mrr_minor: int
    customers: int

    def to_dict(self) -> dict[str, Any]:
        return {"at": iso(self.at_us), "currency": self.currency, "mrr_minor": self.mrr_minor, "customers": self.customers}


def readable(books: Sequence[Book], rates: Rates | None = None) -> tuple[list[Book], Counter[str]]:
    """The books that can be read, in one currency where there are rates; how many cannot, by reason."""
    good, excluded = [], Counter[str]()
    for book in books:
        read = book if rates is None else book.in_one_currency(rates)
        if book.forgotten:
            excluded[FORGOTTEN] += 1
        elif read is None:
            excluded[NO_RATE] += 1
        else:
            good.append(read)
    return good, excluded


def mrr_history(books: Sequence[Book], times_us: Sequence[int]) -> list[MrrPoint]:
    """MRR just before each time, per currency: of every currency that ever appears at one of them, at each of them."""
    found: list[Counter[str]] = []
    paying: list[Counter[str]] = []
    for us in times_us:
        amounts, customers = Counter[str](), Counter[str]()
        for book in books:
            for currency, minor in book.at(us).mrr.items():
                amounts[currency] += minor
                customers[currency] += 1
        found.append(amounts)
        paying.append(customers)
    currencies = sorted({c for amounts in found for c in amounts})
    return [MrrPoint(us, c, found[i][c], paying[i][c]) for c in currencies for i, us in enumerate(times_us)]


def switched(before: Standing, after: Standing) -> bool:
    """Whether a customer left one currency for another."""
    return bool(before.mrr.keys() - after.mrr.keys()) and bool(after.mrr.keys() - before.mrr.keys())


def movements(books: Sequence[Book], frame: Frame) -> list[Movements]:
    """By currency, ascending."""
    totals: dict[str, Counter[str]] = {}
    for book in books:
        before, after = book.at(frame.start_us), book.at(frame.end_us)
        changed = switched(before, after)
        for currency in {*before.mrr, *after.mrr}:
            was, now = before.mrr.get(currency, 0), after.mrr.get(currency, 0)
            total = totals.setdefault(currency, Counter())
            total["opening"] += was
            total["closing"] += now
            total[_kind(book, frame, was, now, changed, after)] += now - was
    names = ("opening", "new", "reactivation", "expansion", "contraction", "churn", "switched", "closing")
    return [Movements(c, *(totals[c][name] for name in names)) for c in sorted(totals)]


def _kind(book: Book, frame: Frame, was: int, now: int, changed: bool, after: Standing) -> str:
    if changed and not (was and now):
        return "switched"
    if was and now:
        return "expansion" if now > was else "contraction"
    if was:
        return "contraction" if after.running else "churn"
    paid = bool(book.at(frame.start_us).mrr)
    if paid:
        return "expansion"  # another currency beside the one it pays in
    return "reactivation" if book.paid_before(frame.start_us) else "new"


# ---------------------------------------------------------------- retention


def retention(
    books: Sequence[Book],
    frame: Frame,
    *,
    rates: Rates | None = None,
    eligible: Callable[[Book], bool] | None = None,
    cohort: str | None = None,
) -> list[Measure]:
    """GRR and NRR of the opening cohort, by currency. `eligible` narrows it, as to contracts that end in the period.

    The interval is that of an estimate: what like cohorts would keep. Of the cohort itself the value is exact.
    """
    good, unread = readable(books, rates)
    cohorts: dict[str, list[tuple[int, int]]] = {}
    excluded: dict[str, Counter[str]] = {}
    for book in good:
        before, after = book.at(frame.start_us), book.at(frame.end_us)
        changed = switched(before, after)
        for currency, was in before.mrr.items():
            now = after.mrr.get(currency, 0)
            pairs, out = cohorts.setdefault(currency, []), excluded.setdefault(currency, Counter())
            if changed and not now:
                out[SWITCHED] += 1
            elif eligible is not None and not eligible(book):
                out[NOT_DUE] += 1
            else:
                pairs.append((was, now))
    made = []
    for currency in sorted(cohorts):
        pairs = cohorts[currency]
        starts, kept, ends = [s for s, _ in pairs], [min(p) for p in pairs], [e for _, e in pairs]
        for name, parts in (("grr", kept), ("nrr", ends)):
            made.append(
                Measure(
                    name=name if eligible is None else f"{name}-due",
                    value=round(sum(parts) / sum(starts), 9) if starts else None,
                    unit="ratio",
                    population="customers with MRR at the start"
                    if eligible is None
                    else "customers with MRR at the start whose contract ends in the period",
                    n=len(pairs),
                    numerator=sum(parts),
                    denominator=sum(starts),
                    excluded=dict(unread + excluded[currency]),
                    interval=ratio_interval(parts, starts),
                    cohort=cohort or f"opening {iso(frame.start_us)[:10]}",
                    currency=currency,
                    frame=frame,
                    note=converted(rates),
                )
            )
    return made


def converted(rates: Rates | None) -> str:
    """For a note; "" without rates."""
    return "" if rates is None else f"converted to {rates.to} at rates of {rates.on.isoformat()}"


def logo_churn(books: Sequence[Book], frame: Frame) -> list[Measure]:
    """Customers lost in the period by customers at the start: all, those that could have been avoided, those that could not, those of which nobody said."""
    good, excluded = readable(books)
    opening = [book for book in good if book.at(frame.start_us).customer]
    lost, by_one_word = Counter[str](), 0
    for book in opening:
        end = book.at(frame.end_us)
        if end.lost:
            word = {True: "avoidable", False: "unavoidable", None: "unstated"}[book.avoidable(frame.end_us, frame.as_of_us + 1)]
            lost[word] += 1
            by_one_word += end.closed == end.running
    n = len(opening)
    differ = f"{by_one_word} by the CRM's word while billing goes on" if by_one_word else ""
    made = []
    for name, hits in (
        ("logo-churn", lost.total()),
        *((f"logo-churn-{word}", lost[word]) for word in ("avoidable", "unavoidable", "unstated")),
    ):
        made.append(
            Measure(
                name=name,
                value=round(hits / n, 9) if n else None,
                unit="ratio",
                population="customers that paid or paused at the start",
                n=n,
                numerator=hits,
                denominator=n,
                excluded=dict(excluded),
                interval=wilson(hits, n),
                cohort=f"opening {iso(frame.start_us)[:10]}",
                frame=frame,
                note=differ if name == "logo-churn" else "",
            )
        )
    return made


def month_starts(frame: Frame, months: int) -> list[int]:
    """The end of the period and the firsts of months (UTC) before it, `months` of them in all, ascending."""
    at, out = from_us(frame.end_us), [frame.end_us]
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while len(out) < months:
        if first < from_us(out[-1]):
            out.append(round(first.timestamp()) * 1_000_000)
        first = first.replace(year=first.year - 1, month=12) if first.month == 1 else first.replace(month=first.month - 1)
    return out[::-1]
