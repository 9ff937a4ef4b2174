"""A read model of your own: features declared once, judged by your health model, and explained."""

from datetime import UTC, datetime, timedelta

from postsale import PostSale
from postsale.aggregates.signals import UsageObserved
from postsale.projections import Component, Features, HealthModel, days, derived, last_seen, total


class Reports(Features, version=1, owner="data-team"):
    exports = total(UsageObserved, lambda e: e.count, where=lambda e: e.feature == "export", window=days(30))
    uses = total(UsageObserved, lambda e: e.count, window=days(30))
    last = last_seen(UsageObserved)

    @derived(unit="percent")
    def export_percent(exports: int, uses: int) -> int | None:
        return 100 * exports // uses if uses else None


model = HealthModel("reports", 1, Reports, (Component("exports", 1, lambda v: v["export_percent"] * 1_000_000, fresh="last"),))
with PostSale.open("memory:", health=model) as ps:
    acme, start = ps.tenant("acme"), datetime.now(UTC) - timedelta(days=9)
    for n, feature in enumerate(["search", "search", "export", "export"]):
        acme.record("cus_42", UsageObserved(source="app", id=f"u{n}", occurred_at=start + timedelta(days=n), feature=feature, count=n + 1))
    print(acme.health("cus_42").why())
