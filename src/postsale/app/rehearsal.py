"""A rehearsal: an agent lives through a tenant's past, step by step, in a log of its own that is gone afterwards.

Facts, links, consents, limits of contact and models arrive there when this log came to know them; decisions that were taken here do not. The
engine is the one that runs agents; only sandbox tools are reachable. Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from postsale.access import KeyVault, TenantKeys
from postsale.access.vault import FileVault, SubjectKey
from postsale.agents import Agent
from postsale.agents.reach import simulated_only
from postsale.aggregates.artifacts import MODELS, Mode
from postsale.aggregates.identity import IDENTITY_KINDS
from postsale.app.simulation import CONSENTS, again
from postsale.app.training import claimed_us
from postsale.errors import PostSaleError
from postsale.events import DAY_US, Lane, ManualClock, Origin, StoredEvent
from postsale.projections.journal import Entry, read_journal
from postsale.projections.training import Knowledge
from postsale.projections.views import MemoryViews
from postsale.store import open_store
from postsale.store.contract import Query, Store, Submission

if TYPE_CHECKING:
    from postsale.app.tenant import Tenant

_BATCH = 2_000
_SAID = IDENTITY_KINDS | CONSENTS | {"contacts/budget-set"}


class Rehearsed(NamedTuple):
    """What an agent would have decided, oldest first, and how many visits of customers failed."""

    decisions: list[Entry]
    problems: int


class _Arrival(NamedTuple):
    at_us: int  # when it was known
    event: StoredEvent


def rehearse(
    tenant: Tenant, agent: Agent, steps_us: Iterable[int], *, knowledge: Knowledge, mode: Mode, on_step: Callable[[int], None]
) -> Rehearsed:
    """Let `agent` look at everybody at each of these times, ascending, as they were known then. Nobody approves, and nobody answers.

    Nothing of this tenant is written, and what the rehearsal made is gone when it returns or raises. Flags have their defaults. Disk
    space grows with the log. Raises StoreUnavailable, KeyUnavailable, NotLive, and what an unreadable event raises.
    """
    ps, name, clock, problems = tenant._ps, tenant.name, ManualClock(0), 0
    arrivals = _arrivals(ps.log.store, name, knowledge)
    with TemporaryDirectory(prefix="postsale-rehearsal-") as folder:
        store = open_store(f"sqlite:///{Path(folder) / 'log.db'}", clock, durable=False)
        with type(ps)(
            store,
            _Borrowed(ps.log.vault, name),
            MemoryViews(),
            clock=clock,
            agents=[agent],
            health=ps.model,
            scorers=ps.scorers,
            targets=tuple(ps.targets.values()),
            world=Origin.SIMULATION,
        ) as there:
            coming, begun = next(arrivals, None), False
            for at in steps_us:
                batch: list[_Arrival] = []
                while coming is not None and coming.at_us <= at:
                    if batch and (len(batch) == _BATCH or batch[0].at_us // DAY_US != coming.at_us // DAY_US):
                        _bring(batch, store, clock)
                        batch = []
                    batch.append(coming)
                    coming = next(arrivals, None)
                _bring(batch, store, clock)
                clock.move_to(at)
                if not begun:
                    there.engine.install(name, agent.name)
                    there.engine.set_mode(name, agent.name, mode, person=ps.person(None), reason="rehearsal")
                    begun = True
                with simulated_only("rehearsal"):
                    problems += len(there.run_once().problems)
                on_step(at)
            return Rehearsed(read_journal(store, name), problems)


def _arrivals(store: Store, tenant: str, knowledge: Knowledge) -> Iterator[_Arrival]:
    """What the rehearsal may know, in the order in which it was known. By claims, all facts are sorted in memory."""
    if knowledge == "recorded":
        yield from (_Arrival(stored.recorded_at_us, stored) for stored in _told(store, tenant))
        return
    told = list(_told(store, tenant))
    identity = [stored for stored in told if stored.kind in IDENTITY_KINDS]  # nobody claims who was who when
    first = min((_knowable_us(stored) for stored in told if stored.kind not in IDENTITY_KINDS), default=0)
    yield from (_Arrival(first, stored) for stored in identity)
    others = (_Arrival(_knowable_us(stored), stored) for stored in told if stored.kind not in IDENTITY_KINDS)
    yield from sorted(others, key=lambda a: (a.at_us, a.event.position))


def _told(store: Store, tenant: str) -> Iterator[StoredEvent]:
    """Page by page, so that no read stays open while the agent works."""
    after, head = 0, store.head()
    while page := list(store.read(Query(tenant=tenant, after=after, upto=head, limit=_BATCH))):
        yield from (stored for stored in page if _is_told(stored))
        after = page[-1].position


def _is_told(stored: StoredEvent) -> bool:
    return stored.lane is Lane.FACT or stored.kind in _SAID or stored.stream.category == MODELS


def _knowable_us(stored: StoredEvent) -> int:
    if stored.lane is Lane.DECISION:
        return stored.occurred_at_us
    return max(stored.occurred_at_us, claimed_us(stored))


def _bring(batch: list[_Arrival], target: Store, clock: ManualClock) -> None:
    if not batch:
        return
    clock.move_to(max(clock.now_us(), batch[-1].at_us))
    streams = list(dict.fromkeys(a.event.stream for a in batch if a.event.lane is Lane.DECISION))
    versions = Counter(dict(zip(streams, target.versions(streams), strict=True))) if streams else Counter()
    for outcome in target.append([Submission((again(a.event, versions),)) for a in batch]):
        if isinstance(outcome, PostSaleError):
            raise outcome


class _Borrowed:
    """Keys of a tenant, to read with; what has to be made is made in memory, and is gone afterwards. Destroys nothing."""

    def __init__(self, vault: KeyVault, tenant: str) -> None:
        self._lender, self._tenant, self._own = vault, tenant, FileVault.in_memory()

    def tenant(self, tenant: str) -> TenantKeys:
        return (self._lender if tenant == self._tenant else self._own).tenant(tenant)

    def subjects(self, tenant: str, refs: Iterable[str], *, create: bool) -> Mapping[str, SubjectKey]:
        wanted = list(refs)
        found = dict(self._lender.subjects(tenant, wanted, create=False)) if tenant == self._tenant else {}
        return {**self._own.subjects(tenant, [ref for ref in wanted if ref not in found], create=create), **found}

    def destroy(self, tenant: str, ref: str) -> None:
        self._own.destroy(tenant, ref)

    def verifier(self, tenant: str, *, create: bool) -> bytes | None:
        return self._own.verifier(tenant, create=create)

    def sign(self, tenant: str, message: bytes) -> bytes:
        return self._own.sign(tenant, message)

    def add_token(self, tenant_or_all: str, name: str, digest: bytes) -> None:
        self._own.add_token(tenant_or_all, name, digest)

    def token_owner(self, digest: bytes) -> str | None:
        return self._own.token_owner(digest)

    def close(self) -> None:
        self._own.close()
