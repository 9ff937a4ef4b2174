"""A vendor's year: seven agents from observing to acting by stated criteria, and the people around them. What the demo lives through.

    year = Year(ps, "acme", Vendor(3, customers=40, start=start, days=365, model=TROUBLED))
    year.live()
    year.story  # what happened when, in words

Everything is decided by the log, the agents' policies and the rules written here: a seed gives the same year. May import `app` and everything
below it, and the simulator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import orjson

from postsale.agents import SHIPPED, Agent, Policy
from postsale.agents.autonomy import Criterion, review
from postsale.aggregates.artifacts import EVERY_AGENT
from postsale.app import PostSale, RecordReport
from postsale.audit import WhatIf
from postsale.errors import ApprovalRefused
from postsale.events import ManualClock, canonical, from_us
from postsale.projections.journal import Entry, Journal, awaiting, decision_events
from postsale.simulator.loop import EffectsLeft
from postsale.simulator.sources import Delivery
from postsale.simulator.state import ErasureRequestedAt
from postsale.simulator.truth import Outcome
from postsale.simulator.vendor import Vendor

RUN_DAY: Final = 1  # Tuesday: agents run, and people look at what waits a few hours later
_LATER: Final = 3  # Thursday: people look at what they put off
_LOOK_EVERY: Final = 28  # days between two looks at how far each agent may go
_YEAR_END: Final = 14  # days before the end: a person looks at everything again
_RARE: Final = frozenset({"churn-outreach", "post-renewal-outreach", "referral-invitation"})  # agents that are asked a few times a quarter


def year_agents() -> list[Agent]:
    """The seven shipped agents with this vendor's copies of their policies: in its currency, and with criteria for going further."""
    return [Agent(_ours(cls.default_policy())) for cls in SHIPPED.values()]


def _ours(policy: Policy | None) -> Policy:
    assert policy is not None
    data = orjson.loads(policy.content.replace('"USD"', '"EUR"'))
    few = policy.name in _RARE
    criteria = {
        "propose": {"window_days": 120, "decisions": 2 if few else 5, "failed_percent": 5},
        "act": {"window_days": 180, "decisions": 3 if few else 8, "answered": 1 if few else 4, "approved_percent": 60, "failed_percent": 5},
    }
    return Policy.from_json(canonical({**data, "autonomy": criteria}).decode())


@dataclass(frozen=True, slots=True)
class Step:
    """Something that people did in the year."""

    at: datetime
    what: str  # autonomy, kill switch, policy, consent, erasure
    told: str
    agent: str = ""

    def to_dict(self) -> dict[str, str]:
        return {"at": self.at.isoformat(), "what": self.what, "agent": self.agent, "told": self.told}


@dataclass(slots=True)
class Story:
    """The year as it was lived."""

    recorded: RecordReport = field(default_factory=RecordReport)
    late: int = 0  # signals that arrived more than two days after they occurred
    corrected: int = 0  # signals that put an earlier one right
    consents: Counter[str] = field(default_factory=Counter)  # given, withdrawn
    erasures: list[ErasureRequestedAt] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)  # what people said to proposals
    what_if: WhatIf | None = None
    months: list[tuple[int, Mapping[str, Outcome]]] = field(default_factory=list)  # what became of customers by the first days of months


