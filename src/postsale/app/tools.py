"""Tools as a tenant sees them, and what comes back from where they sent something. Part of the wiring: may import all below `app`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from postsale.agents.gate import Circuit, GateState
from postsale.agents.planner_gate import is_tool, planner_gates
from postsale.agents.tools import Tool
from postsale.aggregates.identity import CUSTOMERS
from postsale.aggregates.plans import PlanReceived, PlanRequested
from postsale.aggregates.signals import Signal
from postsale.app.directory import as_external
from postsale.app.recorder import Entry, Receipt
from postsale.app.tenant_data import Customer
from postsale.errors import InvalidInput
from postsale.events import Actor, Header, Lane, derive_id, from_us, to_us
from postsale.projections.tool_record import ToolRecord, read_tool_records
from postsale.store.contract import Query
from postsale.store.log import Cause

if TYPE_CHECKING:
    from postsale.app.postsale import PostSale

_QUESTIONS = frozenset({"agent/plan-requested", "agent/plan-received"})


@dataclass(frozen=True, slots=True)
class PlannerStatus:
    """One planner of a tenant now: its circuit, and what came of the questions that it was asked."""

    planner: str
    circuit: Circuit
    waits_until: datetime | None  # it is not asked before
    failures_in_a_row: int
    reason: str  # of the newest failure that counts against it
    asked: int = 0
    answered: int = 0
    failed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For programs; no personal data."""
        return {**asdict(self), "waits_until": self.waits_until.isoformat() if self.waits_until else None}


@dataclass(frozen=True, slots=True)
class ToolStatus:
    """One tool of a tenant now: its contract where it is installed here, its gate, and how it has done."""

    tool: str  # name@version
    contract: Tool | None  # None: decisions named it, and it is not installed in this process
    circuit: Circuit
    waits_until: datetime | None  # nothing is sent before: its circuit is open, or it asked for a pause
    failures_in_a_row: int
    reason: str  # of the newest failure that counts against it
    record: ToolRecord

    def to_dict(self) -> dict[str, Any]:
        """For programs; no personal data."""
        return {
            "tool": self.tool,
            "contract": None if self.contract is None else contract_dict(self.contract),
            "circuit": self.circuit,
            "waits_until": self.waits_until.isoformat() if self.waits_until else None,
            "failures_in_a_row": self.failures_in_a_row,
            "reason": self.reason,
            "record": self.record.to_dict(),
        }


def contract_dict(tool: Tool) -> dict[str, Any]:
    """A contract in plain values."""
    return {
        "tool": tool.ref.name,
        "digest": tool.ref.digest,
        "kind": tool.kind,
        "risk_tier": tool.risk_tier,
        "undo": tool.undo.tool if tool.undo else None,
        "sandbox": tool.sandbox,
        "rate": None if tool.rate is None else {"requests": tool.rate.requests, "per_s": tool.rate.per_s},
        "timeout_s": tool.timeout_s,
        "max_attempts": tool.max_attempts,
        "key_lives_s": tool.key_lives_s,
    }


def tool_statuses(ps: PostSale, tenant: str, *, as_of_us: int | None = None, known_at_us: int | None = None) -> list[ToolStatus]:
    """Every tool that is installed here or that decisions of the tenant were to use, by name. The gate is as it is now."""
    now_us = ps.clock.now_us()
    records = read_tool_records(ps.log.store, tenant, as_of_us=as_of_us, known_at_us=known_at_us)
    gates = {name: state for name, state in ps.engine.outbox.gate.states(tenant).items() if is_tool(name)}
    installed = {tool.ref.name: tool for tool in ps.engine.toolbox.all()}
    out = []
    for name in sorted({*records, *gates, *installed}):
        gate = gates.get(name, GateState())
        until_us = max(gate.open_until_us, gate.pause_until_us)
        out.append(
            ToolStatus(
                name,
                installed.get(name),
                gate.circuit(now_us),
                from_us(until_us) if until_us > now_us else None,
                gate.failures,
                gate.reason,
                records.get(name) or ToolRecord(name),
            )
        )
    return out


