"""Expected future purchases by BG/NBD: how many more a customer makes within a horizon, from (x, t_x, T) alone. Pure scoring.

Source: P. Fader, B. Hardie, K. Lee, "Counting Your Customers" the Easy Way, Marketing Science 24 (2), 2005: purchases come at a
Poisson rate that differs by a gamma distribution (r, alpha), and after each the customer leaves with a probability that differs by
a beta distribution (a, b). Parameters are data; `fitting` estimates them. Imports scoring, fold, events.

x counts *repeat* purchases, t_x is the customer's age at the last one, T its age now: frequency, recency and T of that literature.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from postsale.errors import InvalidInput
from postsale.events import DAY_US, Id
from postsale.projections.folding import FeatureValues
from postsale.projections.scoring import MICRO, Expected, ModelData

_Positive = Annotated[float, Field(gt=0, le=1e9)]


class PurchaseState(NamedTuple):
    """What BG/NBD knows about a customer."""

    x: int  # repeat purchases
    t_x_days: float  # from the first purchase to the last
    T_days: float  # from the first purchase to now


class PurchaseModel(ModelData):
    """BG/NBD as data. `purchases`, `first` and `last` name the features of its declaration that it reads.

    Times are in days. It gives the number of purchases expected within the next `horizon_days`.
    """

    kind: Literal["bg-nbd"] = "bg-nbd"
    purchases: Id  # a count
    first: Id  # a first_seen
    last: Id  # a last_seen
    horizon_days: _Positive
    r: _Positive
    alpha: _Positive  # days
    a: _Positive
    b: _Positive

    @property
    def outcome(self) -> str:
        return f"purchases within {self.horizon_days:g} days"

    def state(self, values: FeatureValues) -> PurchaseState | None:
        """(x, t_x, T) at `values.as_of_us`; None for a customer without a purchase."""
        return state_of(values[self.purchases], values[self.first], values[self.last], values.as_of_us)

    def score(self, values: FeatureValues) -> Expected | None:
        """The number of purchases expected within `horizon_days`; None for a customer without a purchase."""
        state = self.state(values)
        return None if state is None else Expected(round(MICRO * self.expected(state, self.horizon_days)))

    def expected(self, state: PurchaseState, t_days: float) -> float:
        """Expected purchases in (T, T + t]: equation 10 of the source."""
        x, _, age = state
        r, alpha, a, b = self.r, self.alpha, self.a, self.b
        if abs(a - 1) < 1e-9:
            a = 1 + 1e-9  # the formula has a removable gap there
        z = t_days / (alpha + age + t_days)
        # Euler's transformation of the source's 2F1(r + x, b + x; a + b + x - 1; z): it cancels the power before it, so that
        # nothing overflows and the series converges fast, however many purchases there are.
        gone = (1 - z) ** (a - 1) * _hypergeometric(a + b - 1 - r, a - 1, a + b + x - 1, z)
        number: float = (a + b + x - 1) / (a - 1) * (1 - gone)
        return max(0.0, number * self.alive(state))

    def alive(self, state: PurchaseState) -> float:
        """The probability that the customer has not left.

        It is 1 for every customer without a repeat purchase, by construction: do not rank customers by it.
        """
        x, t_x, age = state
        if x == 0:
            return 1.0
        log_ratio = math.log(self.a / (self.b + x - 1)) + (self.r + x) * math.log((self.alpha + age) / (self.alpha + t_x))
        return 1 / (1 + math.exp(log_ratio)) if log_ratio < 700 else 0.0


def state_of(purchases: int, first_us: int | None, last_us: int | None, as_of_us: int) -> PurchaseState | None:
    """(x, t_x, T) from a count of purchases and the times of the first and the last one; None without any."""
    if not purchases or first_us is None or last_us is None:
        return None
    if as_of_us < last_us:
        raise InvalidInput(what="purchases", field="as_of", reason="lies before the last purchase")
    return PurchaseState(purchases - 1, (last_us - first_us) / DAY_US, (as_of_us - first_us) / DAY_US)


def _hypergeometric(a: float, b: float, c: float, z: float) -> float:
    """2F1(a, b; c; z) for 0 <= z < 1 by its series."""
    term = total = 1.0
    for n in range(100_000):
        term *= (a + n) * (b + n) / (c + n) * z / (n + 1)
        total += term
        if abs(term) < 1e-15 * abs(total):
            break
    return total
