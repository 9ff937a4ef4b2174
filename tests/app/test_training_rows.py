"""Training rows from a log, of every kind: what a row could know, labels, who was who, decisions, data sets and their members."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postsale import foreign
from postsale.agents import Agent, Policy
from postsale.aggregates.signals import InvoicePaid, InvoicePaymentFailed
from postsale.app import PostSale
from postsale.app.tenant import Tenant
from postsale.app.training import Question, Rows, table_digest
from postsale.errors import InvalidInput, UnknownCustomer
from postsale.events import DAY_US, ManualClock, to_us
from postsale.projections import Features, count, days, last_seen, total
from postsale.projections.datasets import Manifest, pseudonym
from postsale.projections.training import feature_rows

from .support import ANNA, NOON, Where, failed, opened, paid

DAY = timedelta(days=1)


class Spending(Features, version=1, owner="tests"):
    """What came in."""

    payments = count(InvoicePaid)
    recent = count(InvoicePaid, window=days(7))
    spent = total(InvoicePaid, lambda e: e.amount_minor)
    last = last_seen(InvoicePaid)


class Failing(Features, version=1, owner="tests"):
    """What went wrong afterwards."""

    failures = count(InvoicePaymentFailed)


def by_name(ps: PostSale, rows: Any, *columns: str) -> dict[tuple[str, datetime], Any]:
    """Values of columns by the customer's own id and the point."""
    acme = ps.tenant("acme")
    names, refs = acme.names(), acme.pseudonyms()
    found = {}
    for row in rows.table.to_pylist():
        values = tuple(row[c] for c in columns)
        found[names[refs[row["customer"]]], row["as_of"]] = values[0] if len(values) == 1 else values
    return found


# ---------------------------------------------------------------- the cut-off


