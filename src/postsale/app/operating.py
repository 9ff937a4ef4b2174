"""What an operator sees of the read models: how far they are, what is live, who folds them, who reads which feature.

Part of the wiring: may import everything below `app`. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from postsale.agents import Agent
from postsale.agents.consumers import consumers
from postsale.events import iso
from postsale.projections.algebra import Leaf
from postsale.projections.derived import Derived
from postsale.projections.projector import share_lease
from postsale.projections.runner import Runner

if TYPE_CHECKING:
    from postsale.app.postsale import PostSale


def projections(ps: PostSale) -> list[dict[str, Any]]:
    """A row for the health model's view, and one for the rounds of each tenant."""
    rows = [view(ps, ps.runner)]
    head = ps.log.store.head()
    for info in ps.views.views():
        if info.view.startswith("rounds/"):
            rows.append(_row(info.view, info.checkpoint, head, info.rows))
    return rows


def view(ps: PostSale, runner: Runner) -> dict[str, Any]:
    """One view, whose declaration is here."""
    status, live, features = runner.status(), ps.deployments.live(runner.fold.name), runner.fold.features
    folded_by: dict[str, list[int]] = {}
    for n in range(runner.partitions):
        held = ps.leases.look(share_lease(status.view, n))
        if held is not None:
            folded_by.setdefault(held.holder, []).append(n)
    return {
        **_row(status.view, status.checkpoint, status.head, status.rows, live_version=None if live is None else live.declared.version),
        "lag_seconds": status.lag.seconds,
        "dead_letters": len(status.parked),
        "version": features.version,
        "live": live is None or live.declared.digest == features.digest,
        "live_since": None if live is None else iso(live.since_us),
        "building": [] if live is None else sorted(v for v in live.building),
        "shares": list(status.checkpoints),
        "folded_by": folded_by,
        "parked": [parked._asdict() for parked in status.parked],
    }


def _row(name: str, position: int, head: int, rows: int, *, live_version: int | None = None) -> dict[str, Any]:
    return {
        "projection": name,
        "position": position,
        "lag_events": max(0, head - position),
        "lag_seconds": None,
        "rows": rows,
        "dead_letters": 0,
        "live_version": live_version,
    }


def features(ps: PostSale, agents: Iterable[Agent]) -> list[dict[str, Any]]:
    """Every feature of the health model's declaration: unit, meaning, whether it is to go, and who reads it."""
    declared = ps.model.features
    readers = consumers(ps.model, agents)
    members: dict[str, Leaf[Any] | Derived[Any]] = {**declared.leaves, **{derived.name: derived for derived in declared.deriveds}}
    return [
        {
            "feature": name,
            "kind": member.operation if isinstance(member, Leaf) else "derived",
            "unit": member.unit,
            "description": member.description,
            "deprecated": declared.deprecated.get(name),
            "read_by": list(readers[name]),
        }
        for name, member in sorted(members.items())
    ]
