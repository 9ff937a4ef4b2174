"""Undos carried out: proposed, approved by a person, begun while the plan still fits, ordered effect by effect, sent by the outbox.

Everything is in the log: it may be killed anywhere and run again, by several at once; each effect is taken back once. A plan is begun
when it equals the plan of that moment; what is born later is listed by the next one. May import the desk, the outbox and what is below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from postsale.access import Person, Unsealer
from postsale.agents.control import require_person, require_reason
from postsale.agents.desk import Desk
from postsale.agents.outbox import Outbox
from postsale.agents.tools.toolbox import Toolbox
from postsale.agents.undo import Plan, Scope, items_of, models_of, plan
from postsale.agents.undo_items import Ended, Undo, cancel, order
from postsale.aggregates.undos import (
    UNDO_AGENT,
    UNDOS,
    UndoApproved,
    UndoBegun,
    UndoEvent,
    UndoFinished,
    UndoProposed,
    UndoState,
    UndoVoided,
    evolve_undo,
    undo_stream,
)
from postsale.errors import ContentConflict, InvalidInput, UndoRefused, UnknownDecision, VersionConflict
from postsale.events import SECOND_US, SYSTEM, Actor, Lane, StreamId, decode, derive_id, from_us
from postsale.projections.journal import read_journal
from postsale.store.contract import Query
from postsale.store.log import Cause

_EXPIRES_US = 72 * 3_600 * SECOND_US
_ENDED = {"succeeded", "failed", "unknown", "cancelled"}


@dataclass(slots=True)
class Undos:
    """Where undos are planned, approved and carried out. Every method may be called again."""

    desk: Desk
    toolbox: Toolbox
    outbox: Outbox
    agents: frozenset[str] = field(default_factory=frozenset)

    # ------------------------------------------------------------ planning

    def plan(self, tenant: str, scope: Scope, *, position: int | None = None, at_us: int | None = None) -> Plan:
        """What would be taken back, as of a position (default: now). Writes nothing. Raises UnknownDecision, InvalidInput."""
        log = self.desk.log
        scope = self._named(tenant, scope)
        upto = log.store.head() if position is None else position
        unseal = Unsealer(log.vault)
        return plan(
            log.store.read(Query(tenant=tenant, upto=upto)),
            scope,
            tenant=tenant,
            position=upto,
            at_us=self.desk.now_us() if at_us is None else at_us,
            decoded=lambda stored: decode(stored, unseal),
            tools={tool.ref.name: tool for tool in self.toolbox.all()},
            mac=self.desk.mac(tenant),
        )

    def _named(self, tenant: str, scope: Scope) -> Scope:
        """The scope by its whole name: a digest may be given by its first characters."""
        if scope.by == "decision":
            self.desk.decision(tenant, _uuid(scope.name))
            return Scope("decision", str(_uuid(scope.name)))
        entries = read_journal(self.desk.log.store, tenant)
        if scope.by == "tool":
            known = {i.tool for e in entries for i in e.recorded.intents}
            if scope.name not in known:
                raise InvalidInput(what="undo", field="tool", reason="no decision here was to use a tool of this name and version")
            return scope
        every = [e.recorded for e in entries]
        match scope.by:
            case "policy":
                parts = {r.policy for r in every}
            case "prompt":
                parts = {r.prompt for r in every if r.prompt is not None}
            case _:
                parts = {name for r in every for name in models_of(r)}
        found = {p for p in parts if p == scope.name} or {p for p in parts if p.startswith(scope.name)}
        if len(found) != 1:
            reason = "no decision here was made with one whose digest begins so" if not found else f"{len(found)} digests begin so"
            raise InvalidInput(what="undo", field=scope.by, reason=reason)
        return Scope(scope.by, found.pop())

    def propose(self, tenant: str, scope: Scope, person: Person) -> tuple[Undo, Plan]:
        """Record the plan of now for somebody to approve; one that waits with the same content is the same undo.

        Raises UndoRefused when there is nothing that the software can take back, NotAllowed.
        """
        person = require_person(person, "propose an undo")
        made = self.plan(tenant, scope)
        if made.empty:
            why = "nothing is left to take back" if not made.items else "everything that is left must be done by hand"
            raise UndoRefused(undo=made.digest[:12], reason=why)
        same = [undo for undo in self.all(tenant) if undo.digest == made.digest]
        for undo in same:
            if undo.state.open and not undo.state.expired(self.desk.now_us()):
                return undo, made
        if len(made.content) > 900_000:
            raise InvalidInput(what="undo", field="scope", reason=f"{len(made.items)} items are too many for one plan: name less")
        id_ = derive_id(tenant, "undo", made.digest, len(same))  # not of the position, which only one log has
        event = UndoProposed(
            by=made.scope.by,
            name=made.scope.name,
            position=made.position,
            digest=made.digest,
            items=made.content,
            expires_at=from_us(made.at_us + _EXPIRES_US),
        )
        self._append(tenant, id_, UndoState(), event, person.actor)
        return self.get(tenant, id_), made

    # ------------------------------------------------------------ approving

    def approve(self, tenant: str, undo_id: UUID, person: Person, *, reason: str, digest: str | None = None) -> Undo:
        """Say yes to exactly the plan that was proposed. `digest`: of the plan as it was shown; another one is refused.

        Raises UndoRefused when it does not wait, its time is over, or the log moved so that the plan is another one by now (the undo
        is then void, in the log); NotAllowed for anybody but an authenticated person; InvalidInput without a reason.
        """
        person, reason = require_person(person, "approve an undo"), require_reason(reason, "undo")
        undo = self.get(tenant, undo_id)
        if person.login in self.agents | {UNDO_AGENT}:
            raise UndoRefused(undo=undo.digest[:12], reason="an agent cannot approve it")
        if undo.state.status != "proposed":
            raise UndoRefused(undo=undo.digest[:12], reason=f"it does not wait for approval: it is {undo.state.status}")
        if digest is not None and digest != undo.digest:
            raise UndoRefused(undo=undo.digest[:12], reason="the plan that was shown is another one")
        if self._still_fits(undo) is None:
            raise UndoRefused(undo=undo.digest[:12], reason="somebody else settled it first")
        event = UndoApproved(digest=undo.digest, approver=person.login, authenticated_by=person.authenticated_by, reason=reason)
        if not self._append(tenant, undo_id, undo.state, event, person.actor):
            raise UndoRefused(undo=undo.digest[:12], reason="somebody else settled it first")
        return self.get(tenant, undo_id)

    def _still_fits(self, undo: Undo) -> int | None:
        """The position at which the plan still is what it was; else the undo becomes void. Raises UndoRefused.

        None when somebody else was first: what moved the log may be this undo, begun by another worker.
        """
        p = undo.proposed
        why = changed = None
        if undo.state.expired(self.desk.now_us()):
            why = "expired"
        else:
            now = self.plan(undo.tenant, Scope(p.by, p.name))
            if now.digest == undo.digest:
                return now.position
            changed = now.digest
        if not self._append(undo.tenant, undo.id, undo.state, UndoVoided(digest=p.digest, why="expired" if why else "changed"), SYSTEM):
            return None
        told = "its time is over" if why else f"the log moved since it was proposed: the plan of now is {(changed or '')[:12]}"
        raise UndoRefused(undo=p.digest[:12], reason=told)

    # ------------------------------------------------------------ carrying out

    def run(self, tenant: str, undo_id: UUID) -> Undo:
        """Carry out what was approved, or go on with what was begun; of one that is finished nothing is done.

        Effects are called here; what a tool keeps waiting is sent by later runs of the agents, or of this. Raises UndoRefused for
        one that is not approved or does not fit any more.
        """
        undo = self.get(tenant, undo_id)
        match undo.state.status:
            case "finished":
                return undo
            case "approved":
                position = self._still_fits(undo)
                if position is None:
                    return self.run(tenant, undo_id)
                event = UndoBegun(digest=undo.digest, position=position)
                self._append(tenant, undo_id, undo.state, event, SYSTEM)
                undo = self.get(tenant, undo_id)  # begun, by us or by another worker
            case "proposed":
                raise UndoRefused(undo=undo.digest[:12], reason="nobody approved it")
            case "none" | "void":
                raise UndoRefused(undo=undo.digest[:12], reason="it is void")
        if undo.state.status != "running":
            return undo
        troubles: dict[UUID, str] = {}
        for item in items_of(undo.proposed.items):
            if item.what == "cancel":
                cancel(self.desk, undo, item)
            elif item.what == "undo":
                trouble = order(self.desk, self.toolbox, undo, item)
                if trouble:
                    troubles[item.undo_id] = trouble
                else:
                    self.outbox.dispatch(item.stream(tenant))
        return self._finish(undo_id, tenant, troubles)

    def _finish(self, undo_id: UUID, tenant: str, troubles: Mapping[UUID, str]) -> Undo:
        undo = self.get(tenant, undo_id, troubles)
        ends = [e.status for e in undo.items]
        if undo.state.status != "running" or any(s in {"waiting", "ordered"} for s in ends):
            return undo
        event = UndoFinished(
            digest=undo.digest,
            undone=ends.count("undone"),
            cancelled=ends.count("cancelled"),
            failed=len(ends) - ends.count("undone") - ends.count("cancelled"),
        )
        self._append(tenant, undo_id, undo.state, event, SYSTEM)
        return self.get(tenant, undo_id, troubles)

    # ------------------------------------------------------------ reading

    def get(self, tenant: str, undo_id: UUID, troubles: Mapping[UUID, str] | None = None) -> Undo:
        """One undo as it stands. Raises InvalidInput when there is none."""
        state = UndoState()
        for r in self.desk.log.events(Query(tenant=tenant, streams=(undo_stream(tenant, undo_id),), lane=Lane.DECISION)):
            assert isinstance(r.data, UndoEvent)
            state = evolve_undo(state, r.data, r.event_id)
        if state.proposed is None:
            raise InvalidInput(what="undo", field="id", reason="there is no such undo; see: postsale undo status")
        if state.status not in {"running", "finished"}:
            return Undo(undo_id, tenant, state)
        items = [i for i in items_of(state.proposed.items) if i.what != "by-hand"]
        streams = tuple({i.stream(tenant) for i in items})
        entries = {e.id: e for e in read_journal(self.desk.log.store, tenant, streams)}
        ended = []
        for item in items:
            entry = entries[item.decision]
            if item.what == "cancel":
                left = not any(s in {"held", "ready", "retry"} for s in entry.effects.values())
                cancelled = entry.disposition == "suppressed"
                status = "cancelled" if cancelled else "left" if left else "waiting"
                ended.append(Ended(item, status, "it left first: plan again" if status == "left" else ""))
                continue
            back, trouble = entry.undone.get(item.effect or UUID(int=0)), (troubles or {}).get(item.undo_id, "")
            status = {None: "waiting", "succeeded": "undone"}.get(back, back if back in _ENDED else "ordered")
            if (back is None and (trouble or state.status == "finished")) or status == "cancelled":
                status = "failed"
            ended.append(Ended(item, status or "waiting", trouble))
        return Undo(undo_id, tenant, state, tuple(ended))

    def all(self, tenant: str) -> list[Undo]:
        """Every undo of a tenant, oldest first."""
        query = Query(tenant=tenant, category=UNDOS, lane=Lane.DECISION, kinds=frozenset({"undo/proposed"}))
        return [self.get(tenant, UUID(stored.stream.id)) for stored in self.desk.log.store.read(query)]

    # ------------------------------------------------------------ writing

    def _append(self, tenant: str, undo_id: UUID, state: UndoState, event: UndoEvent, actor: Actor) -> bool:
        """One more event of an undo after what `state` says; False when somebody else said something first."""
        stream: StreamId = undo_stream(tenant, undo_id)
        id_ = derive_id(stream, state.version, event.wire_name)
        try:
            self.desk.append_to(stream, state.version, [(event, id_)], Cause(actor=actor, correlation_id=undo_id, origin=self.desk.origin))
        except (ContentConflict, VersionConflict):
            return False
        return True


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise UnknownDecision(tenant="", decision_id=text[:36]) from None
