"""A cell of a table: where a name that is longer than its column goes on in the next line.

Text only; knows no command and no data. May import rich.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.containers import Lines
from rich.text import Text

_WORD = re.compile(r"\S+")
_GAP = 2  # columns of the terminal between two of a table
_PART = re.compile(r"(?:[^-/._:=]|(?<=\d)[-.:](?=\d))*[-/._:=]*")  # a number, a date or a range of them is one part


class Cell(Text):
    """Text whose long words break behind one of `- / . _ : =`, as names of events, files and rules do, and elsewhere only if they must."""

    @classmethod
    def of(cls, markup: str) -> Cell:
        plain = Text.from_markup(markup, emoji=False)
        return cls(plain.plain, spans=plain.spans)

    def wrap(self, console: Console, width: int, *args: Any, **options: Any) -> Lines:
        """As rich wraps, after a line break at the last such place that fits."""
        if options.get("no_wrap"):
            return super().wrap(console, width, *args, **options)
        pieces = self.divide(_breaks(self.plain, width))
        return Text("\n").join(pieces).wrap(console, width, *args, **options)


def fitting(columns: Sequence[str], rows: Sequence[Sequence[Cell]], whole: Container[int], width: int) -> list[int] | None:
    """Widths at which no name is cut within a part of it; None when all fits as it is, or nothing would do. `whole`: columns that never wrap."""
    wanted, least = [cell_len(c) for c in columns], [cell_len(c) for c in columns]
    for row in rows:
        for at, cell in enumerate(row):
            longest = max((cell_len(line) for line in cell.plain.split("\n")), default=0)
            part = max((cell_len(part) for word in _WORD.findall(cell.plain) for part in _PART.findall(word)), default=0)
            wanted[at] = max(wanted[at], longest)
            least[at] = max(least[at], longest if at in whole else part)
    room = width - _GAP * (len(columns) - 1)
    if sum(wanted) <= room or sum(least) > room:
        return None
    for _ in range(room - sum(least)):  # what is left goes to the column that takes most lines
        at = max(range(len(columns)), key=lambda at: wanted[at] / max(1, least[at]))
        least[at] += 1
    return least


def _breaks(text: str, width: int) -> list[int]:
    """Offsets at which words that are wider than `width` cells go on in a new line."""
    found = []
    for word in _WORD.finditer(text):
        start = end = word.start()
        for part in _PART.finditer(text, word.start(), word.end()):
            if start < end and cell_len(text[start : part.end()]) > width:
                found.append(end)
                start = end
            end = part.end()
            while cell_len(text[start:end]) > width:  # rich would, but then cut the word after it too
                cut = start + 1
                while cell_len(text[start : cut + 1]) <= width:
                    cut += 1
                found.append(cut)
                start = cut
    return found
