"""Outcomes of a tenant: what its customers' facts, read once, say about a period. Part of the wiring: may import everything below `app`.

Memory grows with customers and with what their histories keep, not with usage.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from postsale.aggregates.identity import CUSTOMERS
from postsale.app.health import Membership, membership
from postsale.app.training import claimed_us
from postsale.errors import InvalidInput
from postsale.events import Lane, StreamId, from_us, to_us
from postsale.projections import outcomes as o
from postsale.projections.features import Features
from postsale.projections.folding import FeatureValues, Fold, State, fact_of
from postsale.projections.outcomes.renewals import due_in
from postsale.projections.outcomes.response import KINDS as RESPONSE
from postsale.projections.outcomes.revenue import month_starts, readable
from postsale.projections.runner import CATEGORIES
from postsale.projections.training import Knowledge
from postsale.store.contract import Query
from postsale.store.log import Log

MONTHS: Final = 12
_AT_THE_END: Final = (o.Adoption, o.Expansion)  # what holds then, not by now
_DECLARED: Final[tuple[type[Features], ...]] = (
    o.Revenue,
    o.Expansion,
    o.Onboarding,
    o.Adoption,
    o.Advocacy,
    o.Answers,
    o.Support,
)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came of a period, measure by measure, with the tables behind them."""

    frame: o.Frame
    measures: tuple[o.Measure, ...]
    mrr: tuple[o.MrrPoint, ...]  # at the end of the period and of the months before it
    movements: tuple[o.Movements, ...]
    renewals: tuple[o.Renewal, ...]
    cases: tuple[o.Case, ...]  # risk cases opened in the period
    coverage: tuple[o.Coverage, ...]  # by agent
    invitations: o.Invitations

    def measure(self, name: str, currency: str | None = None) -> o.Measure:
        """The measure of this name; of several currencies the one that is named. InvalidInput when there is none, or more than one."""
        found = [m for m in self.measures if m.name == name and currency in (None, m.currency)]
        if len(found) == 1:
            return found[0]
        if found:
            reason = f"{name} has a value for each of {', '.join(str(m.currency) for m in found)}; say which"
            raise InvalidInput(what="outcome", field="currency", reason=reason)
        known = ", ".join(dict.fromkeys(m.name for m in self.measures))
        raise InvalidInput(
            what="outcome", field="name", reason=f"no such measure{' in that currency' if currency else ''}; there are: {known}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            **self.frame.to_dict(),
            "measures": [m.to_dict() for m in self.measures],
            "mrr": [p.to_dict() for p in self.mrr],
            "movements": [m.to_dict() for m in self.movements],
            "renewals": [r.to_dict() for r in self.renewals],
            "cases": [c.to_dict() for c in self.cases],
            "coverage": [c.to_dict() for c in self.coverage],
            "invitations": self.invitations._asdict(),
        }


def frame_of(log: Log, start: datetime, end: datetime, as_of: datetime | None, known_at: datetime | None, knowledge: Knowledge) -> o.Frame:
    """The frame with its defaults: now, and everything that is recorded."""
    now_us = log.clock.now_us()
    newest = next(iter(log.store.read(Query(backward=True, limit=1))), None)
    known_us = max(now_us, newest.recorded_at_us if newest else 0)
    return o.Frame(
        start=from_us(to_us(start)),
        end=from_us(to_us(end)),
        as_of=from_us(now_us if as_of is None else to_us(as_of)),
        known_at=from_us(known_us if known_at is None else to_us(known_at)),
        knowledge=knowledge,
    )


def outcomes_of(
    log: Log,
    tenant: str,
    frame: o.Frame,
    *,
    rates: o.Rates | None = None,
    conditions: Collection[str] | None = None,
    reply_within_us: int | None = None,
) -> Outcomes:
    """Every outcome of the period. Raises what an unreadable event raises."""
    known_us = None if frame.knowledge == "claimed" else to_us(frame.known_at)
    members = membership(log, tenant, None, known_us)
    values = values_of(log, tenant, frame, members, _DECLARED)
    books = [o.Book.of(ref, v) for ref, v in values[o.Revenue].items()]
    good, _ = readable(books, rates)
    calls = o.renewals(books, frame)
    happened = _happened(log, tenant, frame, members)
    cases = o.cases(happened, frame)
    measures = [
        *o.retention(books, frame, rates=rates),
        *o.retention(books, frame, rates=rates, eligible=lambda book: due_in(book, frame.start_us, frame.end_us)),
        *o.logo_churn(books, frame),
        *o.expansion(books, values[o.Expansion], frame, rates),
        o.renewal_rate(calls, frame),
        *o.hit_rates(calls, frame),
        *o.onboarding(values[o.Onboarding], frame),
        *o.adoption(values[o.Adoption], frame),
        *o.surveys(values[o.Answers], frame),
        *o.referrals(values[o.Advocacy], frame),
        *o.response(happened, frame, conditions),
        *o.case_measures(cases, happened, frame),
        *o.tickets(values[o.Support], frame, reply_within_us),
    ]
    history = o.mrr_history(good, month_starts(frame, MONTHS))
    invited = o.invitations(values[o.Advocacy], frame)
    return Outcomes(
        frame,
        tuple(measures),
        tuple(history),
        tuple(o.movements(good, frame)),
        tuple(calls),
        tuple(cases),
        tuple(o.coverage(happened, frame)),
        invited,
    )


