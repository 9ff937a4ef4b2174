"""Simulation: the imported past, brought into a database of its own, in which agents may run as of then.

Events are copied as they are stored, with origin `simulation`; keys are copied with them; only sandbox tools are reachable.
Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from postsale.access import os_user
from postsale.agents import Agent
from postsale.agents.reach import simulated_only
from postsale.aggregates.artifacts import Mode
from postsale.aggregates.identity import IDENTITY_KINDS
from postsale.app.files import beside, file_of
from postsale.app.rounds import RunReport
from postsale.errors import InvalidInput, PostSaleError, StoreUnavailable, Unsupported
from postsale.events import DAY_US, Header, Lane, ManualClock, NewEvent, Origin, StoredEvent, StreamId, iso, to_us
from postsale.store import open_store
from postsale.store.contract import Query, Store, Submission

if TYPE_CHECKING:
    from postsale.app.postsale import PostSale

_BATCH = 2_000
CONSENTS = frozenset({"consent/given", "consent/withdrawn"})


@dataclass(frozen=True, slots=True)
class Simulated:
    """Where the simulation is, and what the agents did in it."""

    url: str
    copied: int
    report: RunReport


def simulate(
    ps: PostSale,
    keys: Path | None,
    tenant: str,
    as_of: datetime,
    *,
    agents: Sequence[Agent],
    into: str | None,
    mode: Mode,
    on_progress: Callable[[int], None] | None,
) -> Simulated:
    """`PostSale.simulate`."""
    if not agents:
        raise InvalidInput(what="simulate", field="agents", reason="name at least one, such as --agent churn-outreach")
    if keys is None:
        raise Unsupported(what="a simulation of a log in memory", supported="sqlite:/// and postgresql://")
    named = None if into is None else file_of(into)
    if into is not None and named is None:
        raise InvalidInput(what="simulate", field="into", reason="expected a URL such as sqlite:///simulation.db")
    as_of_us, tell = to_us(as_of), on_progress or (lambda _: None)
    if as_of_us > ps.clock.now_us() + 366 * DAY_US:
        raise InvalidInput(what="simulate", field="as_of", reason="lies more than a year ahead; expected a time in the recorded past")
    source = file_of(ps.url)
    target = named or target_path(source or Path.cwd() / "postsale.db", as_of_us)
    prepare(source, keys, target)
    clock = ManualClock(as_of_us)
    url = f"sqlite:///{target}"
    scorers = ps.scoring(tenant)
    targets = tuple(ps.targets.values())
    with ps.open(url, agents=agents, health=ps.model, scorers=scorers, targets=targets, clock=clock, world=Origin.SIMULATION) as there:
        copied = copy(ps.log.store, tenant, there.log.store, clock, as_of_us, tell)
        for agent in agents:
            there.engine.install(tenant, agent.name)
            there.engine.set_mode(tenant, agent.name, mode, person=os_user(), reason="simulation")
        with simulated_only():
            report = there.run_once(on_progress=tell)
    return Simulated(url, copied, report)


def target_path(source: Path, as_of_us: int) -> Path:
    """Beside the database, named by the day: NAME.simulation-1997-09-30.db."""
    return source.with_name(f"{source.stem}.simulation-{iso(as_of_us)[:10]}{source.suffix}")


def prepare(source: Path | None, keys: Path, target: Path) -> None:
    """A fresh target with the source's keys. A database that is not a simulation's is never overwritten.

    `source` is the log's file, None for a log in a database server.
    """
    place = target.resolve()
    taken = {keys.resolve()} if source is None else {keys.resolve(), source.resolve(), beside(source.resolve(), ".keys")}
    if {place, beside(place, ".keys")} & taken:
        raise InvalidInput(what="simulate", field="into", reason="a simulation needs a database of its own")
    if not _is_simulation(target):
        raise InvalidInput(
            what="simulate", field="into", reason="that file, or its keys, is there and is not a simulation's; name another one"
        )
    for suffix in ("", "-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    beside(target, ".views").unlink(missing_ok=True)
    try:
        shutil.copyfile(keys, beside(target, ".keys"))
        beside(target, ".keys").chmod(0o600)
    except OSError as error:
        raise StoreUnavailable(url=f"sqlite:///{target}", reason=type(error).__name__) from None


def _is_simulation(target: Path) -> bool:
    """Whether nothing is lost when the target is made anew: it is not there, is empty, or began as a simulation."""
    if not target.exists():
        return not beside(target, ".keys").exists()
    if not target.stat().st_size:
        return True
    with closing(open_store(f"sqlite:///{target}")) as store, closing(store.read(Query(limit=1))) as events:
        first = next(events, None)
    return first is None or Header.from_bytes(first.header).origin is Origin.SIMULATION


def copy(source: Store, tenant: str, target: Store, clock: ManualClock, as_of_us: int, on_progress: Callable[[int], None]) -> int:
    """Bring over what was true by `as_of_us`: who is who and consents first, then facts as they became knowable.

    Time moves with them, day by day: each is recorded on the day on which its source claims that it was knowable, else on
    the day on which it occurred.
    """
    facts = sorted(source.read(Query(tenant=tenant, lane=Lane.FACT, as_of_us=as_of_us)), key=lambda e: (_knowable_us(e), e.position))
    clock.move_to(_knowable_us(facts[0]) if facts else as_of_us)
    versions: Counter[StreamId] = Counter()
    total = 0
    known = source.read(Query(tenant=tenant, lane=Lane.DECISION, kinds=IDENTITY_KINDS | CONSENTS))
    known = (e for e in known if e.kind in IDENTITY_KINDS or e.occurred_at_us <= as_of_us)
    for batch in _batches(chain(known, facts)):
        if batch[-1].lane is Lane.FACT:
            clock.move_to(_knowable_us(batch[-1]))
        for outcome in target.append([Submission((again(stored, versions),)) for stored in batch]):
            if isinstance(outcome, PostSaleError):
                raise outcome
        total += len(batch)
        on_progress(len(batch))
    clock.move_to(as_of_us)
    return total


def _batches(events: Iterable[StoredEvent]) -> Iterator[list[StoredEvent]]:
    batch: list[StoredEvent] = []
    for stored in events:
        if batch and (len(batch) == _BATCH or batch[0].lane is not stored.lane or _another_day(batch[0], stored)):
            yield batch
            batch = []
        batch.append(stored)
    if batch:
        yield batch


def _knowable_us(fact: StoredEvent) -> int:
    return max(fact.occurred_at_us, Header.from_bytes(fact.header).available_at_us or 0)


def _another_day(a: StoredEvent, b: StoredEvent) -> bool:
    return a.lane is Lane.FACT and _knowable_us(a) // DAY_US != _knowable_us(b) // DAY_US


def again(stored: StoredEvent, versions: Counter[StreamId]) -> NewEvent:
    """The same event, bytes and id, as a simulation's; decision lanes are counted anew, because decisions are not copied."""
    header = replace(Header.from_bytes(stored.header), origin=Origin.SIMULATION).to_bytes()
    version = None
    if stored.lane is Lane.DECISION:
        version = versions[stored.stream]
        versions[stored.stream] += 1
    return NewEvent(
        stored.stream,
        stored.lane,
        version,
        stored.event_id,
        stored.wire_name,
        stored.schema,
        stored.occurred_at_us,
        stored.content_mac,
        header,
        stored.data,
    )
