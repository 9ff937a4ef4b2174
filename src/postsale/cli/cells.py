"""A cell of a table: where a name that is longer than its column goes on in the next line.

Text only; knows no command and no data. May import rich.
"""

from __future__ import annotations

import re
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.containers import Lines
from rich.text import Text

_WORD = re.compile(r"\S+")
_PART = re.compile(r"[^-/._:~=]*[-/._:~=]*")


class Cell(Text):
    """Text whose long words break behind one of `- / . _ : ~ =`, as names of events, files and rules do, and elsewhere only if they must."""

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
    return found
