"""Features across customers: what may be declared, and one answer on the fold and over all history."""

from __future__ import annotations

import random
import time

import pytest

from postsale.aggregates.signals import InvoicePaid, TicketOpened
from postsale.errors import BadDeclaration, InvalidInput
from postsale.events import DAY_US
from postsale.projections import Component, Fact, Features, Fold, HealthModel, across, count, days, latest, total
from postsale.projections.related import exchanged, gathered
from postsale.testing import assert_parity, random_facts, random_ids
from postsale.testing.parity import duckdb_engine

from .related import INVITED, Everyone, Friends, Invited
from .support import PAID, Measured


def test_every_operation_reads_across_and_agrees_with_the_naive_reading_on_fold_and_duckdb():
    assert_parity(Everyone)


def test_a_declaration_with_money_by_currency_agrees_too():
    assert_parity(Friends)


def test_the_kit_makes_moves_late_links_cycles_selves_strangers_and_parents_without_facts():
    """Of ten seeds together, so that no single one must have all."""
    seen: set[str] = set()
    for seed in range(random.randrange(1000), 10**6, 90_000):
        ids, named, newest = random_ids(seed), {}, {}
        for key, fact in random_facts(Everyone, seed):
            if fact.kind == INVITED and (id_ := fact.fields.get("referrer")) is not None:
                parent = ids.get(id_)
                named.setdefault(key, set()).add(parent)
                seen |= {"stranger"} if parent is None else set()
                seen |= {"self"} if parent == key else set()
                seen |= {"tie"} if newest.get(key) == fact.occurred_at_us else set()
                seen |= {"late link"} if newest.get(key, fact.occurred_at_us) > fact.occurred_at_us else set()
                newest[key] = max(newest.get(key, fact.occurred_at_us), fact.occurred_at_us)
                seen |= {"parent without facts"} if parent is not None and not parent.startswith("k") else set()
        seen |= {"move" for parents in named.values() if len(parents) > 1}
        seen |= {"cycle" for key, parents in named.items() for parent in parents if parent != key and key in named.get(parent, ())}
    assert seen == {"stranger", "self", "tie", "late link", "parent without facts", "move", "cycle"}


def test_an_engine_that_is_wrong_across_is_named():
    def broken(facts, expression):
        rows = duckdb_engine(facts, expression)
        return [row | ({"n": row["n"] + 1} if "friends" not in row and isinstance(row.get("n"), int) else {}) for row in rows]

    with pytest.raises(AssertionError, match=r"Everyone\.n of .*seed=7"):
        assert_parity(Everyone, seed=7, engines={"it": broken})


def _fact(kind, position, at, **fields):
    return Fact(kind, position, at * DAY_US, at * DAY_US, fields)


def _read(facts, key, as_of, ids=None):
    fold, states = Fold(Friends), {}
    for who, fact in facts:
        if fact.occurred_at_us <= as_of * DAY_US:
            fold.add(states.setdefault(who, fold.empty()), fact)
    found = exchanged(fold, states, lambda _, id_: (ids or {}).get(id_, id_))
    return fold.finish(states.get(key) or fold.empty(), as_of * DAY_US, found.get(key) or gathered(fold, ()))


PAYS = [("b", _fact(PAID, 2, 2, amount_minor=5, currency="EUR")), ("b", _fact(PAID, 4, 4, amount_minor=7, currency="EUR"))]


def test_a_member_that_moves_takes_everything_along_at_the_time_of_the_move():
    facts = [("b", _fact(INVITED, 1, 1, referrer="a")), *PAYS, ("b", _fact(INVITED, 5, 5, referrer="c"))]
    assert _read(facts, "a", 4).of(Friends.friends_paid) == {"EUR": 12}
    assert _read(facts, "a", 5).of(Friends.friends_paid) == {}
    assert _read(facts, "c", 5)["friends_paid"] == {"EUR": 12}
    assert _read(facts, "c", 5)["all_paid"] == 12
    assert _read(facts, "c", 60)["friends_invoices"] == 0, "windows run on"