@dataclass(frozen=True, slots=True)
class Revenue:
    """The recurring revenue of a part of a period."""

    frame: o.Frame
    movements: tuple[o.Movements, ...]
    retention: tuple[o.Measure, ...]


def revenue_of(log: Log, tenant: str, frames: Sequence[o.Frame]) -> list[Revenue]:
    """Movements of MRR, GRR and NRR of several periods, of which the terms are read once; their clocks are those of the first."""
    if not frames:
        return []
    known_us = None if frames[0].knowledge == "claimed" else to_us(frames[0].known_at)
    values = values_of(log, tenant, frames[0], membership(log, tenant, None, known_us), (o.Revenue,))
    books = [o.Book.of(ref, v) for ref, v in values[o.Revenue].items()]
    good, _ = readable(books)
    return [Revenue(f, tuple(o.movements(good, f)), tuple(o.retention(books, f))) for f in frames]


def _happened(log: Log, tenant: str, frame: o.Frame, members: Membership) -> list[o.Happened]:
    """What agents and people did, by the account that it belongs to. Nobody claims when a decision was known: it is as recorded."""
    whole = {part.id: stream.id for stream, parts in members.joined.items() for part in parts if part.category == CUSTOMERS}
    query = Query(
        tenant=tenant, category=CUSTOMERS, lane=Lane.DECISION, kinds=RESPONSE, as_of_us=frame.as_of_us, known_at_us=to_us(frame.known_at)
    )
    found = []
    for event in log.events(query):
        stored = event.stored
        ref = whole.get(stored.stream.id, stored.stream.id)
        found.append(o.Happened(ref, stored.occurred_at_us, stored.position, stored.event_id, event.data))
    return found


def values_of(
    log: Log, tenant: str, frame: o.Frame, members: Membership, declared: Sequence[type[Features]] = _DECLARED
) -> Mapping[type[Features], dict[str, FeatureValues]]:
    """Finished values by declaration and reference, of every customer with a fact that any of them reads: all folded in one pass."""
    claimed = frame.knowledge == "claimed"
    known_us = to_us(frame.known_at)
    at_us = {features: frame.end_us - 1 if features in _AT_THE_END else frame.as_of_us for features in declared}
    folds = [(Fold(features), at_us[features]) for features in declared]
    kinds = frozenset(kind for fold, _ in folds for kind in fold.kinds)
    states: dict[StreamId, list[State]] = {}
    query = Query(tenant=tenant, lane=Lane.FACT, kinds=kinds, as_of_us=frame.as_of_us, known_at_us=None if claimed else known_us)
    for stored in log.store.read(query):
        if stored.stream.category not in CATEGORIES or (claimed and claimed_us(stored) > known_us):
            continue
        own = states.get(stored.stream)
        if own is None:
            own = states[stored.stream] = [fold.empty() for fold, _ in folds]
        fact = fact_of(stored)
        for (fold, upto_us), state in zip(folds, own, strict=True):
            if fact.kind in fold.kinds and fact.occurred_at_us <= upto_us:
                fold.add(state, fact)
    customers = {stream for stream in states if stream.category == CUSTOMERS} | members.joined.keys()
    found: dict[type[Features], dict[str, FeatureValues]] = {features: {} for features in declared}
    for stream in sorted(customers - members.merged):
        parts = [states[s] for s in (stream, *members.joined.get(stream, ())) if s in states]
        for i, (fold, upto_us) in enumerate(folds):
            whole = fold.empty()
            for part in parts:
                whole = fold.merge(whole, part[i])
            if parts:
                found[fold.features][stream.id] = fold.finish(whole, upto_us)
    return found
