"""Recording signals: resolve whose they are, create customers, append idempotently, quarantine what conflicts.

Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from uuid import UUID

import orjson

from postsale.access import seal_blob
from postsale.aggregates.identity import ExternalId, customer_stream
from postsale.aggregates.signals import Signal, signal_from
from postsale.app.directory import Directory, Place
from postsale.errors import ConditionFailed, ContentConflict, InvalidInput, PostSaleError, UnknownWireName, VersionConflict
from postsale.events import SECOND_US, NewEvent, derive_id, from_us, registry, to_us
from postsale.store.contract import QuarantineItem, Query, Recording, StreamAt, Submission
from postsale.store.log import Cause, Log

CHUNK = 2_000
_RETRY = (VersionConflict, ConditionFailed)  # somebody else linked the same id first: resolve again
_MAX_PASSES = 50
FUTURE_US = 300 * SECOND_US  # as far as a source's clock may be ahead of ours
VIA_RECORD = "record"
"""Marks a quarantined body that came through `record`, not through a connector."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one signal. `stored` is False when it was there already; position and times are then the first ones."""

    stored: bool
    position: int
    recorded_at: datetime
    event_id: UUID


@dataclass(frozen=True, slots=True)
class Reject:
    """A signal that was not recorded: which one in the order given, and why. Conflicts are in quarantine under `quarantine_id`."""

    index: int
    error: PostSaleError
    quarantine_id: str | None = None


