"""`given(…).then(…)`: a projection's test in one line that passes for exactly the right rows, and says what differs."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from postsale.aggregates.identity import foreign
from postsale.aggregates.signals import InvoicePaid, TicketOpened
from postsale.errors import ContentConflict
from postsale.projections import Features, count, days, derived, latest, total
from postsale.testing import given

from .customers import START, signal
from .related import Friends, Invited


class Billing(Features, version=1, owner="tests"):
    paid = count(InvoicePaid, window=days(30))
    revenue = total(InvoicePaid, lambda e: e.amount_minor, by=lambda e: e.currency)
    last = latest(InvoicePaid, lambda e: e.amount_minor)

    @derived()
    def ratio(paid: int) -> float:
        return paid / 2


def paid(on: float, minor: int, id: str = "") -> InvoicePaid:
    return signal(InvoicePaid, on, amount_minor=minor).model_copy(update={"id": id or f"in-{on}-{minor}"})  # type: ignore[return-value]


EVENTS = (("ann", paid(0, 5)), ("bob", paid(1, 7)), ("ann", paid(2, 9)), ("bob", signal(TicketOpened, 3)))
ROWS = {
    "ann": {"paid": 2, "revenue": {"EUR": 14}, "last": 9, "ratio": 1.0},
    "bob": {"paid": 1, "last": 7},
}


def test_exactly_the_right_rows_pass() -> None:
    given(Billing, *EVENTS).then(ROWS)
    given(Billing, *EVENTS).then({"ann": {"paid": 0}, "bob": {"paid": 0}}, as_of=START + timedelta(days=99))
    given(Billing, *EVENTS).then({"ann": {"paid": 1}}, as_of=START + timedelta(hours=1))
    given(Billing, *EVENTS).then({"ann": {"last": 5}, "bob": {}}, known_at=START + timedelta(days=1, hours=1))
    given(Billing).then({})


def test_features_across_customers_are_given_and_read_like_others() -> None:
    events = (
        ("ann", paid(0, 5)),
        ("bob", signal(Invited, 1, referrer="ann")),
        ("bob", paid(2, 7)),
        ("cid", signal(Invited, 3, referrer="bob").model_copy(update={"id": "later"})),
        ("bob", paid(4, 9)),
    )
    ann, bob = {"friends_paid": {"EUR": 16}, "all_paid": 21}, {"friends_paid": {}, "friends_invoices": 0, "invited_by": "ann"}
    given(Friends, *events).then({"ann": ann, "bob": bob, "cid": {"friends_paid": {}}})
    given(Friends, *events).then({"ann": {"friends_paid": {"EUR": 7}}, "bob": bob}, as_of=START + timedelta(days=2))
    with pytest.raises(AssertionError, match=r"ann\.friends_paid"):
        given(Friends, *events).then({"ann": {"friends_paid": {"EUR": 7}}, "bob": bob, "cid": {}})


def test_an_event_that_was_recorded_late_and_one_that_comes_again_are_what_they_are() -> None:
    late = (("ann", paid(5, 1)), ("ann", paid(2, 2)), ("ann", paid(5, 1)))
    given(Billing, *late).then({"ann": {"paid": 2, "last": 1}})
    given(Billing, *late).then({"ann": {"paid": 0, "last": 1}}, as_of=START + timedelta(days=99))
    with pytest.raises(ContentConflict):
        given(Billing, ("ann", paid(1, 1, "same")), ("ann", paid(1, 2, "same"))).then({})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS | {"ann": {"paid": 3}}, "ann.paid: expected 3, found 2"),
        (ROWS | {"cid": {}}, "cid: expected a row, found none"),
        ({"ann": {}}, "bob: expected no row, found {"),
        (ROWS | {"bob": {"payed": 1}}, "bob.payed: there is no such feature; there are: last, paid, ratio, revenue"),
        (ROWS | {"bob": {"paid": True}}, "bob.paid: expected True, found 1"),
        (ROWS | {"bob": {"paid": 1.0}}, "bob.paid: expected 1.0, found 1"),
    ],
)
def test_any_other_row_fails_and_the_difference_is_said(rows, said: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)):
        given(Billing, *EVENTS).then(rows)


def test_a_customer_of_another_system_that_is_not_linked_has_no_row() -> None:
    given(Billing, (foreign("crm", "7"), paid(0, 5))).then({})
