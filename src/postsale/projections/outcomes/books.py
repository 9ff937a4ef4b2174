"""One customer's recurring revenue at any time, read from what was stated about its subscriptions. Pure.

The rule: at a time, a subscription is as the newest statement says, by (occurred_at, position), of those that take effect before that
time. So a statement holds from its `effective_at` until further notice, a late one corrects what was thought since then, and a change
that was scheduled does not outlive a newer one. Money is lost when a subscription ends or pauses, not when its end is scheduled; a trial
and a pause count no revenue; MRR is after discounts, and a refund does not touch it. Imports `declared`, `measure` and folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from postsale.projections.algebra import Moment
from postsale.projections.folding import FeatureValues
from postsale.projections.outcomes.measure import Rates


class Standing(NamedTuple):
    """A customer just before a time."""

    mrr: Mapping[str, int]  # minor units by currency, each above 0
    running: bool  # some subscription neither ended nor is in trial
    paused: bool  # some subscription is paused
    closed: bool  # the CRM closed the account, and no terms came after that

    @property
    def customer(self) -> bool:
        """Whether it counts as a customer: it pays, or it paused; and nobody closed the account."""
        return (bool(self.mrr) or self.paused) and not self.closed

    @property
    def lost(self) -> bool:
        """By billing's word or the CRM's."""
        return self.closed or not self.running


@dataclass(frozen=True, slots=True)
class Book:
    """What was stated about one customer, for reading at any time; made of finished values of `Revenue`."""

    ref: str
    statements: Mapping[str, tuple[tuple[int, int, int, str, int, str], ...]]
    closings: tuple[Moment, ...] = ()
    avoidables: tuple[Moment, ...] = ()
    dues: tuple[Moment, ...] = ()
    called_for: tuple[Moment, ...] = ()
    calls: tuple[Moment, ...] = ()
    forgotten: int = 0  # statements older than ten years: it is left out then

    @classmethod
    def of(cls, ref: str, values: FeatureValues) -> Book:
        """From finished values of `Revenue`."""
        return cls(
            ref,
            values["statements"],
            values["closings"],
            values["avoidables"],
            values["dues"],
            values["called_for"],
            values["calls"],
            values["forgotten"],
        )

    def at(self, us: int) -> Standing:
        """As it was just before this time."""
        mrr: dict[str, int] = {}
        running = paused = False
        for statements in self.statements.values():
            effective = [s for s in statements if s[0] < us]
            if not effective:
                continue
            *_, state, minor, currency = effective[-1]
            running |= state in ("billed", "paused")
            paused |= state == "paused"
            if state == "billed" and minor:
                mrr[currency] = mrr.get(currency, 0) + minor
        closed = max((m.at_us for m in self.closings if m.at_us < us), default=None)
        return Standing(mrr, running, paused, closed is not None and closed >= self._terms_set(us))

    def avoidable(self, us: int, until_us: int) -> bool | None:
        """Whether the loss by `us` could have been avoided: the newest word on it by `until_us`, None when nobody said.

        A word counts from when terms were last set before the loss until they are set again.
        """
        since = self._terms_set(us)
        again = (
            s[1]
            for statements in self.statements.values()
            for s in statements
            if s[0] >= us and s[3] in ("billed", "trial") and s[1] > since
        )
        until_us = min([until_us, *again])
        return next((m.value for m in reversed(self.avoidables) if since <= m.at_us < until_us), None)

    def paid_before(self, us: int) -> bool:
        """Whether it ever had revenue before this time."""
        times = sorted({s[0] + 1 for statements in self.statements.values() for s in statements if s[0] < us})
        return any(self.at(at).mrr for at in times)

    def _terms_set(self, us: int) -> int:
        """When terms that are in force by then were last stated, a pause or an end left aside."""
        terms = (s[1] for statements in self.statements.values() for s in statements if s[0] < us and s[3] in ("billed", "trial"))
        return max(terms, default=-(2**62))

    def in_one_currency(self, rates: Rates) -> Book | None:
        """The same with every amount converted; None when a rate is missing."""
        converted: dict[str, tuple[tuple[int, int, int, str, int, str], ...]] = {}
        for subscription, statements in self.statements.items():
            out = []
            for effective, at, position, state, minor, currency in statements:
                amount = rates.convert({currency: minor})
                if amount is None:
                    return None
                out.append((effective, at, position, state, amount, rates.to))
            converted[subscription] = tuple(out)
        return Book(self.ref, converted, self.closings, self.avoidables, self.dues, self.called_for, self.calls, self.forgotten)
