"""The truth of a story: what became of each customer, and what actions changed about it, by comparing two worlds of one seed.

No estimate: both worlds are known. May import the simulator's model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from postsale.simulator.model import Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one customer: the truth, not what sources said of it. Days count from the start; amounts in minor units."""

    archetype: str
    joined: int  # day; below 0: before the start
    ended: int | None  # day on which its subscription ended
    avoidable: bool | None  # of the end: whether it still had the need
    due: int  # contracts of a year that came to their end
    renewed: int  # of those
    mrr_minor: int  # now; 0 in a trial, a pause and after the end
    collected_minor: int  # paid less refunded
    invited: int
    converted: int  # invitations that became customers
    satisfaction: float
    acted: Mapping[Action, int]  # how often each action reached it


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What the difference between two worlds comes to, summed over some customers. `mean` is per customer."""

    customers: int
    renewed: int  # contracts of a year
    churned: int  # customers whose subscription ended
    mrr_minor: int  # at the end
    collected_minor: int
    referrals: int  # invitations that became customers; what these are worth is on their own account

    def mean(self, name: str) -> float:
        """One of the sums, per customer; 0.0 of no customers."""
        value = getattr(self, name)
        return float(value) / self.customers if self.customers else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What actions changed, exactly. A customer that got several actions counts, whole, under each of them.

    Customers that were invited in one world only are compared with nothing: they count in `overall` alone.
    """

    overall: Effects
    acted: Effects  # customers that an action reached
    spared: Effects  # all others: nothing but 0, or the simulator is wrong
    by_action: Mapping[Action, Effects]
    by_archetype: Mapping[str, Effects]  # customers that an action reached

    @classmethod
    def of(cls, with_actions: Mapping[str, Outcome], without: Mapping[str, Outcome]) -> Self:
        """From the outcomes of two worlds of one seed after equally many days."""
        both = {name: (outcome, without[name]) for name, outcome in with_actions.items() if name in without}
        acted = {name: pair for name, pair in both.items() if pair[0].acted}
        actions = sorted({action for outcome, _ in acted.values() for action in outcome.acted})
        kinds = sorted({outcome.archetype for outcome, _ in acted.values()})
        overall: list[tuple[Outcome | None, Outcome | None]] = [*both.values()]
        overall += [(o, None) for name, o in with_actions.items() if name not in without]
        overall += [(None, o) for name, o in without.items() if name not in with_actions]
        return cls(
            overall=_effects(overall),
            acted=_effects(acted.values()),
            spared=_effects(pair for name, pair in both.items() if name not in acted),
            by_action={a: _effects(pair for pair in acted.values() if a in pair[0].acted) for a in actions},
            by_archetype={k: _effects(pair for pair in acted.values() if pair[0].archetype == k) for k in kinds},
        )


def _effects(pairs: Iterable[tuple[Outcome | None, Outcome | None]]) -> Effects:
    n, sums = 0, [0] * 5
    for one, other in pairs:
        n += 1
        sums = [x + a - b for x, a, b in zip(sums, _counts(one), _counts(other), strict=True)]
    return Effects(customers=n, renewed=sums[0], churned=sums[1], mrr_minor=sums[2], collected_minor=sums[3], referrals=sums[4])


def _counts(o: Outcome | None) -> tuple[int, int, int, int, int]:
    return (0, 0, 0, 0, 0) if o is None else (o.renewed, int(o.ended is not None), o.mrr_minor, o.collected_minor, o.converted)
