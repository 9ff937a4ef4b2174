"""Features across customers from a log: who is whose member at both clocks, through links, merges and splits, wherever it is read."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale import foreign
from postsale.aggregates.signals import InvoicePaid
from postsale.app import PostSale
from postsale.app.tenant import Tenant
from postsale.app.training import Question, Rows
from postsale.errors import IdentityConflict, InvalidInput, UnknownCustomer
from postsale.events import DAY_US, ManualClock, to_us
from postsale.projections import Features, across, count, days, latest, total
from postsale.projections.training import feature_rows
from tests.projections.related import Invited

from .support import ANNA, NOON, Where, failed, opened, paid
from .test_training_rows import by_name

DAY = timedelta(days=1)


class Circle(Features, version=1, owner="growth"):
    """What comes in by invitations, by the tenant's ids and by the CRM's."""

    invited_by = latest(Invited, lambda e: e.referrer)
    company = latest(Invited, lambda e: e.note)
    payments = count(InvoicePaid)
    friends_paid = across(invited_by, total(InvoicePaid, lambda e: e.amount_minor, by=lambda e: e.currency))
    friends_lately = across(invited_by, count(InvoicePaid, window=days(7)))
    group_payments = across(company, count(InvoicePaid), source="crm")


class Spent(Features, version=1, owner="tests"):
    payments = count(InvoicePaid)


def invited(id_: str, at: datetime, referrer: str | None = None, company: str | None = None) -> Invited:
    return Invited(source="app", id=id_, occurred_at=at, referrer=referrer, note=company)


def play(acme: Tenant, clock: ManualClock, story: list[tuple[str, int, int]], name: str = "") -> None:
    """Invitations and payments of up to twenty days ago, links, merges, splits, days that pass."""
    for n, (what, one, two) in enumerate(story):
        clock.advance(timedelta(hours=1))
        at = datetime.fromtimestamp(clock.now_us() / 1e6, tz=NOON.tzinfo) - (two + n) % 20 * DAY
        try:
            match what:
                case "pay":
                    acme.record(f"cus_{one}", paid(f"p{name}{n}", at))
                case "invite":
                    acme.record(f"cus_{one}", invited(f"i{name}{n}", at, referrer=f"cus_{two % 5}"))
                case "company":
                    acme.record(f"cus_{one}", invited(f"i{name}{n}", at, company=str(two % 3)))
                case "foreign":
                    acme.record(foreign("crm", str(one % 2)), invited(f"x{name}{n}", at, referrer=f"cus_{two % 5}"))
                case "link":
                    acme.link(foreign("crm", str(one % 2)), f"cus_{two % 4}")
                case "merge":
                    acme.merge(f"cus_{one}", into=f"cus_{two % 4}", reason="the same", by=ANNA)
                case "split":
                    acme.split(f"cus_{one}", reason="not the same", by=ANNA)
                case _:
                    clock.advance(one * DAY)
        except (IdentityConflict, UnknownCustomer, InvalidInput):
            pass  # a step that the story does not allow at this moment


STEPS = ("pay", "pay", "invite", "invite", "company", "foreign", "link", "merge", "split", "wait")
stories = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3), st.integers(0, 20)), max_size=25)


def asked(ps: PostSale, by_query: bool, **question: Any) -> Any:
    rows = Rows(ps.log, "acme", Question(name="circle", features=Circle, **question))
    return rows.made(ps.log.vault.tenant("acme"), by_query=by_query).table


def check_rows(story: list[tuple[str, int, int]], at: list[datetime], engines: tuple[bool, ...]) -> None:
    clock = ManualClock(NOON)
    with opened(None, clock=clock) as ps:
        acme = ps.tenant("acme")
        play(acme, clock, story)
        clock.move_to(NOON + 200 * DAY)
        refs, names, expected = acme.pseudonyms(), acme.names(), {}
        for when in at:
            for ref, values in acme.all_features(Circle, as_of=when, known_at=when):
                if values.newest_us is not None:
                    expected[ref, values.as_of_us] = dict(values)
                # One customer, and all of them, are two ways through the log.
                if ref in names:
                    assert dict(acme.features(Circle, names[ref], as_of=when, known_at=when)) == dict(values)
        times = tuple(sorted(map(to_us, at)))
        for by_query in engines:
            table = asked(ps, by_query, at_us=times)
            rows = list(zip(table.column("customer").to_pylist(), feature_rows(table, Circle), strict=True))
            assert {(refs[customer], values.as_of_us): dict(values) for customer, values in rows} == expected
            assert len(rows) == len(expected)
        if len(engines) > 1:
            some = tuple(one for one in sorted(expected) if one[0] == min(expected)[0])  # of one customer: the others are members only
            for question in (
                {"at_us": times, "knowledge": "claimed"},
                {"at_us": times, "lag_us": DAY_US, "outcome": Spent, "horizon_us": 9 * DAY_US},
                {"points": some},
            ):
                one, other = (asked(ps, by_query, **question) for by_query in engines)
                assert one.equals(other), question


@given(stories, st.lists(st.integers(-3 * 1440, 40 * 1440), min_size=1, max_size=3, unique=True))
def test_training_rows_are_what_a_live_read_gave_at_that_moment(story: list[tuple[str, int, int]], minutes: list[int]) -> None:
    """A link, a merge or an invitation that was recorded later is in no earlier row."""
    check_rows(story, [NOON + timedelta(minutes=m) for m in minutes], (False,))


def test_both_engines_agree_on_longer_histories() -> None:
    """A hundred steps each."""
    for _ in range(3):
        seed = random.getrandbits(32)
        rng = random.Random(seed)
        story = [(rng.choice(STEPS), rng.randrange(4), rng.randrange(21)) for _ in range(100)]
        at = [NOON + timedelta(minutes=rng.randrange(40 * 1440)) for _ in range(4)]
        try:
            check_rows(story, at, (False, True))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def test_an_id_that_is_linked_later_ends_at_its_customer_and_in_no_earlier_row(where: Where) -> None:
    """By both clocks: the invitation was known, the id was not; a merge then moves it on."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", invited("i", NOON, company="hq"))
        acme.record("cus_1", paid("p", NOON))
        acme.record("cus_2", paid("q", NOON))
        clock.move_to(NOON + 2 * DAY)
        acme.link(foreign("crm", "hq"), "cus_2")
        clock.move_to(NOON + 4 * DAY)
        acme.record("cus_3", paid("r", NOON))
        acme.merge("cus_2", into="cus_3", reason="the same company", by=ANNA)
        clock.move_to(NOON + 6 * DAY)
        at = [NOON + DAY, NOON + 3 * DAY, NOON + 5 * DAY]
        assert acme.features(Circle, "cus_2", as_of=at[0], known_at=at[0])["group_payments"] == 0
        assert acme.features(Circle, "cus_2", as_of=at[0])["group_payments"] == 1, "by what is known now"
        assert acme.features(Circle, "cus_2", as_of=at[1], known_at=at[1])["group_payments"] == 1
        assert acme.features(Circle, "cus_2")["group_payments"] == acme.features(Circle, "cus_3")["group_payments"] == 1
        found = by_name(ps, acme.training_rows(Circle, name="circle", at=at), "group_payments")
        claimed = by_name(ps, acme.training_rows(Circle, name="c", at=at, knowledge="claimed"), "group_payments")
        assert claimed["cus_3", at[0]] == 1, "who is who is as known in the end"
        assert "cus_2" not in {name for name, _ in claimed}
        one, two, three = ({("cus_1", when): 0} for when in at)
        assert found == one | two | three | {("cus_2", at[0]): 0, ("cus_2", at[1]): 1, ("cus_3", at[2]): 1}


