"""One tenant's view of the log: record, read, decide about, explain. What a backend developer holds in their hand.

Part of the wiring: may import everything below `app`. Every read takes two clocks: `as_of` (true in the world) and
`known_at` (recorded by then), both aware datetimes, inclusive, default now. Reads of customers take `at_least`, the receipt of a
write that they must have seen: they wait for it at most `within_s` seconds, then raise StaleRead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from postsale.access import Person
from postsale.agents import asking
from postsale.agents.engines.embedded import EmbeddedEngine
from postsale.aggregates import commands
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.identity import CUSTOMERS
from postsale.aggregates.signals import Signal
from postsale.app.directory import as_external
from postsale.app.health import CustomerRow, customer_rows, states_of
from postsale.app.importing import Importer, ImportReport, Refused
from postsale.app.people import TenantPeople
from postsale.app.readings import health_of, lifecycle_of
from postsale.app.recorder import Entry, Receipt, RecordReport
from postsale.app.related import all_related, members_of
from postsale.app.tenant_agents import TenantAgents
from postsale.app.tenant_agents import decision_uuid as _uuid
from postsale.app.tenant_backtests import TenantBacktests
from postsale.app.tenant_data import Customer, TenantData
from postsale.app.tools import TenantTools
from postsale.audit import Explanation, Replayed, explain, replay
from postsale.audit.rescoring import rescored
from postsale.errors import InvalidInput, Unsupported
from postsale.events import Actor, Event, Origin, Recorded, StreamId, to_us
from postsale.ingest import Item
from postsale.ingest import Mapping as TableMapping
from postsale.ingest.sources import Kind
from postsale.projections import Features, FeatureValues, Fold, read_facts
from postsale.projections.freshness import WITHIN_S, AtLeast, await_log
from postsale.projections.journal import Entry as Decision
from postsale.projections.journal import awaiting, read_journal
from postsale.projections.lifecycle import Lifecycle
from postsale.projections.why import Health
from postsale.store.contract import Joinable, Query, Recording
from postsale.store.log import Cause

if TYPE_CHECKING:
    from postsale.app.postsale import PostSale


class Tenant(TenantData, TenantBacktests, TenantAgents, TenantPeople, TenantTools):
    """A tenant of an open `PostSale`. Cheap to make; safe to use from several threads."""

    def __init__(self, ps: PostSale, name: str) -> None:
        self._ps = ps
        self.name = name

    # ------------------------------------------------------------ signals in

    def record(self, customer: Customer, signal: Signal, *, connection: Any = None) -> Receipt:
        """Record a signal about a customer; a tenant's own customer id that is new creates the customer.

        Durable when it returns. The same (source, id) again changes nothing: `stored` is False. With other content it raises
        ContentConflict, the log is unchanged, and the second copy is in quarantine. Any other system's id that is not linked
        yet keeps its facts waiting until `link`. Raises InvalidInput, KeyUnavailable, StoreUnavailable.

        `connection`, of psycopg 3 and to the database of a PostgreSQL log, has a transaction of yours open: then the signal is
        stored, and a refused one quarantined, when you commit, and neither when you roll back. Reads do not see it before. An error
        leaves your transaction usable. Until it ends no other writer of the log gets on: record last, and commit. Raises Unsupported
        for another log.
        """
        log = self._within(connection)
        return self._ps.recorder.record(self.name, self._entry(customer, signal), self._source(signal), log=log)

    def record_many(
        self,
        items: Iterable[tuple[Customer, Signal]],
        *,
        on_progress: Callable[[int], None] | None = None,
        origin: Origin = Origin.LIVE,
        connection: Any = None,
    ) -> RecordReport:
        """Record many; each succeeds or is rejected on its own, with its reason. Any number: memory is bounded.

        `connection` as for `record`: what is not rejected is stored when you commit.
        """
        log = self._within(connection)
        entries = (self._entry_or_error(customer, signal) for customer, signal in items)
        cause = Cause(actor=Actor("source", "api"), origin=origin)
        return self._ps.recorder.record_many(self.name, entries, cause, on_progress, log=log)

    def _within(self, connection: Any) -> Recording | None:
        """The log in the caller's own transaction, None without one."""
        store = self._ps.log.store
        if connection is None:
            return None
        if not isinstance(store, Joinable):
            raise Unsupported(what="a transaction of your own around this log", supported="a log on PostgreSQL, beside tables of yours")
        return store.within(connection)

    @staticmethod
    def _entry(customer: Customer, signal: Signal) -> Entry:
        if not isinstance(signal, Signal):
            raise InvalidInput(what="record", field="signal", reason=f"expected a Signal, got {type(signal).__name__}")
        return Entry(as_external(customer), signal)

    @classmethod
    def _entry_or_error(cls, customer: Customer, signal: Signal) -> Entry | InvalidInput:
        try:
            return cls._entry(customer, signal)
        except InvalidInput as error:
            return error.with_traceback(None)

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
        return self._importer().file(kind, Path(path), None if mapping is None else TableMapping.load(Path(mapping)), on_progress)

    def receive(self, item: Item) -> ImportReport:
        """Record one item of a connector as it arrives live, such as `stripe.signals(event)` of a verified webhook.

        Idempotent by the source's id, with the same idea of "same content" as `ingest` has; a refused item goes to quarantine.
        """
        return self._importer().live(item)

    def quarantine(self) -> list[Refused]:
        """What was refused and waits, oldest first; bodies stay sealed."""
        return self._importer().waiting()

    def retry_quarantine(self, ids: Sequence[str] | None = None, *, mapping: Path | str | None = None) -> dict[str, int]:
        """Try refused items again, all by default; rows of tables need the (corrected) mapping."""
        return self._importer().retry(ids, None if mapping is None else TableMapping.load(Path(mapping)))

    def _importer(self) -> Importer:
        return Importer(self._ps.log, self._ps.recorder, self.name)

    # ------------------------------------------------------------ identity

    def link(self, external: Customer, customer: Customer) -> bool:
        """Say that another system's id stands for this customer; facts that waited under it count from now on.

        A plain string is one more id of the tenant's own. False when it was linked to this customer already; IdentityConflict
        when it is linked to another one (`merge` joins customers that both have records).
        """
        return self._ps.identity.link(self.name, external, customer)

    def merge(self, other: Customer, *, into: Customer, reason: str, by: Person | None = None) -> bool:
        """Make one customer of two; reads of either id give the survivor. False when they are one already."""
        return self._ps.identity.merge(self.name, other, into, reason, self._ps.person(by))

    def split(self, other: Customer, *, reason: str, by: Person | None = None) -> bool:
        """Undo a merge: what was recorded under the other's ids, since too, is its own again."""
        return self._ps.identity.split(self.name, other, reason, self._ps.person(by))

    # ------------------------------------------------------------ reads

    def customer(
        self,
        customer: Customer,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> CustomerAggregate:
        """The customer's state: true at `as_of`, as known at `known_at`. Raises UnknownCustomer, StaleRead."""
        self._seen(at_least, within_s)
        stream = self._ps.directory.customer(self.name, customer, known_at_us=_us(known_at))
        return self._ps.log.customer(stream, as_of_us=_us(as_of), known_at_us=_us(known_at))

    def health(
        self,
        customer: Customer,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> Health:
        """The customer's health, with `why()`. Reads the log itself: it has seen every write acknowledged before.

        `at_least` is for a write that another process or a transaction of yours may not have committed yet. Raises UnknownCustomer,
        StaleRead.
        """
        aggregate = self.customer(customer, as_of=as_of, known_at=known_at, at_least=at_least, within_s=within_s)
        return health_of(self._ps.log, self._ps.model, aggregate, as_of_us=_us(as_of), known_at_us=_us(known_at))

    def lifecycle(
        self,
        customer: Customer,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> Lifecycle:
        """Where the customer is in its lifecycle, since when, and the fact that says so. Reads the log itself, as `health` does."""
        aggregate = self.customer(customer, as_of=as_of, known_at=known_at, at_least=at_least, within_s=within_s)
        return lifecycle_of(self._ps.log, self._ps.model, aggregate, as_of_us=_us(as_of), known_at_us=_us(known_at))

    def features(
        self,
        features: type[Features],
        customer: Customer,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> FeatureValues:
        """A customer's values of a declaration of your own, over all its streams; it has seen every write acknowledged before.

        Features `across` customers read the facts of its members too: time grows with the tenant's facts of the relation's kinds, and with
        the members' facts.
        Of the health model's declaration, as it is now, and where this was opened with `hot`: from the row in the cache and what the
        log holds after it.
        """
        fold, aggregate = Fold(features), self.customer(customer, known_at=known_at, at_least=at_least, within_s=within_s)
        if as_of is None and known_at is None and (state := self._ps.hot_state(fold, aggregate.fact_streams)) is not None:
            return fold.finish(state, max(self._ps.clock.now_us(), fold.newest_us(state) or 0))
        facts = read_facts(self._ps.log.store, aggregate.fact_streams, kinds=fold.kinds, as_of_us=_us(as_of), known_at_us=_us(known_at))
        at_us = max([self._ps.clock.now_us(), *(f.occurred_at_us for f in facts)]) if as_of is None else to_us(as_of)
        state = fold.fold(facts)
        if not fold.relations:
            return fold.finish(state, at_us)
        related, at_us = members_of(
            self._ps.log, fold, aggregate.stream, as_of_us=_us(as_of), known_at_us=_us(known_at), newest_us=fold.newest_us(state)
        )
        return fold.finish(state, at_us, related)

    def all_features(
        self,
        features: type[Features],
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> Iterator[tuple[str, FeatureValues]]:
        """As `features`, of every customer that has such a fact, by reference, in one pass. `names` says who a reference is."""
        self._seen(at_least, within_s)
        fold = Fold(features)
        states = states_of(self._ps.log, fold, self.name, _us(as_of), _us(known_at))
        if fold.relations:
            yield from all_related(self._ps.log, fold, self.name, states, _us(known_at))
            return
        for stream, state, at_us in states:
            yield stream.id, fold.finish(state, at_us)

    # ------------------------------------------------------------ lists and histories

    def customers(
        self,
        *,
        at_risk: bool = False,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> list[CustomerRow]:
        """Every customer with its score, the least healthy first; `at_risk`: only in band poor and not ended, or with an open risk case."""
        self._seen(at_least, within_s)
        ps = self._ps
        rows = customer_rows(ps.log, ps.directory, ps.model, self.name, _us(as_of), _us(known_at), ps.unsealer)
        return [row for row in rows if row.at_risk] if at_risk else rows

    def names(self) -> dict[str, str]:
        """Customers by reference: the first id each was recorded under, "•••" where you may not see it."""
        return {ref: names[0].id for ref, names in self._ps.directory.names(self.name, self._ps.unsealer).items()}

    def timeline(
        self,
        customer: Customer,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> list[Recorded[Event]]:
        """Every event of the customer, both lanes, in the order in which it was recorded; personal fields as you may see them."""
        aggregate = self.customer(customer, known_at=known_at, at_least=at_least, within_s=within_s)
        query = Query(tenant=self.name, streams=aggregate.fact_streams, as_of_us=_us(as_of), known_at_us=_us(known_at))
        return list(self._ps.log.events(query, self._ps.unsealer))

    def decisions(
        self, customer: Customer | None = None, *, as_of: datetime | None = None, known_at: datetime | None = None
    ) -> list[Decision]:
        """Decisions about one customer, or all of them, oldest first, each with its one current disposition (at `as_of`).

        Those about customers that were merged into it are decisions about it.
        """
        streams: tuple[StreamId, ...] = ()
        if customer is not None:
            streams = tuple(s for s in self.customer(customer, known_at=known_at).fact_streams if s.category == CUSTOMERS)
        return read_journal(self._ps.log.store, self.name, streams, as_of_us=_us(as_of), known_at_us=_us(known_at))

    def approvals(self, *, as_of: datetime | None = None, known_at: datetime | None = None) -> list[Decision]:
        """Decisions that wait for a person, the first to expire first."""
        return awaiting(self.decisions(as_of=as_of, known_at=known_at))

    def replay(self, decision_id: UUID | str) -> Replayed:
        """Decide again from the record alone and compare byte by byte; reaches no tool. Raises ReplayDiverged.

        Scores are made again, too, by the models that the decision names, whichever is active now.
        """
        id_, ps = _uuid(decision_id), self._ps
        again = replay(ps.log, self.name, id_, ps.unsealer, installed_digest=ps.installed_digest(self.name, id_))
        return dataclasses.replace(again, models=rescored(ps.log, self.name, id_, ps.model.fold, ps.scorer_of))

    def explain(self, decision_id: UUID | str) -> Explanation:
        """What was known, which policy, who approved, what left, what came of it. Raises UnknownDecision."""
        return explain(self._ps.log, self.name, _uuid(decision_id), self._ps.unsealer)

    def _seen(self, at_least: AtLeast | None, within_s: float) -> None:
        if at_least is not None:
            await_log(self._ps.log.store, at_least, within_s)

    # ------------------------------------------------------------ people decide

    def consent(self, customer: Customer, channel: str, purpose: str, *, given: bool = True, evidence: str) -> bool:
        """Record that the customer agreed, or no longer agrees, to be contacted. False when that was known already."""
        rule = commands.give_consent if given else commands.withdraw_consent
        return self._command(customer, lambda c: rule(c, channel, purpose, evidence))

    def ask(
        self, customer: Customer, agent: str, command: str, *, reason: str, by: Person | None = None, at: datetime | None = None
    ) -> UUID:
        """Ask an agent to decide about this customer; returns the trigger's id. The decision is made by the next `run_once`.

        With `at`, by the first `run_once` from then on; until then the request is kept beside the log, where `withdraw` takes it back.
        """
        stream = self._ps.directory.customer(self.name, customer)
        return self._ps.engine_for(agent).ask(stream, agent, command, person=self._ps.person(by), reason=reason, at=at)

    def withdraw(self, trigger_id: UUID | str) -> bool:
        """Take back what was asked for a time to come; False when that time has come, or nothing of that id was asked."""
        return asking.withdraw(self._ps.engine.desk, self.name, _uuid(trigger_id))

    def approve(
        self, decision_id: UUID | str, *, by: Person | None = None, reason: str = "", seen: Sequence[Mapping[str, Any]] | None = None
    ) -> bool:
        """Let a waiting decision's effects leave, once; False when its policy asks for more people. `by` is an authenticated person, by
        default the owner of this process.

        `seen`: the arguments as they were shown to the person; other ones are refused. Raises ApprovalRefused when it does not
        wait (any more), expired, or what it was bound to has changed; NotAllowed; UnknownDecision.
        """
        id_ = _uuid(decision_id)
        return self._engine_of(id_).approvals.approve(self.name, id_, self._ps.person(by), reason=reason, seen=seen)

    def reject(self, decision_id: UUID | str, *, reason: str, by: Person | None = None) -> None:
        """Say no to a waiting decision. Raises ApprovalRefused, InvalidInput without a reason, UnknownDecision."""
        id_ = _uuid(decision_id)
        self._engine_of(id_).approvals.reject(self.name, id_, self._ps.person(by), reason=reason)

    def settle(self, decision_id: UUID | str, intent_id: UUID | str, *, happened: bool, reason: str, by: Person | None = None) -> None:
        """Say what became of an effect whose outcome nobody knows; `decision_id` may be an undo's order (`undo status`)."""
        id_, intent = _uuid(decision_id), _uuid(intent_id)
        self._engine_of(self._ps.decision_of(self.name, id_)).approvals.settle_unknown(
            self.name, id_, intent, happened=happened, person=self._ps.person(by), reason=reason
        )

    def _engine_of(self, decision_id: UUID) -> EmbeddedEngine:
        stored = self._ps.decision_stream(self.name, decision_id)
        (entry,) = (e for e in read_journal(self._ps.log.store, self.name, (stored,)) if e.id == decision_id)
        return self._ps.engine_for(entry.agent, entry)

    def override(self, decision_id: UUID | str, *, reason: str, by: Person | None = None) -> None:
        """Set a decision aside with a reason; effects that have not left are cancelled."""
        id_ = _uuid(decision_id)
        self._engine_of(id_).approvals.override(self.name, id_, self._ps.person(by), reason=reason)

    def _command(self, customer: Customer, decide: Callable[[CustomerAggregate], Sequence[Event]], by: Person | None = None) -> bool:
        actor = self._ps.person(by).actor if by is not None else Actor("system", "api")
        stream = self._ps.directory.customer(self.name, customer)
        return bool(self._ps.log.transact(stream, decide, cause=Cause(actor=actor)))


def _us(at: datetime | None) -> int | None:
    return None if at is None else to_us(at)
