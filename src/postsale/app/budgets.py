"""Budgets as people read them: what each period holds, with its slices taken in, beside the limits of the policies that are active.

Derived from the ledger at every call; nothing is kept. Part of the wiring: may import all below `app`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from postsale.agents.budget import BudgetState, Page, evolve_budget
from postsale.agents.budget_policy import Budget, per_of, period
from postsale.agents.policy import Policy
from postsale.aggregates.artifacts import POLICIES
from postsale.aggregates.budgets import BudgetEvent, BudgetSliceGranted
from postsale.events import Lane, StreamId
from postsale.store.contract import Query

if TYPE_CHECKING:
    from postsale.app.postsale import PostSale


@dataclass(frozen=True, slots=True)
class BudgetPeriod:
    """One period of one budget, in its unit: `EUR` (minor units), `contacts/email`, `risk`."""

    name: str  # as it is kept: of a budget that each agent has for itself, with the agent's name
    unit: str
    period: str
    current: bool  # under a policy that is active now
    limits: Mapping[str, int]  # of the active policies that name it, by the policy's name
    reserved: int
    committed: int
    released: int  # so far
    compensated: int  # was committed, and came back
    in_slices: int  # with workers, and held by nothing yet
    left: int | None  # for the policy with the smallest limit, beside the slices; None where no active policy names it

    def to_dict(self) -> dict[str, Any]:
        """For programs: JSON types."""
        return {name: dict(v) if isinstance(v := getattr(self, name), Mapping) else v for name in self.__slots__}


def budgets(ps: PostSale, tenant: str, name: str | None = None, **upto: int | None) -> list[BudgetPeriod]:
    """Every period of every budget, or of one, that anything was entered in, and the current one of those that active policies name.

    In order of name, then period. `name` is a budget's, as it is kept or as policies name it. `upto`: bounds of `Query`, for entries.
    """
    states, slices = _ledger(ps, tenant, upto)
    limits: dict[str, dict[str, tuple[int, Budget]]] = defaultdict(dict)
    for policy in _active(ps, tenant):
        agents = [a.name for a in ps.engine.agents.values() if a.policy.name == policy.name] or [policy.name]
        for budget in policy.budgets or ():
            kept = [n for n in states if budget.of == "agent" and n.startswith(f"{budget.name}:")]
            for ledger in {*kept, *(budget.ledger(agent) for agent in agents)}:
                limits[ledger][policy.name] = (budget.limit, budget)
    now_us, rows = ps.clock.now_us(), []
    for ledger in sorted({*limits, *states}):
        if name is not None and name not in {ledger, ledger.partition(":")[0]}:
            continue
        main = states.get(ledger, BudgetState())
        current = {Page(b.counted_in, period(b, now_us)) for _, b in limits[ledger].values()}
        for page in sorted({*main.pages, *current}, key=lambda p: (p.period, p.unit)):
            sums, parts = main.sums(page), [s.sums(page) for s in slices.get(ledger, ())]
            stated = {p: limit for p, (limit, b) in limits[ledger].items() if (b.counted_in, b.per) == (page.unit, per_of(page.period))}
            inside = sum(part.reserved + part.committed for part in parts)
            rows.append(
                BudgetPeriod(
                    name=ledger,
                    unit=page.unit,
                    period=page.period,
                    current=page in current,
                    limits=stated,
                    reserved=sums.reserved + sum(part.reserved for part in parts),
                    committed=sums.committed + sum(part.committed for part in parts),
                    released=sums.released + sum(part.released for part in parts),
                    compensated=-sums.compensated,
                    in_slices=sums.sliced - inside,
                    left=main.left(min(stated.values()), page) if stated else None,
                )
            )
    return rows


def _ledger(ps: PostSale, tenant: str, upto: Mapping[str, Any]) -> tuple[dict[str, BudgetState], dict[str, list[BudgetState]]]:
    """What every budget's stream says, and the streams of its slices."""
    states: dict[StreamId, BudgetState] = {}
    of: dict[str, str] = {}  # slice -> its budget
    lanes = (ps.log.events(Query(tenant=tenant, category=c, lane=Lane.DECISION, **upto)) for c in ("budgets", "slices"))
    for recorded in chain.from_iterable(lanes):
        if isinstance(recorded.data, BudgetEvent):
            stream = recorded.stored.stream
            states[stream] = evolve_budget(states.get(stream, BudgetState()), recorded.data, recorded.position)
            if isinstance(recorded.data, BudgetSliceGranted):
                of[recorded.data.slice] = stream.id
    slices: dict[str, list[BudgetState]] = defaultdict(list)
    for stream, state in states.items():
        if stream.category == "slices" and stream.id in of:
            slices[of[stream.id]].append(state)
    return {stream.id: state for stream, state in states.items() if stream.category == "budgets"}, slices


def _active(ps: PostSale, tenant: str) -> list[Policy]:
    names = {stored.stream.id for stored in ps.log.store.read(Query(tenant=tenant, category=POLICIES, lane=Lane.DECISION))}
    found = (ps.engine.desk.active_policy(tenant, name)[0] for name in sorted(names))
    return [policy for policy in found if policy is not None]
