"""Rounds: whom the agents visit now. New facts, new decisions, what is due, and once a day everybody.

Decides nothing: visits are `Engine.attend_many`. Where the rounds have come to is a view; lose it, and everybody who has anything to be
done is visited once. That goes for an engine that works elsewhere too: what it was called for is remembered here, by its name. Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from postsale.agents import asking
from postsale.agents.engines.engine import Attended, Engine, Visit
from postsale.agents.timed import next_us
from postsale.aggregates.identity import CUSTOMERS, StreamJoined
from postsale.app.readings import Readings, Subject
from postsale.errors import KeyUnavailable, LeaseLost, NotLive, PostSaleError, StoreUnavailable, ToolUnreachable, ViewMoved
from postsale.events import DAY_US, Header, Lane, StoredEvent, StreamId, decode
from postsale.projections.partition import POISON
from postsale.projections.views import Views
from postsale.store.contract import Query
from postsale.store.leases import Lease
from postsale.store.log import Log

_VIEW = "rounds"
_RULES = "rules"  # digests of the policies by which time was looked at
_ALL = "all"  # when everybody was looked at: what rises with time is compared with how it was then
_ENGINE = "engine"  # by name: the one that was told
_ANCHOR = "anchor"  # the leaf of the last event the rounds have seen
_LOOKED_AT = 50  # of one customer's new facts, when looking for the one that made the difference
_TOLD_AGAIN_US = (
    7 * DAY_US
)  # facts that an engine was told, and may have lost before it looked: a condition is raised by the fact that moved it
_MANY = 500  # from so many visits on, one pass over everybody is cheaper than looking at each
News = dict[StreamId, list[StoredEvent]]
_WAKING = frozenset(
    {
        "approval/granted",
        "customer/command-issued",
        "undo/ordered",
        "identity/stream-joined",
        "identity/merged-into",
        "identity/split-from",
        "risk/case-moved",
    }
)


def never() -> bool:
    """A run that nobody tells to end."""
    return False


@dataclass(slots=True)
class RunReport:
    """What one run did."""

    folded: int = 0  # facts taken into read models
    given: int = 0  # commands whose time had come
    visited: int = 0  # customers
    raised: int = 0  # triggers
    decided: int = 0
    called: int = 0  # tools
    lapsed: int = 0  # approval requests that expired
    outcomes: int = 0
    stopped: bool = False  # it was told to end before it had visited everybody: the next run makes the rest
    problems: list[tuple[str, str]] = field(default_factory=list)  # customers that could not be visited, and why
    downgraded: list[tuple[str, str]] = field(default_factory=list)  # tenant and agent, by the criteria of their policies
    dispositions: Counter[str] = field(default_factory=Counter)  # of the decisions of this run, as they stand at its end

    def add(self, done: Attended) -> None:
        self.visited += 1
        self.raised += done.raised
        self.decided += len(done.decided)
        self.called += done.called
        self.lapsed += done.lapsed
        self.outcomes += done.outcomes

    def to_dict(self) -> dict[str, Any]:
        names = ("folded", "given", "visited", "raised", "decided", "called", "lapsed", "outcomes")
        return {
            "counts": {name: getattr(self, name) for name in names},
            "dispositions": dict(self.dispositions),
            "downgraded": self.downgraded,
            "stopped": self.stopped,
            "problems": self.problems,
        }


class Rounds:
    """The visits of one engine, made by the holder of a lease."""

    def __init__(
        self, log: Log, views: Views, readings: Readings, engine: Engine, lease: Lease, stopped: Callable[[], bool] = never
    ) -> None:
        """`stopped` is asked before each visit: once it says so none begins, and those under way come to their ends."""
        self._log = log
        self._views = views
        self._readings = readings
        self._engine = engine.under(lease)
        self._steps = self._engine.steps
        self._lease = lease
        self._stopped = stopped
        self._wanted = frozenset(name for agent in self._steps.agents.values() for name in agent.wanted)

    def run(
        self, tenants: Iterable[str], report: RunReport, on_progress: Callable[[int], None] | None = None, *, everybody: bool = False
    ) -> None:
        """Visit whoever needs it; with `everybody` also those who were visited for what the engine has forgotten. Safe to repeat and to kill: visits do each thing once. Raises LeaseLost, ViewMoved when overtaken, NotLive."""
        for tenant in tenants:
            if self._stopped():
                report.stopped = True
                return
            self._tenant(tenant, report, on_progress or (lambda _: None), everybody)

    def _tenant(self, tenant: str, report: RunReport, on_progress: Callable[[int], None], everybody: bool) -> None:
        self._give(tenant, report)
        view, now_us, head = f"{_VIEW}/{tenant}", self._log.clock.now_us(), self._log.store.head()
        done = self._done(view)
        all_us = _number(self._views.get(view, _ALL)) or now_us - DAY_US
        rows: dict[str, bytes | None] = {_ENGINE: self._engine.name.encode()}
        anew = everybody or (self._views.get(view, _ENGINE) or b"embedded") != rows[_ENGINE]
        visits = self._news(tenant, min(done, self._position(now_us - _TOLD_AGAIN_US)) if anew else done, head)
        for key, raw in self._views.scan(view, "due/"):
            if (_number(raw) or 0) <= now_us:
                _, category, id_ = key.split("/", 2)
                visits.setdefault(StreamId(tenant, category, id_), [])
        since: dict[StreamId, int] = {}  # of whom the visit failed: since when time has not been looked at
        for key, raw in self._views.scan(view, "missed/"):
            _, category, id_ = key.split("/", 2)
            stream = StreamId(tenant, category, id_)
            since[stream], *positions = orjson.loads(raw)
            facts = visits.setdefault(stream, [])
            facts[:] = [*self._at(set(positions) - {fact.position for fact in facts}), *facts][-_LOOKED_AT:]
        moved: dict[StreamId, bool] = {}  # whether a condition of theirs has changed, where everybody was looked at
        rules = orjson.dumps([policy.digest for _, policy, _ in self._steps.timed(tenant, now=True)])
        anew = anew or done == 0 or self._views.get(view, _RULES) != rules
        if anew or now_us // DAY_US != all_us // DAY_US or len(visits) >= _MANY:
            visits = self._worth(tenant, visits, now_us, rows, moved)
            rows |= {_ALL: orjson.dumps(now_us), _RULES: rules}
        rows |= self._visit(visits, now_us, all_us, since, moved, report, on_progress)
        try:
            self._views.write(view, {**rows, _ANCHOR: self._anchor(head)}, checkpoint=head, expected=done)
        except ViewMoved:
            self._lease.renew()  # LeaseLost, when that is why
            raise

    def _visit(
        self,
        visits: News,
        now_us: int,
        all_us: int,
        since: Mapping[StreamId, int],
        moved: Mapping[StreamId, bool],
        report: RunReport,
        on_progress: Callable[[int], None],
    ) -> dict[str, bytes | None]:
        """Make the visits; the rows that say when each is due again: at the next run, for the same facts, unless its visit says otherwise."""
        rows: dict[str, bytes | None] = {}
        stop: list[Exception] = []

        def wanted() -> Iterator[Visit]:
            for stream, facts in visits.items():
                if stop:  # those under way come to their ends, for what has left is to be recorded
                    return
                since_us = since.get(stream, all_us)
                rows[_due(stream)] = orjson.dumps(now_us)
                rows[_missed(stream)] = orjson.dumps([since_us, *(fact.position for fact in facts)])
                if report.stopped or self._stopped():
                    report.stopped = True
                    continue
                cause: list[StoredEvent | None] = []
                try:
                    self._lease.keep()
                    with self._trouble(stream, report):
                        cause.append(self._cause(stream, facts, now_us, moved.get(stream)))
                except PostSaleError as error:
                    stop.append(error)
                yield from (Visit(stream, fact, since_us) for fact in cause)

        for visit, attended in self._engine.attend_many(wanted()):
            try:
                self._lease.keep()
                with self._trouble(visit.stream, report):
                    if isinstance(attended, Exception):
                        raise attended
                    report.add(attended)
                    for agent, why, _ in attended.troubles:
                        report.problems.append((str(visit.stream), f"agent {agent}: {why}"))
                    if attended.troubles:
                        continue  # it is visited again, for the same facts
                    next_us = attended.next_due_us
                    rows[_due(visit.stream)] = None if next_us is None else orjson.dumps(next_us)
                    if visit.stream in since:
                        rows[_missed(visit.stream)] = None
                    else:
                        del rows[_missed(visit.stream)]
                    on_progress(1)
            except Exception as error:
                stop.append(error)
        if stop:
            raise stop[0]
        return rows

    def _give(self, tenant: str, report: RunReport) -> None:
        """Commands whose time has come become triggers; the visits that follow find them."""
        desk = self._steps.desk
        for timer in asking.waiting(desk, tenant):
            stream = asking.stream_of(timer)
            with self._trouble(stream, report):
                home = self._steps.customer_of(stream)
                asking.give(desk, timer, home.stream if home is not None else stream)
                report.given += 1

    @contextmanager
    def _trouble(self, stream: StreamId, report: RunReport) -> Iterator[None]:
        """One customer's trouble is not the others': it is reported."""
        try:
            yield
        except (StoreUnavailable, KeyUnavailable, ToolUnreachable, LeaseLost, NotLive):
            raise
        except PostSaleError as error:
            report.problems.append((str(stream), f"{type(error).__name__}: {error}"))
        except Exception as error:  # an agent's own code, most likely: the type only, since its words may hold personal data
            report.problems.append((str(stream), f"its visit raised {type(error).__name__}"))

    def _position(self, known_at_us: int) -> int:
        """How far the log was at a time."""
        newest = next(iter(self._log.store.read(Query(known_at_us=known_at_us, backward=True, limit=1))), None)
        return newest.position if newest is not None else 0

    def _done(self, view: str) -> int:
        """Where the rounds have come to; 0 after dropping a view of events this log does not have, as when an older copy was put back."""
        while True:
            at, anchor = self._views.checkpoint(view), self._views.get(view, _ANCHOR)
            if at != self._views.checkpoint(view):
                continue  # another process finished in between: look again
            if at and anchor != self._anchor(at):
                self._views.drop(view)
                return 0
            return at

    def _anchor(self, position: int) -> bytes:
        event = next(iter(self._log.store.read(Query(after=position - 1, upto=position))), None)
        return event.leaf if event is not None else b""

    def _worth(self, tenant: str, visits: News, now_us: int, rows: dict[str, bytes | None], moved: dict[StreamId, bool]) -> News:
        """One cheap pass over everybody finds who has anything to be done; news of the others needs no visit.

        For whom time will bring something, a row in `rows` says when to visit. `moved` says of whom it found a condition changed.
        """
        timed = self._steps.timed(tenant)
        worth: News = {stream: facts for stream, facts in visits.items() if stream.category != CUSTOMERS}
        unreadable: set[StreamId] = set()
        for subject in self._readings.subjects(tenant, now_us, self._wanted, unreadable, keep=True):
            c = subject.customer
            due_us = min((at for name, policy, since_us in timed for at in next_us(c, name, policy, since_us)), default=None)
            if due_us is not None:
                rows[_due(c.stream)] = orjson.dumps(due_us)
            moved[c.stream] = self._moved(subject, now_us)
            facts = [fact for stream in c.fact_streams for fact in visits.get(stream, [])]
            open_ = c.pending or c.decisions or c.waits or (c.cases and facts)
            if moved[c.stream] or open_ or (due_us is not None and due_us <= now_us):
                worth[c.stream] = sorted(facts, key=lambda e: e.position)
        return {**worth, **{stream: [] for stream in unreadable}}  # the visit says why

    def _news(self, tenant: str, after: int, upto: int) -> News:
        """Streams with something new, in the order of their first news, with the facts that may raise a trigger."""
        visits: News = {}
        for stored in self._log.store.read(Query(tenant=tenant, lane=Lane.FACT, after=after, upto=upto)):
            if self._steps.raises(stored):
                facts = visits.setdefault(stored.stream, [])
                facts.append(stored)
                del facts[:-_LOOKED_AT]
        woken = Query(tenant=tenant, category=CUSTOMERS, lane=Lane.DECISION, kinds=_WAKING, after=after, upto=upto)
        for stored in self._log.store.read(woken):
            facts = visits.setdefault(stored.stream, [])
            if stored.kind == "identity/stream-joined":
                facts.extend(self._came_with(stored) or ([] if facts else self._newest(stored.stream)))
                del facts[:-_LOOKED_AT]
        return visits

    def _at(self, positions: Iterable[int]) -> Iterator[StoredEvent]:
        """The events at these positions, in order."""
        for position in sorted(positions):
            yield from self._log.store.read(Query(after=position - 1, upto=position))

    def _came_with(self, joined: StoredEvent) -> list[StoredEvent]:
        """A link or merge is news because of the facts that came with it: what they were caused by is what causes the news."""
        event = decode(joined).data
        if not isinstance(event, StreamJoined):
            return []
        stream = StreamId(joined.tenant, event.category, event.id)
        return list(self._log.store.read(Query(streams=(stream,), lane=Lane.FACT, backward=True, limit=1)))

    def _newest(self, stream: StreamId) -> list[StoredEvent]:
        """The customer's newest fact, where none came with a link or merge."""
        try:
            customer = self._log.customer(stream)
        except POISON:
            return []  # the visit says why
        return list(self._log.store.read(Query(streams=customer.fact_streams, lane=Lane.FACT, backward=True, limit=1)))

    def _cause(self, stream: StreamId, facts: list[StoredEvent], now_us: int, moved: bool | None) -> StoredEvent | None:
        """Of several new facts the one that changed a condition, the first unless it changed to and fro, or one deeper in a chain of effects
        that changed one too; the newest when none did.

        Found by halves, from one look at the customer before them. `moved`: whether any did, where that is known.
        """
        if len(facts) < 2 or moved is False:
            return facts[-1] if facts else None
        if moved is None:
            customer = self._steps.customer_of(stream)  # facts that waited are on an alias's stream, those of merged ones on their own
            if customer is None or not self._moved(self._readings.subject(customer.stream, now_us, self._wanted), now_us):
                return facts[-1]
            stream = customer.stream
        then = self._readings.since(stream, facts[0], now_us, self._wanted)
        low, high = 0, len(facts) - 1
        while low < high:
            middle = (low + high) // 2
            if self._moved(then(facts[middle]), now_us):
                high = middle
            else:
                low = middle + 1
        return self._deepest(facts, high, then, now_us)

    def _deepest(self, facts: list[StoredEvent], found: int, then: Callable[[StoredEvent], Subject], now_us: int) -> StoredEvent:
        """The fact that was found, or a deeper one that changed a condition too: a loop is not cut by what else came in between."""
        depths = [Header.from_bytes(fact.header).depth for fact in facts]
        for i in sorted((i for i, depth in enumerate(depths) if depth > depths[found]), key=lambda i: -depths[i]):
            if self._moved(then(facts[i]), now_us, then(facts[i - 1]) if i else None):
                return facts[i]
        return facts[found]

    def _moved(self, subject: Subject, now_us: int, before: Subject | None = None) -> bool:
        """Whether a condition is other than it was before, by default than is recorded."""
        try:
            now = self._conditions(subject, now_us)
            if before is None:
                return any(up != was for up, was in now)
            return [up for up, _ in now] != [up for up, _ in self._conditions(before, now_us)]
        except Exception:  # an agent's own code: the visit says why
            return True

    def _conditions(self, subject: Subject, now_us: int) -> Iterator[tuple[bool, bool]]:
        """Of each condition whether it holds, and whether it is recorded so."""
        c = subject.customer
        for agent in self._steps.agents.values():
            values = agent.values(c, subject.reading, now_us)
            for condition in agent.policy.conditions:
                was = (agent.name, condition.id) in c.up
                yield condition.up(values, was), was


def _due(stream: StreamId) -> str:
    return f"due/{stream.category}/{stream.id}"


def _missed(stream: StreamId) -> str:
    """Under this name is what a visit that failed was for, until one succeeds: since when time was not looked at, positions of facts."""
    return f"missed/{stream.category}/{stream.id}"


def _number(raw: bytes | None) -> int | None:
    return None if raw is None else int(orjson.loads(raw))