def test_who_names_itself_is_nobodys_member_and_two_that_name_each_other_are_each_others():
    facts = [("b", _fact(INVITED, 1, 1, referrer="b")), *PAYS]
    assert _read(facts, "b", 9)["friends_paid"] == {}
    facts = [("b", _fact(INVITED, 1, 1, referrer="a")), *PAYS, ("a", _fact(INVITED, 5, 5, referrer="b"))]
    assert _read(facts, "a", 9)["friends_paid"] == {"EUR": 12}
    assert _read(facts, "b", 9)["friends_paid"] == {}


def test_without_a_word_about_members_nothing_is_finished():
    fold = Fold(Friends)
    with pytest.raises(InvalidInput, match="nothing was given about the members"):
        fold.finish(fold.empty(), 0)


def test_members_that_are_newer_than_the_time_are_refused_like_the_customers_own_facts():
    fold = Fold(Friends)
    member = fold.fold(fact for _, fact in PAYS)
    with pytest.raises(InvalidInput, match="fold again"):
        fold.finish(fold.empty(), 3 * DAY_US, gathered(fold, [("invited_by", member)]))


def test_many_members_cost_their_number():
    """100,000 members with a map each; it takes about two seconds of one core, in pieces of log(members)."""
    fold = Fold(Friends)
    (_, one), (_, other) = PAYS
    member = fold.fold([one, other])
    start = time.process_time()
    assert gathered(fold, (("invited_by", member) for _ in range(100_000))).states["friends_paid"] == {"EUR": 1_200_000}
    assert time.process_time() - start < 60


def test_the_digest_tells_whose_facts_are_read_and_is_as_before_without():
    class One(Features, version=1, owner="tests"):
        by = latest(Invited, lambda e: e.referrer)
        n = across(by, count(InvoicePaid))

    across_own = One.digest

    class One(Features, version=1, owner="tests"):
        by = latest(Invited, lambda e: e.referrer)
        n = across(by, count(InvoicePaid), source="hubspot")

    across_other = One.digest

    class One(Features, version=1, owner="tests"):
        by = latest(Invited, lambda e: e.referrer)
        n = count(InvoicePaid)

    assert len({across_own, across_other, One.digest}) == 3
    assert "across" not in One.leaves["n"].definition()


RELATION = latest(Invited, lambda e: e.referrer)


@pytest.mark.parametrize(
    ("declare", "reason"),
    [
        (lambda: across("invited_by", count(InvoicePaid)), "must be a latest"),
        (lambda: across(count(InvoicePaid), count(InvoicePaid)), "must be a latest"),
        (lambda: across(latest(Invited, lambda e: e.referrer, by=lambda e: e.note), count(InvoicePaid)), "without by="),
        (lambda: across(latest(Invited, lambda e: e.referrer, window=days(3)), count(InvoicePaid)), "has a window"),
        (lambda: across(latest(Invited, lambda e: e.points), count(InvoicePaid)), "gives int, expected the text of an id"),
        (lambda: across(RELATION, across(RELATION, count(InvoicePaid))), "one step is all there is"),
        (lambda: across(across(RELATION, latest(Invited, lambda e: e.referrer)), count(InvoicePaid)), "itself read across"),
        (lambda: across(RELATION, "paid"), "expected a feature over signals"),
        (lambda: across(RELATION, Friends.paid), "paid belongs to another class"),
        (lambda: across(RELATION, count(InvoicePaid), source=3), "source="),
        (lambda: latest(TicketOpened, lambda e: e.subject), "is personal"),
    ],
)
def test_a_relation_that_cannot_work_is_refused_where_it_is_declared(declare, reason):
    with pytest.raises(BadDeclaration, match=reason):
        declare()


def test_a_relation_that_is_no_feature_of_the_class_or_of_two_systems_is_refused():
    with pytest.raises(BadDeclaration, match="not a feature of Lost"):

        class Lost(Features, version=1, owner="tests"):
            n = across(RELATION, count(InvoicePaid))

    with pytest.raises(BadDeclaration, match="two systems"):

        class Two(Features, version=1, owner="tests"):
            by = latest(Invited, lambda e: e.referrer)
            n = across(by, count(InvoicePaid))
            m = across(by, total(Measured, lambda e: e.amount), source="hubspot")


def test_health_refuses_what_it_could_not_attribute():
    with pytest.raises(BadDeclaration, match="a declaration of their own"):
        HealthModel("social", 1, Friends, (Component("paid", 1, lambda values: 0),))
