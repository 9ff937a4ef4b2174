"""What the friends that a customer brought in have paid: a feature over the facts of related customers."""

from datetime import UTC, datetime

from postsale import PostSale
from postsale.aggregates.signals import InvoicePaid, ReferralAccepted
from postsale.projections import Features, across, count, days, latest, total


class Advocacy(Features, version=1, owner="growth"):
    invited_by = latest(ReferralAccepted, lambda e: e.referrer)
    friends_paid = across(invited_by, total(InvoicePaid, lambda e: e.amount_minor, by=lambda e: e.currency))
    friends_invoices = across(invited_by, count(InvoicePaid, window=days(30)))


with PostSale.open("memory:") as ps:
    acme, now = ps.tenant("acme"), datetime.now(UTC)
    for n, (friend, referrer) in enumerate([("ann", "nobody"), ("bob", "ann"), ("cid", "ann")]):
        acme.record(friend, ReferralAccepted(source="app", id=f"r{n}", occurred_at=now, referral_id=f"r{n}", referrer=referrer))
        acme.record(friend, InvoicePaid(source="billing", id=f"i{n}", occurred_at=now, amount_minor=900, currency="EUR"))
    for name in ("ann", "bob"):
        values = acme.features(Advocacy, name)
        print(f"{name}: friends paid {values['friends_paid']} in {values['friends_invoices']} invoices")
