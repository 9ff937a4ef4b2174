"""A story beside itself without actions: what a report shows of it is the simulator's truth."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from postsale.simulator import TROUBLED, Vendor, compared

START = datetime(2026, 1, 1, tzinfo=UTC)


def lived(*, acting: bool) -> tuple[Vendor, list[tuple[int, object]]]:
    vendor, seen = Vendor(1, customers=50, start=START, days=120, model=TROUBLED), []
    for day in (40, 80, 120):
        vendor.live(day)
        seen.append((day, vendor.outcomes()))
        if acting:
            for name in vendor.outcomes():
                vendor.respond(name, "renewal-call", START + timedelta(days=day))
    return vendor, seen  # type: ignore[return-value]


def test_without_actions_both_worlds_are_the_same() -> None:
    vendor, seen = lived(acting=False)
    twin = compared(vendor, seen, "EUR")  # type: ignore[arg-type]
    assert [(line.difference, line.low, line.high) for line in twin.lines] == [(0, 0.0, 0.0)] * len(twin.lines)
    assert all(one == other > 0 for _, one, other in twin.months)
    assert twin.by_action == {}


def test_with_actions_the_differences_are_the_truth_and_lie_within_their_intervals() -> None:
    vendor, seen = lived(acting=True)
    twin, truth = compared(vendor, seen, "EUR"), vendor.truth()  # type: ignore[arg-type]
    kept, renewed, mrr, collected, bought = twin.lines
    both = truth.acted  # of all others the difference is nothing
    assert kept.customers == both.customers + truth.spared.customers
    assert (kept.difference, renewed.difference) == (-both.churned, both.renewed)
    assert (mrr.difference, collected.difference, bought.difference) == (both.mrr_minor, both.collected_minor, both.referrals)
    assert kept.difference > 0
    for line in twin.lines:
        assert line.low <= line.mean <= line.high
        assert round(line.mean * line.customers) == line.difference
    assert twin.by_action == {"renewal-call": (both.customers, -both.churned, both.mrr_minor)}
    assert [at for at, _, _ in twin.months] == [START + timedelta(days=day) for day in (40, 80, 120)]
    assert twin == compared(vendor, seen, "EUR")  # type: ignore[arg-type]
