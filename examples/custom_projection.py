"""A signal and features of your own, folded over a few facts."""

from postsale.aggregates.signals import Signal
from postsale.events import DAY_US, from_us
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


seen = [WebinarAttended(source="zoom", id=f"{n}", occurred_at=from_us((20_600 + n) * DAY_US), stayed_min=8 * n) for n in range(5)]
state = Fold(Webinars).fold(fact_from(signal, n) for n, signal in enumerate(seen, 1))
print(dict(Fold(Webinars).finish(state, as_of_us=20_610 * DAY_US)))
