"""A declaration of the user's own, read through a tenant: one customer, all customers, both clocks, merges."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from postsale import foreign
from postsale.aggregates.signals import InvoicePaid
from postsale.events import ManualClock
from postsale.projections import Features, count, days, total

from .support import ANNA, NOON, Where, opened, paid


class Spending(Features, version=1, owner="tests"):
    """What came in."""

    payments = count(InvoicePaid)
    recent = count(InvoicePaid, window=days(30))
    spent = total(InvoicePaid, lambda e: e.amount_minor)


def test_a_read_sees_what_was_recorded_just_before_without_a_run(where: Where) -> None:
    with opened(where) as ps:
        acme = ps.tenant("acme")
        for n in range(3):
            acme.record("cus_1", paid(f"p{n}"))
            assert acme.features(Spending, "cus_1")["payments"] == n + 1


def test_as_of_and_known_at_answer_different_questions(where: Where) -> None:
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("first", NOON - timedelta(days=40)))
        before_the_late_one = NOON + timedelta(hours=1)
        clock.move_to(NOON + timedelta(days=1))
        acme.record("cus_1", paid("late", NOON - timedelta(days=50)))
        then = NOON - timedelta(days=45)
        assert acme.features(Spending, "cus_1", as_of=then)["payments"] == 1
        assert acme.features(Spending, "cus_1", known_at=before_the_late_one)["payments"] == 1
        assert acme.features(Spending, "cus_1", as_of=then, known_at=before_the_late_one)["payments"] == 0
        assert acme.features(Spending, "cus_1")["payments"] == 2


def test_a_merged_customer_is_one_and_waiting_facts_count_once_they_are_linked(where: Where) -> None:
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("a"))
        acme.record("cus_2", paid("b"))
        acme.record(foreign("crm", "77"), paid("c"))
        acme.link(foreign("crm", "77"), "cus_2")
        acme.merge("cus_2", into="cus_1", reason="the same company", by=ANNA)
        assert acme.features(Spending, "cus_2")["payments"] == 3
        assert [values["payments"] for _, values in acme.all_features(Spending)] == [3]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 10_000)), max_size=20))
def test_all_customers_at_once_are_the_same_as_one_by_one(payments: list[tuple[int, int, int]]) -> None:
    with opened(None) as ps:
        acme = ps.tenant("acme")
        for n, (customer, age, amount) in enumerate(payments):
            acme.record(f"cus_{customer}", paid(f"p{n}", NOON - timedelta(days=age), amount_minor=amount))
        together = {ref: dict(values) for ref, values in acme.all_features(Spending, as_of=NOON)}
        one_by_one = {ref: dict(acme.features(Spending, name, as_of=NOON)) for ref, name in acme.names().items()}
        assert together == one_by_one
        for ref, name in acme.names().items():
            mine = [(age, amount) for customer, age, amount in payments if f"cus_{customer}" == name]
            assert together[ref] == {
                "payments": len(mine),
                "recent": sum(1 for age, _ in mine if age < 30),
                "spent": sum(amount for _, amount in mine),
            }
