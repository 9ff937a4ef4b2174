"""Cells: money exactly, whole numbers, truth values, lengths of time, and local times when the clocks change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.ingest.cells import Refused, money_reader, time_reader, to_bool, to_int, to_minor, to_whole
from postsale.ingest.mapping import MoneyField, TimeRule

from .support import CANARY

REFUSED = [
    "1,234.50", "1e3", "1E3", "NaN", "nan", "inf", "-Infinity", "١٢", "１２", "²", "+5", "--5", "-", ".", "", "12.", "1.2.3", "0x10", "1_000", "$5", "5 USD", "1 000",
    "12.345", "9" * 17, "1\u00a0000", CANARY,
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_an_amount_in_another_notation_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(Refused) as caught:
        to_minor(text, 2)
    assert len(text) < 2 or text not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "digits", "minor"),
    [
        ("11.77", 2, 1177),
        ("0.00", 2, 0),
        ("-0", 2, 0),
        ("-0.00", 2, 0),
        ("-1.5", 2, -150),
        (".50", 2, 50),
        ("7", 2, 700),
        ("1.500", 2, 150),
        ("0.1", 3, 100),
        ("500", 0, 500),
        ("500.00", 0, 500),
        ("90071992547409.93", 2, 9_007_199_254_740_993),  # beyond what a float holds
        ("007.10", 2, 710),
    ],
)
def test_an_amount_becomes_exact_minor_units(text: str, digits: int, minor: int) -> None:
    assert to_minor(text, digits) == minor


@given(st.decimals(min_value=-(10**14), max_value=10**14, places=2))
def test_every_two_decimal_amount_is_read_exactly(amount: Decimal) -> None:
    assert to_minor(format(amount, "f"), 2) == int(amount * 100)


@given(st.text(max_size=12))
def test_any_text_is_refused_or_reads_as_python_decimal_does(text: str) -> None:
    try:
        minor = to_minor(text, 4)
    except Refused:
        return
    assert Decimal(minor) == Decimal(text) * 10_000


def money(**rule: Any) -> Callable[[str, str], int]:
    return money_reader(MoneyField.model_validate({"type": "money", "column": "x", **rule}))


def test_separators_and_signs_are_read_only_when_the_mapping_names_them() -> None:
    english = money(currency="USD", thousands=",", strip="$")
    assert [english(text, "USD") for text in ("1,234.50", "$1,234,567.00", "-1,234.50", "999.1", "1234.50")] == [
        123_450,
        123_456_700,
        -123_450,
        99_910,
        123_450,
    ]
    german = money(currency="EUR", thousands=".", decimal_mark=",", strip="€")
    assert [german(text, "EUR") for text in ("1.234,50", "1.234,50 €", "12,5", "7")] == [123_450, 123_450, 1250, 700]
    for read, code, texts in (
        (english, "USD", ["1,23.50", ",123", "12,34", "1,234,5"]),
        (german, "EUR", ["1.23,5", "1.2345"]),
        (money(currency="EUR", decimal_mark=","), "EUR", ["1.5"]),
    ):
        for text in texts:
            with pytest.raises(Refused):
                read(text, code)


def test_a_currency_column_decides_the_decimals() -> None:
    read = money(currency_column="code")
    assert [read("5", code) for code in ("JPY", "EUR", "KWD")] == [5, 500, 5000]
    for code in ("eur", "", "EURO", "XXZ"):
        with pytest.raises(Refused, match="ISO 4217"):
            read("5", code)


@pytest.mark.parametrize(("text", "value"), [("7", 7), ("-7", -7), ("4.0", 4), ("4.000", 4), ("007", 7)])
def test_whole_numbers_and_their_data_frame_spelling_are_integers(text: str, value: int) -> None:
    assert to_int(text) == value


@pytest.mark.parametrize("text", ["4.5", "1e3", "NaN", "١٢", "", "4.", "1,000", "9" * 17, "0b1", " 7"])
def test_what_is_not_a_whole_number_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        to_int(text)


def test_truth_values_are_the_usual_words_and_nothing_else() -> None:
    assert [to_bool(text) for text in ("TRUE", "yes", "1", "t", "FALSE", "No", "0", "f")] == [True] * 4 + [False] * 4
    for text in ("", "2", "maybe", "0.0", "ＴＲＵＥ"):
        with pytest.raises(Refused):
            to_bool(text)


@pytest.mark.parametrize(
    ("text", "unit", "into", "whole"),
    [
        ("27", "hours", "minutes", 1620),
        ("1.5", "hours", "minutes", 90),
        (".1", "hours", "minutes", 6),
        ("90", "seconds", "minutes", 1),
        ("2", "days", "seconds", 172_800),
        ("0.01", "hours", "minutes", 0),
    ],
)
def test_a_length_of_time_is_whole_units_rounded_down(text: str, unit: str, into: str, whole: int) -> None:
    assert to_whole(text, unit, into) == whole


@given(st.fractions(min_value=0, max_value=10_000, max_denominator=1).map(int), st.integers(0, 99))
def test_decimal_hours_are_minutes_exactly(hours: int, hundredths: int) -> None:
    assert to_whole(f"{hours}.{hundredths:02d}", "hours", "minutes") == Fraction(hours * 100 + hundredths, 100) * 60 // 1


# ---------------------------------------------------------------- times


def times(zone: str = "UTC", **rule: Any) -> Callable[[str], datetime]:
    return time_reader(TimeRule.model_validate({"column": "x", **rule}), zone)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("rule", "text", "at"),
    [
        ({"format": "%Y%m%d"}, "19970101", utc(1997, 1, 1)),
        ({"format": "%d-%m-%Y"}, "29-02-2024", utc(2024, 2, 29)),
        ({}, "2024-03-01", utc(2024, 3, 1)),
        ({}, "2024-03-01T12:00:00+02:00", utc(2024, 3, 1, 10)),
        ({}, "2024-03-01 12:00:00.25Z", utc(2024, 3, 1, 12, 0, 0, 250_000)),
        ({"format": "%Y-%m-%d %H:%M %z"}, "2024-03-01 12:00 -0500", utc(2024, 3, 1, 17)),
        ({"format": "unix_s"}, "1700000000", utc(2023, 11, 14, 22, 13, 20)),
        ({"format": "unix_ms"}, "1700000000123", utc(2023, 11, 14, 22, 13, 20, 123_000)),
        ({"format": "%Y%m%d", "plus_days": 1}, "19971231", utc(1998, 1, 1)),
        ({"time_zone": "America/New_York"}, "2024-03-01", utc(2024, 3, 1, 5)),
    ],
)
def test_a_time_is_read_by_its_format_and_zone(rule: dict[str, Any], text: str, at: datetime) -> None:
    assert times(**rule)(text) == at


@pytest.mark.parametrize("text", ["30-02-2024", "2024-01-01", "", "١٥-٠١-٢٠٢٤", "1-1-24", "01-01-2024 10:00", CANARY])
def test_a_text_that_is_not_that_time_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(Refused) as caught:
        times(format="%d-%m-%Y")(text)
    assert not text or text not in str(caught.value)


def test_a_time_beyond_the_calendar_is_refused() -> None:
    for rule, text in (({"time_zone": "Asia/Tokyo"}, "0001-01-01"), ({"plus_days": 2}, "9999-12-31"), ({"format": "unix_s"}, "9" * 16)):
        with pytest.raises(Refused, match="1 to 9999"):
            times(**rule)(text)


def test_a_local_time_that_the_clocks_skip_is_refused_or_moved_on() -> None:
    with pytest.raises(Refused, match="skip"):
        times("Europe/Berlin")("2024-03-31T02:30:00")
    assert times("Europe/Berlin", skipped="later")("2024-03-31T02:30:00") == utc(2024, 3, 31, 1, 30)  # 03:30 summer time


def test_a_local_time_that_comes_twice_is_refused_or_chosen() -> None:
    with pytest.raises(Refused, match="twice"):
        times("Europe/Berlin")("2024-10-27T02:30:00")
    assert times("Europe/Berlin", repeated="first")("2024-10-27T02:30:00") == utc(2024, 10, 27, 0, 30)
    assert times("Europe/Berlin", repeated="second")("2024-10-27T02:30:00") == utc(2024, 10, 27, 1, 30)


def test_a_date_is_the_first_instant_of_that_day_also_where_midnight_is_skipped_or_comes_twice() -> None:
    assert times("America/Sao_Paulo")("2018-11-04") == utc(2018, 11, 4, 3)  # 00:00 is skipped: the day begins at 01:00
    assert times("America/Toronto")("1919-03-31") == utc(1919, 3, 31, 4, 30)  # clocks went from 23:30 to 00:30
    assert times("America/Havana")("2023-11-05") == utc(2023, 11, 5, 4)  # 00:00 comes twice: the first


@given(
    st.datetimes(datetime.fromisoformat("1971-01-01"), datetime.fromisoformat("2037-01-01")),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "UTC"]),
)
def test_a_local_time_is_refused_or_comes_back_as_written(naive: datetime, zone: str) -> None:
    try:
        at = times(zone)(naive.isoformat())
    except Refused:
        return
    assert at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == naive
