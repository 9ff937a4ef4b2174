"""Plots as inline SVG: stacked areas, bars, lines, dots with intervals. Each has a title and a description; colours are classes of the page.

A plot is drawn for a width, in CSS pixels, so that its letters keep their size: the page has each twice, for a wide and for a narrow screen.
Pure; imports `html` only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from postsale.report.html import Raw, tag

WIDE: Final = 760
NARROW: Final = 340
_LETTER: Final = 6.6  # mean width of a letter of 12 px


class Series(NamedTuple):
    """A row of numbers with its name and its colour's class."""

    name: str
    values: Sequence[float]
    colour: str


class Dot(NamedTuple):
    """A value with its interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None


Draw = Callable[[float], Raw]


def both(name: str, title: str, told: str, draw: Callable[[float], tuple[float, Sequence[Raw]]]) -> Raw:
    """A plot for wide and one for narrow screens, of which the page shows one. `draw` gives its height and what is in it."""
    out = []
    for width, cls in ((WIDE, "wide"), (NARROW, "narrow")):
        height, inside = draw(width)
        ids = f"{name}-{cls}-t", f"{name}-{cls}-d"
        labels = tag("title", title, id=ids[0]), tag("desc", told, id=ids[1])
        out.append(
            tag(
                "svg",
                *labels,
                *inside,
                class_=cls,
                role="img",
                aria_labelledby=" ".join(ids),
                viewBox=f"0 0 {width:g} {height:g}",
                width=width,
                height=height,
            )
        )
    return Raw("".join(out))


def legend(series: Sequence[tuple[str, str]]) -> Raw:
    """Names with their colours; not for reading aloud, for the table says it."""
    marks = (tag("span", tag("i", class_=f"b-{colour}"), name) for name, colour in series)
    return tag("p", *marks, class_="legend", aria_hidden="true")


def areas(labels: Sequence[str], series: Sequence[Series], height: float = 220) -> Callable[[float], tuple[float, Sequence[Raw]]]:
    """Stacked areas over points in time, the first series at the bottom."""

    def draw(width: float) -> tuple[float, Sequence[Raw]]:
        top = max((sum(s.values[i] for s in series) for i in range(len(labels))), default=0)
        frame = _Frame(width, height, 0, top)
        xs = frame.points(len(labels))
        out, base = [*frame.grid()], [0.0] * len(labels)
        for s in series:
            upper = [b + v for b, v in zip(base, s.values, strict=True)]
            line = [f"{x:.1f},{frame.y(v):.1f}" for x, v in zip(xs, upper, strict=True)]
            back = [f"{x:.1f},{frame.y(v):.1f}" for x, v in reversed(list(zip(xs, base, strict=True)))]
            out.append(tag("polygon", points=" ".join([*line, *back]), class_=f"f-{s.colour} edge"))
            middle = upper[-1] - s.values[-1] / 2
            if s.values[-1] * frame.per_unit > 14:
                out.append(
                    tag("text", f"{s.values[-1]:.0f}", x=xs[-1] - 5, y=round(frame.y(middle) + 4, 1), class_="on", text_anchor="end")
                )
            base = upper
        return height, [*out, *frame.labels(labels, xs)]

    return draw


def lines(
    labels: Sequence[str], series: Sequence[Series], unit: str = "", height: float = 220
) -> Callable[[float], tuple[float, Sequence[Raw]]]:
    """Lines over points in time, from zero; the second and later ones are dashed."""

    def draw(width: float) -> tuple[float, Sequence[Raw]]:
        frame = _Frame(width, height, 0, max((max(s.values, default=0) for s in series), default=0), unit)
        xs = frame.points(len(labels))
        out = [*frame.grid()]
        for no, s in enumerate(series):
            path = " ".join(f"{'L' if i else 'M'}{x:.1f} {frame.y(v):.1f}" for i, (x, v) in enumerate(zip(xs, s.values, strict=True)))
            out.append(tag("path", d=path, class_=f"l-{s.colour}", stroke_dasharray="6 4" if no else None))
            out += [
                tag("circle", cx=round(x, 1), cy=round(frame.y(v), 1), r=2.5, class_=f"f-{s.colour}")
                for x, v in zip(xs, s.values, strict=True)
            ]
        return height, [*out, *frame.labels(labels, xs)]

    return draw


def columns(
    labels: Sequence[str], series: Sequence[Series], unit: str = "", mark: float | None = None, height: float = 220
) -> Callable[[float], tuple[float, Sequence[Raw]]]:
    """Stacked columns; what is below 0 hangs from the axis. `mark` is a line across, such as a limit."""

    def draw(width: float) -> tuple[float, Sequence[Raw]]:
        ups = [sum(max(0.0, s.values[i]) for s in series) for i in range(len(labels))]
        downs = [sum(min(0.0, s.values[i]) for s in series) for i in range(len(labels))]
        frame = _Frame(width, height, min([0.0, *downs]), max([mark or 0.0, *ups], default=0), unit)
        step = frame.width / max(1, len(labels))
        wide = min(46.0, step * 0.66)
        xs = [frame.left + step * (i + 0.5) for i in range(len(labels))]
        out = [*frame.grid()]
        for i, x in enumerate(xs):
            up = down = 0.0
            for s in series:
                v = s.values[i]
                if not v:
                    continue
                low, high = (up, up + v) if v > 0 else (down + v, down)
                up, down = (up + v, down) if v > 0 else (up, down + v)
                out.append(_box(x - wide / 2, frame.y(high), wide, frame.y(low) - frame.y(high), s.colour))
        if mark is not None:
            y = round(frame.y(mark), 1)
            out.append(tag("line", x1=frame.left, x2=width, y1=y, y2=y, class_="mark"))
        y0 = round(frame.y(0), 1)
        out.append(tag("line", x1=frame.left, x2=width, y1=y0, y2=y0, class_="axis"))
        return height, [*out, *frame.labels(labels, xs)]

    return draw


def bars(labels: Sequence[str], series: Sequence[Series]) -> Callable[[float], tuple[float, Sequence[Raw]]]:
    """Stacked bars that lie, one for each label, with its name above it and its numbers in it."""

    def draw(width: float) -> tuple[float, Sequence[Raw]]:
        most = max((sum(s.values[i] for s in series) for i in range(len(labels))), default=0) or 1
        room, y, out = width - 44, 0.0, []
        for i, label in enumerate(labels):
            out.append(tag("text", label, x=0, y=y + 13))
            x, total = 0.0, sum(s.values[i] for s in series)
            for s in series:
                wide = room * s.values[i] / most
                if not s.values[i]:
                    continue
                out.append(_box(x, y + 19, wide, 20, s.colour))
                if s.values[i] != total and wide > 10 + _LETTER * len(f"{s.values[i]:.0f}"):
                    out.append(
                        tag(
                            "text",
                            f"{s.values[i]:.0f}",
                            x=round(x + wide / 2, 1),
                            y=y + 33,
                            class_=f"on on-{s.colour}",
                            text_anchor="middle",
                        )
                    )
                x += wide
            out.append(tag("text", f"{total:.0f}", x=round(x + 6, 1), y=y + 34, class_="total"))
            y += 48
        return max(1.0, y), out

    return draw


def dots(
    labels: Sequence[str], rows: Sequence[tuple[str, str, Sequence[Dot]]], unit: str = " %", mark: float | None = None, height: float = 200
) -> Callable[[float], tuple[float, Sequence[Raw]]]:
    """Values with their intervals, side by side for each label: (name, colour, dots)."""

    def draw(width: float) -> tuple[float, Sequence[Raw]]:
        every = [v for _, _, ds in rows for dot in ds for v in (dot.value, dot.low, dot.high) if v is not None] or [0.0]
        low = min([*every, mark if mark is not None else every[0]])
        frame = _Frame(width, height, math.floor(low / 20) * 20, max([*every, mark or every[0]]), unit)
        step = frame.width / max(1, len(labels))
        out = [*frame.grid()]
        if mark is not None:
            y = round(frame.y(mark), 1)
            out.append(tag("line", x1=frame.left, x2=width, y1=y, y2=y, class_="mark"))
        for no, (_, colour, ds) in enumerate(rows):
            for i, dot in enumerate(ds):
                x = round(frame.left + step * (i + 0.5) + (no - (len(rows) - 1) / 2) * min(26.0, step / 3), 1)
                if dot.low is not None and dot.high is not None:
                    out.append(tag("line", x1=x, x2=x, y1=round(frame.y(dot.low), 1), y2=round(frame.y(dot.high), 1), class_=f"l-{colour}"))
                if dot.value is not None:
                    y = round(frame.y(dot.value), 1)
                    shape = tag("circle", cx=x, cy=y, r=5, class_=f"f-{colour}") if no % 2 == 0 else _box(x - 4.5, y - 4.5, 9, 9, colour)
                    out.append(shape)
        xs = [frame.left + step * (i + 0.5) for i in range(len(labels))]
        return height, [*out, *frame.labels(labels, xs)]

    return draw


def _box(x: float, y: float, width: float, height: float, colour: str) -> Raw:
    return tag(
        "rect", x=round(x, 1), y=round(y, 1), width=round(max(0.5, width), 1), height=round(max(0.5, height), 1), class_=f"f-{colour}"
    )


def _apart(placed: Sequence[tuple[str, float, float]]) -> bool:
    """Whether labels, from right to left with their middles and half widths, leave room between them."""
    return all(x + half + 4 < right - wide for (_, right, wide), (_, x, half) in pairwise(placed))


class _Frame:
    """Axes of a plot: from numbers to pixels, with round numbers at the left."""

    def __init__(self, width: float, height: float, low: float, high: float, unit: str = "") -> None:
        span = max(high - min(0.0, low) if low < 0 else high - low, 1e-9)
        raw = span / 4
        size = 10.0 ** math.floor(math.log10(raw))
        self.step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw * 0.999)
        self.low = math.floor(low / self.step) * self.step
        self.high = max(self.low + self.step, math.ceil(high / self.step - 1e-9) * self.step)
        self.unit = unit
        self.left = 10 + _LETTER * max(len(self._said(v)) for v in self._ticks())
        self.width, self.top, self.bottom = width - self.left, 8.0, height - 24
        self.per_unit = (self.bottom - self.top) / (self.high - self.low)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.low) * self.per_unit

    def points(self, n: int) -> list[float]:
        return [self.left + self.width * (i / (n - 1) if n > 1 else 0.5) for i in range(n)]

    def grid(self) -> list[Raw]:
        out = []
        for v in self._ticks():
            y = round(self.y(v), 1)
            out.append(tag("line", x1=self.left, x2=self.left + self.width, y1=y, y2=y, class_="grid"))
            out.append(tag("text", self._said(v), x=round(self.left - 6, 1), y=y + 4, text_anchor="end"))
        return out

    def labels(self, labels: Sequence[str], xs: Sequence[float]) -> list[Raw]:
        """As many as there is room for, evenly spaced, the last one always."""
        edge, placed = self.left + self.width, list[tuple[str, float, float]]()
        for label, x in zip(reversed(labels), reversed(xs), strict=True):
            half = len(label) * _LETTER / 2
            placed.append((label, min(max(x, half), edge - half), half))
        every = next((n for n in range(1, len(placed)) if _apart(placed[::n])), max(1, len(placed)))
        y = round(self.bottom + 17, 1)
        return [tag("text", label, x=round(middle, 1), y=y, text_anchor="middle") for label, middle, _ in placed[::every]][::-1]

    def _ticks(self) -> list[float]:
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]

    def _said(self, v: float) -> str:
        digits = 0 if self.step >= 1 else 1
        sign = "−" if v < -1e-9 else ""
        return f"{sign}{abs(v):,.{digits}f}{self.unit}"
