"""Carrying out a mapping: rows of a table become items, one each, in file order.

**Ids.** A signal's id is a keyed digest of the mapping's name and the id columns, or, with `id = "row"`, of the whole row, and
then `#n` for its n-th identical occurrence and `/name` of the signal where it has one. So sorting the file or adding rows to
it changes no id, and equal lines stay distinct purchases. What comes out depends on the digest's key: keep it.

**Content.** The row's cells by column name, as text, less the mapping's `delivery` columns: a changed mapping changes no
content, and where columns stand does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from postsale.aggregates.identity import ExternalId
from postsale.aggregates.signals import Signal
from postsale.errors import InvalidInput, MappingInvalid
from postsale.events import canonical, invalid_input
from postsale.ingest import cells as cell
from postsale.ingest.items import Digest, Item, external_id, refused
from postsale.ingest.kinds import kind_named
from postsale.ingest.mapping import (
    BoolField,
    Check,
    Condition,
    Constant,
    DurationField,
    FieldRule,
    IntField,
    Lookup,
    Mapping,
    MoneyField,
    SignalRule,
    TextField,
    TimeField,
    TimeRule,
)
from postsale.ingest.rows import Header, Row, Shape, read_header, read_rows

Cells = list[str]
Reader = Callable[[Cells], Any]
_NO_SIGNAL: Final = "no signal of the mapping applies to this row"
_CUSTOMER_CACHE: Final = 100_000


def read_table(path: str | Path, mapping: Mapping, *, digest: Digest) -> Iterator[Item]:
    """One item per row, in file order; bad rows are items with an error. `digest` must be keyed, see `keyed_digest`.

    The header and the lookups are checked at once: MappingInvalid when the file does not fit, InvalidInput when it cannot be
    read, MissingExtra for Parquet without pyarrow. Memory: the lookups, and 8 bytes of digest per row with `id = "row"`.
    """
    path = Path(path)
    shape = Shape(mapping.format, mapping.encoding, mapping.delimiter, mapping.header, tuple(mapping.columns))
    header = read_header(path, shape, mapping.name)
    plan = _Plan(mapping, header, path.parent, digest)
    return map(plan.item, read_rows(path, shape, header, mapping.name))


class _Plan:
    """A mapping bound to the columns of one file: everything that can be looked up once is."""

    def __init__(self, mapping: Mapping, header: Header, folder: Path, digest: Digest) -> None:
        self.name, self.source = mapping.name, mapping.source
        self.columns = header.columns
        self.context = header.raw
        self.places = {name: index for index, name in enumerate(header.columns)}
        self.nulls = frozenset(mapping.null)
        self.zone = mapping.time_zone
        self.lookups = [self._lookup(name, lookup, folder) for name, lookup in mapping.lookup.items()]
        for index, name in enumerate(mapping.delivery):
            self._place(name, f"delivery.{index}", own=True)
        self.content = tuple(name for name in header.columns if name not in set(mapping.delivery))
        self.content_of = _picker([self.places[name] for name in self.content])
        self.customer = self._customer_reader(mapping)
        self.checks = [self._check(check, f"check.{index}") for index, check in enumerate(mapping.check)]
        self.digest = digest
        self.occurrences = _Occurrences()
        self.numbered = any(rule.id == "row" for rule in mapping.signal)
        self.row_prefix = canonical(["row", mapping.name])
        self.signals = [self._signal(rule, f"signal.{index}") for index, rule in enumerate(mapping.signal)]

    # -------------------------------------------------------- one row

    def item(self, row: Row) -> Item:
        where = f"row {row.number}"
        if row.cells is None:
            wrong = InvalidInput(what=self.name, field=row.column, reason=row.reason)
            return refused(row.content, row.raw, wrong, where, self.source, self.context)
        cells = row.cells
        content = canonical(dict(zip(self.content, self.content_of(cells), strict=True)))
        row_id = ""
        if self.numbered:  # before anything can fail, so that a row mended later has the number it would have had
            row_id = self.occurrences.numbered(self.digest(self.row_prefix + content))
        try:
            for by, name, table in self.lookups:
                found = table.get(cells[by].strip())
                if found is None:
                    raise InvalidInput(what=self.name, field=self.columns[by], reason=f"not found in lookup {name}")
                cells = cells + found
            customer = self.customer(cells)
            flags = tuple(name for name, fails, quarantine in self.checks if fails(cells) and _gate(self.name, name, quarantine))
            signals = tuple([build(cells, row_id) for applies, build in self.signals if all(test(cells) for test in applies)])
        except InvalidInput as error:
            return refused(content, row.raw, error, where, self.source, self.context)
        return Item(content, row.raw, customer, signals, None if signals else _NO_SIGNAL, None, where, self.source, flags, self.context)

    # -------------------------------------------------------- columns

    def _place(self, column: str, where: str, *, own: bool = False) -> int:
        index = self.places.get(column)
        if index is None or (own and index >= len(self.columns)):
            raise MappingInvalid(mapping=self.name, where=where, reason=f"the file has no column {column!r}")
        return index

    def _lookup(self, name: str, lookup: Lookup, folder: Path) -> tuple[int, str, dict[str, Cells]]:
        where = f"lookup.{name}"
        by = self._place(lookup.by, f"{where}.by", own=True)
        shape = Shape(lookup.format)
        path = folder / lookup.file
        header = read_header(path, shape, self.name)
        wanted = []
        for column in (lookup.key, *lookup.columns):
            if column not in header.columns:
                raise MappingInvalid(mapping=self.name, where=where, reason=f"its file has no column {column!r}")
            wanted.append(header.columns.index(column))
        table: dict[str, Cells] = {}
        for row in read_rows(path, shape, header, self.name):
            if row.cells is None:
                continue  # a row of ours that needs it is refused as not found
            key, *values = (row.cells[index].strip() for index in wanted)
            if table.setdefault(key, values) != values:
                raise MappingInvalid(mapping=self.name, where=where, reason=f"row {row.number} repeats a key with other values")
        for column in lookup.columns:
            self.places[f"{name}.{column}"] = len(self.places)
        return by, name, table

    def _cell_reader(
        self, index: int, column: str, convert: Callable[[str], Any], default: Any = None, names: dict[str, str] | None = None
    ) -> Reader:
        nulls, what, names = self.nulls, self.name, names or {}

        def read(cells: Cells) -> Any:
            text = cells[index].strip()
            if names and text in names:
                text = names[text]
            if text in nulls:
                return default
            try:
                return convert(text)
            except cell.Refused as refusal:
                reason = str(refusal)
            raise InvalidInput(what=what, field=column, reason=reason)

        return read

    def _time(self, rule: TimeRule, where: str) -> Reader:
        return self._cell_reader(self._place(rule.column, f"{where}.column"), rule.column, cell.time_reader(rule, self.zone))

    # -------------------------------------------------------- customer, conditions, checks

    def _customer_reader(self, mapping: Mapping) -> Callable[[Cells], ExternalId]:
        columns = mapping.customer_columns()
        places = [self._place(name, "customer") for name in columns]
        what, field, nulls = self.name, " + ".join(columns), self.nulls
        kind, source = mapping.customer_kind, mapping.customer_source
        known: dict[str, ExternalId] = {}

        def read(cells: Cells) -> ExternalId:
            parts = [cells[place].strip() for place in places]
            if any(part in nulls for part in parts):
                raise InvalidInput(what=what, field=field, reason="empty, but it names the customer")
            if len(parts) > 1 and any("/" in part for part in parts):
                raise InvalidInput(what=what, field=field, reason='contains "/", which joins several columns')
            text = "/".join(parts)
            found = known.get(text)
            if found is None:
                if len(known) >= _CUSTOMER_CACHE:
                    known.clear()
                found = known[text] = external_id(text, what=what, field=field, source=source, kind=kind)
            return found

        return read

    def _condition(self, condition: Condition, where: str) -> Callable[[Cells], bool]:
        place, nulls = self._place(condition.column, where), self.nulls
        if condition.empty is not None:
            wanted = condition.empty
            return lambda cells: (cells[place].strip() in nulls) is wanted
        if condition.not_equals is not None:
            unwanted = condition.not_equals
            return lambda cells: cells[place].strip() != unwanted
        allowed = frozenset(condition.one_of if condition.one_of is not None else [condition.equals])
        return lambda cells: cells[place].strip() in allowed

    def _check(self, check: Check, where: str) -> tuple[str, Callable[[Cells], bool], bool]:
        later = self._time(TimeRule(column=check.column, format=check.format), where)
        earlier = self._time(TimeRule(column=check.not_before, format=check.not_before_format or check.format), where)

        def fails(cells: Cells) -> bool:
            one, other = later(cells), earlier(cells)
            return one is not None and other is not None and one < other

        return check.name, fails, check.action == "quarantine"

    # -------------------------------------------------------- signals

    def _signal(self, rule: SignalRule, where: str) -> tuple[list[Callable[[Cells], bool]], Callable[[Cells, str], Signal]]:
        applies = [self._condition(test, f"{where}.when.{index}") for index, test in enumerate(rule.when)]
        _, cls = kind_named(rule.kind, self.name, "kind")
        validate = cls.__pydantic_validator__.validate_python
        readers: list[tuple[str, Reader]] = [
            ("occurred_at", self._required(self._time(rule.occurred_at, f"{where}.occurred_at"), rule.occurred_at.column))
        ]
        columns = {"occurred_at": rule.occurred_at.column}
        if rule.available_at is not None:
            readers.append(("available_at", self._time(rule.available_at, f"{where}.available_at")))
        for name, column in (("order", rule.order), ("contact", rule.contact)):
            if column is not None:
                columns[name] = column
                readers.append((name, self._cell_reader(self._place(column, f"{where}.{name}"), column, str)))
        fixed: dict[str, Any] = {"source": self.source}
        for name, held in rule.fields.items():
            if isinstance(held, Constant):
                fixed[name] = held.value
            else:
                columns[name] = held.column
                readers.append((name, self._field(held, f"{where}.fields.{name}")))
        make_id = self._id(rule, where)
        what = self.name

        def build(cells: Cells, row_id: str) -> Signal:
            values = dict(fixed)
            values["id"] = make_id(cells, row_id)
            for name, read in readers:
                value = read(cells)
                if value is not None:
                    values[name] = value
            try:
                return validate(values)  # type: ignore[no-any-return]
            except ValidationError as error:
                refusal = invalid_input(cls.__name__, error)
            field = refusal.field.partition(".")[0]
            raise InvalidInput(what=what, field=columns.get(field, field), reason=f"{cls.__name__}.{field}: {refusal.reason}")

        return applies, build

    def _required(self, read: Reader, column: str) -> Reader:
        what = self.name

        def required(cells: Cells) -> datetime:
            value: datetime | None = read(cells)
            if value is None:
                raise InvalidInput(what=what, field=column, reason="empty, but it says when it occurred")
            return value

        return required

    def _id(self, rule: SignalRule, where: str) -> Callable[[Cells, str], str]:
        suffix = "" if rule.name is None else f"/{rule.name}"
        if rule.id == "row":
            return lambda _cells, row_id: row_id + suffix
        columns = list(rule.id)
        places = [self._place(name, f"{where}.id") for name in columns]
        digest, nulls, what, table = self.digest, self.nulls, self.name, self.name
        field = " + ".join(columns)

        def make(cells: Cells, _row_id: str) -> str:
            parts = [cells[place].strip() for place in places]
            if all(part in nulls for part in parts):
                raise InvalidInput(what=what, field=field, reason="empty, but it makes the id")
            return digest(canonical(["id", table, *parts])) + suffix

        return make

    def _field(self, rule: FieldRule, where: str) -> Reader:
        match rule:
            case TimeField():
                return self._time(rule, where)
            case MoneyField():
                return self._money(rule, where)
            case TextField():
                return self._from(rule, where, str)
            case IntField():
                return self._from(rule, where, cell.to_int)
            case BoolField():
                return self._from(rule, where, cell.to_bool)
            case DurationField():
                unit, into = rule.unit, rule.type
                return self._from(rule, where, lambda text: cell.to_whole(text, unit, into))
        raise MappingInvalid(mapping=self.name, where=where, reason="a constant has no column")

    def _from(
        self, rule: TextField | IntField | BoolField | DurationField | MoneyField, where: str, convert: Callable[[str], Any]
    ) -> Reader:
        default = None
        if rule.default is not None:
            try:
                default = convert(rule.default)
            except cell.Refused as refusal:
                raise MappingInvalid(mapping=self.name, where=f"{where}.default", reason=str(refusal)) from None
        return self._cell_reader(self._place(rule.column, f"{where}.column"), rule.column, convert, default, rule.map)

    def _money(self, rule: MoneyField, where: str) -> Reader:
        read = cell.money_reader(rule)
        if rule.currency is not None:
            fixed = rule.currency
            return self._from(rule, where, lambda text: read(text, fixed))
        assert rule.currency_column is not None
        place = self._place(rule.currency_column, f"{where}.currency_column")
        index, nulls, what, column = self._place(rule.column, f"{where}.column"), self.nulls, self.name, rule.column

        def with_column(cells: Cells) -> int | None:
            text = cells[index].strip()
            text = rule.map.get(text, text)
            if text in nulls:
                if rule.default is None:
                    return None
                text = rule.default
            try:
                return read(text, cells[place].strip())
            except cell.Refused as refusal:
                reason = str(refusal)
            raise InvalidInput(what=what, field=column, reason=reason)

        return with_column


def _picker(places: list[int]) -> Callable[[Cells], tuple[str, ...]]:
    if len(places) == 1:
        place = places[0]
        return lambda cells: (cells[place],)
    pick: Callable[[Cells], tuple[str, ...]] = itemgetter(*places) if places else (lambda _: ())
    return pick


def _gate(what: str, check: str, quarantine: bool) -> bool:
    if quarantine:
        raise InvalidInput(what=what, field="(row)", reason=f"fails check {check}")
    return True


class _Occurrences:
    """How often each row digest was seen. Holds the first 8 bytes of each, as an integer; a count only where it is above 1."""

    def __init__(self) -> None:
        self._once: set[int] = set()
        self._more: dict[int, int] = {}

    def numbered(self, digest: str) -> str:
        key = int(digest[:16], 16)
        if key not in self._once:
            self._once.add(key)
            return digest
        count = self._more[key] = self._more.get(key, 1) + 1
        return f"{digest}#{count}"
