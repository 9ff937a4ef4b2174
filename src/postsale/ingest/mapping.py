"""Mapping files: how the columns of a table become signals. Only the declaration and its checks; `table` carries it out.

A mapping is TOML. `examples/*.toml` show every part; the classes here are the reference. Whatever is wrong with the file is
found when it is loaded, as MappingInvalid with the place in the file.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic import model_validator as after

from postsale.aggregates.signals import Signal
from postsale.errors import InvalidInput, MappingInvalid
from postsale.events import Currency, Id
from postsale.ingest.kinds import kind_named

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Column = Annotated[str, Field(min_length=1, max_length=200)]
"""A column's name as in the header; `LOOKUP.COLUMN` is a column of a lookup."""


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("expected an IANA time zone name, such as Europe/Berlin") from None
    return name


Zone = Annotated[str, AfterValidator(_zone)]


def _time_format(form: str) -> str:
    if form in ("iso", "unix_s", "unix_ms"):
        return form
    try:
        sample = datetime(2004, 5, 6, 7, 8, tzinfo=UTC).strftime(form)
        read = datetime.strptime(sample, form)  # noqa: DTZ007 – only tried
    except ValueError:
        read = None
    if read is None or (read.year, read.month, read.day) != (2004, 5, 6):
        raise ValueError('expected "iso", "unix_s", "unix_ms" or strptime directives that name year, month and day')
    return form


TimeFormat = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_time_format)]


def _one_character(text: str) -> str:
    if len(text) != 1 or not text.isascii() or text in '"\r\n\0':
        raise ValueError("expected one ASCII character other than a quote or a line end")
    return text