def test_a_late_fact_does_not_leak_into_an_earlier_row(where: Where) -> None:
    """It had occurred, but nobody knew: it is in the rows from when it was recorded on."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("a", NOON - DAY))
        clock.move_to(NOON + 5 * DAY)
        acme.record("cus_1", paid("late", NOON - 2 * DAY))
        clock.move_to(NOON + 9 * DAY)
        at = [NOON + DAY, NOON + 4 * DAY, NOON + 6 * DAY]
        rows = acme.training_rows(Spending, name="spending", at=at)
        assert by_name(ps, rows, "payments") == {("cus_1", at[0]): 1, ("cus_1", at[1]): 1, ("cus_1", at[2]): 2}


actions = st.lists(
    st.one_of(
        st.tuples(st.just("pay"), st.integers(0, 3), st.integers(0, 20)),
        st.tuples(st.just("fail"), st.integers(0, 3), st.integers(0, 20)),
        st.tuples(st.just("foreign"), st.integers(0, 1), st.integers(0, 20)),
        st.tuples(st.just("link"), st.integers(0, 1), st.integers(0, 3)),
        st.tuples(st.just("merge"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("split"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 5), st.just(0)),
    ),
    max_size=25,
)


def play(acme: Tenant, clock: ManualClock, story: list[tuple[str, int, int]]) -> None:
    """A history: payments of up to twenty days ago, links, merges, splits, days that pass."""
    from postsale.errors import IdentityConflict

    for n, (what, one, two) in enumerate(story):
        clock.advance(timedelta(hours=1))
        at = datetime.fromtimestamp(clock.now_us() / 1e6, tz=NOON.tzinfo) - two * DAY
        try:
            match what:
                case "pay":
                    acme.record(f"cus_{one}", paid(f"p{n}", at))
                case "fail":
                    acme.record(f"cus_{one}", failed(f"f{n}", at))
                case "foreign":
                    acme.record(foreign("crm", str(one)), paid(f"x{n}", at))
                case "link":
                    acme.link(foreign("crm", str(one)), f"cus_{two}")
                case "merge":
                    acme.merge(f"cus_{one}", into=f"cus_{two}", reason="the same", by=ANNA)
                case "split":
                    acme.split(f"cus_{one}", reason="not the same", by=ANNA)
                case _:
                    clock.advance(one * DAY)
        except (IdentityConflict, UnknownCustomer, InvalidInput):
            pass  # a step that the story does not allow at this moment


def asked(ps: PostSale, by_query: bool, **question: Any) -> Any:
    """The table, by one engine, without a manifest."""
    rows = Rows(ps.log, "acme", Question(name="spending", features=Spending, **question))
    return rows.made(ps.log.vault.tenant("acme"), by_query=by_query).table


def oracle(ps: PostSale, at: list[datetime]) -> dict[tuple[str, int], dict[str, Any]]:
    """A live read with both clocks at each point, of the customers of whom something was known."""
    found = {}
    for when in at:
        for ref, values in ps.tenant("acme").all_features(Spending, as_of=when, known_at=when):
            if values.newest_us is not None:
                found[ref, values.as_of_us] = dict(values)
    return found


def check_history(story: list[tuple[str, int, int]], at: list[datetime], engines: tuple[bool, ...]) -> None:
    clock = ManualClock(NOON)
    with opened(None, clock=clock) as ps:
        acme = ps.tenant("acme")
        play(acme, clock, story)
        clock.move_to(NOON + 200 * DAY)
        refs, expected = acme.pseudonyms(), oracle(ps, at)
        times = tuple(sorted(map(to_us, at)))
        for by_query in engines:
            table = asked(ps, by_query, at_us=times)
            rows = list(zip(table.column("customer").to_pylist(), feature_rows(table, Spending), strict=True))
            assert {(refs[customer], values.as_of_us): dict(values) for customer, values in rows} == expected
            assert len(rows) == len(expected)
        if len(engines) > 1:
            for more in ({"knowledge": "claimed"}, {"lag_us": DAY_US, "agent": "nobody"}):
                question = {"at_us": times, "outcome": Failing, "horizon_us": 9 * DAY_US, **more}
                one, other = (asked(ps, by_query, **question) for by_query in engines)
                assert one.equals(other)
                assert one.schema.equals(other.schema, check_metadata=True)


offsets = st.lists(st.integers(-3 * 1440, 70 * 1440), min_size=1, max_size=4, unique=True)


def moments(minutes: list[int]) -> list[datetime]:
    return [NOON + timedelta(minutes=m) for m in minutes]


@given(actions, offsets)
def test_recorded_rows_are_what_a_live_read_gave_at_that_moment(story: list[tuple[str, int, int]], minutes: list[int]) -> None:
    """Through late facts, links of waiting facts, merges and splits: the oracle is `features` with both clocks at the point."""
    check_history(story, moments(minutes), (False,))


@settings(max_examples=5)
@given(actions, offsets)
def test_both_engines_give_the_same_rows_labels_and_types(story: list[tuple[str, int, int]], minutes: list[int]) -> None:
    """DuckDB and the fold, through the same histories, by recorded and by claimed knowledge."""
    check_history(story, moments(minutes), (False, True))


@pytest.mark.parametrize("seed", range(6))
def test_both_engines_agree_on_longer_histories(seed: int) -> None:
    """Eighty steps each."""
    rng = random.Random(seed)
    story = [
        (
            rng.choice(["pay", "pay", "pay", "fail", "foreign", "link", "merge", "split", "wait"]),
            rng.randrange(4),
            rng.randrange(20),
        )
        for _ in range(80)
    ]
    story = [
        (what, one % 2 if what in ("foreign", "link") else one, two % 4 if what in ("link", "merge") else two) for what, one, two in story
    ]
    check_history(story, moments([rng.randrange(60 * 1440) for _ in range(5)]), (False, True))


def test_claimed_knowledge_that_nobody_claims_is_said_not_answered_by_no_rows(where: Where) -> None:
    at = [NOON - 20 * DAY]
    with opened(where, clock=ManualClock(NOON)) as ps:
        acme = ps.tenant("acme")
        assert acme.training_rows(Spending, name="e", at=at, knowledge="claimed").table.num_rows == 0  # there is nothing at all
        acme.record("cus_1", paid("a", NOON - 30 * DAY))
        assert acme.training_rows(Spending, name="r", at=at).table.num_rows == 0
        with pytest.raises(InvalidInput, match="available_at"):
            acme.training_rows(Spending, name="c", at=at, knowledge="claimed")
        acme.record("cus_1", paid("b", NOON - 9 * DAY, available_at=NOON - 9 * DAY))
        assert acme.training_rows(Spending, name="d", at=at, knowledge="claimed").table.num_rows == 0  # as the sources say


def test_claimed_knowledge_uses_what_a_source_says_and_recorded_knowledge_does_not(where: Where) -> None:
    """A backfill: imported today, knowable in the past; a fact without a claim counts from when it was recorded."""
    at = [NOON - 20 * DAY, NOON - 10 * DAY, NOON]
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("a", NOON - 30 * DAY, available_at=NOON - 29 * DAY))
        acme.record("cus_1", paid("b", NOON - 30 * DAY, available_at=NOON - 15 * DAY))
        acme.record("cus_1", paid("c", NOON - 30 * DAY))
        clock.move_to(NOON + DAY)
        at[2] = NOON + DAY / 2
        recorded = acme.training_rows(Spending, name="r", at=at)
        claimed = acme.training_rows(Spending, name="c", at=at, knowledge="claimed")
        assert by_name(ps, recorded, "payments") == {("cus_1", at[2]): 3}
        assert by_name(ps, claimed, "payments") == {("cus_1", at[0]): 1, ("cus_1", at[1]): 2, ("cus_1", at[2]): 3}
        assert (recorded.manifest.knowledge, claimed.manifest.knowledge) == ("recorded", "claimed")


# ---------------------------------------------------------------- labels


def test_labels_know_what_became_known_later_and_censored_rows_have_none(where: Where) -> None:
    """A failure of day 3 that was recorded on day 30 is in the label of day 0, and in no feature before day 30."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("a", NOON - DAY))
        clock.move_to(NOON + 30 * DAY)
        acme.record("cus_1", failed("f", NOON + 3 * DAY))
        at = [NOON + DAY, NOON + 4 * DAY, NOON + 28 * DAY]
        rows = acme.training_rows(Spending, name="failing", at=at, outcome=Failing, within=5 * DAY)
        assert by_name(ps, rows, "label_failures", "censored") == {
            ("cus_1", at[0]): (1, False),
            ("cus_1", at[1]): (0, False),
            ("cus_1", at[2]): (None, True),
        }
        assert rows.manifest.censored == 1
        earlier = acme.training_rows(Spending, name="failing", at=at, outcome=Failing, within=5 * DAY, known_at=NOON + 20 * DAY)
        assert by_name(ps, earlier, "label_failures")["cus_1", at[0]] == 0  # what the log would have said then


