"""Undos as a tenant sees them. Part of the wiring: may import all below `app`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from postsale.access import Person
from postsale.agents import SHIPPED
from postsale.agents.undo import Plan, Scope
from postsale.agents.undo_items import Undo
from postsale.agents.undo_text import tree
from postsale.agents.undoing import Undos
from postsale.aggregates.undos import ScopeKind
from postsale.errors import InvalidInput

if TYPE_CHECKING:
    from postsale.app.postsale import PostSale


class TenantUndos:
    """Takes back what agents did, with `tenant.undos`: plan, propose, approve, run. The tools are those the log was opened with."""

    def __init__(self, ps: PostSale, tenant: str) -> None:
        self._ps = ps
        self._tenant = tenant

    def _undos(self) -> Undos:
        ps = self._ps
        agents = {*ps.engine.agents, *SHIPPED, *ps.tenant(self._tenant).agent_names()}
        return Undos(ps.engine.desk, ps.engine.toolbox, ps.engine.outbox, frozenset(agents))

    def plan(
        self,
        *,
        decision: UUID | str | None = None,
        policy: str | None = None,
        model: str | None = None,
        prompt: str | None = None,
        tool: str | None = None,
        position: int | None = None,
    ) -> Plan:
        """What descends from one of these, and how it would be taken back, as of a position (default: now). Writes nothing.

        `policy`, `model` and `prompt` are digests, whole or their first characters; `tool` is name@version. Raises InvalidInput,
        UnknownDecision.
        """
        return self._undos().plan(self._tenant, scope_of(decision, policy, model, prompt, tool), position=position)

    def propose(
        self,
        *,
        decision: UUID | str | None = None,
        policy: str | None = None,
        model: str | None = None,
        prompt: str | None = None,
        tool: str | None = None,
        by: Person | None = None,
    ) -> tuple[Undo, Plan]:
        """Record the plan of now for somebody to approve within 72 hours. Raises UndoRefused when nothing can be taken back."""
        scope = scope_of(decision, policy, model, prompt, tool)
        return self._undos().propose(self._tenant, scope, self._ps.person(by))

    def approve(self, undo: UUID, *, reason: str, by: Person | None = None, digest: str | None = None) -> Undo:
        """Say yes to exactly this plan; `digest` is of the one that was shown. Raises UndoRefused, NotAllowed, InvalidInput."""
        return self._undos().approve(self._tenant, undo, self._ps.person(by), reason=reason, digest=digest)

    def run(self, undo: UUID) -> Undo:
        """Carry out an approved undo, or go on with one that was begun. Each effect is taken back once, however often this is called."""
        return self._undos().run(self._tenant, undo)

    def get(self, undo: UUID) -> Undo:
        """One undo as it stands."""
        return self._undos().get(self._tenant, undo)

    def list(self) -> list[Undo]:
        """Every undo, oldest first."""
        return self._undos().all(self._tenant)

    def tree(self, plan: Plan) -> str:
        """The plan as a tree, with customers by name."""
        return tree(plan, self._ps.tenant(self._tenant).names())


def scope_of(decision: UUID | str | None, policy: str | None, model: str | None, prompt: str | None, tool: str | None) -> Scope:
    """The one that was given. InvalidInput for none or several."""
    every: dict[ScopeKind, UUID | str | None] = {"decision": decision, "policy": policy, "model": model, "prompt": prompt, "tool": tool}
    given = [Scope(by, str(name)) for by, name in every.items() if name is not None]
    if len(given) != 1:
        raise InvalidInput(what="undo", field="scope", reason="expected exactly one of decision, policy, model, prompt, tool")
    return given[0]
