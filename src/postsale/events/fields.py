"""Field types with bounds: what an event may hold, refused at the boundary with a reason that never repeats the value.

Imports only the errors. Validators run on decoding too, so they must accept for ever whatever they once accepted.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from iso4217 import Currency as _Iso4217
from pydantic import AfterValidator, Field, GetCoreSchemaHandler
from pydantic_core import core_schema

MAX_INT: Final = 2**53 - 1  # what JSON, DuckDB and JavaScript all carry exactly

_UNPRINTABLE: Final = frozenset({"Cc", "Cs"})  # controls, lone surrogates
_UNNAMEABLE: Final = _UNPRINTABLE | {"Co", "Cn", "Zl", "Zp"}  # and private use, unassigned, line and paragraph separators
_INVISIBLE: Final = frozenset("\u034f\u115f\u1160\u1680\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")  # beside category Cf

_ALIKE: Final = frozenset({"LATIN", "CYRILLIC", "GREEK"})  # alphabets with letters that look the same (Unicode TR 39)


def _check_id(text: str) -> str:
    if text.isascii() and text.isprintable() and text == text.strip():
        return text
    _refuse(text, _UNNAMEABLE)
    if text != text.strip() or unicodedata.normalize("NFKC", text) != text:
        raise ValueError("expected no outer blanks and no look-alike characters (NFKC form)")
    if any(_is_invisible(ch) for ch in text):
        raise ValueError("expected no invisible or direction-changing characters")
    scripts = {unicodedata.name(ch, "").partition(" ")[0] for ch in text if ch.isalpha()}
    if len(scripts & _ALIKE) > 1:
        raise ValueError("expected letters of one alphabet: Latin, Cyrillic and Greek letters look alike")
    return text


def _is_invisible(ch: str) -> bool:
    variation_selector = "\ufe00" <= ch <= "\ufe0f" or "\U000e0100" <= ch <= "\U000e01ef"
    return unicodedata.category(ch) == "Cf" or ch in _INVISIBLE or variation_selector


def _check_text(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        # Nothing that depends on the version of Unicode: what one Python stored, an older one must read.
        _refuse(text, _UNPRINTABLE, allowed="\n\t\r")
    return text


def _refuse(text: str, categories: frozenset[str], *, allowed: str = "") -> None:
    for ch in text:
        if ch not in allowed and unicodedata.category(ch) in categories:
            raise ValueError("expected no control characters, NUL or lone surrogates")


_FIRST_YEAR, _LAST_YEAR = 1685, 2254  # whole years whose microseconds are within MAX_INT
_ISO_TEXT: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]"


def _in_utc(at: datetime) -> datetime:
    if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
        raise ValueError(f"expected a time from {_FIRST_YEAR} to {_LAST_YEAR}, so that its microseconds stay below 2^53")
    return at if at.tzinfo is UTC else at.astimezone(UTC)


class _UtcSchema:
    """One instant, one form: aware datetimes become UTC, so that the same content never differs by its time zone.

    From JSON only text with a date in it is read: pydantic would take "20240101" for seconds since 1970.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        aware = core_schema.datetime_schema(tz_constraint="aware", strict=True)
        dated = core_schema.custom_error_schema(
            core_schema.str_schema(pattern=_ISO_TEXT, strict=True),
            custom_error_type="iso_8601",
            custom_error_message="expected ISO 8601 with a time zone, such as 2026-01-31T12:00:00Z",
        )
        text = core_schema.chain_schema([dated, core_schema.datetime_schema(tz_constraint="aware", strict=False)])
        return core_schema.no_info_after_validator_function(_in_utc, core_schema.json_or_python_schema(text, aware))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        return {"type": "string", "format": "date-time"}


_CURRENCIES: Final = frozenset(currency.value for currency in _Iso4217)


def _check_currency(code: str) -> str:
    if code not in _CURRENCIES:
        raise ValueError("expected an ISO 4217 alphabetic code in capitals, such as EUR")
    return code


def minor_digits(currency: str) -> int:
    """How many decimal digits the minor unit of an ISO 4217 currency has (EUR 2, JPY 0, KWD 3)."""
    return int(_Iso4217(_check_currency(currency)).exponent or 0)


def money_text(minor: int, currency: str) -> str:
    """An amount as people read it: 450000 minor units of EUR are `4,500.00 EUR`."""
    digits = minor_digits(currency)
    return f"{Decimal(minor).scaleb(-digits):,.{digits}f} {currency}"


Id = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_id)]
Text = Annotated[str, Field(max_length=4_000), AfterValidator(_check_text)]
Currency = Annotated[str, Field(min_length=3, max_length=3), AfterValidator(_check_currency)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
AmountMinor = Annotated[int, Field(ge=0, le=MAX_INT)]  # in minor units of the currency beside it
Int = Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)]
UtcDatetime = Annotated[datetime, _UtcSchema]  # aware on the way in, UTC from then on
