"""Cells of tables: names that are longer than their column go on where their parts end."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from postsale.cli.cells import Cell

PART = re.compile(r"[^-/._:~=]*[-/._:~=]*")


def lines(text: str, width: int) -> list[str]:
    console = Console(width=200, file=None)
    return [line.plain.rstrip() for line in Cell(text).wrap(console, width, overflow="fold")]


def test_names_break_behind_their_parts() -> None:
    assert lines("billing/invoice-payment-failed", 18) == ["billing/invoice-", "payment-failed"]
    assert lines("suppressed by autonomy:observe", 14) == ["suppressed by", "autonomy:", "observe"]
    assert lines("short enough", 40) == ["short enough"]


def test_markup_is_style_and_escaped_markup_is_text() -> None:
    cell = Cell.of("[red]a/b[/] \\[red] :smile:")
    assert cell.plain == "a/b [red] :smile:"
    assert [(span.start, span.end, str(span.style)) for span in cell.spans] == [(0, 3, "red")]


@given(st.text("abc/-. é漢", max_size=60), st.integers(4, 30))
def test_nothing_is_lost_no_line_is_too_long_and_no_part_that_fits_is_cut(text: str, width: int) -> None:
    wrapped = lines(text, width)
    assert "".join("".join(wrapped).split()) == "".join(text.split())
    assert all(cell_len(line) <= width for line in wrapped)
    together = "\n".join(wrapped)
    for word in text.split():
        for part in PART.findall(word):
            assert cell_len(part) > width or part in together, (part, wrapped)
