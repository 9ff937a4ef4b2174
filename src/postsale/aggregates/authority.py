"""Who may approve what: roles with limits in money, and delegations of them, on `tenant/authority/people`. Evolve and questions only.

One stream for a tenant, so that an approval can be made on the condition that nothing was said here meanwhile.
May import events only; the rules for saying so are in `agents.authority`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, assert_never
from uuid import UUID

from postsale.events import AmountMinor, Currency, Event, Id, StreamId, Text, UtcDatetime, to_us

_EMPTY: Mapping[Any, Any] = MappingProxyType({})


class RoleGranted(Event):
    """A person holds a role from now on, up to a limit. Said again, it is the new limit."""

    wire_name: ClassVar[str] = "authority/role-granted@1"
    person: Id
    role: Id
    limit_minor: AmountMinor | None = None  # of `currency`; None: no limit
    currency: Currency | None = None
    owner: Id  # who said so
    reason: Text


class RoleRevoked(Event):
    """The person no longer holds the role; what they delegated of it is worth nothing any more."""

    wire_name: ClassVar[str] = "authority/role-revoked@1"
    person: Id
    role: Id
    owner: Id
    reason: Text


class AuthorityDelegated(Event):
    """One person lets another one answer in their place, from `begin` (inclusive) to `end` (exclusive). The event's id names it."""

    wire_name: ClassVar[str] = "authority/delegated@1"
    giver: Id
    taker: Id
    role: Id
    limit_minor: AmountMinor | None = None
    currency: Currency | None = None
    begin: UtcDatetime
    end: UtcDatetime
    reason: Text


class DelegationRevoked(Event):
    """A delegation is over before its time."""

    wire_name: ClassVar[str] = "authority/delegation-revoked@1"
    delegation_id: UUID
    owner: Id
    reason: Text


AuthorityEvent = RoleGranted | RoleRevoked | AuthorityDelegated | DelegationRevoked


@dataclass(frozen=True, slots=True)
class Limit:
    """Up to how much. None: any amount."""

    minor: int | None = None
    currency: str | None = None

    def covers(self, minor: int | None, currency: str | None) -> bool:
        """Whether an offer is within it; None is a proposal without money."""
        return self.minor is None or minor is None or (currency == self.currency and minor <= self.minor)


@dataclass(frozen=True, slots=True)
class Delegation:
    """One that was not revoked."""

    id: UUID
    giver: str
    taker: str
    role: str
    limit: Limit
    begin_us: int
    end_us: int
    reason: str

    def holds(self, at_us: int) -> bool:
        return self.begin_us <= at_us < self.end_us


@dataclass(frozen=True, slots=True)
class Right:
    """Why a person may answer: their own role, or a delegation of somebody's."""

    role: str | None
    on_behalf_of: str | None = None
    delegation_id: UUID | None = None

    def said(self) -> dict[str, Any]:
        """As events record it."""
        return {"role": self.role, "on_behalf_of": self.on_behalf_of, "delegation_id": self.delegation_id}


@dataclass(frozen=True, slots=True)
class Authority:
    """What the stream says now."""

    roles: Mapping[tuple[str, str], Limit] = field(default_factory=lambda: _EMPTY)  # (person, role)
    delegations: Mapping[UUID, Delegation] = field(default_factory=lambda: _EMPTY)
    version: int = 0

    def right(self, person: str, role: str, minor: int | None, currency: str | None, at_us: int) -> Right | None:
        """Why the person may answer for a role and an amount at a time: of their own first; None when they may not."""
        own = self.roles.get((person, role))
        if own is not None and own.covers(minor, currency):
            return Right(role)
        for link, root in self._chains(person, role, minor, currency, at_us, frozenset({person})):
            return Right(role, root, link.id)
        return None

    def _chains(
        self, taker: str, role: str, minor: int | None, currency: str | None, at_us: int, seen: frozenset[str]
    ) -> Iterator[tuple[Delegation, str]]:
        """Delegations to `taker` that hold all the way up, each with whose authority it is in the end."""
        for link in self.delegations.values():
            if (link.taker, link.role) != (taker, role) or link.giver in seen:
                continue
            if not (link.holds(at_us) and link.limit.covers(minor, currency)):
                continue
            own = self.roles.get((link.giver, role))
            if own is not None and own.covers(minor, currency):
                yield link, link.giver
            for _, root in self._chains(link.giver, role, minor, currency, at_us, seen | {link.giver}):
                yield link, root

    def leads(self, giver: str, taker: str, role: str, after_us: int) -> bool:
        """Whether authority for a role passes from one to the other by delegations that are not over at `after_us`."""
        reached, todo = {giver}, [giver]
        while todo:
            at = todo.pop()
            more = {x.taker for x in self.delegations.values() if x.giver == at and x.role == role and x.end_us > after_us} - reached
            reached |= more
            todo += sorted(more)
        return taker in reached


def authority_stream(tenant: str) -> StreamId:
    return StreamId(tenant, "authority", "people")


def evolve_authority(state: Authority, event: AuthorityEvent, event_id: UUID) -> Authority:
    state = replace(state, version=state.version + 1)
    match event:
        case RoleGranted(person=person, role=role, limit_minor=minor, currency=currency):
            return replace(state, roles={**state.roles, (person, role): Limit(minor, currency)})
        case RoleRevoked(person=person, role=role):
            return replace(state, roles={k: v for k, v in state.roles.items() if k != (person, role)})
        case AuthorityDelegated(giver=giver, taker=taker, role=role, limit_minor=minor, currency=currency, reason=why):
            made = Delegation(event_id, giver, taker, role, Limit(minor, currency), to_us(event.begin), to_us(event.end), why)
            return replace(state, delegations={**state.delegations, event_id: made})
        case DelegationRevoked(delegation_id=id_):
            return replace(state, delegations={k: v for k, v in state.delegations.items() if k != id_})
    assert_never(event)
