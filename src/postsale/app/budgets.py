"""Budgets as people read them: what each period holds, with its slices taken in, beside the limits of the policies that are active.

Derived from the ledger at every call; nothing is kept. Part of the wiring: may import all below `app`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from postsale.agents.budget import BudgetState, Page, Sums, evolve_budget
from postsale.agents.budget_policy import Budget, per_of, period
from postsale.agents.policy import Policy
from postsale.aggregates.artifacts import POLICIES
from postsale.aggregates.budgets import BudgetEvent, BudgetSliceGranted
from postsale.events import Lane, StreamId
from postsale.store.contract import Query
from postsale.store.log import Log

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


def budgets(ps: PostSale, tenant: str, name: str | None = None) -> list[BudgetPeriod]:
    """Every period of every budget, or of one, that anything was entered in, and the current one of those that active policies name.

    In order of name, then period. `name` is a budget's, as it is kept or as policies name it.
    """
    kept = ledger(ps.log, tenant)
    limits: dict[str, dict[str, tuple[int, Budget]]] = defaultdict(dict)
    for policy in _active(ps, tenant):
        agents = [a.name for a in ps.engine.agents.values() if a.policy.name == policy.name] or [policy.name]
        for budget in policy.budgets or ():
            mine = [n for n in kept if budget.of == "agent" and n.startswith(f"{budget.name}:")]
            for one in {*mine, *(budget.ledger(agent) for agent in agents)}:
                limits[one][policy.name] = (budget.limit, budget)
    now_us, rows = ps.clock.now_us(), []
    for name_kept in sorted({*limits, *kept}):
        if name is not None and name not in {name_kept, name_kept.partition(":")[0]}:
            continue
        its = kept.get(name_kept, Ledger())
        current = {Page(b.counted_in, period(b, now_us)) for _, b in limits[name_kept].values()}
        for page in sorted({*its.main.pages, *current}, key=lambda p: (p.period, p.unit)):
            stated = {p: limit for p, (limit, b) in limits[name_kept].items() if (b.counted_in, b.per) == (page.unit, per_of(page.period))}
            sums = its.sums(page)
            rows.append(
                BudgetPeriod(
                    name=name_kept,
                    unit=page.unit,
                    period=page.period,
                    current=page in current,
                    limits=stated,
                    reserved=sums.reserved,
                    committed=sums.committed,
                    released=sums.released,
                    compensated=-sums.compensated,
                    in_slices=sums.sliced,
                    left=its.main.left(min(stated.values()), page) if stated else None,
                )
            )
    return rows


@dataclass(slots=True)
class Ledger:
    """A budget's own stream, and those of its slices."""

    main: BudgetState = field(default_factory=BudgetState)
    slices: list[BudgetState] = field(default_factory=list)

    def sums(self, page: Page) -> Sums:
        """A page with its slices taken in; `sliced` is what lies in them and is held by nothing."""
        main, parts = self.main.sums(page), [s.sums(page) for s in self.slices]
        reserved, committed = sum(p.reserved for p in parts), sum(p.committed for p in parts)
        return replace(
            main,
            reserved=main.reserved + reserved,
            committed=main.committed + committed,
            released=main.released + sum(p.released for p in parts),
            sliced=main.sliced - reserved - committed,
        )


def ledger(log: Log, tenant: str, **when: Any) -> dict[str, Ledger]:
    """Every budget by the name under which it is kept. `when`: of a `Query`, what was known and true."""
    states: dict[StreamId, BudgetState] = {}
    of: dict[str, str] = {}  # slice -> its budget
    lanes = (log.events(Query(tenant=tenant, category=c, lane=Lane.DECISION, **when)) for c in ("budgets", "slices"))
    for recorded in chain.from_iterable(lanes):
        if isinstance(recorded.data, BudgetEvent):
            stream = recorded.stored.stream
            states[stream] = evolve_budget(states.get(stream, BudgetState()), recorded.data, recorded.position)
            if isinstance(recorded.data, BudgetSliceGranted):
                of[recorded.data.slice] = stream.id
    out = {stream.id: Ledger(state) for stream, state in states.items() if stream.category == "budgets"}
    for stream, state in states.items():
        if stream.category == "slices" and stream.id in of:
            out[of[stream.id]].slices.append(state)
    return out


def _active(ps: PostSale, tenant: str) -> list[Policy]:
    names = {stored.stream.id for stored in ps.log.store.read(Query(tenant=tenant, category=POLICIES, lane=Lane.DECISION))}
    found = (ps.engine.desk.active_policy(tenant, name)[0] for name in sorted(names))
    return [policy for policy in found if policy is not None]