@dataclass(slots=True)
class RecordReport:
    """Counts of a batch: recorded + duplicates + len(rejects) = signals given."""

    recorded: int = 0
    duplicates: int = 0
    rejects: list[Reject] = field(default_factory=list)
    last_position: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One signal on its way in. `source_item` and `raw` are set by connectors; `index` numbers signals of one source item."""

    customer: ExternalId
    signal: Signal
    index: int = 0
    source_item: bytes | None = None
    raw: bytes | None = None

    @property
    def contact(self) -> ExternalId | None:
        """The person the signal is about."""
        return ExternalId("contact", self.signal.source, self.signal.contact) if self.signal.contact is not None else None

    @property
    def externals(self) -> tuple[ExternalId, ...]:
        return (self.customer,) if self.contact is None else (self.customer, self.contact)

    def to_bytes(self) -> bytes:
        """Everything needed to record it later; personal data in the clear, so seal it."""
        values = orjson.loads(self.signal.model_dump_json(exclude_none=True))
        return orjson.dumps({"customer": list(self.customer), "kind": self.signal.wire_name, "index": self.index, "signal": values})

    @classmethod
    def from_bytes(cls, raw: bytes) -> Entry:
        """What `to_bytes` wrote, also in an earlier version of its kind. Raises UnknownWireName, UpcastFailed, InvalidInput."""
        d = orjson.loads(raw)
        kind, values = registry.get(d["kind"]), d["signal"]
        if not issubclass(kind, Signal):
            raise UnknownWireName(wire_name=d["kind"])
        envelope = {name: values.pop(name) for name in kind.envelope_fields & values.keys()}  # upcasters never see it
        signal = signal_from(kind, {**registry.upcast(d["kind"], values), **envelope})
        return cls(ExternalId(*d["customer"]), signal, d["index"])


class Recorder:
    """Signals into the log, for one tenant at a time."""

    def __init__(self, log: Log, directory: Directory) -> None:
        self._log = log
        self._directory = directory

    def record(self, tenant: str, entry: Entry, cause: Cause, *, log: Recording | None = None) -> Receipt:
        """Record one signal. Raises ContentConflict (after quarantining the second copy), InvalidInput, KeyUnavailable.

        `log` is where it goes, and where what is there already is looked up: by default the log itself, else a transaction's sight of it.
        """
        (outcome,) = self.record_each(tenant, [entry], cause, log=log)
        if isinstance(outcome, Reject):
            raise outcome.error
        return outcome

    def record_many(
        self,
        tenant: str,
        entries: Iterable[Entry | InvalidInput],
        cause: Cause,
        on_progress: Callable[[int], None] | None = None,
        *,
        log: Recording | None = None,
    ) -> RecordReport:
        """Record many; each succeeds or is rejected on its own. Memory is bounded by a chunk of 2,000."""
        report, done = RecordReport(), 0
        source = iter(entries)
        while chunk := list(islice(source, CHUNK)):
            outcomes = iter(self.record_each(tenant, [entry for entry in chunk if isinstance(entry, Entry)], cause, log=log))
            for i, entry in enumerate(chunk, done):
                outcome = next(outcomes) if isinstance(entry, Entry) else Reject(i, entry)
                if isinstance(outcome, Reject):
                    report.rejects.append(Reject(i, outcome.error, outcome.quarantine_id))
                    continue
                report.recorded += outcome.stored
                report.duplicates += not outcome.stored
                report.last_position = max(report.last_position, outcome.position)
            done += len(chunk)
            if on_progress is not None:
                on_progress(len(chunk))
        return report

    def record_each(
        self, tenant: str, entries: Sequence[Entry], cause: Cause, *, quarantine: bool = True, log: Recording | None = None
    ) -> list[Receipt | Reject]:
        """Record a chunk in one go; one outcome each, in order. Conflicts are kept in quarantine unless told otherwise."""
        log = log or self._log.store
        results: dict[int, Receipt | Reject] = {}
        left = []
        there: set[int] = set()  # entries whose fact the log holds
        for i, entry in enumerate(entries):
            refusal = self._too_early(entry)
            if refusal is None:
                left.append(i)
            else:
                results[i] = Reject(i, refusal)
        for _ in range(_MAX_PASSES):
            if not left:
                break
            left = self._pass(log, tenant, entries, left, cause, results, there)
        for i in left:  # a livelock that no honest workload reaches; the caller may send it again
            results[i] = Reject(i, VersionConflict(stream=f"{tenant}/aliases", expected_version=0, actual_version=1))
        if quarantine:
            results = {i: self._keep(log, tenant, entries[i], r) if isinstance(r, Reject) else r for i, r in results.items()}
        return [results[i] for i in range(len(entries))]

    def _too_early(self, entry: Entry) -> InvalidInput | None:
        """A fact of the future cannot be a fact: it would be in every score from now on and in none of today's."""
        if to_us(entry.signal.occurred_at) <= self._log.clock.now_us() + FUTURE_US:
            return None
        reason = "lies more than 5 minutes in the future; expected when it happened, not when it takes effect"
        return InvalidInput(what=type(entry.signal).__name__, field="occurred_at", reason=reason)

    def _pass(
        self,
        log: Recording,
        tenant: str,
        entries: Sequence[Entry],
        todo: list[int],
        cause: Cause,
        results: dict[int, Receipt | Reject],
        there: set[int],
    ) -> list[int]:
        """Append what can go now. An entry that needs an id which another entry of this pass creates waits for the next."""
        places = self._directory.resolve(tenant, dict.fromkeys(e for i in todo for e in entries[i].externals), log)
        work: dict[int, list[ExternalId]] = {}
        later: list[int] = []
        claimed: set[ExternalId] = set()
        for i in todo:
            needs = [] if i in there else _to_create(entries[i], places)
            if claimed.isdisjoint(needs):
                claimed.update(needs)
                work[i] = needs
            else:
                later.append(i)
        refs = {external: self._directory.new_ref() for external in sorted(claimed)}
        self._log.vault.subjects(tenant, refs.values(), create=True)  # one durable write for the whole pass

        submissions: dict[int, Submission] = {}
        for i, needs in work.items():
            try:
                submissions[i] = self._submission(entries[i], needs, places, refs, cause)
            except PostSaleError as error:
                results[i] = Reject(i, error)
        outcomes = log.append(list(submissions.values()))
        if log is self._log.store:  # in a transaction of the caller's nothing is added to what the caller asked for
            self._log.notice(*outcomes)
        for (i, submission), outcome in zip(submissions.items(), outcomes, strict=True):
            if isinstance(outcome, _RETRY):
                later.append(i)
            elif isinstance(outcome, ContentConflict) and work[i]:
                # The fact is there and the links beside it are new: alone it is a duplicate, or truly a conflict.
                there.add(i)
                later.append(i)
            elif isinstance(outcome, ContentConflict) and (same := self._in_another_version(log, tenant, entries[i], outcome)):
                results[i] = same
            elif isinstance(outcome, PostSaleError):
                results[i] = Reject(i, outcome)
            else:
                at = from_us(outcome.recorded_at_us[-1])
                results[i] = Receipt(outcome.stored, outcome.positions[-1], at, submission.events[-1].event_id)
        return sorted(later)

    def _submission(
        self, entry: Entry, needs: list[ExternalId], places: Mapping[ExternalId, Place], refs: Mapping[ExternalId, str], cause: Cause
    ) -> Submission:
        """The links that are made with this fact, then the fact, all or none."""
        place = places[entry.customer]
        tenant = place.alias.tenant
        now_us = self._log.clock.now_us()
        stream, subject = place.fact_stream, place.subject
        if entry.customer in needs:
            subject = refs[entry.customer]
            stream = customer_stream(tenant, subject)
        events: list[NewEvent] = []
        for external in needs:
            draft = self._directory.link_draft(
                places[external].alias, external, ref=refs[external], account=stream.id, at_us=now_us, cause=cause
            )
            events.append(self._log.decision(places[external].alias, 0, draft))
        if (person := entry.contact) is not None:
            subject = refs.get(person) or places[person].subject
        events.append(
            self._log.fact(
                stream,
                entry.signal,
                said_of=_said_of(entry),
                subject=subject,
                cause=cause,
                index=entry.index,
                source_item=entry.source_item,
                raw=entry.raw,
            )
        )
        waits = place.linked is None and entry.customer not in needs
        return Submission(tuple(events), (StreamAt(place.alias, 0),) if waits else ())

    def _in_another_version(self, log: Recording, tenant: str, entry: Entry, conflict: ContentConflict) -> Receipt | None:
        """The receipt of a fact that was stored in one version of its kind and now arrives in another, as after an upgrade."""
        at = conflict.stored_position
        (stored,) = log.read(Query(tenant=tenant, after=at - 1, upto=at))
        if not self._log.said_already(stored, entry.signal, _said_of(entry)):
            return None
        return Receipt(False, stored.position, from_us(stored.recorded_at_us), stored.event_id)

    # ------------------------------------------------------------ quarantine

    def _keep(self, log: Recording, tenant: str, entry: Entry, reject: Reject) -> Reject:
        """A conflicting second copy is kept beside the log, sealed; other refusals are only reported."""
        error = reject.error
        if not isinstance(error, ContentConflict):
            return reject
        id_ = derive_id(tenant, error.source, error.source_id, error.offered_digest).hex
        body = orjson.dumps({"via": VIA_RECORD}) + b"\n" + entry.to_bytes()
        item = QuarantineItem(
            id=id_,
            tenant=tenant,
            source=entry.signal.source,
            reason=f"{entry.signal.wire_name}: the same id with other content; position {error.stored_position} holds the first",
            received_at_us=self._log.clock.now_us(),
            body=seal_blob(self._log.vault, tenant, f"quarantine-{id_}", body),
        )
        log.quarantine.put([item])
        return replace(reject, error=_with_quarantine(error, id_), quarantine_id=id_)


def _with_quarantine(error: ContentConflict, id: str) -> ContentConflict:
    return ContentConflict(**{**error.fields(), "quarantine_id": id})


def _said_of(entry: Entry) -> str:
    return "\x00".join(entry.customer)


def _to_create(entry: Entry, places: Mapping[ExternalId, Place]) -> list[ExternalId]:
    """Ids that come into being with this entry: the tenant's own customer, and the person it is about once the account is known."""
    new = places[entry.customer].linked is None
    creates = new and entry.customer.creates_customer
    needs = [entry.customer] if creates else []
    if entry.contact is not None and places[entry.contact].linked is None and (creates or not new):
        needs.append(entry.contact)
    return needs
