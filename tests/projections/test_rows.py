"""A model weighs customers by segment and stage: the first row that fits applies, and the score says which and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import AccountProfiled, SubscriptionStarted, TicketOpened, UsageObserved
from postsale.errors import BadDeclaration, InvalidInput
from postsale.events import canonical
from postsale.projections import (
    CUSTOMER_HEALTH,
    Component,
    Features,
    HealthModel,
    Row,
    Stage,
    count,
    differences,
    explain_health,
    latest,
    load_weights,
    read_weights,
    weights_table,
    write_weights,
)

from .customers import History, day


class Profile(Features, version=1, owner="tests"):
    segment = latest(AccountProfiled, lambda e: e.segment)
    seats = latest(AccountProfiled, lambda e: e.seats)
    tickets = count(TicketOpened)


STAGES = ("early", "late")
BANDS = (("poor", 50), ("fair", 75), ("good", 100))


def stage(v):
    return None if not v["tickets"] else Stage("early" if v["tickets"] < 3 else "late", f"{v['tickets']} tickets")


def model_of(rows=(), **options):
    parts = (Component("a", 3, lambda v: 80_000_000), Component("b", 1, lambda v: 20_000_000))
    defaults = {"segment": "segment", "stage": stage, "stages": STAGES}
    return HealthModel("rows", 1, Profile, parts, BANDS, rows=tuple(rows), **{**defaults, **options})


def customer(segment=None, tickets=0):
    history = History()
    if segment is not None:
        history.on(0, AccountProfiled, segment=segment)
    for _ in range(tickets):
        history.on(1, TicketOpened)
    return history.facts


def health(model, facts):
    return explain_health(model, facts, day(2), day(2))


ROWS = [
    Row("big", "late", {"a": 0}),
    Row("big", None, {"a": 1}),
    Row(None, "early", {"b": 7}, (("poor", 10), ("fair", 20), ("good", 100))),
]


@pytest.mark.parametrize(
    ("segment", "tickets", "row", "score", "band"),
    [
        (None, 0, (0, "default"), 65.0, "fair"),
        ("small", 3, (0, "default"), 65.0, "fair"),
        ("big", 0, (2, "big/*"), 50.0, "poor"),
        ("big", 1, (2, "big/*"), 50.0, "poor"),  # the third row fits too; the first that fits applies
        ("big", 3, (1, "big/late"), 20.0, "poor"),
        ("small", 1, (3, "*/early"), 38.0, "good"),
        (None, 1, (3, "*/early"), 38.0, "good"),
    ],
)
def test_the_first_row_that_fits_weighs_the_customer(segment, tickets, row, score, band):
    got = health(model_of(ROWS), customer(segment, tickets))
    assert (got.applied.row, got.applied.name) == row
    assert (got.score, got.band) == (score, band)
    assert sum(c.contribution_micro for c in got.components) == got.value_micro


def test_the_row_that_applied_is_told_with_its_reason_to_people_and_programs():
    got = health(model_of(ROWS), customer("big", 3))
    told = {"row": 1, "name": "big/late", "segment": "big", "stage": "late", "reason": "segment big; stage late: 3 tickets"}
    assert got.to_dict()["row"] == told
    assert "weighed as big/late: segment big; stage late: 3 tickets" in str(got.why())
    none = health(model_of(ROWS), customer("small"))
    assert none.applied.reason == "segment small; no stage is known; no row is for that"


def test_a_component_that_a_row_leaves_out_counts_nothing_and_keeps_its_score():
    (a, b) = health(model_of(ROWS), customer("big", 3)).components
    assert (a.weight, a.score_micro, a.contribution_micro, a.missing) == (0, 80_000_000, 0, None)
    assert b.contribution_micro == 20_000_000


def test_only_components_left_out_have_input_so_there_is_no_value():
    model = replace(model_of([Row("big", None, {"a": 0})]), components=(Component("a", 3, lambda v: 1), Component("b", 1, lambda v: None)))
    assert health(model, customer("big")).score is None


@pytest.mark.parametrize(
    ("rows", "options", "reason"),
    [
        ([Row(weights={"a": 2})], {}, "that is the default"),
        ([Row("big")], {"segment": None}, "no feature says"),
        ([Row(stage="never")], {}, "there are: early, late"),
        ([Row("big"), Row("big", "late")], {}, r"row 2, big/late, never applies, because big/\* above it does"),
        ([Row("big", weights={"c": 1})], {}, "'c', which is not a component"),
        ([Row("big", weights={"a": -1})], {}, "whole number from 0"),
        ([Row("big", weights={"a": True})], {}, "whole number from 0"),
        ([Row("big", weights={"a": 0, "b": 0})], {}, "weighs nothing"),
        ([Row("big", bands=(("poor", 50), ("good", 100)))], {}, "the model's names"),
        ([Row("big", bands=(("poor", 50), ("fair", 40), ("good", 100)))], {}, "ascend"),
        ([], {"segment": "nope"}, "'nope', which Profile does not declare"),
        ([], {"bands": (("a", 50), ("a", 100))}, "each name once"),
    ],
)
def test_a_row_that_cannot_work_is_refused_with_its_place(rows, options, reason):
    with pytest.raises(BadDeclaration, match=reason):
        replace(model_of(), rows=tuple(rows), **options)


def test_a_segment_that_is_no_text_and_a_stage_that_there_is_not_are_refused_at_the_read():
    facts = [*customer("big"), *History().on(0, AccountProfiled, seats=4).facts]
    with pytest.raises(InvalidInput, match="text as a segment"):
        health(model_of(segment="seats"), facts)
    with pytest.raises(InvalidInput, match="one of late"):
        health(model_of(stages=("late",)), customer("big", 1))


# ---------------------------------------------------------------- weights as a file

numbers = st.integers(1, 1_000)
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=6)


@st.composite
def models(draw):
    def bands():
        low, high = sorted(draw(st.sets(st.integers(0, 99), min_size=2, max_size=2)))
        return (("poor", low), ("fair", high), ("good", 100))

    rows = []
    for segment, at in draw(st.lists(st.tuples(st.none() | names, st.none() | st.sampled_from(STAGES)), max_size=4)):
        row = Row(segment, at, draw(st.dictionaries(st.sampled_from("ab"), numbers)), draw(st.none() | st.builds(bands)))
        if (segment or at) and not any(r.fits(segment, at) for r in rows):
            rows.append(row)
    parts = (Component("a", draw(numbers), lambda v: 80_000_000), Component("b", draw(numbers), lambda v: 20_000_000))
    return replace(model_of(rows), components=parts, bands=bands(), weighing=draw(numbers))


BASE = model_of()


@given(models())
def test_what_is_written_reads_as_the_same_model(model):
    again = read_weights(write_weights(model), BASE)
    assert again.digest == model.digest
    assert again.rows == model.rows
    assert differences(model, again) == ()


@given(models(), models())
def test_two_models_differ_exactly_when_a_difference_is_told(a, b):
    def effective(m):
        rows = [(name, m.weights(i), m.bands_of(i)) for i, name in enumerate(["default", *(r.name for r in m.rows)])]
        return m.weighing, rows

    assert (differences(a, b) == ()) == (effective(a) == effective(b))
    assert not (a.digest == b.digest and differences(a, b))


FILE = """
model = "customer-health"
model_version = 1
version = 4
weights = { payments = 25, usage = 25, adoption = 15, support = 20, survey = 15, contract = 100, purchasing = 100 }
bands = { poor = 50, fair = 75, good = 100 }