def test_a_label_follows_the_customer_through_merges(where: Where) -> None:
    """Features know one part, because nobody knew more; what came of the customer is what came of the whole, wherever it was recorded."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme, names = ps.tenant("acme"), ("cus_1", "cus_2", "cus_3")
        for name in names:
            acme.record(name, paid(f"p-{name}", NOON - DAY))
        clock.move_to(NOON + 2 * DAY)
        acme.merge("cus_2", into="cus_1", reason="the same company", by=ANNA)
        acme.merge("cus_1", into="cus_3", reason="and its parent", by=ANNA)
        clock.move_to(NOON + 3 * DAY)
        for name in names:
            acme.record(name, failed(f"f-{name}", NOON + 3 * DAY))
        clock.move_to(NOON + 30 * DAY)
        at = [NOON + DAY, NOON + 2.5 * DAY]
        rows = acme.training_rows(Spending, name="failing", at=at, outcome=Failing, within=5 * DAY)
        expected = {(name, at[0]): (1, 3) for name in names} | {("cus_3", at[1]): (3, 3)}
        assert by_name(ps, rows, "payments", "label_failures") == expected
        named = acme.training_rows(Spending, name="named", points=[("cus_2", at[1])])
        assert by_name(ps, named, "payments") == {("cus_3", at[1]): 3}


# ---------------------------------------------------------------- decisions

POLICY = """
name = "dunning"
version = 1
owner = "anna"
description = "Writes after a payment."

[inputs]
failed_payments = "integer"

[[trigger]]
id = "failing"
when = { failed_payments = ">= 1" }

[[rule]]
id = "write"
when = { failed_payments = "== 1" }
action = "note"
because = "a payment failed"
risk_case = true

[[rule]]
id = "wait"
when = { failed_payments = ">= 2" }
action = "none"
because = "it was written already"

