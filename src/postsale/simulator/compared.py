"""A story with actions beside the same one without any, customer by customer: what a report shows of a simulated vendor.

May import `report` and the simulator.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from postsale.report import Twin, TwinLine
from postsale.simulator.truth import Outcome, Truth
from postsale.simulator.vendor import Vendor

_DRAWS: Final = 1_000
_METHOD: Final = (
    "These customers are simulated, so they can be lived twice with the same chance: once with what agents did, once with nobody acting."
    " Each customer is compared with itself. The differences are therefore the truth about these customers, not an estimate; customers who are in"
    " one world only, because somebody invited them there, are left out. The interval says how far the mean would vary among like customers:"
    f" a bootstrap over customers of {_DRAWS:,} draws with a fixed seed."
)


def compared(vendor: Vendor, seen: Sequence[tuple[int, Mapping[str, Outcome]]], currency: str) -> Twin:
    """A vendor that has been lived, beside its twin. `seen` are its outcomes at the beginnings of some days, ascending, the last one its end."""
    twin, months = vendor.twin(), list[tuple[datetime, int, int]]()
    mine: Mapping[str, Outcome] = {}
    other: Mapping[str, Outcome] = {}
    for day, mine in seen:
        twin.live(day)
        other = twin.outcomes()
        at = vendor.start + timedelta(days=day)
        shared = mine.keys() & other.keys()
        months.append((at, sum(mine[name].mrr_minor for name in shared), sum(other[name].mrr_minor for name in shared)))
    both = [(mine[name], other[name]) for name in mine if name in other]
    truth = Truth.of(mine, other)
    return Twin(
        lines=(
            _line("customers kept", "customers", both, lambda o: int(o.ended is None)),
            _line("contracts of a year renewed", "contracts", both, lambda o: o.renewed),
            _line("monthly recurring revenue at the end", currency, both, _mrr),
            _line("collected", currency, both, lambda o: o.collected_minor),
            _line("invited customers that bought", "referrals", both, lambda o: o.converted),
        ),
        months=tuple(months),
        by_action={name: (e.customers, -e.churned, e.mrr_minor) for name, e in truth.by_action.items()},
        method=_METHOD,
    )


def _mrr(o: Outcome) -> int:
    return o.mrr_minor


def _line(name: str, unit: str, both: Sequence[tuple[Outcome, Outcome]], of: Callable[[Outcome], int]) -> TwinLine:
    pairs = [(of(one), of(other)) for one, other in both]
    differences = [a - b for a, b in pairs]
    n, draw = len(differences), random.Random(len(differences))
    means = sorted(sum(draw.choices(differences, k=n)) / n for _ in range(_DRAWS)) if n else [0.0]
    tail = round(len(means) * 0.025)
    mean = sum(differences) / n if n else 0.0
    return TwinLine(name, unit, sum(a for a, _ in pairs), sum(b for _, b in pairs), n, mean, means[tail], means[-1 - tail])