[[rows]]
segment = "enterprise"
stage = "onboarding"
weights = { usage = 0, support = 60 }

[[rows]]
segment = "enterprise"
bands = { poor = 60, fair = 80, good = 100 }
"""


def test_a_file_weighs_the_shipped_model_and_gives_it_another_digest(tmp_path):
    (tmp_path / "health.toml").write_text(FILE)
    model = load_weights(tmp_path / "health.toml", CUSTOMER_HEALTH)
    assert model.digest != CUSTOMER_HEALTH.digest
    facts = History().on(0, AccountProfiled, segment="enterprise").on(1, SubscriptionStarted).on(2, TicketOpened).on(3, UsageObserved).facts
    early, late = (explain_health(model, facts, day(n), day(n)) for n in (4, 96))
    assert (early.applied.name, early.score) == ("enterprise/onboarding", 90.0)
    assert late.applied.name == "enterprise/*"
    assert explain_health(CUSTOMER_HEALTH, facts, day(4), day(4)).score == 84.44


def test_the_version_of_the_weights_is_in_the_digest():
    assert read_weights(FILE, CUSTOMER_HEALTH).digest != read_weights(FILE.replace("version = 4", "version = 5"), CUSTOMER_HEALTH).digest


def test_differences_are_told_row_by_row():
    changed = FILE.replace("support = 60", "support = 50").replace("poor = 50", "poor = 40").replace("version = 4", "version = 5")
    found = differences(read_weights(FILE, CUSTOMER_HEALTH), read_weights(changed, CUSTOMER_HEALTH))
    assert [tuple(d) for d in found] == [
        ("", "version of the weights", "4", "5"),
        ("default", "bands", "poor up to 50, fair up to 75, good up to 100", "poor up to 40, fair up to 75, good up to 100"),
        ("enterprise/onboarding", "weight of support", "60", "50"),
        (
            "enterprise/onboarding",
            "bands",
            "poor up to 50, fair up to 75, good up to 100",
            "poor up to 40, fair up to 75, good up to 100",
        ),
    ]


def test_a_row_that_is_new_is_told_with_what_it_weighs():
    (order, row, *_) = differences(
        read_weights(FILE.partition("[[rows]]")[0].replace("version = 4", "version = 4"), CUSTOMER_HEALTH),
        read_weights(FILE, CUSTOMER_HEALTH),
    )
    assert order == ("", "order of rows", "–", "enterprise/onboarding, enterprise/*")
    assert row == ("enterprise/onboarding", "row", "–", "usage 0, support 60")


def test_the_table_has_a_column_for_each_row_and_a_line_for_each_component_and_band():
    header, lines = weights_table(read_weights(FILE, CUSTOMER_HEALTH))
    assert header == ("", "default", "enterprise/onboarding", "enterprise/*")
    assert ("support", "20", "60", "20") in lines
    assert ("usage", "25", "–", "25") in lines
    assert ("fair up to", "75", "75", "80") in lines
    assert len(lines) == len(CUSTOMER_HEALTH.components) + len(CUSTOMER_HEALTH.bands)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("version = 4", "version = 'x'", "whole number from 1"),
        ("version = 4", "version = 0", "whole number from 1"),
        ("version = 4", "", "'version' is missing"),
        ("model_version = 1", "model_version = 9", "'customer-health' version 9, and the model here is 'customer-health' version 1"),
        ("payments = 25, ", "", "no weight for payments"),
        ("payments = 25, ", "payments = 25, pay = 1, ", "weights pay, not a component"),
        ("payments = 25, ", "payments = 2.5, ", "whole numbers"),
        ("payments = 25, ", "payments = 0, ", "whole number from 1"),
        ("fair = 75, good", "fair = 45, good", "ascend"),
        ('stage = "onboarding"', 'stage = "honeymoon"', "row 1, enterprise/honeymoon, is for a stage that there is not"),
        ('stage = "onboarding"', "stage = 7", "row 1: stage must be text"),
        ('stage = "onboarding"', "", r"row 2, enterprise/\*, never applies"),
        ("support = 60", "suport = 60", "'suport', which is not a component"),
        ("[[rows]]", "[rows]", "not TOML|written as"),
        ("bands = { poor = 60", "band = { poor = 60", "row 2 has band"),
        ("model =", "colour = 1\nmodel =", "the file has colour"),
        ("model =", "model ==", "not TOML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(old, new, reason):
    assert old in FILE
    with pytest.raises(BadDeclaration, match=reason):
        read_weights(FILE.replace(old, new), CUSTOMER_HEALTH)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "huge.toml").write_bytes(b"#" * 1_000_001)
    for name, reason in (("missing.toml", "cannot be read"), ("latin.toml", "UTF-8"), ("huge.toml", "larger")):
        with pytest.raises(BadDeclaration, match=reason):
            load_weights(tmp_path / name, CUSTOMER_HEALTH)


def test_the_digest_of_a_model_without_rows_does_not_depend_on_levers_and_is_canonical():
    assert replace(CUSTOMER_HEALTH, levers=()).digest == CUSTOMER_HEALTH.digest
    assert canonical({"digest": CUSTOMER_HEALTH.digest})
