"""One cell's text as a typed value, exactly or not at all. Pure functions; each raises Refused with a reason, never a value."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Final
from zoneinfo import ZoneInfo

from postsale.events import minor_digits
from postsale.ingest.mapping import MoneyField, TimeRule

_INT: Final = re.compile(r"(-?[0-9]{1,16})(?:\.0{1,16})?\Z")
_DECIMAL: Final = re.compile(r"(-?)([0-9]{0,16})(?:\.([0-9]{1,16}))?\Z")
_GROUPED: Final = re.compile(r"-?[0-9]{1,3}(?:_[0-9]{3})*(?:\.[0-9]+)?\Z")
_BOOLS: Final = dict.fromkeys(("true", "t", "yes", "y", "1"), True) | dict.fromkeys(("false", "f", "no", "n", "0"), False)
_SECONDS: Final = {"seconds": 1, "minutes": 60, "hours": 3_600, "days": 86_400}
_CLOCK_DIRECTIVES: Final = re.compile(r"%(?:[HIMSfpcX])")
_CACHE_LIMIT: Final = 100_000


class Refused(ValueError):
    """A cell cannot be read as its type. The text says what was expected, never what was there."""


def to_int(text: str) -> int:
    """An integer in ASCII digits, at most 16; a fraction of zeros is allowed."""
    found = _INT.match(text)
    if found is None:
        raise Refused("expected an integer in digits 0-9")
    return int(found[1])


def to_bool(text: str) -> bool:
    """True or False from the usual words, in any case."""
    try:
        return _BOOLS[text.lower()]
    except KeyError:
        pass
    raise Refused("expected true or false")


def to_whole(text: str, unit: str, into: str) -> int:
    """A length of time in `unit` as whole units of `into`, rounded down."""
    found = _DECIMAL.match(text)
    if found is None or not (found[2] or found[3]):
        raise Refused("expected a number in digits 0-9")
    exact = Fraction(text if found[2] else text.replace(".", "0.")) * _SECONDS[unit] / _SECONDS[into]
    return exact.numerator // exact.denominator


def to_minor(text: str, digits: int) -> int:
    """A decimal amount as integer minor units with `digits` decimals, exactly: no float, no rounding.

    "1,234.50", "1e3", "NaN", "+5", "12." and digits other than 0-9 are refused; "-0" is 0; ".50" is 50; "1.500" is 150.
    """
    found = _DECIMAL.match(text)
    if found is None or not (found[2] or found[3]):
        raise Refused("expected an amount in digits 0-9 with a decimal mark")
    fraction = found[3] or ""
    if len(fraction) > digits:
        if fraction[digits:].strip("0"):
            raise Refused(f"more than {digits} decimals")
        fraction = fraction[:digits]
    amount = int(found[2] + fraction.ljust(digits, "0") or "0")
    return -amount if found[1] else amount


def money_reader(rule: MoneyField) -> Callable[[str, str], int]:
    """(amount, currency code) → minor units, with the separators that the rule names."""
    digits = {} if rule.currency is None else {rule.currency: minor_digits(rule.currency)}

    def read(text: str, currency: str) -> int:
        known = digits.get(currency)
        if known is None:
            known = digits[currency] = _digits(currency)
        if rule.strip:
            text = text.strip(rule.strip + " ")
        if rule.thousands is not None and rule.thousands in text:
            marked = text.replace(rule.thousands, "_").replace(rule.decimal_mark, ".")
            if not _GROUPED.match(marked):
                raise Refused("expected groups of three digits between the thousands separators")
            return to_minor(marked.replace("_", ""), known)
        if rule.decimal_mark != ".":
            if "." in text:
                raise Refused("expected an amount with the mapping's decimal mark")
            text = text.replace(rule.decimal_mark, ".")
        return to_minor(text, known)

    return read


def _digits(currency: str) -> int:
    try:
        return minor_digits(currency)
    except ValueError:
        pass
    raise Refused("expected an ISO 4217 currency code in capitals")


def time_reader(rule: TimeRule, zone: str) -> Callable[[str], datetime]:
    """Text → aware UTC datetime by the rule. Remembers up to 100,000 texts: tables repeat their dates."""
    local = ZoneInfo(rule.time_zone or zone)
    plus = timedelta(days=rule.plus_days)
    known: dict[str, datetime] = {}

    def read(text: str) -> datetime:
        found = known.get(text)
        if found is None:
            if len(known) >= _CACHE_LIMIT:
                known.clear()
            found = known[text] = _in_range(text, rule, local, plus)
        return found

    return read


def _in_range(text: str, rule: TimeRule, zone: ZoneInfo, plus: timedelta) -> datetime:
    try:
        naive, is_date = _parse(text, rule.format)
        return (_utc(naive, is_date, rule, zone) if naive.tzinfo is None else naive.astimezone(UTC)) + plus
    except OverflowError:
        pass
    raise Refused("outside the years 1 to 9999")


def _parse(text: str, form: str) -> tuple[datetime, bool]:
    """The time as written, and whether it is a date only."""
    if not text.isascii():
        raise Refused("expected a time in ASCII characters")
    if form in ("unix_s", "unix_ms"):
        count = to_int(text)
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=count if form == "unix_ms" else count * 1000), False
    try:
        if form == "iso":
            return datetime.fromisoformat(text), not any(mark in text for mark in ":T ")
        return datetime.strptime(text, form), _CLOCK_DIRECTIVES.search(form) is None  # noqa: DTZ007 – the zone comes next
    except ValueError:
        pass
    raise Refused("expected a time in ISO 8601" if form == "iso" else f"expected a time as {form}")


def _utc(naive: datetime, is_date: bool, rule: TimeRule, zone: ZoneInfo) -> datetime:
    before, later = naive.replace(tzinfo=zone, fold=0), naive.replace(tzinfo=zone, fold=1)
    if before.utcoffset() == later.utcoffset():
        return before.astimezone(UTC)
    if before.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == naive:  # the clocks pass this time twice
        if not is_date and rule.repeated == "refuse":
            raise Refused("a local time that the clocks pass twice; the mapping's `repeated` can say which is meant")
        return (later if rule.repeated == "second" and not is_date else before).astimezone(UTC)
    if is_date:
        return _first_instant(later.astimezone(UTC), before.astimezone(UTC), zone)
    if rule.skipped == "refuse":
        raise Refused("a local time that the clocks skip; the mapping's `skipped` can move it on")
    return before.astimezone(UTC)


def _first_instant(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """The first whole second after the change of offset that lies between two instants."""
    after = high.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = (low + (high - low) / 2).replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == after:
            high = middle
        else:
            low = middle
    return high