def _column_as_table(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class TimeRule(_Part):
    """How a time is read. A column's name alone means ISO 8601.

    `format` is "iso", "unix_s", "unix_ms" or strptime directives. A time without an offset is in `time_zone` (default: the
    mapping's). A date without a time is the start of that day there, the first instant that exists. A local time that the
    clocks skip or pass twice is refused unless `skipped` or `repeated` say what is meant.
    """

    column: Column
    format: TimeFormat = "iso"
    time_zone: Zone | None = None
    plus_days: Annotated[int, Field(ge=-36_500, le=36_500)] = 0  # days of 24 hours, added in UTC
    skipped: Literal["refuse", "later"] = "refuse"  # "later": moved on by the length of the gap
    repeated: Literal["refuse", "first", "second"] = "refuse"


class _FromColumn(_Part):
    column: Column
    map: dict[str, str] = Field(default_factory=dict)  # text in the file → text meant; what is not named stays as it is
    default: str | None = None  # the text that stands in for an empty cell


class TextField(_FromColumn):
    """Text, less outer blanks."""

    type: Literal["text"] = "text"


class IntField(_FromColumn):
    """An integer in ASCII digits; "4.0" counts as 4, because data frames write nullable integers so."""

    type: Literal["int"]


class BoolField(_FromColumn):
    """true/false, yes/no, t/f, y/n, 1/0 in any case."""

    type: Literal["bool"]


class MoneyField(_FromColumn):
    """A decimal amount, exactly, as integer minor units of `currency` (or of the code in `currency_column`).

    Digits with at most the currency's decimals (more only when they are 0), `-` in front. No exponent, no `thousands`
    separator unless it is named, no currency sign unless it is in `strip`.
    """

    type: Literal["money"]
    currency: Currency | None = None
    currency_column: Column | None = None
    decimal_mark: Literal[".", ","] = "."
    thousands: Literal[",", ".", " ", "'"] | None = None
    strip: Annotated[str, Field(max_length=10)] = ""

    @after(mode="after")
    def _one_currency(self) -> Self:
        if (self.currency is None) == (self.currency_column is None):
            raise ValueError("expected one of currency and currency_column")
        if self.thousands == self.decimal_mark:
            raise ValueError("thousands and decimal_mark are the same")
        return self


class TimeField(TimeRule):
    """A time; see TimeRule."""

    type: Literal["time"]


class DurationField(_FromColumn):
    """A length of time in `unit`, decimals allowed, as whole minutes or seconds, rounded down."""

    type: Literal["minutes", "seconds"]
    unit: Literal["seconds", "minutes", "hours", "days"]


class Constant(_Part):
    """The same value for every row."""

    value: str | int | bool | datetime


def _tag(value: Any) -> str:
    if isinstance(value, dict):
        return "constant" if "value" in value else str(value.get("type", "text"))
    return str(getattr(value, "type", "constant"))


FieldRule = Annotated[
    Annotated[TextField, Tag("text")]
    | Annotated[IntField, Tag("int")]
    | Annotated[BoolField, Tag("bool")]
    | Annotated[MoneyField, Tag("money")]
    | Annotated[TimeField, Tag("time")]
    | Annotated[DurationField, Tag("minutes")]
    | Annotated[DurationField, Tag("seconds")]
    | Annotated[Constant, Tag("constant")],
    Discriminator(
        _tag,
        custom_error_type="unknown_type",
        custom_error_message="expected type text, int, bool, money, time, minutes or seconds, or a constant value",
    ),
    BeforeValidator(_column_as_table),
]
TimeColumn = Annotated[TimeRule, BeforeValidator(_column_as_table)]


class Condition(_Part):
    """A test of one cell, as text less outer blanks. Exactly one of the tests."""

    column: Column
    equals: str | None = None
    not_equals: str | None = None
    one_of: list[str] | None = None
    empty: bool | None = None  # true: the cell is null; false: it is not

    @after(mode="after")
    def _one_test(self) -> Self:
        if sum(test is not None for test in (self.equals, self.not_equals, self.one_of, self.empty)) != 1:
            raise ValueError("expected exactly one of equals, not_equals, one_of, empty")
        return self


class SignalRule(_Part):
    """One signal that a row may give."""

    kind: str  # wire name, with or without @version
    name: Name | None = None  # becomes part of the signal's id; needed when a mapping has several signals
    id: Literal["row"] | list[Column]  # "row": the whole row and its occurrence number
    when: list[Condition] = Field(default_factory=list)  # all must hold
    occurred_at: TimeColumn
    available_at: TimeColumn | None = None
    order: Column | None = None
    contact: Column | None = None
    fields: dict[str, FieldRule] = Field(default_factory=dict)


class Lookup(_Part):
    """Another table, joined by a key: its columns are then `NAME.COLUMN`. Held in memory; CSV or whitespace, with a header."""

    file: str  # relative to the folder of the table that is read
    by: Column  # column of the table
    key: Column  # column of the lookup's file
    format: Literal["csv", "whitespace"] = "csv"
    columns: Annotated[list[Column], Field(min_length=1)]


class Check(_Part):
    """A quality gate: `column` must not be earlier than `not_before`. Rows where either is null pass."""

    name: Name
    column: Column
    not_before: Column
    format: TimeFormat = "iso"
    not_before_format: TimeFormat | None = None  # default: `format`
    action: Literal["flag", "quarantine"]


class Mapping(_Part):
    """A whole mapping file. Load it with `Mapping.load`."""

    RESERVED: ClassVar[frozenset[str]] = frozenset({"source", "id", "occurred_at", "available_at", "order", "contact"})

    name: Name  # of the table; part of every signal id
    source: Id  # as in `Signal.source`
    format: Literal["csv", "whitespace", "parquet"]
    encoding: Literal["utf-8", "latin-1", "windows-1252"] = "utf-8"
    delimiter: Annotated[str, AfterValidator(_one_character)] = ","
    header: bool = True
    columns: list[Column] = Field(default_factory=list)  # names, when there is no header
    time_zone: Zone = "UTC"
    null: list[str] = Field(default_factory=lambda: [""])  # cells that mean "nothing here", after outer blanks are gone
    delivery: list[Column] = Field(default_factory=list)  # columns that say how the row came: not part of its content
    customer: list[Column] | Column  # several are joined with "/"
    customer_kind: Literal["customer", "contact"] = "customer"
    customer_source: Annotated[str, Field(max_length=200)] = ""  # "": the tenant's one namespace of customer ids
    lookup: dict[Name, Lookup] = Field(default_factory=dict)
    check: list[Check] = Field(default_factory=list)
    signal: Annotated[list[SignalRule], Field(min_length=1)]

    @classmethod
    def load(cls, path: str | Path) -> Mapping:
        """The mapping in a TOML file. MappingInvalid says where in the file and why; signal kinds must be imported already."""
        path = Path(path)
        where, reason = "file", ""
        try:
            return cls.parse(path.read_text("utf-8"), path.name)
        except OSError as error:
            reason = f"cannot be read: {error.strerror or type(error).__name__}"
        except UnicodeDecodeError:
            reason = "not valid UTF-8"
        raise MappingInvalid(mapping=path.name, where=where, reason=reason)

    @classmethod
    def parse(cls, text: str, name: str = "mapping") -> Mapping:
        """The mapping in TOML text; `name` is used in messages only."""
        try:
            mapping = cls.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise MappingInvalid(mapping=name, where="file", reason=f"not TOML: {error}") from None
        except RecursionError:
            raise MappingInvalid(mapping=name, where="file", reason="nested too deeply") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            tags = {"text", "int", "bool", "money", "time", "minutes", "seconds", "constant"}
            path = [str(part) for part in first["loc"]]
            place = ".".join(part for i, part in enumerate(path) if not (part in tags and i >= 4 and path[2] == "fields" and i == 4))
            raise MappingInvalid(mapping=name, where=place or "file", reason=first["msg"].removeprefix("Value error, ")) from None
        _check(mapping, name)
        return mapping

    def customer_columns(self) -> list[str]:
        return [self.customer] if isinstance(self.customer, str) else self.customer


def _check(mapping: Mapping, file: str) -> None:
    """What spans several parts: kinds and their fields, names, headers, lookups."""

    def wrong(where: str, reason: str) -> MappingInvalid:
        return MappingInvalid(mapping=file, where=where, reason=reason)

    if mapping.header == bool(mapping.columns) and mapping.format != "parquet":
        raise wrong("columns", "expected column names exactly when header = false")
    if len(set(mapping.columns)) != len(mapping.columns):
        raise wrong("columns", "a name twice")
    if mapping.format == "parquet" and (mapping.columns or not mapping.header):
        raise wrong("columns", "Parquet has its own column names")
    if not mapping.customer_columns():
        raise wrong("customer", "expected at least one column")
    names = [rule.name for rule in mapping.signal]
    if len(set(names)) != len(names):
        raise wrong("signal", "several signals need different names: they become part of the ids")
    for index, rule in enumerate(mapping.signal):
        at = f"signal.{index}"
        if not rule.id:
            raise wrong(f"{at}.id", 'expected "row" or at least one column')
        try:
            wire_name, cls = kind_named(rule.kind, file, "kind")
        except InvalidInput as error:
            raise wrong(f"{at}.kind", error.reason) from None
        _check_fields(rule, wire_name, cls, at, file)


def _check_fields(rule: SignalRule, wire_name: str, cls: type[Signal], at: str, file: str) -> None:
    for name, held in rule.fields.items():
        where = f"{at}.fields.{name}"
        info = cls.model_fields.get(name)
        if name in Mapping.RESERVED:
            raise MappingInvalid(mapping=file, where=where, reason=f"say {name} beside kind, not among the fields")
        if info is None:
            known = ", ".join(sorted(set(cls.model_fields) - Mapping.RESERVED))
            raise MappingInvalid(mapping=file, where=where, reason=f"{wire_name} has no such field; it has {known}")
        if isinstance(held, Constant):
            try:
                TypeAdapter(info.rebuild_annotation()).validate_python(held.value, strict=True)
            except ValidationError as error:
                reason = error.errors(include_url=False, include_input=False, include_context=False)[0]["msg"]
                raise MappingInvalid(mapping=file, where=where, reason=reason.removeprefix("Value error, ")) from None
    for name, info in cls.model_fields.items():
        if info.is_required() and name not in Mapping.RESERVED and name not in rule.fields:
            raise MappingInvalid(mapping=file, where=f"{at}.fields", reason=f"{wire_name} requires {name}")
