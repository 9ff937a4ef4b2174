"""Field types: what must not enter is refused at the boundary, by a typed error that names the field and never the value."""

import math
import re
import unicodedata
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Annotated, Any, ClassVar, Literal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from postsale.aggregates.signals import AccountProfiled, InvoicePaid, SurveyAnswered, signal_from
from postsale.errors import InvalidInput
from postsale.events import MAX_INT, SEALED, Event, canonical, encode_payload, minor_digits, to_json
from postsale.events.model import decode_payload

from .kinds import Everything

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
CANARY = "jane.canary@example.org"


class NoOffset(tzinfo):
    """A time zone that does not know its offset: as good as none."""

    def utcoffset(self, dt: datetime | None) -> None:
        return None


def refused(field: str, **values: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        Everything(**values)
    assert caught.value.what == "Everything"
    assert caught.value.field == field
    return caught.value


BAD_IDS = {
    "empty": "",
    "over-long": "x" * 201,
    "NUL": "a\x00b",
    "a control character": "a\x1bb",
    "a line break": "a\nb",
    "a C1 control": "a\x85b",
    "a lone surrogate": "a\ud800b",
    "a line separator": "a\u2028b",
    "private use": "a\ue000b",
    "unassigned": "a\U000e0fffb",
    "an outer blank": " a",
    "only blanks": "  ",
    "a no-break space": "a\u00a0b",
    "an ogham space": "a\u1680b",
    "full-width letters": "\uff21\uff22",
    "a ligature": "\ufb01n",
    "a decomposed letter": "e\u0301",
    "a zero-width space": "a\u200bb",
    "a zero-width joiner": "a\u200db",
    "a byte-order mark": "a\ufeffb",
    "a soft hyphen": "a\u00adb",
    "a right-to-left override": "a\u202eb",
    "an isolate": "a\u2066b",
    "an arabic letter mark": "a\u061cb",
    "an invisible operator": "a\u2062b",
    "a tag character": "a\U000e0041b",
    "a variation selector": "a\ufe0fb",
    "a braille blank": "a\u2800b",
    "a hangul filler": "a\u115fb",
    "a cyrillic letter among latin ones": "\u0430cme",
    "a greek letter among latin ones": "acm\u03b5",
}


@pytest.mark.parametrize("bad", BAD_IDS.values(), ids=BAD_IDS.keys())
def test_an_id_that_could_be_confused_or_cannot_be_carried_is_refused(bad: str) -> None:
    refused("name", name=bad)


@pytest.mark.parametrize("good", ["cus_42", "a b", "Zoë", "日本語", "Łódź/7", "x" * 200, "a'b\"c", "{x}", "مرحبا"])
def test_an_id_in_any_script_is_kept_as_it_is(good: str) -> None:
    event = Everything(name=good)
    assert decode_payload(Everything.wire_name, encode_payload(event)) == event


@given(st.text(max_size=40))
def test_an_accepted_id_is_printable_and_in_nfkc_form(text: str) -> None:
    try:
        accepted = Everything(name=text).name
    except InvalidInput:
        return
    assert accepted == text == unicodedata.normalize("NFKC", text).strip()
    assert not {unicodedata.category(ch) for ch in text} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.mark.parametrize("bad", ["a\x00b", "a\x1b[31mb", "\x7f", "a\x85", "a\ud800", "x" * 4_001])
def test_text_refuses_controls_surrogates_and_what_is_too_long(bad: str) -> None:
    refused("text", text=bad)


@pytest.mark.parametrize(
    "good", ["two\nlines\t\r", "👩‍💻", "a\u2028b", "\uf8ff", "\U0001fae9", "\u202eabc", ""], ids=lambda text: ascii(text)
)
def test_what_people_write_is_kept_whatever_version_of_unicode_this_python_knows(good: str) -> None:
    event = Everything(text=good)
    assert decode_payload(Everything.wire_name, encode_payload(event)) == event


@pytest.mark.parametrize("field", ["count", "amount_minor", "number"])
@pytest.mark.parametrize("bad", [2**53, 2**60, 2**64, 10**400, True, False, 1.0, 1.5, math.nan, math.inf, "1", None, b"1"])
def test_a_number_is_an_integer_that_everybody_can_carry_and_never_a_boolean_or_a_float(field: str, bad: Any) -> None:
    refused(field, **{field: bad})


@pytest.mark.parametrize(("field", "bad"), [("count", -1), ("amount_minor", -1), ("number", -(2**53))])
def test_a_number_below_its_bound_is_refused(field: str, bad: int) -> None:
    refused(field, **{field: bad})


def test_the_bounds_themselves_are_accepted() -> None:
    event = Everything(count=MAX_INT, number=-MAX_INT, amount_minor=0)
    assert decode_payload(Everything.wire_name, encode_payload(event)) == event


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_float_is_finite(bad: float) -> None:
    refused("ratio", ratio=bad)


@pytest.mark.parametrize("bad", ["eur", "EU", "EURO", "EU1", "ZZZ", "€", "ＥＵＲ", "E\u200bR", "EUR ", "", 978, None, "\ud800\ud800\ud800"])
def test_a_currency_is_an_iso_4217_code(bad: Any) -> None:
    refused("currency", currency=bad)


def test_the_minor_unit_of_a_currency_is_known_and_an_unknown_one_is_an_error() -> None:
    assert [minor_digits(c) for c in ("EUR", "JPY", "KWD", "XAU")] == [2, 0, 3, 0]
    with pytest.raises(ValueError, match="ISO 4217"):
        minor_digits("eur")


@pytest.mark.parametrize(
    "bad",
    [
        datetime(2026, 3, 1),
        datetime(2026, 3, 1, tzinfo=NoOffset()),
        date(2026, 3, 1),
        "2026-03-01T00:00:00Z",
        1_700_000_000,
        1.5,
        datetime(9999, 12, 31, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    ],
    ids=lambda bad: re.sub(r" at 0x[0-9a-f]+", "", ascii(bad)),
)
def test_a_time_is_an_aware_datetime_whose_microseconds_everybody_can_carry(bad: Any) -> None:
    refused("at", at=bad)


@given(st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_one_instant_has_one_stored_form_whatever_its_time_zone(naive: datetime, offset_min: int) -> None:
    local = naive.replace(tzinfo=timezone(timedelta(minutes=offset_min)))
    here, utc = Everything(at=local), Everything(at=local.astimezone(UTC))
    assert here == utc
    assert encode_payload(here) == encode_payload(utc)
    assert decode_payload(Everything.wire_name, encode_payload(here)) == here


@pytest.mark.parametrize(
    "bad",
    ["20260301", "1700000000", "1700000000.5", "-2024", "+1700000", "2026-03-01", "2026-03-01T12:00:00", "today", "", 1700000000, None],
)
def test_a_time_in_json_is_iso_8601_with_a_zone_and_never_a_number_in_disguise(bad: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        signal_from(InvoicePaid, {"source": "s", "id": "1", "occurred_at": bad, "amount_minor": 1, "currency": "EUR"})
    assert caught.value.field == "occurred_at"


@pytest.mark.parametrize("good", ["2026-03-01T12:00:00Z", "2026-03-01 13:00+01:00", "2026-03-01T12:00:00.000000+00:00"])
def test_a_time_in_json_becomes_utc(good: str) -> None:
    signal = signal_from(InvoicePaid, {"source": "s", "id": "1", "occurred_at": good, "amount_minor": 1, "currency": "EUR"})
    assert signal.occurred_at == AT
    assert signal.occurred_at.tzinfo is UTC


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "/etc/passwd", "Europe", "", "Europe/Berlin\x00"])
def test_a_time_zone_is_an_iana_name_and_never_a_path(zone: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        AccountProfiled(source="crm", id="1", occurred_at=AT, time_zone=zone)
    assert caught.value.field == "time_zone"


def test_an_answer_outside_its_scale_is_refused() -> None:
    with pytest.raises(InvalidInput, match="score is outside"):
        SurveyAnswered(source="s", id="1", occurred_at=AT, survey="nps", score=11)


# ---------------------------------------------------------------- what JSON cannot carry


@pytest.mark.parametrize(
    "bad",
    [math.nan, math.inf, 2**60, {1, 2}, object(), b"x", "\ud800", {1: 2}, [[math.nan]], {"a": {"b": -math.inf}}],
    ids=lambda bad: re.sub(r" at 0x[0-9a-f]+", "", ascii(bad)),
)
def test_what_json_would_change_or_cannot_hold_is_refused_by_field_and_never_stored_as_null(bad: Any) -> None:
    event = Everything(loose={"deep": bad})
    with pytest.raises(InvalidInput) as caught:
        encode_payload(event)
    assert (caught.value.what, caught.value.field) == ("Everything", "loose")


def test_a_model_of_the_users_own_inside_an_event_cannot_smuggle_nan_in() -> None:
    class Inner(BaseModel):
        ratio: float

    class Outer(Event):
        wire_name: ClassVar[str] = "tests.events/outer@1"
        inner: Inner

    with pytest.raises(InvalidInput) as caught:
        encode_payload(Outer(inner=Inner(ratio=math.nan)))
    assert caught.value.field == "inner"


@pytest.mark.parametrize(
    "bad", [math.nan, -math.inf, "\ud800", object(), 2**70], ids=lambda bad: re.sub(r" at 0x[0-9a-f]+", "", ascii(bad))
)
def test_a_row_with_a_value_json_cannot_hold_is_refused_by_field_and_not_read_as_missing(bad: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        signal_from(AccountProfiled, {"source": "crm", "id": "1", "occurred_at": "2026-03-01T12:00:00Z", "seats": bad})
    assert (caught.value.what, caught.value.field) == ("AccountProfiled", "seats")


def test_none_and_the_word_null_are_not_mistaken_for_nan() -> None:
    assert orjson.loads(to_json("x", {"a": None, "b": "null", "c": [None, {"d": None}], "e": 1.5})) == {
        "a": None,
        "b": "null",
        "c": [None, {"d": None}],
        "e": 1.5,
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INT, MAX_INT) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abcdef", min_size=1), JSON), st.randoms(use_true_random=False))
def test_canonical_json_has_one_form_whatever_the_order_of_keys(value: dict[str, Any], rng: Any) -> None:
    keys = list(value)
    rng.shuffle(keys)
    raw = canonical(value)
    assert raw == canonical({k: value[k] for k in keys}) == canonical(orjson.loads(raw))
    assert orjson.loads(raw) == value


@pytest.mark.parametrize("bad", [2**53, -(2**53)])
def test_canonical_json_refuses_integers_that_others_would_round(bad: int) -> None:
    with pytest.raises(TypeError):
        canonical({"n": bad})


# ---------------------------------------------------------------- no value in the error


class Tagged(BaseModel):
    kind: Literal["a"]


class Other(BaseModel):
    kind: Literal["b"]


class Chooses(Event):
    wire_name: ClassVar[str] = "tests.events/chooses@1"
    choice: Annotated[Tagged | Other, Field(discriminator="kind")]
    scores: dict[str, int] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (Everything, {"name": CANARY + "\x00"}),
        (Everything, {"name": [CANARY]}),
        (Everything, {"count": CANARY}),
        (Everything, {"currency": CANARY}),
        (Everything, {"at": CANARY}),
        (Everything, {"flag": CANARY}),
        (Everything, {"ratio": CANARY}),
        (Everything, {"secret": CANARY + "\x00"}),
        (Everything, {"secret": {SEALED: [CANARY]}}),
        (Everything, {"letters": {CANARY: 1}}),
        (Everything, {CANARY: 1}),
        (Everything, {"jane\n": 1}),
        (Chooses, {"choice": {"kind": CANARY}}),
        (Chooses, {"choice": {"kind": "a"}, "scores": {CANARY: "x"}}),
    ],
    ids=lambda v: ascii(v)[:40],
)
def test_an_error_never_repeats_what_was_given_not_even_as_a_key(cls: type[Event], values: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        cls(**values)
    assert "jane" not in str(caught.value) + repr(caught.value)


def test_a_known_field_is_named_without_the_branches_of_its_type() -> None:
    assert refused("secret", secret="\x00").reason == "expected no control characters, NUL or lone surrogates"
    assert refused("letters", letters=3).field == "letters"
    assert refused("amount", amount=3).reason == "Extra inputs are not permitted"


def test_neither_repr_nor_str_of_an_event_shows_a_personal_value() -> None:
    event = Everything(secret=CANARY, letters={"a": CANARY}, name="visible")
    assert CANARY not in repr(event) + str(event) + f"{event}"
    assert "visible" in repr(event)
    assert event.secret == CANARY
    assert "secret=None" in repr(Everything())
