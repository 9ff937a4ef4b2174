"""A signal of your own: a class with a wire name. It is recorded, sealed, folded and explained like the shipped ones."""

from datetime import UTC, datetime

from postsale import PostSale
from postsale.aggregates.signals import Signal


class WebinarAttended(Signal):
    """Somebody at the customer attended a webinar."""

    wire_name = "acme.webinars/attended@1"  # stored for ever; to change a field, declare a class with `@2`
    webinar: str
    stayed_min: int


attended = WebinarAttended(source="zoom", id="w1-p7", occurred_at=datetime(2026, 5, 4, 15, tzinfo=UTC), webinar="onboarding", stayed_min=42)
with PostSale.open("memory:") as ps:
    acme = ps.tenant("acme")
    print("stored:", acme.record("cus_42", attended).stored)
    print("stored again:", acme.record("cus_42", attended).stored)
    for event in acme.timeline("cus_42"):
        print(event.position, event.stored.wire_name, event.data.payload())
