"""One tenant's view of the log: record, read, decide about, explain. What a backend developer holds in their hand.

Part of the wiring: may import everything below `app`. Every read takes two clocks: `as_of` (true in the world) and
`known_at` (recorded by then), both aware datetimes, inclusive, default now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from postsale.access import Person
from postsale.aggregates import commands
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import CommandIssued
from postsale.aggregates.identity import ExternalId, customer_stream
from postsale.aggregates.signals import Signal
from postsale.app.directory import as_external
from postsale.app.health import CustomerRow, customer_rows
from postsale.app.importing import Importer, ImportReport, Refused
from postsale.app.readings import health_of
from postsale.app.recorder import FUTURE_US, Entry, Receipt, RecordReport
from postsale.audit.explain import Explanation, explain
from postsale.errors import IdentityConflict, InvalidInput
from postsale.events import Actor, Event, Origin, Recorded, StreamId, to_us
from postsale.ingest import Mapping
from postsale.ingest.sources import Kind
from postsale.projections.journal import Entry as Decision
from postsale.projections.journal import awaiting, read_journal
from postsale.projections.why import Health
from postsale.store.contract import Query
from postsale.store.log import Cause

if TYPE_CHECKING:
    from postsale.app.postsale import PostSale

Customer = str | ExternalId


class Tenant:
    """A tenant of an open `PostSale`. Cheap to make; safe to use from several threads."""

    def __init__(self, ps: PostSale, name: str) -> None:
        self._ps = ps
        self.name = name

    # ------------------------------------------------------------ signals in

    def record(self, customer: Customer, signal: Signal) -> Receipt:
        """Record a signal about a customer; a tenant's own customer id that is new creates the customer.

        Durable when it returns. The same (source, id) again changes nothing: `stored` is False. With other content it raises
        ContentConflict, the log is unchanged, and the second copy is in quarantine. Any other system's id that is not linked
        yet keeps its facts waiting until `link`. Raises InvalidInput, KeyUnavailable, StoreUnavailable.
        """
        return self._ps.recorder.record(self.name, self._entry(customer, signal), self._source(signal))

    def record_many(
        self,
        items: Iterable[tuple[Customer, Signal]],
        *,
        on_progress: Callable[[int], None] | None = None,
        origin: Origin = Origin.LIVE,
    ) -> RecordReport:
        """Record many; each succeeds or is rejected on its own, with its reason. Any number: memory is bounded."""
        entries = (self._entry(customer, signal) for customer, signal in items)
        cause = Cause(actor=Actor("source", "api"), origin=origin)
        return self._ps.recorder.record_many(self.name, entries, cause, on_progress)

    @staticmethod
    def _entry(customer: Customer, signal: Signal) -> Entry:
        if not isinstance(signal, Signal):
            raise InvalidInput(what="record", field="signal", reason=f"expected a Signal, got {type(signal).__name__}")
        return Entry(as_external(customer), signal)

    @staticmethod
    def _source(signal: Signal) -> Cause:
        return Cause(actor=Actor("source", signal.source))

    # ------------------------------------------------------------ files in

    def ingest(
        self, kind: Kind, path: Path | str, mapping: Path | str | None = None, *, on_progress: Callable[[int], None] | None = None
    ) -> ImportReport:
        """Import a file: `stripe`, `cloudevents`, or `table` with a mapping file. Safe to repeat; raises no trigger.

        recorded + duplicates + quarantined + ignored = items. Raises InvalidInput or MappingInvalid for the file as a whole.
        """
        return self._importer().file(kind, Path(path), None if mapping is None else Mapping.load(Path(mapping)), on_progress)

    def quarantine(self) -> list[Refused]:
        """What was refused and waits, oldest first; bodies stay sealed."""
        return self._importer().waiting()

    def retry_quarantine(self, ids: Sequence[str] | None = None, *, mapping: Path | str | None = None) -> dict[str, int]:
        """Try refused items again, all by default; rows of tables need the (corrected) mapping."""
        return self._importer().retry(ids, None if mapping is None else Mapping.load(Path(mapping)))

    def _importer(self) -> Importer:
        return Importer(self._ps.log, self._ps.recorder, self.name)

    # ------------------------------------------------------------ identity

    def link(self, external: ExternalId, customer: Customer) -> bool:
        """Say that another system's id stands for this customer; facts that waited under it count from now on.

        False when it was linked to this customer already; IdentityConflict when it is linked to another one.
        """
        target = self._ps.directory.customer(self.name, customer)
        place = self._ps.directory.resolve(self.name, [as_external(external)])[external]
        if place.linked is not None:
            linked = self._ps.directory.survivor(customer_stream(self.name, place.linked.account))
            if linked != target:
                raise IdentityConflict(tenant=self.name, reason="this id is linked to another customer")
            return False
        return self._ps.identity.link(external, place, target)

    def merge(self, other: Customer, *, into: Customer, reason: str, by: Person | None = None) -> bool:
        """Make one customer of two; reads of either id give the survivor. False when they are one already."""
        return self._ps.identity.merge(self.name, other, into, reason, self._ps.person(by))

    def split(self, other: Customer, *, reason: str, by: Person | None = None) -> bool:
        """Undo a merge: what was recorded under the other's ids, since too, is its own again."""
        return self._ps.identity.split(self.name, other, reason, self._ps.person(by))

    # ------------------------------------------------------------ reads

    def customer(self, customer: Customer, *, as_of: datetime | None = None, known_at: datetime | None = None) -> CustomerAggregate:
        """The customer's state: true at `as_of`, as known at `known_at`. Raises UnknownCustomer."""
        stream = self._ps.directory.customer(self.name, customer)
        return self._ps.log.customer(stream, as_of_us=_us(as_of), known_at_us=_us(known_at))

    def health(self, customer: Customer, *, as_of: datetime | None = None, known_at: datetime | None = None) -> Health:
        """The customer's health, with `why()`. Reads the log itself: it has seen every write acknowledged before."""
        aggregate = self.customer(customer, as_of=as_of, known_at=known_at)
        return health_of(self._ps.log, self._ps.model, aggregate, as_of_us=_us(as_of), known_at_us=_us(known_at))

    def customers(self, *, at_risk: bool = False, as_of: datetime | None = None, known_at: datetime | None = None) -> list[CustomerRow]:
        """Every customer with its score, the least healthy first; `at_risk`: only band poor or with an open risk case."""
        ps = self._ps
        as_of_us = ps.clock.now_us() + FUTURE_US if as_of is None else to_us(as_of)  # facts may be ahead of our clock by so much
        rows = customer_rows(ps.log, ps.directory, ps.model, self.name, as_of_us, _us(known_at), ps.unsealer)
        return [row for row in rows if row.at_risk] if at_risk else rows

    def timeline(self, customer: Customer, *, as_of: datetime | None = None, known_at: datetime | None = None) -> list[Recorded[Event]]:
        """Every event of the customer, both lanes, in the order in which it was recorded; personal fields as you may see them."""
        aggregate = self.customer(customer)
        query = Query(tenant=self.name, streams=aggregate.fact_streams, as_of_us=_us(as_of), known_at_us=_us(known_at))
        return list(self._ps.log.events(query, self._ps.unsealer))

    def decisions(self, customer: Customer | None = None, *, known_at: datetime | None = None) -> list[Decision]:
        """Decisions about one customer, or all of them, oldest first, each with its one current disposition."""
        streams: tuple[StreamId, ...] = ()
        if customer is not None:
            streams = (self._ps.directory.customer(self.name, customer),)
        return read_journal(self._ps.log.store, self.name, streams, known_at_us=_us(known_at))

    def approvals(self) -> list[Decision]:
        """Decisions that wait for a person, the first to expire first."""
        return awaiting(self.decisions())

    def explain(self, decision_id: UUID | str) -> Explanation:
        """What was known, which policy, who approved, what left, what came of it. Raises UnknownDecision."""
        return explain(self._ps.log, self.name, _uuid(decision_id), self._ps.unsealer)

    # ------------------------------------------------------------ people decide

    def consent(self, customer: Customer, channel: str, purpose: str, *, given: bool = True, evidence: str) -> bool:
        """Record that the customer agreed, or no longer agrees, to be contacted. False when that was known already."""
        rule = commands.give_consent if given else commands.withdraw_consent
        return self._command(customer, lambda c: rule(c, channel, purpose, evidence))

    def request(self, customer: Customer, command: str, *, reason: str, agent: str | None = None, by: Person | None = None) -> bool:
        """Ask an agent (or all) to look at this customer now: a command is a trigger."""
        event = CommandIssued(command=command, agent=agent, reason=reason)
        return self._command(customer, lambda _: (event,), by)

    def override(self, decision_id: UUID | str, *, reason: str, by: Person | None = None) -> bool:
        """Set a decision aside with a reason; effects that have not left are cancelled."""
        person = self._ps.person(by)
        id_ = _uuid(decision_id)
        stream = self._ps.decision_stream(self.name, id_)
        done = self._ps.log.transact(
            stream, lambda c: commands.override(c, id_, by=person.login, reason=reason), cause=Cause(actor=person.actor)
        )
        return bool(done)

    def _command(self, customer: Customer, decide: Callable[[CustomerAggregate], Sequence[Event]], by: Person | None = None) -> bool:
        actor = self._ps.person(by).actor if by is not None else Actor("system", "api")
        stream = self._ps.directory.customer(self.name, customer)
        return bool(self._ps.log.transact(stream, decide, cause=Cause(actor=actor)))


def _us(at: datetime | None) -> int | None:
    return None if at is None else to_us(at)


def _uuid(value: UUID | str) -> UUID:
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except ValueError:
        raise InvalidInput(what="decision", field="id", reason="expected a UUID") from None
