"""The part of a tenant that approvers use: who may approve what, edits, escalation, risk cases, and what waits for its time.

Part of the wiring, as `tenant`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from postsale.access import Person
from postsale.agents import sla
from postsale.agents.schedules import upcoming, zone_of
from postsale.aggregates.authority import Authority
from postsale.aggregates.customer import CustomerAggregate, RiskCase
from postsale.aggregates.identity import CUSTOMERS
from postsale.aggregates.risk import Stage
from postsale.errors import InvalidInput
from postsale.events import Lane, from_us
from postsale.store.contract import Query

if TYPE_CHECKING:
    from postsale.agents.engines import EmbeddedEngine
    from postsale.app.postsale import PostSale

Waiting = Literal["approval", "wait", "sla", "outcome", "schedule"]


@dataclass(frozen=True, slots=True)
class Due:
    """Something of one customer that waits for its time."""

    at: datetime
    what: Waiting
    customer_ref: str
    agent: str
    name: str  # of the level, wait, schedule or term
    told: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(),
            "what": self.what,
            "customer_ref": self.customer_ref,
            "agent": self.agent,
            "name": self.name,
            "told": self.told,
        }


class TenantPeople:
    """What `Tenant` inherits; never made alone."""

    _ps: PostSale
    name: str

    def _engine_of(self, decision_id: UUID) -> EmbeddedEngine:
        raise NotImplementedError

    def edit(
        self,
        decision_id: UUID | str,
        *,
        reason: str,
        amount_minor: int | None = None,
        terms: str | None = None,
        arguments: Sequence[Mapping[str, Any]] | None = None,
        by: Person | None = None,
    ) -> UUID:
        """Propose something else in place of a waiting decision: the id of the new one, which waits for approval in its turn.

        `arguments`: all of them, one mapping for each effect. The policy decides again with every guardrail; what does not pass is
        refused and changes nothing. Raises ApprovalRefused, InvalidInput, NotAllowed, UnknownDecision.
        """
        id_ = as_uuid(decision_id)
        return self._engine_of(id_).approvals.edit(
            self.name, id_, self._ps.person(by), reason=reason, amount_minor=amount_minor, terms=terms, arguments=arguments
        )

    def escalate(self, decision_id: UUID | str, *, reason: str, by: Person | None = None) -> str:
        """Hand a waiting decision up to the next level of its policy: that level's name. Raises ApprovalRefused at the last one."""
        id_ = as_uuid(decision_id)
        return self._engine_of(id_).approvals.escalate(self.name, id_, self._ps.person(by), reason=reason)

    def changed_since(self, decision_id: UUID | str) -> tuple[str, ...]:
        """What differs by now from what a waiting decision is bound to: approving it would be refused. Records nothing."""
        id_ = as_uuid(decision_id)
        return self._engine_of(id_).approvals.changed(self.name, id_)

    @property
    def authority(self) -> AuthorityHandle:
        """Who may approve what in this tenant: roles with limits, and delegations."""
        return AuthorityHandle(self._ps, self.name)

    # ------------------------------------------------------------ risk cases

    def cases(self) -> list[tuple[str, RiskCase]]:
        """Open risk cases with their customers' random references, the oldest first."""
        found = [(c.ref, case) for c in self._customers(frozenset({"risk/case-opened"})) for case in c.cases.values()]
        return sorted(found, key=lambda x: (x[1].opened_at_us, x[0]))

    def move_case(self, case_id: UUID | str, stage: Stage, *, reason: str, by: Person | None = None) -> bool:
        """Say in which stage an open risk case is; False when it is there already. InvalidInput for one that is not open."""
        id_ = as_uuid(case_id)
        for c in self._customers(frozenset({"risk/case-opened"})):
            if id_ in c.cases:
                return self._ps.engine.approvals.move_case(c.stream, id_, stage, person=self._ps.person(by), reason=reason)
        raise InvalidInput(what="risk case", field="id", reason="no case of this id is open")

    # ------------------------------------------------------------ time

    def upcoming(self, until: datetime | None = None) -> list[Due]:
        """What waits for its time, up to `until`, the first first; terms and schedules of the agents this log was opened with.

        Of schedules the next coming for each customer. Costs a pass over the decision lane, with schedules over all customers.
        """
        scheduled = any(agent.policy.schedules for agent in self._ps.engine.agents.values())
        found = [
            due
            for c in self._customers(lane=None if scheduled else Lane.DECISION)
            for due in self._due(c)
            if until is None or due.at <= until
        ]
        return sorted(found, key=lambda due: (due.at, due.customer_ref, due.name))

    def _due(self, c: CustomerAggregate) -> Iterator[Due]:
        for o in c.decisions.values():
            if o.disposition == "awaiting" and o.asked is not None:
                level = o.asked.now
                yield Due(from_us(o.asked.until_us), "approval", c.ref, o.agent, level.name, f"then: {level.on_timeout}")
            elif o.disposition == "awaiting" and o.expires_at_us is not None:
                yield Due(from_us(o.expires_at_us), "approval", c.ref, o.agent, "", "then: lapse")
            elif o.disposition == "acted" and o.outcome_by_us is not None:
                yield Due(from_us(o.outcome_by_us), "outcome", c.ref, o.agent, o.action or "", " or ".join(o.outcome_kinds))
        for w in c.waits.values():
            if w.due is None:
                yield Due(from_us(w.until_us), "wait", c.ref, w.agent, w.wait, "without " + " or ".join(w.kinds))
        for agent in self._ps.engine.agents.values() if c.merged_into is None else ():
            desk = self._ps.engine.desk
            if desk.stopped_policy(self.name, agent.policy.name) is not None:
                continue
            policy = desk.active_policy(self.name, agent.policy.name)[0] or agent.policy
            for term in sla.terms(c, agent.name, policy):
                if term.next_us is not None:
                    kind = "warning" if term.next_us != term.due_us else "breach"
                    yield Due(from_us(term.next_us), "sla", c.ref, agent.name, term.sla.id, kind)
            for s in policy.schedules or ():
                where = zone_of(s.zone, c.latest("crm/account-profiled", "time_zone"), policy.zone)
                last = c.came.get((agent.name, s.id))
                at = upcoming(s, policy.calendar, where.zone, self._ps.clock.now_us(), last)
                if at is not None:
                    yield Due(from_us(at), "schedule", c.ref, agent.name, s.id, f"{s.at} in {where.zone} (of the {where.of})")

    def _customers(self, kinds: frozenset[str] = frozenset(), lane: Lane | None = Lane.DECISION) -> Iterator[CustomerAggregate]:
        """Every customer with an event of these kinds, or of this lane."""
        query = Query(tenant=self.name, category=CUSTOMERS, lane=lane, kinds=kinds)
        for stream in sorted({stored.stream for stored in self._ps.log.store.read(query)}):
            yield self._ps.log.customer(stream)


