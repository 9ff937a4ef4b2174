"""A small world for tests: a log, a clock, agents, sandbox tools, people; facts are recorded as a source would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from postsale.access import FileVault, Person, Unsealer
from postsale.agents import Agent, Policy
from postsale.agents.budget import Page
from postsale.agents.desk import Change
from postsale.agents.engines import Attended, EmbeddedEngine
from postsale.agents.evidence import HealthReading, NoHealth
from postsale.agents.tools import Toolbox
from postsale.aggregates import commands
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import DecisionRecorded
from postsale.aggregates.identity import customer_stream
from postsale.aggregates.signals import AccountProfiled, InvoicePaid, InvoicePaymentFailed, Signal, SubscriptionStarted
from postsale.events import ManualClock, Origin, Recorded, StoredEvent, StreamId, derive_id
from postsale.store import MemoryStore, Query
from postsale.store.log import Cause, Log

NOON = datetime(2026, 11, 16, 12, 0, tzinfo=UTC)  # a Monday; 13:00 in Berlin
ANNA = Person("anna", "os-user")
BEN = Person("ben", "token")

DUNNING = """
name = "dunning"
version = 1
owner = "cs"
description = "Act on failing payments."
hit = "first"

[inputs]
failed_payments = "integer"
mrr_minor = "integer"
segment = "text"
time_zone = "text"

[[trigger]]
id = "failing"
when = { failed_payments = ">= 1" }

[[rule]]
id = "credit"
when = { segment = "vip" }
action = "offer"
tool = "billing.offer_credit@1"
channel = "email"
offer = { kind = "credit", amount_minor = "$mrr_minor", currency = "EUR", terms = "One month." }
authority_limit_minor = 1000
arguments = { customer = "$customer", amount_minor = "$offer.amount_minor", currency = "EUR", terms = "$offer.terms" }
risk_case = true
because = "{failed_payments} failed."

[[rule]]
id = "mail"
when = { segment = "smb" }
action = "email"
tool = "email.send@1"
channel = "email"
arguments = { customer = "$customer", template = "dunning" }
approval = "none"
because = "{failed_payments} failed."

[[rule]]
id = "task"
when = { failed_payments = ">= 2" }
action = "task"
tool = "crm.create_task@1"
arguments = { customer = "$customer", title = "Payment failing", note = "$because" }
approval = "none"
because = "{failed_payments} failed."

[[rule]]
id = "wait"
action = "none"
because = "Once is no pattern."

[guardrails]
purpose = "service"
max_depth = 2
must_not_have_changed = ["billing/invoice-paid"]
bound_to = ["failed_payments"]
approval_expires_h = 48

[[guardrails.frequency]]
count = 2
days = 30

[guardrails.quiet_hours]
start = "20:00"
end = "08:00"
default_zone = "Europe/Berlin"

[[budget]]
name = "retention"
unit = "EUR"
limit = 10000
per = "month"

