"""Accessors are recorded exactly, or refused with the reason, when they are declared."""

from __future__ import annotations

import operator
import random
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import AccountProfiled, InvoicePaid, RenewalDue, Signal, SubscriptionStarted, SurveyAnswered
from postsale.errors import BadDeclaration
from postsale.events import Id
from postsale.projections.expressions import Const, Field, Op, as_json, compiled, evaluate
from postsale.projections.tracing import trace

from .support import Measured

LIMIT = 5
ANY = [1, 2]


class Listed(Signal):
    wire_name: ClassVar[str] = "tests.projections/listed@1"
    names: list[Id]
    share: float = 0.5
    either: int | str = 1


ACCEPTED = {
    "field": lambda e: e.amount,
    "plus": lambda e: e.amount + 3,
    "plus, swapped": lambda e: 3 + e.amount,
    "minus": lambda e: e.amount - e.step,
    "minus, swapped": lambda e: 10 - e.amount,
    "times": lambda e: e.amount * 2 * e.step,
    "times, swapped": lambda e: 2 * e.amount,
    "floor division": lambda e: e.amount // e.step,
    "floor division, swapped": lambda e: 100 // e.amount,
    "modulo": lambda e: e.amount % -7,
    "modulo, swapped": lambda e: 7 % e.step,
    "negation": lambda e: -e.amount,
    "nested": lambda e: -(e.amount - LIMIT) * (e.step + 1) // 3 % 4,
    "equal": lambda e: e.amount == e.step,
    "unequal": lambda e: e.amount != 3,
    "less": lambda e: e.amount < 3,
    "less, swapped": lambda e: 3 < e.amount,  # noqa: SIM300
    "at most": lambda e: e.amount <= e.step,
    "more": lambda e: e.amount > 3,
    "at least": lambda e: e.amount >= -1,
    "text equal": lambda e: e.label == "a'\"\\",
    "text unequal": lambda e: e.label != "a",
    "flag": lambda e: e.good,
    "flag compared": lambda e: e.good == True,  # noqa: E712
}

_none_or = lambda values: st.one_of(st.none(), values)  # noqa: E731
payloads = st.fixed_dictionaries(
    {
        "amount": _none_or(st.integers(-20, 20)),
        "step": _none_or(st.integers(-3, 3)),
        "label": st.sampled_from([None, "a", "a'\"\\"]),
        "good": st.sampled_from([None, True, False]),
    }
).map(lambda fields: {k: v for k, v in fields.items() if v is not None})


class _Bare:
    """The event as Python sees it."""

    def __init__(self, fields):
        self.__dict__.update(dict.fromkeys(["amount", "step", "label", "good"]) | fields)


@pytest.mark.parametrize("name", sorted(ACCEPTED))
def test_a_recorded_accessor_gives_what_python_gives_and_none_where_a_field_is_absent(name):
    accessor = ACCEPTED[name]
    tree = trace("it", (Measured,), accessor)
    fast = compiled(tree)

    @given(payloads)
    def check(fields):
        got = evaluate(tree, fields)
        assert got == fast(fields)
        assert type(got) is type(fast(fields))
        if None in (got, *(_Bare(fields).__dict__[f] for f in _fields(tree))):
            assert got is None  # nothing is calculated with an absent field, nor divided by zero
        else:
            assert got == accessor(_Bare(fields))

    check()


def _fields(tree):
    match tree:
        case Field(name, _):
            return {name}
        case Const():
            return set()
        case Op(_, args):
            return set().union(*map(_fields, args))


