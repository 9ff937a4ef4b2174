"""What every section of the report's page is made with: a figure with its legend and numbers, months, signed money, times.

May import `words`, `plots` and `html`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from postsale.report import plots, words
from postsale.report.html import Raw, tag


def figure(told: str, legend: Raw | None, plot: Raw, behind: Raw) -> Raw:
    return tag("figure", legend, plot, tag("figcaption", told), tag("details", tag("summary", "The numbers"), behind))


def legend(series: list[plots.Series]) -> Raw:
    return plots.legend([(s.name, s.colour) for s in series])


def plus(minor: int, currency: str | None) -> str:
    shown = words.money(minor, currency)
    return shown if minor <= 0 else f"+{shown}"


def time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def month_of(end: datetime) -> str:
    """The month that ends at a time, short; with the year in January, and at the beginning of a period."""
    return f"{end - timedelta(microseconds=1):%b %y}"