def planner_statuses(ps: PostSale, tenant: str, *, as_of_us: int | None = None, known_at_us: int | None = None) -> list[PlannerStatus]:
    """Every planner that is installed here or was ever asked, by name. The circuit is as it is now."""
    counts: dict[str, Counter[str]] = {}
    of: dict[UUID, str] = {}
    query = Query(tenant=tenant, category=CUSTOMERS, lane=Lane.DECISION, kinds=_QUESTIONS, as_of_us=as_of_us, known_at_us=known_at_us)
    for recorded in ps.log.events(query):
        match recorded.data:
            case PlanRequested(planner=name):
                of[recorded.event_id] = name
                counts.setdefault(name, Counter())["asked"] += 1
            case PlanReceived(request_id=id_, status=status) if id_ in of:
                counts[of[id_]]["failed" if status == "failed" else "answered"] += 1
    gates, now_us = planner_gates(ps.engine.outbox.gate, tenant), ps.clock.now_us()
    here = {name for agent in ps.engine.agents.values() for name in agent.planners}
    out = []
    for name in sorted({*counts, *gates, *here}):
        gate, found = gates.get(name, GateState()), counts.get(name, Counter())
        until = from_us(gate.open_until_us) if gate.open_until_us > now_us else None
        circuit = gate.circuit(now_us)
        out.append(PlannerStatus(name, circuit, until, gate.failures, gate.reason, found["asked"], found["answered"], found["failed"]))
    return out


def returned(ps: PostSale, tenant: str, effect: UUID | str, signal: Signal, customer: Customer | None = None) -> Receipt:
    """Record what came back of an effect, on its customer or on the one it is about, caused by the effect and as deep as it.

    Raises InvalidInput when no effect of this id has left, ContentConflict for the same id with other content.
    """
    try:
        intent = effect if isinstance(effect, UUID) else UUID(effect)
    except ValueError:
        raise InvalidInput(what="returned", field="effect", reason="expected the UUID that the tool received as its key") from None
    started = ps.log.store.find(tenant, derive_id(intent, "started", 1))
    if started is None:
        raise InvalidInput(what="returned", field="effect", reason="no effect of this id has left")
    header = Header.from_bytes(started.header)
    cause = Cause(
        actor=Actor("source", signal.source),
        causation_id=started.event_id,
        correlation_id=header.correlation_id,
        depth=header.depth,
        origin=header.origin,
    )
    if customer is not None:
        return ps.recorder.record(tenant, Entry(as_external(customer), signal), cause)
    stream = ps.directory.survivor(started.stream)
    event = ps.log.fact(stream, signal, said_of=str(intent), subject=stream.id, cause=cause)
    done = ps.log.append([event])
    return Receipt(done.stored, done.positions[-1], from_us(done.recorded_at_us[-1]), event.event_id)


class TenantTools:
    """What `Tenant` inherits; never made alone."""

    _ps: PostSale
    name: str

    def tools(self, *, as_of: datetime | None = None, known_at: datetime | None = None) -> list[ToolStatus]:
        """Tools that are installed here or that decisions were to use, by name: contract, circuit now, and how each has done."""
        as_of_us, known_at_us = (None if at is None else to_us(at) for at in (as_of, known_at))
        return tool_statuses(self._ps, self.name, as_of_us=as_of_us, known_at_us=known_at_us)

    def planners(self, *, as_of: datetime | None = None, known_at: datetime | None = None) -> list[PlannerStatus]:
        """Planners that are installed here or were ever asked, by name: circuit now, and what came of the questions."""
        as_of_us, known_at_us = (None if at is None else to_us(at) for at in (as_of, known_at))
        return planner_statuses(self._ps, self.name, as_of_us=as_of_us, known_at_us=known_at_us)

    def returned(self, effect: UUID | str, signal: Signal, *, customer: Customer | None = None) -> Receipt:
        """Record what came back of an effect: a bounce, a delivery, a callback. `effect` is the key that the tool received.

        It is a fact about the effect's customer, caused by the effect; idempotent like `record`. `customer`: about another one, such as
        somebody who came because of an invitation; an id of the tenant's own that is new creates it, any other waits until `link`.
        Raises InvalidInput when no effect of this id has left, ContentConflict for the same (source, id) with other content.
        """
        return returned(self._ps, self.name, effect, signal, customer)
