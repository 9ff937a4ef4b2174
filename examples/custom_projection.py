"""A signal and features of your own, folded over a few facts."""

from datetime import UTC, datetime

from postsale.aggregates.signals import Signal
from postsale.events import to_us
from postsale.projections import Features, Fold, count, days, derived, fact_from


class WebinarAttended(Signal):
    wire_name = "acme.webinars/attended@1"
    stayed_min: int


class Webinars(Features, version=1, owner="marketing"):
    attended = count(WebinarAttended, window=days(30))
    stayed = count(WebinarAttended, where=lambda e: e.stayed_min >= 20, window=days(30))

    @derived(unit="ratio")
    def attention(stayed: int, attended: int) -> float | None:
        return stayed / attended if attended else None


at = datetime(2026, 1, 5, tzinfo=UTC)
seen = [WebinarAttended(source="zoom", id=f"{n}", occurred_at=at, stayed_min=8 * n) for n in range(5)]
state = Fold(Webinars).fold(fact_from(signal, n) for n, signal in enumerate(seen, 1))
print(dict(Fold(Webinars).finish(state, to_us(at))))