class Year:
    """One vendor's year over an open log with a ManualClock, whose agents are `year_agents()`."""

    def __init__(self, ps: PostSale, tenant: str, vendor: Vendor) -> None:
        self._ps, self._vendor, self.story = ps, vendor, Story()
        assert isinstance(ps.clock, ManualClock)
        self._clock, self._tenant = ps.clock, ps.tenant(tenant)
        self._left = EffectsLeft(ps, tenant)
        self._journal, self._read = Journal(), 0
        self._numbers: dict[UUID, int] = {}  # of proposals, as people first looked at them

    def live(self, on_day: Callable[[int], None] = lambda _: None) -> Story:
        """Day by day: what arrived yesterday is recorded; on some days agents run, and people answer what waits."""
        vendor, story = self._vendor, self.story
        for agent in self._ps.agents:
            self._tenant.agent(agent).observe(reason="new here: it watches first")
            self._tell("autonomy", "observes: new here", agent.name)
        for day in range(1, vendor.days + 1):
            self._clock.move_to(vendor.start + timedelta(days=day, hours=14))
            self._record(day)
            self._happens(day)
            today = from_us(self._clock.now_us())
            if today.weekday() == RUN_DAY or day == vendor.days:
                self._ps.run_once()
                self._clock.move_to(vendor.start + timedelta(days=day, hours=17))
                if self._answer(day, put_off=True):
                    self._ps.run_once()
                vendor.act(self._left.new())  # customers respond to what left for them
            elif today.weekday() == _LATER and self._answer(day, put_off=False):
                self._ps.run_once()
                vendor.act(self._left.new())
            if today.day == 1 or day == vendor.days:
                story.months.append((day, vendor.outcomes()))
            on_day(1)
        return story

    # ------------------------------------------------------------ what arrives

    def _record(self, day: int) -> None:
        arrivals, story = self._vendor.day(day - 1), self.story
        signals = [(a.customer, a.signal) for a in arrivals if isinstance(a, Delivery)]
        part = self._tenant.record_many(signals)
        story.recorded.recorded += part.recorded
        story.recorded.duplicates += part.duplicates
        story.recorded.rejects += part.rejects
        for a in arrivals:
            match a:
                case Delivery(at=at, signal=signal):
                    story.late += at - signal.occurred_at > timedelta(days=2)
                    story.corrected += signal.id.endswith("-corrected")
                case ErasureRequestedAt():
                    story.erasures.append(a)
                case _:
                    self._tenant.consent(a.customer, a.channel, a.purpose, given=a.given, evidence="their own word")
                    story.consents["given" if a.given else "withdrawn"] += 1

    # ------------------------------------------------------------ what people do

    def _happens(self, day: int) -> None:
        """What the people who own the agents do on this day."""
        days = self._vendor.days
        if day % _LOOK_EVERY == 0 and day < days - _YEAR_END:
            self._promote()
        if day == days // 2:
            self._change_policy()
        if day == round(days * 0.6):
            self._tenant.agent(EVERY_AGENT).pause(reason="an invoice run went wrong: nothing leaves until billing is checked")
            self._tell("kill switch", "thrown: an invoice run went wrong, nothing leaves until billing is checked", EVERY_AGENT)
        if day == round(days * 0.6) + 9:
            self._tenant.agent(EVERY_AGENT).resume(reason="billing is checked")
            self._tell("kill switch", "lifted: billing is checked", EVERY_AGENT)
        if day == days - _YEAR_END:
            for agent in self._ps.agents:
                handle = self._tenant.agent(agent)
                if handle.control.mode == "act":
                    handle.propose(reason="year end: a person looks at everything")
                    self._tell("autonomy", "proposes: at the year's end a person looks at everything", agent.name)

    def _promote(self) -> None:
        """One step further for who has met the criteria of its policy."""
        entries, now_us = self._entries(), self._clock.now_us()
        for agent in self._ps.agents:
            handle = self._tenant.agent(agent)
            policy = self._tenant.policy(agent.policy.name) or agent.policy
            found = review(policy, agent.name, handle.control.mode, entries, now_us)[0]
            if not found.ready:
                continue
            met = "; ".join(_met(c) for c in found.promotion)
            if found.promotes_to == "propose":
                handle.propose(reason=f"criteria met: {met}")
            else:
                handle.act(reason=f"criteria met: {met}")
            self._tell("autonomy", f"{found.promotes_to}s: {met}", agent.name)

    def _change_policy(self) -> None:
        """Smaller offers no longer wait for a person; first it is tried on the half year that is over."""
        name = "renewal-rescue"
        active = self._tenant.policy(name)
        if active is None:
            return
        data = orjson.loads(active.content)
        for rule in data["rule"]:
            if rule.get("authority_limit_minor"):
                rule["authority_limit_minor"] *= 4
        wider = Policy.from_json(canonical({**data, "version": active.version + 1}).decode())
        self.story.what_if = found = self._tenant.what_if(wider, begin=self._vendor.start)
        told = f"offers up to 200.00 EUR leave without a person; of {found.decisions} past decisions {len(found.changed)} would have been others"
        self._tenant.activate(wider, reason=f"tried on the half year: {told}", widens=True)
        self._tell("policy", f"version {wider.version}: {told}", name)

    def _answer(self, day: int, *, put_off: bool) -> bool:
        """Look at what waits: most is approved, some rejected, some offers made smaller, some left to lapse. Whether anything may leave now."""
        said = False
        for entry in awaiting(self._entries()):
            if day >= self._vendor.days - 7:
                break  # what is proposed in the last week still waits
            number = self._numbers.setdefault(entry.id, len(self._numbers))
            if number % 9 != 4 and not (put_off and number % 3 == 2):
                said |= self._one(entry, number)
        return said

    def _one(self, entry: Entry, number: int) -> bool:
        tenant, story = self._tenant, self.story
        offer = entry.recorded.offer
        try:
            if number % 9 == 7:
                tenant.reject(entry.id, reason="its owner is talking to them already")
                story.answers["rejected"] += 1
                return False
            if offer is not None and number % 3 == 0:
                new = tenant.edit(entry.id, amount_minor=max(1, offer.amount_minor // 2), reason="half of it is enough here")
                tenant.approve(new, reason="half of it is enough here")
                story.answers["edited"] += 1
                return True
            tenant.approve(entry.id, reason="agreed with the account's owner")
            story.answers["approved"] += 1
        except ApprovalRefused:  # it expired, or what it was bound to has changed
            story.answers["refused"] += 1
            return False
        return True

    # ------------------------------------------------------------ inside

    def _entries(self) -> list[Entry]:
        """Every decision as it stands: what is new is read."""
        for recorded in decision_events(self._ps.log.store, self._tenant.name, after=self._read):
            self._journal.add(recorded.stored, recorded.data)
            self._read = recorded.stored.position
        return list(self._journal.entries.values())

    def _tell(self, what: str, told: str, agent: str = "") -> None:
        self.story.steps.append(Step(from_us(self._clock.now_us()), what, told, agent))


def _met(c: Criterion) -> str:
    share = " %" if c.name.endswith("percent") else ""
    return f"{c.name.removesuffix('_percent').replace('_', ' ')} {'–' if c.found is None else c.found}{share} ({c.needed})"
