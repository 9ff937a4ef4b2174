"""Budgets over any log: double entry, every entry backed by a decision and an effect, no limit passed; what is wrong is named.

Reads only, without keys; reaches no tool. May import everything below `audit`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from postsale.agents.budget import Movement, Page, Sums, movement, post
from postsale.agents.budget_policy import period
from postsale.agents.policy import Policy
from postsale.aggregates import budgets as b
from postsale.aggregates import decisions as d
from postsale.aggregates.artifacts import ArtifactPublished
from postsale.errors import PostSaleError
from postsale.events import Event, Lane, StoredEvent, decode, to_us
from postsale.store.contract import Query, Store

_KINDS = frozenset(
    cls.wire_name.partition("@")[0]
    for cls in (
        b.BudgetReserved, b.BudgetCommitted, b.BudgetReleased, b.BudgetCompensated,
        b.BudgetSliceGranted, b.BudgetSliceClosed, b.BudgetSliceReturned,
        d.DecisionRecorded, d.UndoOrdered, d.EffectSucceeded, ArtifactPublished,
    )
)  # fmt: skip
What = Literal["missing", "doubled", "orphan", "mismatch", "limit", "balance", "unreadable"]


@dataclass(frozen=True, slots=True)
class BudgetProblem:
    """One entry that is wrong, or lacks its counterpart."""

    what: What
    position: int
    tenant: str
    stream: str
    reason: str


@dataclass(slots=True)
class BudgetReport:
    """What a check found."""

    entries: int = 0
    budgets: int = 0  # streams with entries, slices not counted
    open: int = 0  # reservations that are not settled yet
    problems: list[BudgetProblem] = field(default_factory=list)  # in order of position, tenant by tenant

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "entries": self.entries,
            "budgets": self.budgets,
            "open": self.open,
            "problems": [
                {"what": p.what, "position": p.position, "tenant": p.tenant, "stream": p.stream, "reason": p.reason} for p in self.problems
            ],
        }


def check_budgets(store: Store, tenants: Iterable[str] | None = None) -> BudgetReport:
    """Check every entry of every budget of these tenants, by default of all. Memory is bounded by decisions that reserved."""
    report = BudgetReport()
    for tenant in store.tenants() if tenants is None else tenants:
        _Check(report, tenant).run(store)
    return report


@dataclass(slots=True)
class _Slice:
    budget: str
    page: Page
    granted: int
    taken: int  # of the budget, with it
    returned: int = 0
    closed: bool = False
    position: int = 0


@dataclass(slots=True)
class _Held:
    """A reservation that a decision says it made."""

    said: b.Reservation
    limit: int | None  # of the policy that decided; None when it has no such budget, or the log not the policy
    at: StoredEvent
    status: Literal["said", "reserved", "committed", "released"] = "said"
    compensated: bool = False


class _Check:
    def __init__(self, report: BudgetReport, tenant: str) -> None:
        self.report, self.tenant = report, tenant
        self.sums: dict[tuple[str, str, Page], Sums] = {}  # category, id, page
        self.held: dict[tuple[UUID, UUID, str], _Held] = {}  # decision, effect, budget
        self.slices: dict[str, _Slice] = {}
        self.happened: dict[UUID, StoredEvent] = {}  # effects
        self.orders: dict[UUID, d.UndoOrdered] = {}
        self.policies: dict[str, Policy] = {}  # by digest

    def run(self, store: Store) -> None:
        first = len(self.report.problems)
        for stored in store.read(Query(tenant=self.tenant, lane=Lane.DECISION, kinds=_KINDS)):
            try:
                event = decode(stored).data
                self.take(stored, event)
            except PostSaleError as error:
                self.bad("unreadable", stored, f"it cannot be read: {type(error).__name__}")
        self.end()
        self.report.budgets += len({id_ for category, id_, _ in self.sums if category == "budgets"})
        self.report.problems[first:] = sorted(self.report.problems[first:], key=lambda p: p.position)

    def take(self, stored: StoredEvent, event: Event) -> None:
        match event:
            case ArtifactPublished(of="policy"):
                policy = Policy.from_json(event.content)
                self.policies[policy.digest] = policy
            case d.DecisionRecorded():
                self.decided(stored, event)
            case d.UndoOrdered():
                self.orders[stored.event_id] = event
            case d.EffectSucceeded():
                self.happened[event.intent_id] = stored
            case b.BudgetSliceClosed():
                self.closed(stored)
            case _ if isinstance(event, b.BudgetEvent):
                self.entry(stored, event)

    # ------------------------------------------------------------ entries

    def entry(self, stored: StoredEvent, event: b.BudgetEvent) -> None:
        """Post it, then ask whether somebody had a reason to make it."""
        moved = movement(event)
        assert moved is not None
        self.report.entries += 1
        self.post(stored, moved)
        match event:
            case b.BudgetReserved():
                self.reserved(stored, event)
            case b.BudgetCommitted() | b.BudgetReleased():
                self.settled(stored, event)
            case b.BudgetCompensated():
                self.compensated(stored, event)
            case b.BudgetSliceGranted():
                if event.slice in self.slices:
                    self.bad("doubled", stored, f"slice {event.slice} was granted before")
                taken = -self.sums[stored.stream.category, stored.stream.id, moved.page].available
                self.slices[event.slice] = _Slice(stored.stream.id, moved.page, event.amount, taken, position=stored.position)
                self.within(stored, moved.page, self.most(stored.stream.id), "the largest limit that a policy states")
            case b.BudgetSliceReturned():
                of = self.slices.get(event.slice)
                if of is None or (of.budget, of.page) != (stored.stream.id, moved.page):
                    self.bad("orphan", stored, f"no slice {event.slice} was granted of this budget and period")
                else:
                    of.returned += event.amount

    def post(self, stored: StoredEvent, moved: Movement) -> None:
        key = (stored.stream.category, stored.stream.id, moved.page)
        sums = self.sums[key] = post(self.sums.get(key, Sums()), moved)
        wrong = [n for n in ("reserved", "committed", "sliced") if getattr(sums, n) < 0]
        wrong += [n for n in ("available", "compensated") if getattr(sums, n) > 0]
        if sums.balance or wrong:
            self.bad("balance", stored, f"{', '.join(wrong) or 'the accounts'} of {moved.page.period} cannot be {sums}")

    def reserved(self, stored: StoredEvent, event: b.BudgetReserved) -> None:
        budget, slice_ = self.place(stored)
        held = self.held.get((event.decision_id, event.intent_id, budget))
        if held is None:
            self.bad("orphan", stored, f"decision {event.decision_id} says nothing of it")
            return
        said = held.said
        if (said.unit, said.period, said.amount, said.slice) != (event.unit, event.period, event.amount, slice_):
            self.bad("mismatch", stored, f"decision {event.decision_id} says {said.amount} {said.unit} of {said.period}")
        if held.status != "said":
            self.bad("doubled", stored, f"it was reserved for effect {event.intent_id} before")
            return
        held.status = "reserved"
        page = Page(event.unit, event.period)
        if slice_ is not None:
            its = self.slices.get(slice_)
            if its is None or its.closed:
                self.bad("orphan", stored, "it is reserved from a slice that is not open")
                return
            self.within(stored, page, its.granted, "what was granted")
            if held.limit is not None and its.taken > held.limit:
                self.bad(
                    "limit",
                    stored,
                    f"{its.taken} {page.unit} were taken with its slice, the limit of the policy that decided is {held.limit}",
                )
            return
        self.within(stored, page, held.limit, "the limit of the policy that decided")

    def settled(self, stored: StoredEvent, event: b.BudgetCommitted | b.BudgetReleased) -> None:
        held = self.held.get((event.decision_id, event.intent_id, self.place(stored)[0]))
        if held is None or held.status == "said":
            self.bad("orphan", stored, f"nothing is reserved for effect {event.intent_id}")
            return
        if held.status != "reserved":
            self.bad("doubled", stored, f"it was {held.status} before")
            return
        said = held.said
        if (said.unit, said.period, said.amount) != (event.unit, event.period, event.amount):
            self.bad("mismatch", stored, f"reserved were {said.amount} {said.unit} of {said.period}")
        spent = isinstance(event, b.BudgetCommitted)
        if spent is not (event.intent_id in self.happened):
            self.bad("mismatch", stored, f"the effect {'did not happen' if spent else 'happened'}")
        held.status = "committed" if spent else "released"

    def compensated(self, stored: StoredEvent, event: b.BudgetCompensated) -> None:
        order, held = self.orders.get(event.decision_id), self.held.get((event.spent_by, event.intent_id, stored.stream.id))
        if order is None or order.undoes != event.intent_id or not any(i.intent_id in self.happened for i in order.intents):
            self.bad("orphan", stored, f"effect {event.intent_id} was not taken back")
            return
        if held is None or held.status != "committed":
            self.bad("orphan", stored, "nothing was used up that could come back")
            return
        if held.compensated:
            self.bad("doubled", stored, "it came back before")
        if (held.said.unit, held.said.period, held.said.amount) != (event.unit, event.period, event.amount):
            self.bad("mismatch", stored, f"used up were {held.said.amount} {held.said.unit} of {held.said.period}")
        if not b.comes_back(event.unit):
            self.bad("mismatch", stored, f"{event.unit} does not come back")
        held.compensated = True

    def closed(self, stored: StoredEvent) -> None:
        of = self.slices.get(stored.stream.id)
        if of is None or of.closed:
            self.bad("doubled" if of is not None else "orphan", stored, "no slice of this name is open")
            return
        of.closed = True

    def within(self, stored: StoredEvent, page: Page, limit: int | None, words: str) -> None:
        taken = -self.sums[stored.stream.category, stored.stream.id, page].available
        if limit is not None and taken > limit:
            self.bad("limit", stored, f"{taken} {page.unit} of {page.period} are taken, {words} is {limit}")

    # ------------------------------------------------------------ what they are about

    def decided(self, stored: StoredEvent, event: d.DecisionRecorded) -> None:
        policy, now_us, effects = self.policies.get(event.policy), to_us(event.decided_at), {i.intent_id for i in event.intents}
        stated = {x.ledger(event.agent): x for x in (policy.budgets or () if policy is not None else ())}
        for said in event.reservations:
            its = stated.get(said.budget)
            self.held[stored.event_id, said.intent_id, said.budget] = _Held(said, None if its is None else its.limit, stored)
            if its is None:
                why = "its policy is not in the log" if policy is None else f"its policy has no budget {said.budget}"
                self.bad("orphan", stored, f"it says that it reserved of a budget, and {why}")
            elif (said.unit, said.period) != (its.counted_in, period(its, now_us)):
                told = f"{its.counted_in} of {period(its, now_us)}"
                self.bad("mismatch", stored, f"it reserved {said.unit} of {said.period}, and by its policy {said.budget} is {told}")
            if said.intent_id not in effects:
                self.bad("orphan", stored, f"it reserved for effect {said.intent_id}, which is none of its own")

    def place(self, stored: StoredEvent) -> tuple[str, str | None]:
        """The budget whose entry it is, and the slice that it is in."""
        if stored.stream.category != "slices":
            return stored.stream.id, None
        of = self.slices.get(stored.stream.id)
        return ("" if of is None else of.budget), stored.stream.id

    def most(self, ledger: str) -> int | None:
        """The largest limit that any policy states for a budget, whichever agent it is kept for."""
        stated = (x for policy in self.policies.values() for x in policy.budgets or ())
        return max((x.limit for x in stated if ledger == x.name or (x.of == "agent" and ledger.startswith(f"{x.name}:"))), default=None)

    def end(self) -> None:
        for (_, intent, budget), held in self.held.items():
            if held.status == "said":
                self.bad("missing", held.at, f"it says that it reserved of {budget}, and there is no entry")
            elif held.status == "reserved":
                self.report.open += 1
                if intent in self.happened:
                    self.bad("missing", self.happened[intent], f"the effect happened, and what it reserved of {budget} is not committed")
        for name, of in self.slices.items():
            sums = self.sums.get(("slices", name, of.page), Sums())
            holds = sums.reserved + sums.committed
            if of.closed and of.granted - of.returned != holds:
                why = f"{of.granted} were granted, {of.returned} returned, and it holds {holds}"
                self.report.problems.append(BudgetProblem("balance", of.position, self.tenant, f"{self.tenant}/slices/{name}", why))

    def bad(self, what: What, stored: StoredEvent, reason: str) -> None:
        self.report.problems.append(BudgetProblem(what, stored.position, self.tenant, str(stored.stream), reason))
