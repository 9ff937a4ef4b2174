"""For your own projections: given these events, then these rows. Needs no database, no clock and no runner of yours.

given(Billing, ("cus_1", InvoicePaid(…)), ("cus_2", InvoicePaid(…))).then({"cus_1": {"paid": 1}, "cus_2": {"paid": 1}})
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from postsale.aggregates.identity import ExternalId
from postsale.aggregates.signals import Signal
from postsale.app import PostSale
from postsale.events import ManualClock, from_us, to_us
from postsale.projections import Features, FeatureValues, Fold, Kin, MemoryViews, Runner

_TENANT: Final = "test"
_SHARES: Final = 3

Event = tuple[str | ExternalId, Signal]
"""Whom a signal is about, and the signal."""


class Given:
    """Events that were recorded in this order; see `given`."""

    def __init__(self, features: type[Features], events: tuple[Event, ...]) -> None:
        self._features, self._events = features, events

    def then(self, rows: Mapping[str, Mapping[str, object]], *, as_of: datetime | None = None, known_at: datetime | None = None) -> None:
        """AssertionError unless the projection has exactly these rows, by customer, with these values; features that a row does not name may be anything.

        `as_of` is by default when the newest event occurred; with `known_at` only events recorded by then count, each being recorded
        when it occurred, or when the one before it was, if that is later. Every way of getting at the rows must agree: from the log, and
        from a view that is folded in shares after each event, with every event arriving twice.
        Raises what recording an event raises.
        """
        newest_us = max((to_us(signal.occurred_at) for _, signal in self._events), default=0)
        at_us = newest_us if as_of is None else to_us(as_of)
        found = self._from_log(at_us, known_at)
        wrong = _differences(rows, found, "")
        if not wrong and known_at is None and newest_us <= at_us:  # a view holds all that is known: it answers for no earlier time
            wrong = _differences(rows, self._from_view(at_us), "in a view: ")
        if wrong:
            raise AssertionError(f"{self._features.__name__} as of {from_us(at_us).isoformat()}:\n" + "\n".join(wrong))

    def _from_log(self, at_us: int, known_at: datetime | None) -> dict[str, FeatureValues]:
        clock = ManualClock(0)
        with PostSale.open("memory:", clock=clock) as ps:
            tenant = ps.tenant(_TENANT)
            for customer, signal in self._events:
                clock.move_to(max(clock.now_us(), to_us(signal.occurred_at)))
                tenant.record(customer, signal)
            names = tenant.names()
            return {names[ref]: v for ref, v in tenant.all_features(self._features, as_of=from_us(at_us), known_at=known_at)}

    def _from_view(self, at_us: int) -> dict[str, FeatureValues]:
        clock = ManualClock(0)
        with PostSale.open("memory:", clock=clock) as ps:
            tenant, fold = ps.tenant(_TENANT), Fold(self._features)
            views = MemoryViews()
            kin = Kin(ps.log.store, views, ps.log.vault)
            runner = Runner(ps.log.store, views, fold, partitions=_SHARES, clock=clock, kin=kin)
            for customer, signal in self._events:
                clock.move_to(max(clock.now_us(), to_us(signal.occurred_at)))
                for _ in range(2):
                    tenant.record(customer, signal)
                runner.catch_up()
            names, found = tenant.names(), {}
            for ref, name in names.items():
                state, _, related = runner.kept(tenant.customer(name).fact_streams)
                if fold.newest_us(state) is not None or (related is not None and related.newest_us is not None):
                    found[names[ref]] = fold.finish(state, at_us, related)
            return found


def given(features: type[Features], *events: Event) -> Given:
    """These events, in this order, about these customers; ids of the tenant's own are plain strings. What follows is `then`."""
    return Given(features, events)


def _differences(rows: Mapping[str, Mapping[str, object]], found: Mapping[str, FeatureValues], how: str) -> list[str]:
    wrong = [f"  {how}{name}: expected a row, found none" for name in sorted(rows.keys() - found.keys())]
    wrong += [f"  {how}{name}: expected no row, found {dict(found[name])}" for name in sorted(found.keys() - rows.keys())]
    for name in sorted(rows.keys() & found.keys()):
        for feature, expected in rows[name].items():
            value: Any = found[name].get(feature, _MISSING)
            if value is _MISSING:
                wrong.append(f"  {name}.{feature}: there is no such feature; there are: {', '.join(sorted(found[name]))}")
            elif value != expected or type(value) is not type(expected):
                wrong.append(f"  {how}{name}.{feature}: expected {expected!r}, found {value!r}")
    return wrong


_MISSING: Final = object()
