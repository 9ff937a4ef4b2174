"""The stage of engine contracts: what happens to customers at a site, and after each happening an engine does what waits there.

No claims here; those are in `engine_contract`. May import `app` and everything below it.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from postsale.access import Person, Unsealer
from postsale.aggregates.signals import AccountProfiled, InvoicePaid, InvoicePaymentFailed, Signal, SubscriptionStarted, TicketEscalated
from postsale.app import PostSale
from postsale.audit.streams import canonical_lines, stream_hash
from postsale.events import Event, Recorded, StreamId, from_us
from postsale.projections.journal import Entry
from postsale.store import Query
from postsale.testing.engine_site import TENANT, Counter, Site
from postsale.testing.tool_server import ToolServer

ANNA: Final = Person("anna", "os-user")
BEN: Final = Person("ben", "token")
Drive = Callable[["Stage"], None]
"""Has an engine do what waits at the clock's time, and returns when it has."""


class Stage:
    """A story that is being told: what happens to customers, and after each happening the engine does what waits."""

    def __init__(self, ps: PostSale, site: Site, server: ToolServer, drive: Drive) -> None:
        self.ps, self.site, self.server = ps, site, server
        self.tenant = ps.tenant(TENANT)
        self.attempts = True  # whether the story says how often effects were tried
        self.drive = drive
        self._numbers = itertools.count(1)

    # ------------------------------------------------------------ what happens

    def begins(self, mode: str = "act") -> None:
        getattr(self.tenant.agent("engines"), mode)(reason="the story", by=ANNA)
        self.settle()

    def now(self) -> datetime:
        return from_us(self.site.clock.now_us())

    def says(self, customer: str, cls: type[Signal], **fields: Any) -> None:
        fields.setdefault("occurred_at", self.now())
        self.tenant.record(customer, cls(source="story", id=str(next(self._numbers)), **fields))

    def profile(self, customer: str, segment: str, **fields: Any) -> None:
        self.says(customer, AccountProfiled, segment=segment, **fields)
        at = self.now()
        self.says(customer, SubscriptionStarted, subscription_id="s", mrr_minor=4900, interval="month", currency="EUR", effective_at=at)
        self.tenant.consent(customer, "email", "service", evidence="story")

    def fails(self, customer: str, attempt: int = 2) -> None:
        self.says(customer, InvoicePaymentFailed, amount_minor=4900, currency="EUR", attempt=attempt)
        self.settle()

    def pays(self, customer: str) -> None:
        self.says(customer, InvoicePaid, amount_minor=4900, currency="EUR")
        self.settle()

    def complains(self, customer: str) -> None:
        self.says(customer, TicketEscalated, ticket_id="t")
        self.settle()

    def returned(self, customer: str) -> None:
        """The newest effect on a customer sends a failed payment back."""
        intent = self.decision(customer).recorded.intents[0].intent_id
        at = self.now()
        failed = InvoicePaymentFailed(
            source="story", id=str(next(self._numbers)), occurred_at=at, amount_minor=1, currency="EUR", attempt=2
        )
        self.tenant.returned(intent, failed)
        self.settle()

    def wait(self, **by: float) -> None:
        """Time passes; what is due in between has its turn at its time."""
        end = self.site.clock.now_us() + timedelta(**by) // timedelta(microseconds=1)
        while (due := self._next_due()) <= end:
            self.site.clock.move_to(int(due))
            self.settle()
        self.site.clock.move_to(end)
        self.settle()

    def _next_due(self) -> float:
        """When the next effect is due, after now; looked at no oftener than once a second of the story."""
        now = self.site.clock.now_us()
        dues = (self.ps.engine.outbox.next_due_us(self.ps.log.customer(s)) for s in self.streams())
        return min((due for due in dues if due > now), default=float("inf"))

    def settle(self) -> None:
        """Until a turn of the engine changes nothing."""
        before = -1
        while (head := self.ps.log.store.head()) != before:
            before = head
            self.drive(self)

    # ------------------------------------------------------------ what came of it

    def streams(self) -> list[StreamId]:
        found = {e.stream for e in self.ps.log.store.read(Query(tenant=TENANT, category="customers"))}
        return sorted(found)

    def decision(self, customer: str) -> Entry:
        return self.tenant.decisions(customer)[-1]

    def dispositions(self, customer: str) -> list[str]:
        return [e.suppressed_by or e.disposition for e in self.tenant.decisions(customer)]

    def kinds(self, customer: str) -> list[str]:
        return [e.stored.kind for e in self._events() if e.stored.stream == self.tenant.customer(customer).stream]

    def told(self) -> dict[str, list[str]]:
        """The canonical lines of every stream of the tenant, by stream; for a message that shows where two engines part."""
        return {
            str(s): [line.decode() for line in canonical_lines(events, attempts=self.attempts)] for s, events in self._by_stream().items()
        }

    def hashes(self) -> dict[str, str]:
        """The canonical hash of every stream of the tenant but those of policies' installation, by stream."""
        return {str(s): stream_hash(events, attempts=self.attempts) for s, events in self._by_stream().items()}

    def _by_stream(self) -> Mapping[StreamId, list[Recorded[Event]]]:
        found: dict[StreamId, list[Recorded[Event]]] = {}
        for event in self._events():
            found.setdefault(event.stored.stream, []).append(event)
        return found

    def _events(self) -> Iterator[Recorded[Event]]:
        return self.ps.log.events(Query(tenant=TENANT), Unsealer(self.ps.log.vault))


@contextmanager
def staged(folder: Path, driven: Callable[[Site], Any], url: str | None = None, schema: str = "postsale") -> Iterator[Stage]:
    """A stage on a fresh log; `driven(site)` is a context manager that gives its `Drive`."""
    with ToolServer(Counter()) as server:
        site = Site.make(folder, server.url, url, schema)
        with site.open() as ps, driven(site) as drive:
            yield Stage(ps, site, server, drive)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def embedded(site: Site) -> Iterator[Drive]:
    """The embedded engine in this process."""
    with site.open() as ps:
        yield lambda _: _run(ps)


def _run(ps: PostSale) -> None:
    report = ps.run_once()
    assert not report.problems, report.problems


def effects_of(stage: Stage) -> list[UUID]:
    """The keys that the server counted, in no particular order."""
    return sorted(UUID(key) for key in stage.server.shape.effects)
