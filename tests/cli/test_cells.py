"""Cells of tables: names that are longer than their column go on where their parts end."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from postsale.cli.cells import Cell, fitting
from postsale.cli.common import out, span, table

PART = re.compile(r"[^-/._:=]*[-/._:=]*")


def lines(text: str, width: int) -> list[str]:
    console = Console(width=200, file=None)
    return [line.plain.rstrip() for line in Cell(text).wrap(console, width, overflow="fold")]


def test_names_break_behind_their_parts() -> None:
    assert lines("billing/invoice-payment-failed", 18) == ["billing/invoice-", "payment-failed"]
    assert lines("suppressed by autonomy:observe", 14) == ["suppressed by", "autonomy:", "observe"]
    assert lines("short enough", 40) == ["short enough"]


def test_numbers_dates_and_ranges_are_not_cut() -> None:
    assert lines("1.84-8.94", 7) == ["1.84-8.", "94"]  # wider than the column: it must
    table_of = [[Cell("band poor or fair"), Cell("24.0 % (6 of 25), 9-47 %"), Cell("1.84-8.94"), Cell("2026-01-06 14:00")]]
    widths = fitting(("line", "precision", "95 %", "said"), table_of, set(), 50)
    assert widths is not None
    assert (widths[2] >= len("1.84-8.94"), widths[3] >= len("2026-01-06")) == (True, True)


def test_markup_is_style_and_escaped_markup_is_text() -> None:
    cell = Cell.of("[red]a/b[/] \\[red] :smile:")
    assert cell.plain == "a/b [red] :smile:"
    assert [(span.start, span.end, str(span.style)) for span in cell.spans] == [(0, 3, "red")]


@example("aaaaa 漢漢", 4)
@given(st.lists(st.text("abc/-.é漢", min_size=1, max_size=20), max_size=5).map(" ".join), st.integers(4, 30))
def test_nothing_is_lost_no_line_is_too_long_and_no_part_that_fits_is_cut(text: str, width: int) -> None:
    wrapped = lines(text, width)
    assert "".join("".join(wrapped).split()) == "".join(text.split())
    assert all(cell_len(line) <= width for line in wrapped)
    together = "\n".join(wrapped)
    for word in text.split():
        for part in PART.findall(word):
            assert cell_len(part) > width or part in together, (part, wrapped)


@given(
    st.lists(st.lists(st.text("ab/- ", max_size=30), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(10, 60),
    st.sets(st.integers(0, 2)),
)
def test_columns_that_are_fitted_fill_the_width_and_cut_no_part(rows: list[list[str]], width: int, whole: set[int]) -> None:
    columns = ("id", "agent", "because")
    widths = fitting(columns, [[Cell(cell) for cell in row] for row in rows], whole, width)
    if widths is None:
        return
    assert sum(widths) + 2 * 2 == width
    for at, name in enumerate(columns):
        cells = [row[at] for row in rows]
        uncut = cells if at in whole else [part for cell in cells for word in cell.split() for part in PART.findall(word)]
        assert widths[at] >= max(map(len, (name, *uncut)))


def test_a_table_that_fits_is_left_alone_and_one_that_never_will_is_too() -> None:
    rows = [[Cell("ab"), Cell("renewal-rescue"), Cell("one two three")]]
    assert fitting(("id", "agent", "because"), rows, {0}, 80) is None
    assert fitting(("id", "agent", "because"), rows, {0}, 28) == [2, 11, 11]
    assert fitting(("id", "agent", "because"), rows, {0}, 20) is None


def test_a_name_between_colons_stays_what_it_is_everywhere() -> None:
    with out.capture() as said:
        out.print("pass  conversation:free: nobody else has to be waited for")
        table("Guardrails", ("rule",), [("conversation:free:",)])
    assert said.get().count("conversation:free:") == 2


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min"),
        (61.9, "1 min 1 s"),
        (7_500, "2 h 5 min"),
        (7_200, "2 h"),
        (7_201, "2 h"),
        (90_061, "1 d 1 h"),
    ],
)
def test_a_span_of_time_is_said_by_its_two_largest_units(seconds: float, said: str) -> None:
    assert span(seconds) == said