class AuthorityHandle:
    """Who may approve what in one tenant. Each change is an event with owner and reason; an agent never has authority."""

    def __init__(self, ps: PostSale, tenant: str) -> None:
        self._ps = ps
        self._tenant = tenant
        self._of = ps.engine.approvals.authority

    @property
    def now(self) -> Authority:
        """Roles and delegations as they stand."""
        return self._of.now(self._tenant)

    def grant(
        self, login: str, role: str, *, reason: str, limit_minor: int | None = None, currency: str | None = None, by: Person | None = None
    ) -> None:
        """Give a role, up to an amount per proposal; nobody gives one to themselves, but the first. Raises NotAllowed, InvalidInput."""
        who = self._ps.person(by)
        self._of.grant(self._tenant, login, role, limit_minor=limit_minor, currency=currency, person=who, reason=reason)

    def revoke(self, login: str, role: str, *, reason: str, by: Person | None = None) -> bool:
        """Take a role away, and with it what was delegated of it; False when it is not held."""
        return self._of.revoke(self._tenant, login, role, person=self._ps.person(by), reason=reason)

    def delegate(
        self,
        taker: str,
        role: str,
        *,
        begin: datetime,
        end: datetime,
        reason: str,
        limit_minor: int | None = None,
        currency: str | None = None,
        by: Person | None = None,
    ) -> UUID:
        """Let somebody answer in one's place from `begin` to `end`: the delegation's id. Raises NotAllowed, InvalidInput."""
        return self._of.delegate(
            self._tenant,
            taker,
            role,
            begin=begin,
            end=end,
            limit_minor=limit_minor,
            currency=currency,
            person=self._ps.person(by),
            reason=reason,
        )

    def call_back(self, delegation_id: UUID | str, *, reason: str, by: Person | None = None) -> bool:
        """End a delegation before its time; any authenticated person may. False when it is over."""
        return self._of.call_back(self._tenant, as_uuid(delegation_id), person=self._ps.person(by), reason=reason)


def as_uuid(value: UUID | str) -> UUID:
    """A UUID, also from its text; InvalidInput for another text."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except ValueError:
        raise InvalidInput(what="argument", field="id", reason="expected a UUID") from None