def test_a_customer_that_only_is_named_has_a_row_as_soon_as_it_is_known(where: Where) -> None:
    """Known by a fact that the features do not read."""
    with opened(where, clock=ManualClock(NOON)) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", invited("i", NOON - DAY, referrer="cus_2"))
        acme.record("cus_1", paid("p", NOON - DAY, amount_minor=700))
        assert len(dict(acme.all_features(Circle))) == 1
        with pytest.raises(UnknownCustomer):
            acme.features(Circle, "cus_2")
        acme.record("cus_2", failed("x", NOON))
        values = acme.features(Circle, "cus_2")
        assert (values.of(Circle.friends_paid), values["payments"]) == ({"EUR": 700}, 0)
        assert dict(acme.all_features(Circle)).keys() == acme.names().keys()
        at, ends = NOON + DAY, tuple(asked(ps, by_query, at_us=(to_us(NOON + DAY),)) for by_query in (False, True))
        assert ends[0].equals(ends[1])
        assert by_name(ps, acme.training_rows(Circle, name="circle", at=[at]), "payments") == {("cus_1", at): 1, ("cus_2", at): 0}


def test_a_merged_member_is_one_member_and_nobody_is_its_own(where: Where) -> None:
    """After a merge the newest of both says whose it is; a friend that turns out to be the same is no friend."""
    with opened(where, clock=ManualClock(NOON)) as ps:
        acme = ps.tenant("acme")
        for name, referrer, at in (("cus_1", "cus_9", NOON - 3 * DAY), ("cus_2", "cus_8", NOON - 2 * DAY)):
            acme.record(name, invited(f"i-{name}", at, referrer=referrer))
            acme.record(name, paid(f"p-{name}", at, amount_minor=100))
        for name in ("cus_8", "cus_9"):
            acme.record(name, paid(f"p-{name}", NOON - DAY))
        acme.merge("cus_1", into="cus_2", reason="the same company", by=ANNA)
        assert acme.features(Circle, "cus_9")["friends_paid"] == {}
        assert acme.features(Circle, "cus_8")["friends_paid"] == {"EUR": 200}
        acme.merge("cus_8", into="cus_2", reason="and this", by=ANNA)
        assert acme.features(Circle, "cus_8")["friends_paid"] == {}


def test_labels_across_customers_are_refused() -> None:
    with opened(None, clock=ManualClock(NOON)) as ps, pytest.raises(InvalidInput, match="a label is what came of"):
        ps.tenant("acme").training_rows(Spent, name="x", at=[NOON], outcome=Circle, within=DAY)
