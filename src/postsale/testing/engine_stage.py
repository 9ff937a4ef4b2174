"""The stage of engine contracts: one log with its clock, one agent whose policy has every limit, tools that call a server which counts.

Any process can open it: all of it is in a folder, or on the PostgreSQL that its URL names. No claims here; those are in `engine_contract`.
May import `app` and everything below it.
"""

from __future__ import annotations

import http.client
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final, Self
from urllib.parse import urlsplit
from uuid import UUID

from postsale.access import FileVault, Person, Unsealer
from postsale.agents import Agent, Policy
from postsale.agents.tools import Receipt, Tool, ToolKind, ToolModel
from postsale.aggregates.signals import AccountProfiled, InvoicePaid, InvoicePaymentFailed, Signal, SubscriptionStarted, TicketEscalated
from postsale.app import PostSale
from postsale.audit.streams import canonical_lines, stream_hash
from postsale.errors import ToolRefused, ToolUncertain
from postsale.events import Event, Recorded, StreamId, from_us, to_us
from postsale.projections.journal import Entry
from postsale.store import Leases, Query
from postsale.testing.tool_server import Answer, Request, ToolServer

TENANT: Final = "acme"
START: Final = datetime(2026, 11, 16, 12, 0, tzinfo=UTC)  # a Monday; 13:00 in Berlin
ANNA: Final = Person("anna", "os-user")
BEN: Final = Person("ben", "token")
Drive = Callable[["Stage"], None]
"""Has an engine do what waits at the clock's time, and returns when it has."""

POLICY: Final = """
name = "engines"
version = 1
owner = "tests"
description = "Something for every limit."
hit = "first"

[inputs]
failed_payments = "integer"
days_since_last_payment = "integer"
mrr_minor = "integer"
segment = "text"
time_zone = "text"

[[trigger]]
id = "failing"
when = { failed_payments = ">= 1" }

[[trigger]]
id = "silent"
when = { days_since_last_payment = ">= 30" }

[[rule]]
id = "credit"
when = { segment = "vip" }
action = "offer"
tool = "shop.credit@1"
channel = "email"
offer = { kind = "credit", amount_minor = "$mrr_minor", currency = "EUR", terms = "One month." }
authority_limit_minor = 1000
arguments = { customer = "$customer", text = "$offer.terms" }
risk_case = true
because = "{failed_payments} failed."

[[rule]]
id = "mail"
when = { segment = "smb" }
action = "email"
tool = "shop.mail@1"
channel = "email"
arguments = { customer = "$customer", text = "pay" }
approval = "none"
because = "{failed_payments} failed."

[[rule]]
id = "ring"
when = { segment = "phone" }
action = "ring"
tool = "shop.ring@1"
arguments = { customer = "$customer", text = "$because" }
approval = "none"
because = "{failed_payments} failed."

[[rule]]
id = "sue"
when = { segment = "hostile" }
action = "sue"
tool = "shop.credit@1"
arguments = { customer = "$customer", text = "see you in court" }
approval = "none"
risk = "high"
because = "{failed_payments} failed."

[[rule]]
id = "task"
when = { failed_payments = ">= 2" }
action = "task"
tool = "shop.credit@1"
arguments = { customer = "$customer", text = "$because" }
approval = "none"
because = "{failed_payments} failed."

[[rule]]
id = "greet"
when = { days_since_last_payment = ">= 30", failed_payments = 0 }
action = "task"
tool = "shop.credit@1"
arguments = { customer = "$customer", text = "$because" }
approval = "none"
because = "Nothing for {days_since_last_payment} days."

[[rule]]
id = "wait"
action = "none"
because = "Once is no pattern."

[guardrails]
purpose = "service"
max_depth = 0
must_not_have_changed = ["billing/invoice-paid"]
bound_to = ["failed_payments"]
approval_expires_h = 48

[[guardrails.frequency]]
count = 1
days = 30

[[guardrails.sequence]]
id = "after-a-complaint"
kinds = ["ticketing/ticket-escalated"]
within_days = 30

[guardrails.quiet_hours]
start = "20:00"
end = "08:00"
default_zone = "Europe/Berlin"

[[budget]]
name = "retention"
unit = "EUR"
limit = 6000
per = "month"

[guardrails.appetite]
act = "medium"
propose = "medium"

[autonomy]
by = "segment"
segments = { watched = "observe" }
otherwise = "act"

[outcome]
on = ["billing/invoice-paid"]
within_days = 14
"""


