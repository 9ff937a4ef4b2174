"""Reading fields of a Stripe object with errors that name the path; amounts as ISO 4217 minor units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final

from postsale.errors import InvalidInput
from postsale.events import minor_digits

WHAT: Final = "stripe event"

# Stripe's minor unit is ISO's, but for these: it counts whole ariary, and hundredths of krónur and Ugandan shillings
# (docs.stripe.com/currencies, "zero-decimal currencies" and "special cases").
_STRIPE_DIGITS: Final = {"MGA": 0, "ISK": 2, "UGX": 2}
_MISSING: Final = object()


def scale(currency: str) -> Fraction:
    """What Stripe's integer amount is multiplied with to give ISO 4217 minor units."""
    digits = minor_digits(currency)
    return Fraction(10) ** (digits - _STRIPE_DIGITS.get(currency, digits))


def minor(amount: int, currency: str, field: str) -> int:
    """Stripe's integer amount in ISO 4217 minor units of `currency`; InvalidInput where that is not whole."""
    exact = amount * scale(currency)
    if exact.denominator != 1:
        raise InvalidInput(what=WHAT, field=field, reason=f"not a whole amount of {currency}")
    return exact.numerator


class Object:
    """A JSON object at a path. Readers raise InvalidInput that names the path; `maybe_*` give None for absent and null."""

    __slots__ = ("path", "values")

    def __init__(self, values: Mapping[str, Any], path: str) -> None:
        self.values = values
        self.path = path

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def wrong(self, name: str, expected: str) -> InvalidInput:
        return InvalidInput(what=WHAT, field=self.at(name), reason=f"expected {expected}")

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def text(self, name: str) -> str:
        value = self.maybe_text(name)
        if not value:
            raise self.wrong(name, "a text")
        return value

    def maybe_text(self, name: str) -> str | None:
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.maybe_integer(name)
        if value is None:
            value = default
        if value is None:
            raise self.wrong(name, "an integer")
        return value

    def maybe_integer(self, name: str) -> int | None:
        value = self.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.wrong(name, "an integer")
        return value

    def time(self, name: str) -> datetime:
        return self._time(name, self.integer(name))

    def maybe_time(self, name: str) -> datetime | None:
        seconds = self.maybe_integer(name)
        return None if seconds is None else self._time(name, seconds)

    def _time(self, name: str, seconds: int) -> datetime:
        if not 0 <= seconds < 253_402_300_800:  # the year 10000
            raise self.wrong(name, "seconds since 1970, before the year 10000")
        return datetime.fromtimestamp(seconds, UTC)

    def currency(self, name: str = "currency") -> str:
        code = self.text(name).upper()
        try:
            minor_digits(code)
        except ValueError:
            code = ""
        if not code:
            raise self.wrong(name, "an ISO 4217 code")
        return code

    def object(self, name: str) -> Object:
        found = self.maybe_object(name)
        if found is None:
            raise self.wrong(name, "an object")
        return found

    def maybe_object(self, name: str) -> Object | None:
        value = self.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise self.wrong(name, "an object")
        return None if value is None else Object(value, self.at(name))

    def objects(self, name: str) -> tuple[Object, ...]:
        value = self.get(name)
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(part, Mapping) for part in value):
            raise self.wrong(name, "a list of objects")
        return tuple(Object(part, f"{self.at(name)}.{index}") for index, part in enumerate(value))

    def reference(self, name: str) -> str | None:
        """The id of another object: Stripe gives it as text, or as the object itself when it was expanded."""
        value = self.get(name)
        if isinstance(value, Mapping):
            return Object(value, self.at(name)).text("id")
        return self.maybe_text(name)
