"""What the log says that agents go by: switches, active policies, budgets, contacts, authority, decisions.

Lives here: reading, with caches keyed by stream version. Not here: writing (the desk), rules, tools. May import store, access,
aggregates, events and the pure modules of this room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from postsale.access import Unsealer, content_mac
from postsale.agents.budget import BudgetState, Page, budget_stream
from postsale.agents.decide import Mac
from postsale.agents.escrow import Escrow, Purse, read
from postsale.agents.limits import MAX_REACH
from postsale.agents.policy import Policy
from postsale.aggregates.artifacts import (
    POLICIES,
    AgentControl,
    AgentEvent,
    ArtifactActivated,
    ArtifactPublished,
    ArtifactRetired,
    evolve_agent,
    policy_stream,
    switch_streams,
    untouched,
)
from postsale.aggregates.authority import (
    Authority,
    AuthorityDelegated,
    DelegationRevoked,
    RoleGranted,
    RoleRevoked,
    authority_stream,
    evolve_authority,
)
from postsale.aggregates.conversations import ContactBudgetSet, ContactLimit, contacts_stream
from postsale.aggregates.decisions import (
    DecisionRecorded,
    Ordered,
    UndoOrdered,
)
from postsale.errors import UnknownDecision, UnknownEvent
from postsale.events import Event, Lane, Origin, Recorded, StoredEvent, StreamId, decode
from postsale.store.contract import Query, StreamAt
from postsale.store.leases import Lease
from postsale.store.log import Log


def reach_stream(tenant: str, agent: str) -> StreamId:
    """Where decisions of an agent whose blast radius is limited are counted."""
    return StreamId(tenant, "reach", agent)


class Switches(NamedTuple):
    """Autonomy and kill switches of one agent in one tenant, and the conditions under which they still say so."""

    states: tuple[AgentControl, ...]  # own, the tenant's, everybody's
    conditions: tuple[StreamAt, ...]

    @property
    def paused(self) -> bool:
        return any(s.paused for s in self.states)


class Standing(NamedTuple):
    """What is said of the versions of one policy. Digests; "" for none."""

    version: int = 0  # of the stream
    active: str = ""
    since_us: int = 0  # when the active one became active
    stopped: str = ""  # was active when it was retired, while none is
    retired: frozenset[str] = frozenset()  # and not activated again since


@dataclass(slots=True)
class Step:
    """What a desk has read since its step began, and what is about to be stored in it: nothing is promised twice, whoever comes next."""

    versions: dict[StreamId, int] = field(default_factory=dict)
    budgets: dict[StreamId, BudgetState] = field(default_factory=dict)
    reached: dict[StreamId, tuple[int, int, tuple[int, ...]]] = field(default_factory=dict)


class Lookup:
    """What one process knows of the log for agents. Safe to share between threads: caches only ever hold what the log said."""

    def __init__(self, log: Log, *, unseal: Unsealer | None = None, origin: Origin = Origin.LIVE, escrow: Escrow | None = None) -> None:
        self.log = log
        self.origin = origin
        self.lease: Lease | None = None
        self._unseal = unseal if unseal is not None else Unsealer(log.vault)
        self._controls: dict[StreamId, AgentControl] = {}
        self._budgets: dict[StreamId, BudgetState] = {}
        self._reached: dict[StreamId, tuple[int, int, tuple[int, ...]]] = {}  # version, position, times
        self._contacts: dict[str, tuple[int, dict[str, ContactLimit]]] = {}  # by tenant: version, limits by channel
        self.escrow = escrow
        self._policies: dict[str, Policy] = {}  # by digest
        self._authorities: dict[str, Authority] = {}  # by tenant
        self._standing: dict[StreamId, Standing] = {}  # of policies
        self._step: Step | None = None

    def begin(self) -> None:
        """A new step: nothing is known for it yet."""
        if self._step is not None:
            self._step = Step()

    def now_us(self) -> int:
        return self.log.clock.now_us()

    def mac(self, tenant: str) -> Mac:
        """The tenant's keyed digest of arguments."""
        keys = self.log.vault.tenant(tenant)
        return lambda raw: content_mac(keys, b"arguments", raw).hex()

    @property
    def unseal(self) -> Unsealer:
        """Opens what this desk may see."""
        return self._unseal

    def switches(self, tenant: str, agent: str) -> Switches:
        """The agent's switches now. Holding `conditions` in an append makes "now" exact."""
        streams = switch_streams(tenant, agent)
        versions = self._versions(streams)
        states = tuple(self._control(s, v) for s, v in zip(streams, versions, strict=True))
        return Switches(states, tuple(StreamAt(s, state.version) for s, state in zip(streams, states, strict=True)))

    def control(self, stream: StreamId) -> AgentControl:
        """What one agent stream says now."""
        return self._control(stream, self._version(stream))

    def _control(self, stream: StreamId, version: int) -> AgentControl:
        known = self._controls.get(stream)
        if known is None or known.version != version:
            known = AgentControl()
            for event in self._lane(stream):
                assert isinstance(event, AgentEvent)
                known = evolve_agent(known, event)
            self._controls[stream] = known
        return known

    def purse(self, tenant: str, budget: str, page: Page, limit: int, wanted: int) -> Purse:
        """For a decision that would reserve so much: of this process's slice where there is an escrow, else of the budget."""
        if self.escrow is not None:
            return self.escrow.purse(self.log, budget_stream(tenant, budget), page, limit, wanted)
        state = self.budget(tenant, budget)
        return Purse(state.left(limit, page), None, state.version)

    def budget(self, tenant: str, name: str) -> BudgetState:
        """The budget now, folded from where this process last read it."""
        return self._budget(budget_stream(tenant, name))

    def _budget(self, stream: StreamId) -> BudgetState:
        if self._step is not None and (ahead := self._step.budgets.get(stream)) is not None:
            return ahead
        state = self._budgets.get(stream, BudgetState())
        if self._version(stream) != state.version:
            state = read(self.log, stream, state)
            self._budgets[stream] = state
        return state

    def reached(self, tenant: str, agent: str, since_us: int) -> tuple[int, int]:
        """Decisions of an agent that acted or asked after an instant, of the newest MAX_REACH; and the version that says so."""
        stream = reach_stream(tenant, agent)
        ahead = self._step.reached.get(stream) if self._step is not None else None
        version, position, times = ahead or self._reached.get(stream, (0, 0, ()))
        if ahead is None and self._version(stream) != version:
            for stored in self.log.store.read(Query(tenant=tenant, streams=(stream,), lane=Lane.DECISION, after=position)):
                version, position, times = stored.version, stored.position, (*times, stored.occurred_at_us)[-MAX_REACH:]
            self._reached[stream] = version, position, times
        return sum(at_us > since_us for at_us in times), version

    def contact_limits(self, tenant: str) -> tuple[dict[str, ContactLimit], StreamAt]:
        """How often all agents together may contact a customer, by channel, as far as anybody said; and the condition that it is so now."""
        stream = contacts_stream(tenant)
        (version,) = self.log.store.versions([stream])
        known = self._contacts.get(tenant)
        if known is None or known[0] != version:
            said = [event for event in self._lane(stream) if isinstance(event, ContactBudgetSet)]
            known = self._contacts[tenant] = (len(said), {e.channel: ContactLimit(e.count, e.days) for e in said})
        return known[1], StreamAt(stream, known[0])

    def active_policy(self, tenant: str, name: str) -> tuple[Policy | None, int]:
        """The policy of this name that decides now, and the version of its stream; None when none was activated, or it was retired."""
        standing = self.standing(tenant, name)
        return (self._policies[standing.active] if standing.active else None), standing.version

    def standing(self, tenant: str, name: str) -> Standing:
        """What a policy's stream says now of its versions."""
        stream = policy_stream(tenant, name)
        version = self._version(stream)
        if (known := self._standing.get(stream)) is not None and known.version == version:
            return known
        known, contents = Standing(), dict[str, str]()
        for recorded in self.log.events(Query(tenant=tenant, streams=(stream,), lane=Lane.DECISION)):
            version = recorded.stored.version
            match recorded.data:
                case ArtifactPublished(digest=digest):
                    contents[digest] = untouched(recorded.position, recorded.data)
                case ArtifactActivated(digest=digest):
                    known = Standing(active=digest, since_us=recorded.stored.occurred_at_us, retired=known.retired - {digest})
                case ArtifactRetired(digest=digest):
                    stops = digest == known.active
                    known = known._replace(
                        active="" if stops else known.active, stopped=digest if stops else known.stopped, retired=known.retired | {digest}
                    )
        for digest in {known.active, known.stopped} - {""}:
            if digest not in self._policies:
                self._policies[digest] = Policy.from_json(contents[digest])
        self._standing[stream] = known = known._replace(version=version)
        return known

    def stopped_policy(self, tenant: str, name: str) -> Policy | None:
        """The version that decided until it was retired, while no other one does; else None."""
        stopped = self.standing(tenant, name).stopped
        return self._policies[stopped] if stopped else None

    def retired(self, tenant: str, digest: str) -> bool:
        """Whether a version was retired and not activated again."""
        policy = self.policy(tenant, digest)
        return policy is not None and digest in self.standing(tenant, policy.name).retired

    def seen_policy(self, tenant: str, name: str) -> tuple[Policy | None, int]:
        """The active policy as this process last read it, and since when it is active (now for none): for times to come, not decisions."""
        known = self._standing.get(policy_stream(tenant, name)) or self.standing(tenant, name)
        return (self._policies[known.active], known.since_us) if known.active else (None, self.now_us())

    def policy(self, tenant: str, digest: str) -> Policy | None:
        """Any published version by its digest; None when there is none."""
        if digest not in self._policies:
            published = Query(tenant=tenant, category=POLICIES, lane=Lane.DECISION, kinds=frozenset({"artifact/published"}))
            for recorded in self.log.events(published):
                if isinstance(recorded.data, ArtifactPublished) and recorded.data.digest == digest:
                    self._policies[digest] = Policy.from_json(recorded.data.content)
        return self._policies.get(digest)

    def authority(self, tenant: str) -> Authority:
        """Who may approve what now. Its stream at this version is a condition that makes "now" exact."""
        stream = authority_stream(tenant)
        version = self._version(stream)
        known = self._authorities.get(tenant)
        if known is None or known.version != version:
            known = Authority()
            for recorded in self.log.events(Query(tenant=tenant, streams=(stream,), lane=Lane.DECISION)):
                event = recorded.data
                assert isinstance(event, RoleGranted | RoleRevoked | AuthorityDelegated | DelegationRevoked)
                known = evolve_authority(known, event, recorded.event_id)
            self._authorities[tenant] = known
        return known

    def decision(self, tenant: str, decision_id: UUID) -> Recorded[DecisionRecorded]:
        """A decision, unsealed where this desk may; UnknownDecision when there is none."""
        return self._decision(tenant, decision_id, self.log.store.find(tenant, decision_id))

    def _decision(self, tenant: str, decision_id: UUID, stored: StoredEvent | None) -> Recorded[DecisionRecorded]:
        if stored is None or stored.wire_name != DecisionRecorded.wire_name:
            raise UnknownDecision(tenant=tenant, decision_id=str(decision_id))
        recorded = decode(stored, self._unseal)
        assert isinstance(recorded.data, DecisionRecorded)
        return Recorded(recorded.stored, recorded.header, recorded.data)

    def ordered(self, tenant: str, id_: UUID) -> Recorded[Ordered]:
        """What the outbox is to carry out: a decision, or an order to take an effect back. As `decision`."""
        stored = self.log.store.find(tenant, id_)
        if stored is None or stored.wire_name != UndoOrdered.wire_name:
            decision = self._decision(tenant, id_, stored)
            return Recorded(decision.stored, decision.header, decision.data)
        recorded = decode(stored, self._unseal)
        assert isinstance(recorded.data, UndoOrdered)
        return Recorded(recorded.stored, recorded.header, recorded.data)

    def event(self, tenant: str, event_id: UUID) -> Event:
        """An event by its id, unsealed where this desk may; UnknownEvent when there is none."""
        stored = self.log.store.find(tenant, event_id)
        if stored is None:
            raise UnknownEvent(tenant=tenant, event=str(event_id))
        return decode(stored, self._unseal).data

    def _lane(self, stream: StreamId) -> list[Event]:
        return [r.data for r in self.log.events(Query(tenant=stream.tenant, streams=(stream,), lane=Lane.DECISION))]

    def _version(self, stream: StreamId) -> int:
        return self._versions([stream])[0]

    def _versions(self, streams: Sequence[StreamId]) -> list[int]:
        if self._step is None:
            return self.log.store.versions(streams)
        known = self._step.versions
        new = [stream for stream in streams if stream not in known]
        if new:
            known.update(zip(new, self.log.store.versions(new), strict=True))
        return [known[stream] for stream in streams]
