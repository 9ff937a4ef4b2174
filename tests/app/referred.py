"""A referral program for tests: agents that invite, welcome and reward, over tools whose effects can be taken back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from postsale.agents import Agent, Policy
from postsale.agents.evidence import HealthReading
from postsale.agents.tools import Receipt, Tool, ToolModel
from postsale.agents.tools.contract import Undo
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import Scalar
from postsale.aggregates.signals import ReferralAccepted, ReferralConverted, ReferralInvited, SurveyAnswered, UsageObserved
from postsale.app import PostSale, Tenant
from postsale.events import AmountMinor, Currency, Id, ManualClock, Text
from tests.app.support import ANNA, NOON, Where, opened

_LIMITS = """
[guardrails]
purpose = "referrals"
max_depth = {depth}
approval_expires_h = 48
"""
INVITE = """
name = "inviter"
version = 1
owner = "marketing"
description = "Invite promoters to invite."

[inputs]
survey_score = "integer"

[[trigger]]
id = "promoter"
when = { survey_score = ">= 9" }

[[rule]]
id = "invite"
when = { survey_score = ">= 9" }
action = "invite"
tool = "acme.invite@1"
arguments = { customer = "$customer", text = "Invite a friend." }
approval = "none"
because = "They would recommend us."
"""
CREDIT = """
name = "{name}"
version = 1
owner = "marketing"
description = "A credit for whoever took part in a referral."

[inputs]
{evidence} = "integer"

[[trigger]]
id = "{name}"
when = {{ {evidence} = ">= 1" }}

[[rule]]
id = "credit"
when = {{ {evidence} = ">= 1" }}
action = "{name}"
tool = "acme.credit@1"
offer = {{ kind = "credit", amount_minor = {minor}, currency = "EUR", terms = "Once." }}
authority_limit_minor = 100000
arguments = {{ customer = "$customer", amount_minor = "$offer.amount_minor", currency = "EUR" }}
approval = "none"
because = "A referral."
"""
BUDGET = """
[[budget]]
name = "referrals"
unit = "EUR"
limit = 100000
per = "year"
"""
WAIT = """
[[wait]]
id = "credit-unused"
after = "welcome"
unless = ["product/usage-observed"]
within_days = 7
"""


class Referring(Agent):
    """An agent that knows whether its customer came by an invitation."""

    offers = {"accepted": "integer"}  # noqa: RUF012

    def evidence(self, customer: CustomerAggregate, health: HealthReading, at_us: int) -> Mapping[str, Scalar]:
        known = customer.facts.get("referral/accepted")
        return {"accepted": 0 if known is None else known.count}


def inviter(depth: int = 2) -> Agent:
    return Agent(Policy.from_toml(INVITE + _LIMITS.format(depth=depth)))


def welcomer(more: str = "") -> Agent:
    text = CREDIT.format(name="welcome", evidence="accepted", minor=1_000)
    return Referring(Policy.from_toml(text + more + _LIMITS.format(depth=2) + BUDGET))


def rewarder() -> Agent:
    text = CREDIT.format(name="reward", evidence="referrals_converted", minor=2_500)
    return Agent(Policy.from_toml(text + _LIMITS.format(depth=2) + BUDGET))


class Words(ToolModel):
    customer: Id
    text: Text


class Money(ToolModel):
    customer: Id
    amount_minor: AmountMinor
    currency: Currency


class Ref(ToolModel):
    customer: Id
    receipt: Text


class _Real(Tool):
    """A tool that leaves the building, as far as a test has one: each key counts once."""

    kind, risk_tier = "idempotent", "low"

    def __init__(self) -> None:
        self.calls: dict[str, Any] = {}

    def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Receipt:
        self.calls.setdefault(idempotency_key, arguments)
        return Receipt(receipt=f"r-{idempotency_key}")


class Invite(_Real):
    name, input = "acme.invite", Words
    undo = Undo("acme.uninvite@1", {"customer": "$arguments.customer", "receipt": "$receipt"})


class Uninvite(_Real):
    name, input = "acme.uninvite", Ref


class Credit(_Real):
    name, input = "acme.credit", Money
    undo = Undo("acme.uncredit@1", {"customer": "$arguments.customer", "receipt": "$receipt"})


class Uncredit(_Real):
    name, input = "acme.uncredit", Ref


class Program:
    """A log with these agents acting, their tools, and what customers and their friends say."""

    def __init__(self, where: Where, *agents: Agent, tools: Iterable[Tool] = ()) -> None:
        self.clock = ManualClock(NOON)
        self.tools = {cls.name: cls() for cls in (Invite, Uninvite, Credit, Uncredit)}
        self.ps: PostSale = opened(where, clock=self.clock, agents=agents, tools=[*self.tools.values(), *tools], sandbox=False)
        self.acme: Tenant = self.ps.tenant("acme")
        self._ids = iter(range(1, 1_000))
        for agent in agents:
            self.acme.agent(agent).act(reason="test", by=ANNA)

    def now(self) -> datetime:
        return NOON + timedelta(microseconds=self.clock.now_us() - ManualClock(NOON).now_us())

    def said(self) -> dict[str, Any]:
        """The envelope of the next signal."""
        return {"source": "program", "id": f"p{next(self._ids)}", "occurred_at": self.now()}

    def run(self, **later: float) -> None:
        self.clock.advance(timedelta(seconds=1))
        self.clock.advance(timedelta(**later))
        self.ps.run_once()

    def promoter(self, customer: Any) -> None:
        self.acme.record(customer, SurveyAnswered(**self.said(), survey="nps", score=10))

    def promoter_again(self, effect: UUID, customer: Any) -> None:
        """Whoever came speaks well of us because of what an effect brought."""
        self.acme.returned(effect, SurveyAnswered(**self.said(), survey="nps", score=10), customer=customer)

    def used(self, customer: Any) -> None:
        self.acme.record(customer, UsageObserved(**self.said(), feature="logins", count=1))

    def invited(self, effect: UUID, customer: Any = None) -> None:
        self.acme.returned(effect, ReferralInvited(**self.said(), referral_id="r1"), customer=customer)

    def accepted(self, effect: UUID, friend: Any, referrer: str) -> None:
        self.acme.returned(effect, ReferralAccepted(**self.said(), referral_id="r1", referrer=referrer), customer=friend)

    def converted(self, effect: UUID) -> None:
        self.acme.returned(effect, ReferralConverted(**self.said(), referral_id="r1", amount_minor=9_900, currency="EUR"))

    def effect(self, customer: Any, agent: str) -> UUID:
        """The one effect of the agent's newest decision about a customer."""
        entry = [e for e in self.acme.decisions(customer) if e.agent == agent][-1]
        (effect,) = entry.effects
        return effect

    def called(self, tool: str) -> int:
        return len(self.tools[tool].calls)
