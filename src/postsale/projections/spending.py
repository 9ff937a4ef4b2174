"""Expected spend and customer value: gamma-gamma for what a purchase is worth, beside BG/NBD for how many come. Pure scoring.

Source: P. Fader, B. Hardie, K. Lee, RFM and CLV, Journal of Marketing Research 42 (4), 2005, and P. Fader, B. Hardie, The Gamma-Gamma
Model of Monetary Value, 2013: a customer's purchases vary about a mean by a gamma distribution of shape p, and means differ among
customers by (q, gamma). It takes for granted that how much is spent and how often are independent: `fitting` says how far they are
not. Parameters are data. Imports purchases, scoring, fold, events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from postsale.events import Id
from postsale.projections.folding import FeatureValues
from postsale.projections.purchases import PurchaseModel
from postsale.projections.scoring import MICRO, Expected, ModelData

_Positive = Annotated[float, Field(gt=0, le=1e15)]


class ValueModel(ModelData):
    """What a customer will spend within the purchase model's horizon: purchases expected, times what one is expected to be worth.

    `spent` and `bought` name the features that hold the sum of one currency's purchases, in minor units, and their number. A customer
    who has bought nothing has no score. Not discounted: a horizon is months, not decades.
    """

    kind: Literal["gamma-gamma"] = "gamma-gamma"
    purchases: PurchaseModel
    spent: Id  # a total, minor units of `currency`
    bought: Id  # how many purchases that is
    currency: Annotated[str, Field(min_length=3, max_length=3)]
    p: _Positive
    q: Annotated[float, Field(gt=1, le=1e15)]  # at 1 and below the mean of all customers is infinite
    gamma: _Positive  # minor units

    @property
    def outcome(self) -> str:
        return f"{self.currency} minor units spent within {self.purchases.horizon_days:g} days"

    def per_purchase(self, bought: int, mean_minor: float) -> float:
        """What one purchase of the customer is expected to be worth, minor units: equation 5 of the note.

        A weighted mean of everybody's p·gamma / (q - 1) and the customer's own, whose weight grows with the number of purchases.
        """
        return self.p * (self.gamma + bought * mean_minor) / (self.p * bought + self.q - 1)

    def score(self, values: FeatureValues) -> Expected | None:
        """Minor units expected within the horizon, in millionths; None for a customer without a purchase."""
        spent, bought = values[self.spent], values[self.bought]
        if isinstance(spent, Mapping):
            spent = spent.get(self.currency)
        state = self.purchases.state(values)
        if state is None or not bought or spent is None:
            return None
        worth = self.per_purchase(bought, spent / bought)
        return Expected(round(MICRO * self.purchases.expected(state, self.purchases.horizon_days) * worth))