[outcome]
on = ["billing/invoice-paid"]
within_days = 14
"""


NOVEMBER = Page("EUR", "2026-11")
"""What the budget of this policy is kept for at NOON."""


class World:
    """One log with an engine. `health` may be set per test; facts are live unless said otherwise."""

    tenant = "acme"

    def __init__(
        self,
        agents: Iterable[Agent] | None = None,
        *,
        store: Any = None,
        vault: Any = None,
        toolbox: Toolbox | None = None,
        at: datetime = NOON,
        health: Any = None,
        origin: Origin = Origin.LIVE,
    ) -> None:
        self.clock = ManualClock(at)
        self.store = store if store is not None else MemoryStore(clock=self.clock)
        self.log = Log(self.store, vault if vault is not None else FileVault.in_memory(), self.clock)
        self.toolbox = toolbox if toolbox is not None else Toolbox()
        given = list(agents) if agents is not None else [Agent(Policy.from_toml(DUNNING))]
        self.engine = EmbeddedEngine(self.log, given, self.toolbox, health, origin=origin)
        self.numbers = iter(range(1, 1_000_000))

    def stream(self, ref: str = "c1") -> StreamId:
        return customer_stream(self.tenant, ref)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now_us() / 1e6, UTC)

    def wait(self, **by: float) -> None:
        self.clock.advance(timedelta(**by))

    def fact(self, signal: Signal, ref: str = "c1", *, cause: Cause | None = None) -> StoredEvent:
        stream = self.stream(ref)
        event = self.log.fact(stream, signal, said_of=ref, subject=ref, cause=cause or Cause())
        self.log.append([event])
        found = self.store.find(self.tenant, event.event_id)
        assert found is not None
        return found

    def says(self, cls: type[Signal], ref: str = "c1", *, cause: Cause | None = None, **fields: Any) -> StoredEvent:
        at = fields.pop("at", self.now())
        return self.fact(cls(source="test", id=f"{ref}-{next(self.numbers)}", occurred_at=at, **fields), ref, cause=cause)

    def failed(self, ref: str = "c1", attempt: int = 2, **more: Any) -> StoredEvent:
        return self.says(InvoicePaymentFailed, ref, amount_minor=4900, currency="EUR", attempt=attempt, **more)

    def paid(self, ref: str = "c1", **more: Any) -> StoredEvent:
        return self.says(InvoicePaid, ref, amount_minor=4900, currency="EUR", **more)

    def subscribed(self, ref: str = "c1", mrr_minor: int = 4900) -> StoredEvent:
        terms = {"subscription_id": "s1", "mrr_minor": mrr_minor, "interval": "month", "currency": "EUR", "effective_at": self.now()}
        return self.says(SubscriptionStarted, ref, **terms)

    def profile(self, ref: str = "c1", **fields: Any) -> StoredEvent:
        return self.says(AccountProfiled, ref, **fields)

    def consent(self, ref: str = "c1", channel: str = "email", purpose: str = "service", given: bool = True) -> None:
        change = commands.give_consent if given else commands.withdraw_consent

        def rule(c: CustomerAggregate) -> Change:
            desk = self.engine.desk
            events = change(c, channel, purpose, "test")
            return Change(tuple(desk.draft(e, derive_id("consent", next(self.numbers)), Cause(actor=ANNA.actor)) for e in events))

        self.engine.desk.change(self.stream(ref), rule)

    def mode(self, mode: Any, agent: str = "dunning") -> None:
        self.engine.set_mode(self.tenant, agent, mode, person=ANNA, reason="test")

    def attend(self, cause: StoredEvent | None = None, ref: str = "c1", **more: Any) -> Attended:
        return self.engine.attend(self.stream(ref), cause, **more)

    def customer(self, ref: str = "c1") -> CustomerAggregate:
        return self.log.customer(self.stream(ref))

    def decision(self, id_: UUID) -> Recorded[DecisionRecorded]:
        return self.engine.desk.decision(self.tenant, id_)

    def decisions(self, ref: str = "c1") -> list[DecisionRecorded]:
        return [r.data for r in self.events(ref) if isinstance(r.data, DecisionRecorded)]

    def events(self, ref: str = "c1") -> list[Recorded[Any]]:
        return list(self.log.events(Query(tenant=self.tenant, streams=(self.stream(ref),)), Unsealer(self.log.vault)))

    def kinds(self, ref: str = "c1") -> list[str]:
        return [r.stored.kind for r in self.events(ref) if r.stored.lane == 1]

    def vip(self, ref: str = "c1", mrr_minor: int = 4900) -> None:
        """A consenting customer for whom the policy makes an offer."""
        self.profile(ref, segment="vip")
        self.subscribed(ref, mrr_minor)
        self.consent(ref)

    def one_decision(self, ref: str = "c1") -> UUID:
        """A vip's failed payment, attended to: the decision's id."""
        self.vip(ref)
        (id_,) = self.attend(self.failed(ref), ref).decided
        return id_


class FixedHealth(NoHealth):
    """A reading that tests set."""

    def __init__(self, **reading: Any) -> None:
        self.reading = reading

    def read(self, customer: CustomerAggregate, at_us: int, wanted: frozenset[str]) -> HealthReading:
        return HealthReading(**{"position": customer.position, **self.reading})


def calls(world: World) -> list[tuple[str, Mapping[str, Any]]]:
    """What the sandbox recorded."""
    return [(c.tool, c.arguments) for c in world.toolbox.ledger.calls]
