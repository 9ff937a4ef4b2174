"""Two clocks: `as_of` is the world's time, `known_at` ours. Reads against a brute-force fold over what was sent."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import Signal
from postsale.events import ManualClock, to_us
from postsale.projections import CUSTOMER_HEALTH, explain_health, fact_from

from .support import NOON, Where, failed, opened, paid, used

_HOUR = timedelta(hours=1)


def test_a_late_signal_changes_what_was_true_then_and_not_what_was_known_then(where: Where) -> None:
    """State, health, list and timeline alike: as_of reads see it, known_at reads do not, both together neither."""
    clock = ManualClock(NOON)
    monday, tuesday, wednesday = NOON, NOON + timedelta(days=1), NOON + timedelta(days=2)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_42", failed("f1", monday - 3 * _HOUR))
        acme.record("cus_42", paid("p1", monday - 2 * _HOUR))
        clock.move_to(wednesday)
        late = acme.record("cus_42", failed("late", monday - _HOUR)).position

        def seen(**clocks: datetime) -> tuple[int, float | None, float | None, bool]:
            state = acme.customer("cus_42", **clocks)
            (row,) = acme.customers(**clocks)
            health = acme.health("cus_42", **clocks)
            positions = [e.position for e in acme.timeline("cus_42", **clocks)]
            assert max(positions) == state.position
            return state.facts["billing/invoice-payment-failed"].count, row.score, health.score, late in positions

        assert seen() == (2, *seen()[1:3], True)
        assert seen(as_of=tuesday)[0] == 2
        assert seen(known_at=tuesday) == (1, *seen(known_at=tuesday)[1:3], False)
        assert seen(as_of=tuesday, known_at=tuesday)[0] == 1
        assert seen(as_of=monday - 2 * _HOUR)[0] == 1
        for clocks in ({}, {"as_of": tuesday}, {"known_at": tuesday}, {"as_of": tuesday, "known_at": tuesday}):
            _, listed, single, _ = seen(**clocks)
            assert listed == single
        assert acme.health("cus_42", as_of=tuesday).value_micro != acme.health("cus_42", as_of=tuesday, known_at=tuesday).value_micro


def test_the_trend_is_the_difference_to_the_health_as_of_30_days_before(where: Where) -> None:
    """Also for facts that were linked only today: who is who has no time in the world."""
    from postsale.aggregates.identity import foreign

    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        for n in range(0, 80, 3):
            acme.record(foreign("stripe", "cus_9"), failed(f"f{n}", NOON - timedelta(days=n), invoice_id=f"i{n}"))
            acme.record("cus_42", used(f"u{n}", NOON - timedelta(days=n)))
        acme.link(foreign("stripe", "cus_9"), "cus_42")
        health = acme.health("cus_42")
        before = acme.health("cus_42", as_of=health.trend.before_at)
        assert before.value_micro == health.trend.before_micro
        assert before.score is not None
        assert [r.value_micro for r in acme.customers(as_of=health.trend.before_at)] == [before.value_micro]


def test_both_clocks_are_inclusive_to_the_microsecond(where: Where) -> None:
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        receipt = acme.record("cus_42", paid("p1", NOON - _HOUR))
        tick = timedelta(microseconds=1)
        count = lambda **clocks: sum(s.count for s in acme.customer("cus_42", **clocks).facts.values())  # noqa: E731
        assert count(as_of=NOON - _HOUR) == 1
        assert count(as_of=NOON - _HOUR - tick) == 0
        assert count(known_at=receipt.recorded_at) == 1
        assert count(known_at=receipt.recorded_at - tick) == 0


@st.composite
def _sent(draw: st.DrawFn) -> list[tuple[int, str, Signal]]:
    """(hours after the start at which it is sent, customer, signal)."""
    out: list[tuple[int, str, Signal]] = []
    hour = 0
    for n in range(draw(st.integers(1, 14))):
        hour += draw(st.integers(0, 30))
        at = NOON + hour * _HOUR - draw(st.integers(0, 24 * 50)) * _HOUR
        customer = draw(st.sampled_from(["a", "b"]))
        kind = draw(st.sampled_from([paid, failed, used]))
        out.append((hour, customer, kind(f"n{n}", at)))
    return out


@given(_sent(), st.data())
def test_every_read_at_any_two_times_is_the_fold_of_what_was_sent_by_then(sent: list[tuple[int, str, Signal]], data: st.DataObject) -> None:
    """customer, health, customers and timeline against a filter over a list."""
    clock = ManualClock(NOON)
    with opened(None, clock=clock) as ps:
        acme = ps.tenant("acme")
        held = []
        for hour, customer, signal in sent:
            clock.move_to(NOON + hour * _HOUR)
            receipt = acme.record(customer, signal)
            held.append((customer, signal, receipt))
        times = [r.recorded_at for _, _, r in held] + [s.occurred_at for _, s, _ in held] + [NOON + timedelta(days=100)]
        as_of = data.draw(st.sampled_from(times), label="as_of")
        known_at = data.draw(st.sampled_from(times), label="known_at")
        rows = {row.name: row for row in acme.customers(as_of=as_of, known_at=known_at)}
        for name in {customer for customer, _, _ in held}:
            kept = [(s, r) for c, s, r in held if c == name and s.occurred_at <= as_of and r.recorded_at <= known_at]
            state = acme.customer(name, as_of=as_of, known_at=known_at)
            assert {k: s.count for k, s in state.facts.items()} == Counter(s.kind for s, _ in kept)
            for kind, summary in state.facts.items():
                newest = max((s.occurred_at, r.position, s) for s, r in kept if s.kind == kind)
                assert (summary.latest_at_us, summary.latest_position) == (to_us(newest[0]), newest[1])
            facts = [fact_from(s, r.position, recorded_at_us=to_us(r.recorded_at)) for s, r in kept]
            expected = explain_health(CUSTOMER_HEALTH, facts, to_us(as_of), to_us(known_at))
            health = acme.health(name, as_of=as_of, known_at=known_at)
            assert (health.value_micro, health.components, health.trend) == (expected.value_micro, expected.components, expected.trend)
            assert [e.position for e in acme.timeline(name, as_of=as_of, known_at=known_at) if e.header.source] == [
                r.position for _, r in kept
            ]
            assert (name in rows) == bool(kept)
            if kept:
                assert rows[name].value_micro == expected.value_micro
