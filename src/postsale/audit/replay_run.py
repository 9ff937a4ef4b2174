"""Replaying many decisions: picks them from the log, has them made again in the sandbox, compares, and counts. Reads only.

May import everything below `audit`, but neither tools nor engines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import orjson

from postsale.access import Unsealer, content_mac
from postsale.agents import SHIPPED, Agent, reach
from postsale.agents.agent import decider_digest
from postsale.agents.decide import Mac
from postsale.agents.editing import edited_values
from postsale.agents.policy import Policy
from postsale.aggregates.identity import CUSTOMERS
from postsale.audit.replay_again import Models, Wanted, blanked
from postsale.audit.replay_compare import AsRecorded, OwnLane, compare
from postsale.audit.replay_history import History
from postsale.audit.replay_judge import Asked, Customer, Judge
from postsale.audit.replay_report import Head, ReplayReport, Scope
from postsale.audit.replay_sandbox import Sandbox
from postsale.errors import KeyUnavailable, LogDamaged, PolicyInvalid, SandboxFailed, SealBroken, UnknownDecision
from postsale.events import Header, Lane, StoredEvent, StreamId, decode_payload, encode_payload, registry
from postsale.store.checkpoints import tree_of
from postsale.store.contract import Query
from postsale.store.leaves import EMPTY_ROOT, Frontier, commitment, leaf_of
from postsale.store.log import Log

_DECISION: Final = "agent/decision-recorded"
_TOGETHER: Final = 32  # customers that are read at once
_BATCH: Final = 128  # decisions that are sent at once
_PER_PROCESS: Final = 50_000  # decisions of one sandbox, which has a bounded time on the processor
_KEPT: Final = 1_000  # unverifiable decisions that a report names; it counts all
_ALL: Final = Scope()
_PLAIN: Final = f"{Agent.__module__}:{Agent.__qualname__}"


def replay_many(
    log: Log,
    tenant: str,
    unseal: Unsealer,
    scope: Scope = _ALL,
    *,
    agents: Iterable[Agent] = (),
    models: Models | None = None,
    bind: bool = False,
    enforce: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> ReplayReport:
    """Make every decision of a scope again, in a process that reaches nothing, and compare with the log.

    `bind`: hash every event that was read and the tenant's whole tree, so that what is reported holds for that tree; LogDamaged names
    the first event that does not belong to it. `on_progress(done, of)` counts decisions. `enforce=False`: without the kernel, as where it has no seccomp.
    Raises UnknownDecision for an id that is none, SandboxViolation, SandboxFailed.
    """
    with reach.no_effects("replay"):
        return _Run(log, tenant, unseal, scope, agents, models, bind, enforce, on_progress or (lambda _done, _of: None)).run()


class _Run:
    def __init__(
        self,
        log: Log,
        tenant: str,
        unseal: Unsealer,
        scope: Scope,
        agents: Iterable[Agent],
        models: Models | None,
        bind: bool,
        enforce: bool,
        tell: Callable[[int, int], None],
    ) -> None:
        self.log, self.tenant, self.unseal, self.scope, self.models = log, tenant, unseal, scope, models
        self.enforce, self.tell = enforce, tell
        self.agents = {_PLAIN: Agent(next(iter(SHIPPED.values()))().policy)}
        for agent in (*(cls() for cls in SHIPPED.values()), *agents):
            self.agents.setdefault(_decider(agent), agent)
            self.agents[f"{_decider(agent)}#{agent.name}"] = agent
        self.digests = {key: decider_digest(type(agent)) for key, agent in self.agents.items()}
        self.head = head_of(log, tenant)
        self.history = History(log, tenant, self.head.position)
        self.policies: dict[str, Policy | None] = {}
        self.leaves: dict[int, tuple[int, bytes]] | None = {} if bind else None  # leaf index -> position, leaf
        self.mac = self._mac()
        self.modules = self._modules()
        self.results: list[tuple[int, bytes]] = []
        self.total = 0

    def run(self) -> ReplayReport:
        report = ReplayReport(self.tenant, self.log.store.log_id, self.scope, self.head, Sandbox("", False))
        chosen = self.chosen()
        self.total = sum(map(len, chosen.values()))
        streams = list(chosen)
        start = 0
        while start < len(streams) or not start:
            stop, count = start, 0
            while stop < len(streams) and (count < _PER_PROCESS or stop == start):
                count += len(chosen[streams[stop]])
                stop += 1
            self.judge({stream: chosen[stream] for stream in streams[start:stop]}, report)
            start = max(stop, 1)
        report.different.sort(key=lambda o: o.position)
        report.strays.sort()
        report.installed = {key: digest for key, digest in self.digests.items() if key in report.deciders}
        if self.leaves is not None:
            self.check_leaves(self.leaves)
        digest = hashlib.sha256()
        for _, line in sorted(self.results):
            digest.update(line)
        report.results_digest = digest.hexdigest()
        return report

    # ------------------------------------------------------------ which

    def chosen(self) -> dict[StreamId, frozenset[UUID]]:
        """Decisions by stream, streams in the order of their first."""
        found: dict[StreamId, set[UUID]] = {}
        scope = self.scope
        if scope.ids:
            for id_ in sorted(scope.ids):
                stored = self.log.store.find(self.tenant, id_)
                if stored is None or stored.kind != _DECISION:
                    raise UnknownDecision(tenant=self.tenant, decision_id=str(id_))
                found.setdefault(stored.stream, set()).add(id_)
            return {stream: frozenset(ids) for stream, ids in found.items()}
        query = Query(
            tenant=self.tenant,
            category=CUSTOMERS,
            streams=scope.streams,
            lane=Lane.DECISION,
            kinds=frozenset({_DECISION}),
            upto=self.head.position,
            as_of_us=scope.end_us,
        )
        for stored in self.log.store.read(query):
            if scope.begin_us is not None and stored.occurred_at_us < scope.begin_us:
                continue
            if scope.agent is not None and stored.fields().get("agent") != scope.agent:
                continue
            found.setdefault(stored.stream, set()).add(stored.event_id)
        return {stream: frozenset(ids) for stream, ids in found.items()}

    # ------------------------------------------------------------ together

    def judge(self, chosen: Mapping[StreamId, frozenset[UUID]], report: ReplayReport) -> None:
        """One sandbox for these customers."""
        work: list[list[tuple[AsRecorded, OwnLane]]] = []
        with Judge(self.agents, self.models, self.modules, enforce=self.enforce) as judge:
            report.sandbox, report.missing = judge.sandbox, {**report.missing, **judge.missing}

            def batches() -> Iterator[tuple[Mapping[str, str], Sequence[Customer]]]:
                for recorded, customers in self.batches(chosen, judge.missing, report):
                    work.append(recorded)
                    needed = {r.payload["policy"] for r, _ in recorded if r.policy is not None}
                    yield {digest: self.history.contents[digest] for digest in needed}, customers

            for answers in judge.answers(batches()):
                for (recorded, lane), answer in zip(work.pop(0), answers, strict=True):
                    self.take(recorded, lane, answer, report)
                    self.tell(report.decisions, self.total)

    def batches(
        self, chosen: Mapping[StreamId, frozenset[UUID]], missing: Mapping[str, str], report: ReplayReport
    ) -> Iterator[tuple[list[tuple[AsRecorded, OwnLane]], list[Customer]]]:
        recorded: list[tuple[AsRecorded, OwnLane]] = []
        customers: list[Customer] = []
        for stream, events in self.customers(list(chosen)):
            own = [e for e in events if e.lane is Lane.DECISION]
            lane = OwnLane(own)
            report.strays += lane.strays
            asked = []
            for stored in own:
                if stored.event_id in chosen[stream]:
                    one, key, said = self.recorded(stored, lane, missing)
                    name = str(one.payload["decider"])
                    seen = report.deciders.setdefault(name, {})
                    seen[one.payload["decider_digest"]] = seen.get(one.payload["decider_digest"], 0) + 1
                    report.models[one.payload.get("model") or ""] += 1
                    edited = edited_values(one.payload.get("flags"), one.payload.get("arguments"))
                    inputs = blanked(one.payload, erased=one.erased)
                    wanted = Wanted(stored.position, inputs, one.payload["policy"], key, said, edited)
                    asked.append(Asked(str(stored.event_id), name, wanted))
                    recorded.append((one, lane))
            customers.append(Customer(stream, events, asked))
            if len(recorded) >= _BATCH:
                yield recorded, customers
                recorded, customers = [], []
        if recorded:
            yield recorded, customers

    def customers(self, streams: Sequence[StreamId]) -> Iterator[tuple[StreamId, list[StoredEvent]]]:
        """Each customer's events by position: its own of both lanes, and the facts of every stream it was ever joined with."""
        for at in range(0, len(streams), _TOGETHER):
            some = tuple(streams[at : at + _TOGETHER])
            events: dict[StreamId, list[StoredEvent]] = {stream: [] for stream in some}
            for stored in self.read(some, None):
                events[stored.stream].append(stored)
            for stream, own in events.items():
                joined = {
                    StreamId(self.tenant, fields["category"], fields["id"])
                    for fields in (e.fields() for e in own if e.kind == "identity/stream-joined")
                } - {stream}
                more = list(self.read(tuple(sorted(joined)), Lane.FACT)) if joined else []
                yield stream, sorted([*own, *more], key=lambda e: e.position) if more else own

    def read(self, streams: tuple[StreamId, ...], lane: Lane | None) -> Iterator[StoredEvent]:
        for stored in self.log.store.read(Query(tenant=self.tenant, streams=streams, lane=lane, upto=self.head.position)):
            if self.leaves is not None:
                fields = stored._asdict()
                del fields["leaf"]
                self.leaves[stored.leaf_index] = (stored.position, leaf_of(commitment(**fields)))
            yield stored

    # ------------------------------------------------------------ one decision

    def recorded(self, stored: StoredEvent, lane: OwnLane, missing: Mapping[str, str]) -> tuple[AsRecorded, str, str | None]:
        """The decision as it is in the log, the key of its agent in the sandbox ("": it is not there), and its planner's answer."""
        payload = self.payload(stored)
        decider, flags = str(payload["decider"]), payload.get("flags") or {}
        key = next((k for k in (f"{decider}#{payload['agent']}", decider) if k in self.agents), "")
        installed = self.digests.get(key, "")
        if key in missing:
            key, installed = "", ""
        answer = None
        if flags.get("plan.status") == "answered" and (said := lane.plans.get(str(flags.get("plan.received")))) is not None:
            answer = self.payload(said).get("answer")
        answer = answer if isinstance(answer, str) else None
        erased = flags.get("plan.status") == "answered" and answer is None
        return AsRecorded(stored, payload, self.policy(payload["policy"]), installed, erased), key, answer

    def payload(self, stored: StoredEvent) -> dict[str, Any]:
        """JSON, of the current version, unsealed as far as it may be."""
        header = Header.from_bytes(stored.header)
        try:
            data = self.unseal(stored, header) if header.sealed else stored.data
        except SealBroken:
            data = stored.data  # arguments are compared by their keyed digests
        if not registry.is_current(stored.wire_name):
            data = encode_payload(decode_payload(stored.wire_name, data, None, stored.position))
        found: dict[str, Any] = orjson.loads(data)
        return found

    def policy(self, digest: str) -> Policy | None:
        if digest not in self.policies:
            content = self.history.contents.get(digest)
            try:
                self.policies[digest] = None if content is None else Policy.from_json(content)
            except PolicyInvalid:
                self.policies[digest] = None
        return self.policies[digest]

    def take(self, recorded: AsRecorded, lane: OwnLane, answer: Mapping[str, Any], report: ReplayReport) -> None:
        try:
            outcome = compare(recorded, answer, self.history, lane, self.mac)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"an answer that is none ({type(error).__name__})"
            raise SandboxFailed(decision_id=str(recorded.stored.event_id), reason=reason) from None
        report.counts[outcome.verdict] += 1
        report.intents += outcome.intents
        report.reasons.update(outcome.reasons)
        report.values.update(outcome.unverifiable.values())
        if outcome.verdict == "different":
            report.different.append(outcome)
        elif outcome.verdict == "unverifiable" and len(report.unverifiable) < _KEPT:
            report.unverifiable.append(outcome)
        line = f"{outcome.decision_id} {outcome.position} {outcome.verdict} {outcome.digest}\n"
        self.results.append((outcome.position, line.encode()))

    def _modules(self) -> set[str]:
        """Which modules declare the signals of somebody's own that this tenant has; those of the program itself cannot be loaded."""
        found = set()
        for cls in registry.classes():
            module = cls.__module__
            if module != "__main__" and not module.startswith("postsale.") and module not in found:
                query = Query(tenant=self.tenant, kinds=frozenset({cls.wire_name.partition("@")[0]}), limit=1)
                if next(iter(self.log.store.read(query)), None) is not None:
                    found.add(module)
        return found

    def _mac(self) -> Mac | None:
        try:
            keys = self.log.vault.tenant(self.tenant)
        except KeyUnavailable:
            return None
        return lambda raw: content_mac(keys, b"arguments", raw).hex()

    # ------------------------------------------------------------ the log it spoke about

    def check_leaves(self, read: Mapping[int, tuple[int, bytes]]) -> None:
        """That what was read are leaves of the tree, and that its root is that of its leaves. Raises LogDamaged."""
        frontier, step = Frontier(), 10_000
        for start in range(0, self.head.size, step):
            leaves = list(self.log.store.tree(self.tenant, 0, start, min(start + step, self.head.size)))
            for index, leaf in enumerate(leaves, start):
                if index in read and read[index][1] != leaf:
                    raise LogDamaged(position=read[index][0], reason="its stored bytes do not match its leaf")
            frontier.extend(leaves)
        if frontier.root() != self.head.root:
            raise LogDamaged(position=self.head.position, reason=f"the tree of tenant {self.tenant!r} is not that of its leaves")


def head_of(log: Log, tenant: str) -> Head:
    """The tenant's tree as the log stands now."""
    position = log.store.head()
    newest = next(iter(log.store.read(Query(tenant=tenant, upto=position, backward=True, limit=1))), None)
    size = newest.leaf_index + 1 if newest is not None else 0
    return Head(position, size, tree_of(log.store, tenant).root(size) if size else EMPTY_ROOT)


def _decider(agent: Agent) -> str:
    return f"{type(agent).__module__}:{type(agent).__qualname__}"
