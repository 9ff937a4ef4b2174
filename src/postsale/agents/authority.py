"""Saying who may approve what: roles given and taken, authority delegated and called back. Each an event with a reason.

May import the desk, control, access, aggregates, events. What the stream says is folded in `aggregates.authority`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from postsale.access import Person
from postsale.agents.control import require_person, require_reason
from postsale.agents.desk import TRIES, Desk
from postsale.agents.shipped import SHIPPED
from postsale.aggregates.artifacts import agent_stream
from postsale.aggregates.authority import (
    Authority,
    AuthorityDelegated,
    AuthorityEvent,
    DelegationRevoked,
    RoleGranted,
    RoleRevoked,
    authority_stream,
)
from postsale.errors import ContentConflict, InvalidInput, NotAllowed, VersionConflict
from postsale.events import derive_id, to_us
from postsale.store.log import Cause

Rule = Callable[[Authority], AuthorityEvent | None]


class Authorities:
    """The authority of one log's tenants, as people change it. Every change is checked against what the stream says when it is stored."""

    def __init__(self, desk: Desk, agents: frozenset[str]) -> None:
        self._desk = desk
        self._agents = agents

    def now(self, tenant: str) -> Authority:
        """Roles and delegations as they stand."""
        return self._desk.authority(tenant)

    def is_agent(self, tenant: str, login: str) -> bool:
        """Whether a login is an agent's name: one that is here, that ships, or that the log has ever heard of."""
        return login in self._agents or login in SHIPPED or self._desk.log.store.versions([agent_stream(tenant, login)])[0] > 0

    def grant(
        self,
        tenant: str,
        login: str,
        role: str,
        *,
        limit_minor: int | None = None,
        currency: str | None = None,
        person: Person,
        reason: str,
    ) -> None:
        """Give a role, up to an amount per proposal in minor units of `currency`; None: any amount. The first one a tenant ever
        gives may be to oneself, later ones never. Raises NotAllowed, InvalidInput.
        """
        by = self._by(tenant, person, "give a role")
        self._no_agent(tenant, login)
        self._money(limit_minor, currency)
        why = require_reason(reason, "role")

        def rule(state: Authority) -> AuthorityEvent | None:
            if login == by.login and state.version:
                raise NotAllowed(actor=by.login, action=f"hold {role!r}", reason="nobody gives a role to themselves")
            return RoleGranted(person=login, role=role, limit_minor=limit_minor, currency=currency, owner=by.login, reason=why)

        self._say(tenant, by, rule)

    def revoke(self, tenant: str, login: str, role: str, *, person: Person, reason: str) -> bool:
        """Take a role away; False when it is not held."""
        by, why = self._by(tenant, person, "take a role away"), require_reason(reason, "role")

        def rule(state: Authority) -> AuthorityEvent | None:
            return RoleRevoked(person=login, role=role, owner=by.login, reason=why) if (login, role) in state.roles else None

        return self._say(tenant, by, rule) is not None

    def delegate(
        self,
        tenant: str,
        taker: str,
        role: str,
        *,
        begin: datetime,
        end: datetime,
        limit_minor: int | None = None,
        currency: str | None = None,
        person: Person,
        reason: str,
    ) -> UUID:
        """Let somebody answer in one's place from `begin` to `end`, never beyond one's own authority: the delegation's id.

        Raises NotAllowed for an agent, oneself, a circle, or a role one has no authority for; InvalidInput.
        """
        giver = self._by(tenant, person, "delegate")
        self._no_agent(tenant, taker)
        self._money(limit_minor, currency)
        why, now_us = require_reason(reason, "delegation"), self._desk.now_us()
        if not to_us(begin) < to_us(end):
            raise InvalidInput(what="delegation", field="end", reason="expected a time after the beginning")
        if to_us(end) <= now_us:
            raise InvalidInput(what="delegation", field="end", reason="expected a time to come")

        def rule(state: Authority) -> AuthorityEvent | None:
            if taker == giver.login or state.leads(taker, giver.login, role, now_us):
                raise NotAllowed(actor=giver.login, action=f"delegate {role!r}", reason="authority would go round in a circle")
            if state.right(giver.login, role, limit_minor, currency, max(now_us, to_us(begin))) is None:
                raise NotAllowed(actor=giver.login, action=f"delegate {role!r}", reason="they have no such authority then")
            return AuthorityDelegated(
                giver=giver.login,
                taker=taker,
                role=role,
                limit_minor=limit_minor,
                currency=currency,
                begin=begin,
                end=end,
                reason=why,
            )

        made = self._say(tenant, giver, rule)
        assert made is not None
        return made

    def call_back(self, tenant: str, delegation_id: UUID, *, person: Person, reason: str) -> bool:
        """End a delegation; any authenticated person may, as with a kill switch. False when it is over already."""
        by, why = self._by(tenant, person, "end a delegation"), require_reason(reason, "delegation")

        def rule(state: Authority) -> AuthorityEvent | None:
            if delegation_id not in state.delegations:
                return None
            return DelegationRevoked(delegation_id=delegation_id, owner=by.login, reason=why)

        return self._say(tenant, by, rule) is not None

    # ------------------------------------------------------------ how

    def _by(self, tenant: str, person: Person, action: str) -> Person:
        person = require_person(person, action)
        if self.is_agent(tenant, person.login):
            raise NotAllowed(actor=f"agent:{person.login}", action=action, reason="authority is people's")
        return person

    def _no_agent(self, tenant: str, login: str) -> None:
        if self.is_agent(tenant, login):
            raise NotAllowed(actor=f"agent:{login}", action="approve", reason="an agent has no authority, of its own or delegated")

    @staticmethod
    def _money(limit_minor: int | None, currency: str | None) -> None:
        if (limit_minor is None) is not (currency is None):
            raise InvalidInput(what="authority", field="currency", reason="expected an amount with its currency, or neither")

    def _say(self, tenant: str, by: Person, rule: Rule) -> UUID | None:
        """Append what the rule says of the present state; None when it says nothing. Tried again when somebody else was first."""
        stream = authority_stream(tenant)
        for attempt in range(1, TRIES + 1):
            state = self._desk.authority(tenant)
            event = rule(state)
            if event is None:
                return None
            id_ = derive_id(stream, state.version, event.wire_name, by.login)
            try:
                self._desk.append_to(stream, state.version, [(event, id_)], Cause(actor=by.actor, origin=self._desk.origin))
            except (ContentConflict, VersionConflict):
                if attempt == TRIES:
                    raise
                continue
            return id_
        raise AssertionError("unreachable")