class _Said(ToolModel):
    customer: str
    text: str


class _Counted(Tool):
    """POSTs its key and arguments; the server counts."""

    kind: ClassVar[ToolKind] = "idempotent"
    input = _Said
    timeout_s = 5.0
    breaker_after = max_attempts = 50

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc

    def call(self, arguments: _Said, *, idempotency_key: str, timeout_s: float) -> Receipt:
        connection = http.client.HTTPConnection(self._address, timeout=timeout_s)
        try:
            connection.request("POST", f"/{self.name}", arguments.model_dump_json(), {"Idempotency-Key": idempotency_key})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ToolUncertain(tool=self.ref.name, reason=type(error).__name__) from None
        finally:
            connection.close()
        if answer.status >= 500:
            raise ToolUncertain(tool=self.ref.name, reason=f"status {answer.status}")
        if answer.status != 200:
            raise ToolRefused(tool=self.ref.name, reason=f"status {answer.status}")
        return Receipt(receipt=json.loads(body)["receipt"])


class _Credit(_Counted):
    name = "shop.credit"


class _Mail(_Counted):
    name = "shop.mail"


class _Ring(_Counted):
    name = "shop.ring"
    kind: ClassVar[ToolKind] = "unsafe"


class Counter:
    """The other side of the tools: counts each key once, but every call of the unsafe one."""

    def __init__(self) -> None:
        self.effects: list[str] = []

    def handle(self, request: Request) -> Answer:
        key = request.headers["idempotency-key"]
        if key not in self.effects or request.path == "/shop.ring":
            self.effects.append(key)
        return Answer(200, {"receipt": f"r-{key[:8]}"})


class FileClock:
    """A clock that stands, the same for every process: the time in microseconds in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def now_us(self) -> int:
        return int(self._path.read_text())

    def move_to(self, us: int) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(str(us))
        fresh.replace(self._path)


@cache
def _keys() -> bytes:
    """One tenant's keys for all stages, so that ids and digests agree between them."""
    with tempfile.TemporaryDirectory() as folder:
        vault = FileVault(Path(folder) / "keys")
        vault.tenant(TENANT)
        vault.close()
        return (Path(folder) / "keys").read_bytes()


@dataclass(frozen=True)
class Site:
    """Where a log is, as any process opens it."""

    folder: str
    tools: str  # URL of the server that counts
    url: str
    schema: str = "postsale"

    @classmethod
    def make(cls, folder: Path, tools: str, url: str | None = None, schema: str = "postsale") -> Self:
        """A fresh one, in a file of the folder unless `url` names a log on PostgreSQL."""
        folder.mkdir(parents=True, exist_ok=True)
        site = cls(str(folder), tools, url or f"sqlite:///{folder / 'log.db'}", schema)
        (folder / "log.keys").write_bytes(_keys())
        (folder / "log.keys").chmod(0o600)
        site.clock.move_to(to_us(START))
        site.lease_clock.move_to(to_us(START))
        return site

    @property
    def clock(self) -> FileClock:
        return FileClock(Path(self.folder) / "clock")

    @property
    def lease_clock(self) -> FileClock:
        """The clock of leases: it is moved on to have a killed process's lease expire, while the story stands still."""
        return FileClock(Path(self.folder) / "lease-clock")

    def open(self) -> PostSale:
        """The log with its agent and tools."""
        refs = (f"c{n}" for n in itertools.count(1))
        ps = PostSale.open(
            self.url,
            agents=[Agent(Policy.from_toml(POLICY))],
            tools=[_Credit(self.tools), _Mail(self.tools), _Ring(self.tools)],
            sandbox=False,
            clock=self.clock,
            schema=self.schema,
            keys=None if self.url.startswith("sqlite") else Path(self.folder) / "log.keys",
            new_ref=lambda: next(refs),
        )
        ps.leases = Leases(ps.log.store.kv, self.lease_clock)
        return ps

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


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
