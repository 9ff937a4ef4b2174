"""A world whose policy hands over to a planner: what tests of planners share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from postsale.agents import Agent, FunctionPlanner, Policy, Prompt, Question
from postsale.agents.planner import Reply
from postsale.agents.rederive import Rederived, rederive
from postsale.aggregates.decisions import DecisionRecorded
from postsale.aggregates.plans import PlanReceived, PlanRequested
from postsale.aggregates.signals import TicketOpened
from postsale.events import StoredEvent
from tests.agents.world import World

PLANNED = """
name = "saver"
version = 1
owner = "cs"
description = "Look at each account one by one."

[inputs]
failed_payments = "integer"
segment = "text"
seats = "integer"

[[trigger]]
id = "failing"
when = { failed_payments = ">= 1" }

[[rule]]
id = "small"
when = { segment = "smb" }
action = "none"
because = "Small accounts are left alone."

[[rule]]
id = "judge"
action = "plan"
because = "{failed_payments} failed."

[rule.plan]
planner = "retention"
prompt = "retention@3"
options = ["credit", "call", "wait", "vip-gift"]
evidence = ["failed_payments", "segment"]
window_days = 30
max_age_days = 31
most = 3
max_answer_chars = 600
attempts = 2

[rule.plan.facts]
"ticketing/ticket-opened" = ["priority", "subject"]

[rule.plan.slots]
note = { type = "text", max_chars = 200 }
amount = { type = "integer", min = 0, max = 500 }

[[option]]
id = "credit"
action = "offer"
tool = "billing.offer_credit@1"
channel = "email"
offer = { kind = "credit", amount_minor = "$plan.amount", currency = "EUR", terms = "Once." }
authority_limit_minor = 300
arguments = { customer = "$customer", amount_minor = "$offer.amount_minor", currency = "EUR", terms = "$offer.terms" }
because = "A credit may help."

[[option]]
id = "call"
action = "task"
tool = "crm.create_task@1"
arguments = { customer = "$customer", title = "Call", note = "$plan.note" }
because = "A person should call."

[[option]]
id = "wait"
action = "none"
because = "Nothing to do."

[[option]]
id = "vip-gift"
when = { segment = "vip" }
action = "gift"
tool = "crm.create_task@1"
arguments = { customer = "$customer", title = "Send flowers" }
because = "VIPs get flowers."

[guardrails]
purpose = "service"
approval_expires_h = 48

[[budget]]
name = "retention"
unit = "EUR"
limit = 1000
per = "month"
"""

PROMPT = """
name = "retention"
version = 3
owner = "cs"
description = "How to keep a customer."
variables = ["failed_payments", "segment"]
instructions = \"\"\"
You keep customers. {failed_payments} payments failed; their segment is {segment}.
\"\"\"
"""

CALL = {"option": "call", "rationale": "They asked twice.", "note": "Say hello."}
OTHERWISE = (
    ("max_answer_chars = 600", 'max_answer_chars = 600\notherwise = "human"'),
    ('options = ["credit"', 'options = ["human", "credit"'),
    (
        "[guardrails]\n",
        '[[option]]\nid = "human"\naction = "task"\ntool = "crm.create_task@1"\n'
        'arguments = { customer = "$customer", title = "Look at it", note = "$because" }\nbecause = "A person looks."\n\n[guardrails]\n',
    ),
)


def policy(*changes: tuple[str, str]) -> Policy:
    text = PLANNED
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return Policy.from_toml(text)


class Scripted:
    """A planner's function that says what it is told to, and keeps what it was asked. An exception is raised."""

    def __init__(self, *replies: Reply | BaseException | Callable[[Question], Reply]) -> None:
        self.replies = list(replies)
        self.asked: list[Question] = []

    def __call__(self, question: Question) -> Reply:
        self.asked.append(question)
        reply = self.replies[min(len(self.asked), len(self.replies)) - 1]
        if isinstance(reply, BaseException):
            raise reply
        return reply(question) if callable(reply) else reply


def agent(said: Callable[[Question], Reply], *changes: tuple[str, str]) -> Agent:
    return Agent(policy(*changes), planners=[FunctionPlanner("retention", said)], prompts=[Prompt.from_toml(PROMPT)])


class Planned(World):
    """One customer with failing payments, an agent that may act, and what its planner says."""

    def __init__(self, *replies: Any, changes: tuple[tuple[str, str], ...] = (), mode: str = "act", **world: Any) -> None:
        self.said = Scripted(*(replies or (CALL,)))
        super().__init__([agent(self.said, *changes)], **world)
        self.mode(mode, "saver")

    def ticket(self, subject: str | None = None, ref: str = "c1", **more: Any) -> StoredEvent:
        return self.says(TicketOpened, ref, ticket_id=f"t{next(self.numbers)}", subject=subject, **more)

    def decided(self, ref: str = "c1") -> DecisionRecorded:
        """What becomes of a failed payment."""
        self.attend(self.failed(ref), ref)
        return self.decisions(ref)[-1]

    def questions(self, ref: str = "c1") -> list[PlanRequested]:
        return [r.data for r in self.events(ref) if isinstance(r.data, PlanRequested)]

    def answers(self, ref: str = "c1") -> list[PlanReceived]:
        return [r.data for r in self.events(ref) if isinstance(r.data, PlanReceived)]

    def again(self, event: DecisionRecorded, *, erased: bool = False) -> Rederived:
        """The decision made again from the log alone."""
        named = event.flags.get("plan.received")
        answer = None
        if named is not None and not erased:
            said = self.engine.desk.event(self.tenant, UUID(str(named)))
            assert isinstance(said, PlanReceived)
            answer = said.answer if said.status == "answered" and isinstance(said.answer, str) else None
        arguments = event.arguments if isinstance(event.arguments, str) and not erased else None
        active, _ = self.engine.desk.active_policy(self.tenant, "saver")
        assert active is not None
        return rederive(event, arguments, active, self.engine.desk.mac(self.tenant), answer)