def test_division_by_zero_is_no_value():
    tree = trace("it", (Measured,), lambda e: e.amount // e.step + e.amount % e.step)
    assert evaluate(tree, {"amount": 3, "step": 0}) is None
    assert compiled(tree)({"amount": 3, "step": 0}) is None


def test_joined_conditions_are_decided_by_one_side_where_it_decides():
    both = trace("it", (Measured,), lambda e: (e.amount > 0) & e.good)
    either = trace("it", (Measured,), lambda e: (e.amount > 0) | e.good)
    truth = {
        (True, True): (True, True),
        (True, False): (False, True),
        (True, None): (None, True),
        (False, False): (False, False),
        (False, None): (False, None),
        (None, None): (None, None),
    }
    for pair, expected in truth.items():
        for one, other in (pair, pair[::-1]):
            fields = {"amount": {True: 1, False: 0}.get(one), "good": other}
            fields = {name: value for name, value in fields.items() if value is not None}
            for read in (lambda tree, fields=fields: evaluate(tree, fields), lambda tree, fields=fields: compiled(tree)(fields)):
                assert (read(both), read(either)) == expected, fields


def test_a_time_reads_as_utc_microseconds_whatever_its_offset():
    tree = trace("it", (RenewalDue,), lambda e: e.renews_at)
    assert tree == Field("renews_at", "time")
    for text in ("1970-01-01T00:00:01Z", "1970-01-01T02:00:01+02:00", "1969-12-31T23:00:01.000000-01:00"):
        assert evaluate(tree, {"renews_at": text}) == compiled(tree)({"renews_at": text}) == 1_000_000


def test_the_tree_is_plain_data_that_another_engine_can_read():
    tree = trace("it", (SurveyAnswered,), lambda e: (e.score - e.scale_min) * 100 // 7)
    minus = ["op", "-", ["field", "score", "int"], ["field", "scale_min", "int"]]
    assert as_json(tree) == ["op", "//", ["op", "*", minus, ["const", 100, "int"]], ["const", 7, "int"]]


def test_text_in_a_constant_stays_data_and_never_becomes_code():
    tree = trace("it", (Measured,), lambda e: e.label == "') or __import__('os').abort() or ('")
    assert compiled(tree)({"label": "x"}) is False


REFUSED = {
    "an unknown field": (Measured, lambda e: e.nope, "does not exist"),
    "a personal field": (AccountProfiled, lambda e: e.name, "personal"),
    "an envelope field": (InvoicePaid, lambda e: e.occurred_at, "envelope"),
    "a list": (Listed, lambda e: e.names, "not an integer"),
    "a float field": (Listed, lambda e: e.share, "not an integer"),
    "a union": (Listed, lambda e: e.either, "not an integer"),
    "true division": (Measured, lambda e: e.amount / 2, "float"),
    "true division, swapped": (Measured, lambda e: 2 / e.amount, "float"),
    "a float constant": (Measured, lambda e: e.amount * 1.5, "a float"),
    "a huge constant": (Measured, lambda e: e.amount + 2**60, r"2\^53"),
    "None": (Measured, lambda e: e.amount == None, "NoneType"),  # noqa: E711
    "is None": (Measured, lambda e: e.amount is None, "`is`"),
    "is None or": (Measured, lambda e: e.amount is None or e.amount > 3, "`is`"),
    "power": (Measured, lambda e: e.amount**2, r"\*\*"),
    "arithmetic on text": (Measured, lambda e: e.label + "x", "only integers"),
    "arithmetic on a flag": (Measured, lambda e: e.good + 1, "only integers"),
    "negated flag": (Measured, lambda e: -e.good, "bool"),
    "ordered text": (Measured, lambda e: e.label < "x", "ordered"),
    "text against integer": (Measured, lambda e: e.label == 3, "between"),
    "a branch": (Measured, lambda e: e.amount if e.good else 0, "branches"),
    "a branch on a constant": (Measured, lambda e: e.amount if LIMIT else e.step, "branches"),
    "and": (Measured, lambda e: e.good and e.amount, "branches"),
    "not": (Measured, lambda e: not e.good, "condition"),
    "a chain": (Measured, lambda e: 0 < e.amount < 5, "branches"),
    "in": (Measured, lambda e: e.amount in (1, 2), "`in`"),
    "bitwise and": (Measured, lambda e: e.amount & e.step, "joins conditions"),
    "bitwise or, swapped": (Measured, lambda e: 4 | e.amount, "joins conditions"),
    "a condition joined without parentheses": (Measured, lambda e: e.amount > 3 & e.step, "each in parentheses"),
    "a condition joined with a constant": (Measured, lambda e: e.good | True, "joins conditions"),
    "exclusive or": (Measured, lambda e: e.good ^ e.good, r"\^"),
    "inversion": (Measured, lambda e: ~e.good, "invert"),
    "a call": (Measured, lambda e: len(e.label), "a call"),
    "a method": (Measured, lambda e: e.label.upper(), "a call"),
    "a drawn constant": (Measured, lambda e: e.amount + random.randrange(3), "a call"),
    "an attribute of a value": (Measured, lambda e: e.amount.real, "attribute"),
    "an index": (Measured, lambda e: e.label[0], "getitem"),
    "an unpacking": (Measured, lambda e: [*e.label], "iter"),
    "use as a key": (Measured, lambda e: {e.label: 1}, "hash"),
    "formatting": (Measured, lambda e: f"{e.label}", "formatting"),
    "a comprehension": (Measured, lambda e: [e.amount for x in ANY], "nested function|branches"),
    "a constant": (Measured, lambda e: 1, "not a value of the event"),
    "a tuple": (Measured, lambda e: (e.amount, e.step), "not a value of the event"),
    "the event": (Measured, lambda e: e, "not a value of the event"),
    "no function": (Measured, operator.attrgetter("amount"), "a lambda"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_recorded_is_refused_by_reason(name):
    kind, accessor, reason = REFUSED[name]
    with pytest.raises(BadDeclaration, match=reason) as caught:
        trace("Billing.owed", (kind,), accessor)
    assert str(caught.value).startswith("Billing.owed: ")


def test_kinds_that_hold_a_field_differently_cannot_share_an_accessor():
    class Texted(Signal):
        wire_name: ClassVar[str] = "tests.projections/texted@1"
        amount: Id | None = None

    with pytest.raises(BadDeclaration, match="different types"):
        trace("it", (Measured, Texted), lambda e: e.amount)
    with pytest.raises(BadDeclaration, match="does not exist"):
        trace("it", (SubscriptionStarted, Measured), lambda e: e.seats)
