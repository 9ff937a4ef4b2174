"""Reading tables as rows of text cells: CSV, whitespace-separated, Parquet. Each bad row is one problem; the rest goes on.

Blank lines are no rows. Memory is bounded: text by line, Parquet by record batch.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from postsale.errors import InvalidInput, MappingInvalid, MissingExtra
from postsale.events import canonical
from postsale.ingest.documents import Line, lines, open_file
from postsale.ingest.items import ITEM_LIMIT

RECORD_LINES: Final = 1_000
"""Lines that one quoted cell may span before its quote counts as never closed."""
_BATCH_ROWS: Final = 8_192


class Shape(NamedTuple):
    """How a text table is written."""

    format: str  # csv | whitespace | parquet
    encoding: str = "utf-8"
    delimiter: str = ","
    header: bool = True
    columns: tuple[str, ...] = ()


class Header(NamedTuple):
    """The columns of a file, and the bytes of its header line (none for Parquet)."""

    columns: tuple[str, ...]
    raw: bytes


class Row(NamedTuple):
    """A row: its cells, or what is wrong with it (`column` is "(row)" where no column can be named)."""

    number: int
    raw: bytes
    content: bytes  # stands for `raw` where that was cut
    cells: list[str] | None
    column: str = "(row)"
    reason: str = ""


def read_header(path: Path, shape: Shape, what: str) -> Header:
    """The columns of the file. MappingInvalid when it is empty, not text, or names a column twice; InvalidInput when unreadable."""
    if shape.format == "parquet":
        with open_file(path, what) as file:
            return Header(tuple(_parquet(file, what).schema_arrow.names), b"")
    with open_file(path, what) as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise MappingInvalid(mapping=what, where="encoding", reason="the file is UTF-16; save it as UTF-8")
        file.seek(0)
        if not shape.header:
            return Header(shape.columns, b"")
        first = next(_Records(file, shape, None), None)
    if first is None or first.cells is None:
        reason = "the file is empty" if first is None else f"the header line is not readable: {first.reason}"
        raise MappingInvalid(mapping=what, where="header", reason=reason)
    names = tuple(cell.strip() for cell in first.cells)
    if len(set(names)) != len(names):
        raise MappingInvalid(mapping=what, where="header", reason="the file names a column twice")
    return Header(names, first.raw)


def read_rows(path: Path, shape: Shape, header: Header, what: str) -> Iterator[Row]:
    """The rows in file order, the header left out. `number` is the line (header included); for Parquet the row, from 1."""
    with open_file(path, what) as file:
        if shape.format == "parquet":
            yield from _parquet_rows(file, header.columns, what)
            return
        rows = _Records(file, shape, header.columns)
        if shape.header:
            rows.expected = None
            next(rows, None)
            rows.expected = header.columns
        yield from rows


# ---------------------------------------------------------------- text


class _Records:
    """Iterator over the records of a text table; `expected` are the columns each must fill, or None for any number."""

    def __init__(self, file: BinaryIO, shape: Shape, expected: tuple[str, ...] | None) -> None:
        self.expected = expected
        self._shape = shape
        self._source = lines(file)
        self._waiting: deque[Line] = deque()

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        while True:
            line = self._waiting.popleft() if self._waiting else next(self._source)
            row = self._row(line)
            if row is not None:
                return row

    def _row(self, line: Line) -> Row | None:
        number, raw, content, problem = line
        if problem is not None:
            return Row(number, raw, content, None, reason=problem)
        if b"\0" in raw:
            return Row(number, raw, raw, None, self._column_of(raw, lambda cell: b"\0" in cell), "contains NUL")
        text = self._decoded(line)
        if text is None:
            column = self._column_of(raw, lambda cell: _decode(cell, self._shape.encoding) is None)
            return Row(number, raw, raw, None, column, f"not valid {self._shape.encoding}")
        if self._shape.format == "whitespace":
            cells = text.split()
        elif '"' in text:
            return self._quoted(line, text)
        else:
            bare = text.rstrip("\r\n")
            cells = bare.split(self._shape.delimiter) if bare.strip() else []
        return self._checked(number, raw, cells) if cells else None

    def _checked(self, number: int, raw: bytes, cells: list[str]) -> Row:
        if self.expected is not None and len(cells) != len(self.expected):
            return Row(number, raw, raw, None, reason=f"expected {len(self.expected)} cells, found {len(cells)}")
        return Row(number, raw, raw, cells)

    def _quoted(self, line: Line, text: str) -> Row:
        """A record with quotes, over several lines where a cell holds line ends. Where that leads nowhere, only its first
        line is bad: the lines after it are read again by themselves, so that one stray quote cannot swallow the file."""
        taken, texts = [line], [text]
        size, quotes = len(line.raw), text.count('"')
        while True:
            try:
                cells = next(csv.reader(texts, delimiter=self._shape.delimiter, strict=True))
            except csv.Error as error:
                if "unexpected end" not in str(error):
                    return self._give_back(taken, "not valid CSV: text after a closing quote, or a cell that is too long")
            else:
                row = self._checked(line.number, b"".join(part.raw for part in taken), cells)
                return self._give_back(taken, row.reason) if row.cells is None and len(taken) > 1 else row
            while True:
                following = self._waiting.popleft() if self._waiting else next(self._source, None)
                if following is None:
                    return self._give_back(taken, "a quote is not closed")
                taken.append(following)
                more = None if following.problem or b"\0" in following.raw else self._decoded(following)
                size += len(following.raw)
                if more is None or size > ITEM_LIMIT or len(taken) > RECORD_LINES:
                    return self._give_back(taken, "a quote is not closed")
                texts.append(more)
                quotes += more.count('"')
                if '"' in more and quotes % 2 == 0:
                    break

    def _give_back(self, taken: list[Line], reason: str) -> Row:
        self._waiting.extendleft(reversed(taken[1:]))
        return Row(taken[0].number, taken[0].raw, taken[0].raw, None, reason=reason)

    def _decoded(self, line: Line) -> str | None:
        encoding = self._shape.encoding
        return _decode(line.raw, "utf-8-sig" if line.number == 1 and encoding == "utf-8" else encoding)

    def _column_of(self, raw: bytes, bad: Any) -> str:
        """The column of the first bad cell, where the bytes can be split without understanding them."""
        cells = raw.split() if self._shape.format == "whitespace" else raw.split(self._shape.delimiter.encode())
        if self.expected is None or b'"' in raw or len(cells) != len(self.expected):
            return "(row)"
        return next((name for name, cell in zip(self.expected, cells, strict=True) if bad(cell)), "(row)")


def _decode(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None


# ---------------------------------------------------------------- Parquet


def _parquet(file: BinaryIO, what: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra(feature="reading Parquet", extra="table") from None
    reason = ""
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError):
        reason = "not a Parquet file"
    raise InvalidInput(what=what, field="file", reason=reason)


def parquet_rows(path: Path, what: str) -> int:
    """How many rows a Parquet file says it has."""
    with open_file(path, what) as file:
        return int(_parquet(file, what).metadata.num_rows)


def _parquet_rows(file: BinaryIO, columns: tuple[str, ...], what: str) -> Iterator[Row]:
    import pyarrow

    number = 0
    reader = _parquet(file, what).iter_batches(batch_size=_BATCH_ROWS)
    while True:
        try:
            batch = next(reader, None)
        except (pyarrow.ArrowException, OSError):
            number += 1
            yield Row(number, b"", b"", None, reason="the file is damaged here; what follows cannot be read")
            return
        if batch is None:
            return
        held = [_texts(column) for column in batch.columns]
        for cells in zip(*held, strict=True):
            number += 1
            raw = canonical({name: cell for name, cell in zip(columns, cells, strict=True) if cell is not None})
            bad = next((name for name, cell in zip(columns, cells, strict=True) if cell is None), None)
            if bad is None:
                yield Row(number, raw, raw, list(cells))
            else:
                yield Row(number, raw, raw, None, bad, "not text, a number, a date, a truth value or null")


def _texts(column: Any) -> list[str | None]:
    """Cells as text; None where a value has no text of its own (nested, binary, not UTF-8)."""
    import pyarrow

    if pyarrow.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pyarrow.timestamp("us", tz=column.type.tz), safe=False)
    try:
        return [_text(value) for value in column.to_pylist()]
    except (UnicodeDecodeError, ValueError, OverflowError):
        return [_one_text(value) for value in column]


def _one_text(value: Any) -> str | None:
    try:
        return _text(value.as_py())
    except (UnicodeDecodeError, ValueError, OverflowError):
        return None


def _text(value: object) -> str | None:
    match value:
        case None:
            return ""
        case str():
            return None if "\0" in value else value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)
        case Decimal():
            return format(value, "f")
        case datetime() | date():
            return value.isoformat()
    return None
