"""Who a fact is about, in the words of its source. Pure; imports nothing of ours."""

from __future__ import annotations

from typing import Literal, NamedTuple


class ExternalId(NamedTuple):
    """An id that somebody outside gave to a customer or to a person at one.

    Customer ids are one namespace per tenant: `source` is "" unless a connector was told to keep its ids apart
    (`customer_source`), so "cus_42" given to `record` and "cus_42" in a Stripe event are the same customer. It may be
    personal (an e-mail address): never put `id` into a message, a stream id or a log line.
    """

    kind: Literal["customer", "contact"]
    source: str
    id: str