[guardrails]
purpose = "service"
"""


def test_rows_at_an_agents_decisions_have_treatment_eligibility_and_propensity(where: Where) -> None:
    """And the features that it could know; rows at other times show what it decided within the horizon."""
    clock = ManualClock(NOON)
    agent = Agent(Policy.from_toml(POLICY), name="dunning")
    with opened(where, clock=clock, agents=[agent]) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("a", NOON - DAY))
        acme.record("cus_2", paid("b", NOON - DAY))
        ps.run_once()
        acme.agent("dunning").act(reason="tried", by=ANNA)
        clock.move_to(NOON + DAY)
        acme.record("cus_1", failed("f1", NOON + DAY))
        acme.record("cus_2", failed("f2", NOON + DAY, attempt=2))
        clock.move_to(NOON + DAY + timedelta(minutes=1))
        ps.run_once()
        clock.move_to(NOON + 20 * DAY)
        decisions = {d.stream.id: d for d in acme.decisions()}
        assert len(decisions) == 2
        rows = acme.training_rows(Spending, name="uplift", agent="dunning", outcome=Failing, within=5 * DAY)
        columns = ("payments", "treatment", "disposition", "eligible_actions", "eligible_propensity_ppm", "propensity_ppm")
        at = NOON + DAY + timedelta(minutes=1)
        found = by_name(ps, rows, *columns)
        assert found["cus_1", at] == (1, "note", "acted", ["note"], [1_000_000], 1_000_000)
        assert found["cus_2", at][:3] == (1, None, "suppressed")
        assert rows.table.column("decided_at").to_pylist() == rows.table.column("as_of").to_pylist()
        soon = NOON + timedelta(hours=1)
        before = acme.training_rows(Spending, name="u", at=[soon], agent="dunning", outcome=Failing, within=5 * DAY)
        assert by_name(ps, before, "treatment") == {("cus_1", soon): "note", ("cus_2", soon): None}
        short = acme.training_rows(Spending, name="u", at=[soon], agent="dunning", outcome=Failing, within=DAY / 2)
        assert set(by_name(ps, short, "disposition").values()) == {None}
        assert rows.manifest.agent == "dunning"


# ---------------------------------------------------------------- points, data sets


def test_points_of_ones_own_are_rows_whether_or_not_anything_was_known(where: Where) -> None:
    """Each once, in order; an unknown customer is refused."""
    with opened(where, clock=ManualClock(NOON)) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("a", NOON - DAY))
        points = [("cus_1", NOON + DAY), ("cus_1", NOON - DAY), ("cus_1", NOON + DAY)]
        rows = acme.training_rows(Spending, name="mine", points=points)
        assert by_name(ps, rows, "payments") == {("cus_1", NOON - DAY): 0, ("cus_1", NOON + DAY): 1}
        with pytest.raises(UnknownCustomer):
            acme.training_rows(Spending, name="mine", points=[("cus_9", NOON)])


def test_the_same_question_gives_the_same_data_set_and_any_other_another(where: Where) -> None:
    """By id; `known_at` brings an earlier one back, byte for byte, whatever was recorded since."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        for n in range(5):
            acme.record(f"cus_{n % 3}", paid(f"p{n}", NOON - n * DAY))
        clock.move_to(NOON + DAY)
        question: dict[str, Any] = {"name": "d", "at": [NOON + DAY / 2], "outcome": Failing, "within": DAY / 4}
        first = acme.training_rows(Spending, **question)
        again = acme.training_rows(Spending, **question)
        assert (again.manifest, again.table) == (first.manifest, first.table)
        others = [
            acme.training_rows(Spending, **{**question, "name": "e"}),
            acme.training_rows(Spending, **{**question, "at": [NOON + DAY / 3]}),
            acme.training_rows(Spending, **{**question, "within": DAY / 5}),
            acme.training_rows(Spending, **{**question, "lag": DAY / 100}),
            acme.training_rows(Spending, **{**question, "knowledge": "claimed"}),
        ]
        assert len({m.id for m in (first.manifest, *(o.manifest for o in others))}) == 6
        clock.move_to(NOON + 9 * DAY)
        acme.record("cus_1", failed("later", NOON + DAY / 2 + DAY / 8))
        clock.move_to(NOON + 10 * DAY)
        now = acme.training_rows(Spending, **question)
        assert now.manifest.sha256 != first.manifest.sha256
        then = acme.training_rows(Spending, **question, known_at=NOON + DAY)
        assert then.manifest == first.manifest
        assert Manifest.from_json(first.manifest.to_json()) == first.manifest
        assert {m.id for m in acme.datasets()} >= {first.manifest.id, now.manifest.id}


