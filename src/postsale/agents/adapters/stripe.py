"""Stripe: credits on a customer's balance. Shape: docs.stripe.com/api, customer balance transactions and idempotent requests.

Stripe may forget a key 24 hours after its first use; what may have happened is then not sent again, and a person looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from postsale.agents.adapters.http import Answer, Client, Find, HttpTool, deadline, segment
from postsale.agents.tools.contract import Rate, Receipt
from postsale.agents.tools.sandbox import Credit, CreditRef, OfferCredit, WithdrawCredit
from postsale.errors import ToolRefused, ToolUncertain

URL = "https://api.stripe.com"
_OTHER_UNITS: Final = frozenset({"MGA", "ISK", "UGX"})  # where Stripe's smallest unit is not ISO 4217's


class _Balance(HttpTool):
    key_lives_s = 23 * 3_600.0
    rate = Rate(20, 1.0)
    risk_tier = "high"

    def __init__(self, secret_key: str, customer_of: Find, *, base_url: str = URL, client: Client | None = None) -> None:
        super().__init__(base_url, headers={"Authorization": f"Bearer {secret_key}"}, client=client)
        self._customer_of = customer_of

    @staticmethod
    def error_code(body: Any) -> str:
        error = body.get("error") if isinstance(body, Mapping) else None
        return str(error.get("code") or error.get("type") or "") if isinstance(error, Mapping) else ""

    def move(self, customer: str, amount_minor: int, currency: str, text: str, key: str, timeout_s: float) -> Receipt:
        """Add to what the customer owes: a negative amount is a credit."""
        if currency in _OTHER_UNITS:
            raise ToolRefused(tool=self.ref.name, reason=f"Stripe counts {currency} in another unit")
        form = {"amount": str(amount_minor), "currency": currency.lower(), "description": text[:350], "metadata[postsale_effect]": key}
        path = f"/v1/customers/{segment(self.on_the_other_side(self._customer_of, customer))}/balance_transactions"
        try:
            made: Answer = self.send("POST", path, deadline_s=deadline(timeout_s), headers={"Idempotency-Key": key}, form=form)
        except ToolRefused as error:
            if error.reason.endswith("idempotency_error"):  # the key was used with other parameters: what it did then is not known here
                raise ToolUncertain(tool=error.tool, reason=error.reason) from None
            raise
        return Receipt(receipt=self.expect(made, "id"))


class StripeCredit(_Balance):
    """A credit on the customer's balance: the next invoices are lower by it."""

    name, version, kind, input = OfferCredit.name, 1, "idempotent", Credit
    undo = OfferCredit.undo

    def call(self, arguments: Credit, *, idempotency_key: str, timeout_s: float) -> Receipt:
        a = arguments
        return self.move(a.customer, -a.amount_minor, a.currency, a.terms, idempotency_key, timeout_s)


class StripeWithdrawCredit(_Balance):
    """The same amount the other way round."""

    name, version, kind, input = WithdrawCredit.name, 1, "idempotent", CreditRef

    def call(self, arguments: CreditRef, *, idempotency_key: str, timeout_s: float) -> Receipt:
        a = arguments
        return self.move(a.customer, a.amount_minor, a.currency, f"takes back {a.credit}", idempotency_key, timeout_s)