def test_a_manifest_names_the_signed_tree_and_the_definitions(where: Where) -> None:
    """So that a third party can tell from which log, up to where, a data set was made."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        ps.tenant("other").record("x", paid("o", NOON))
        acme.record("cus_1", paid("a", NOON - DAY))
        clock.advance(DAY)
        m = acme.training_rows(Spending, name="d", at=[NOON + DAY]).manifest
        checkpoint = ps.checkpoint("acme")
        assert (m.tree_size, m.tree_root) == (checkpoint.size, checkpoint.root.hex())
        assert (m.log_id, m.position, m.tenant) == (ps.log.store.log_id, ps.log.store.head(), "acme")
        assert (m.features.name, m.features.digest, m.outcome) == ("Spending", Spending.digest, None)
        assert (m.rows, m.customers) == (1, 1)


def test_the_data_sets_that_an_erasure_affects_are_named(where: Where) -> None:
    """Those with the customer, under any of its references; of this tenant only."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme, other = ps.tenant("acme"), ps.tenant("other")
        acme.record("cus_1", paid("a", NOON - DAY))
        clock.move_to(NOON + 2 * DAY)
        acme.record("cus_2", paid("b", NOON - DAY))
        other.record("cus_1", paid("c", NOON - DAY))
        clock.move_to(NOON + 4 * DAY)
        acme.training_rows(Spending, name="early", at=[NOON + DAY])
        acme.training_rows(Spending, name="late", at=[NOON + 3 * DAY])
        other.training_rows(Spending, name="others", at=[NOON + 3 * DAY])
        assert [m.name for m in acme.datasets_of("cus_1")] == ["early", "late"]
        assert [m.name for m in acme.datasets_of("cus_2")] == ["late"]
        assert [m.name for m in acme.datasets()] == ["early", "late"]
        acme.merge("cus_1", into="cus_2", reason="the same", by=ANNA)
        assert [m.name for m in acme.datasets_of("cus_2")] == ["early", "late"]


def test_keys_are_stable_pseudonyms_and_differ_between_tenants(where: Where) -> None:
    """The same customer has the same key in every data set; without the tenant's key it leads nowhere."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme, keys = ps.tenant("acme"), set()
        acme.record("cus_1", paid("a", NOON - DAY))
        clock.advance(DAY)
        for name in ("one", "two"):
            keys |= set(acme.training_rows(Spending, name=name, at=[NOON + DAY / 2]).table.column("customer").to_pylist())
        (key,) = keys
        (ref,) = acme.names()
        assert acme.pseudonyms() == {key: ref}
        assert ref not in key
        assert key != pseudonym(ps.log.vault.tenant("other").blind, ref)


@pytest.mark.parametrize(
    ("field", "question"),
    [
        ("name", {"name": ""}),
        ("knowledge", {"knowledge": "guessed"}),
        ("lag", {"lag": -DAY}),
        ("at", {"at": ()}),
        ("at", {"points": [("cus_1", NOON)]}),
        ("within", {"outcome": Failing}),
        ("within", {"within": DAY}),
    ],
)
def test_a_question_that_has_no_answer_is_refused_by_field(field: str, question: dict[str, Any]) -> None:
    with opened(None) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("a"))
        with pytest.raises(InvalidInput, match=rf"training_rows\.{field}"):
            acme.training_rows(Spending, **{"name": "x", "at": [NOON], **question})


def test_a_log_without_customers_gives_no_rows() -> None:
    with opened(None) as ps:
        assert ps.tenant("acme").training_rows(Spending, name="x", at=[NOON]).table.num_rows == 0


def test_the_digest_of_rows_does_not_know_what_lies_below_a_null() -> None:
    """Engines leave there what was in memory: two tables with the same values are one data set."""
    import pyarrow as pa

    valid, kept = pa.py_buffer(b"\x05"), [1, 2, 3]

    def table(below: int) -> Any:
        numbers = pa.array([kept[0], below, kept[2]], pa.int64()).buffers()[1]
        return pa.table({"n": pa.Array.from_buffers(pa.int64(), 3, [valid, numbers], 1)})

    assert table(7).equals(table(9))
    assert table_digest(table(7)) == table_digest(table(9))
    other = pa.table({"n": pa.array([1, None, 4], pa.int64())})
    assert table_digest(other) != table_digest(table(7))
