"""A process that takes the whole chain further and dies at a step of it by SIGKILL: `python -m tests.agents.killed_chain`, a JSON line per run.

Fact, triggers, evidence, a planner's question and answer, decisions, an edit, an escalation, a delegate's and a second person's yes,
claims, tools, callbacks, outcomes, an undo. Each pass does what people and sources would do again after a crash, and nothing that is
done. Steps are those of `killed_dispatch`, the planner's asking and each write of a view.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import traceback
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from postsale.access import Person
from postsale.agents import Agent, FunctionPlanner, Policy, Prompt, Question
from postsale.agents.escrow import Escrow
from postsale.agents.tools import Receipt, Tool, ToolKind, ToolModel
from postsale.agents.tools.contract import Undo
from postsale.agents.tools.sandbox import Credit, Task
from postsale.aggregates.signals import AccountProfiled, InvoicePaid, InvoicePaymentFailed, SubscriptionStarted
from postsale.app import PostSale, Tenant
from postsale.errors import ApprovalRefused, LeaseHeld, ToolRefused, ToolUncertain, UndoRefused
from postsale.projections.journal import Entry
from postsale.testing.engine_site import FileClock
from tests.agents.killed_dispatch import Steps
from tests.agents.planned import PROMPT
from tests.agents.planned import policy as planned
from tests.agents.test_approval_rules import ladder
from tests.agents.world import ANNA, NOON

BEN, CARA, DORA, EMIL = (Person(name, "token") for name in ("ben", "cara", "dora", "emil"))
ANSWER = {"option": "credit", "rationale": "They asked twice.", "amount": 400}
SPENT = {"retention": 400, "rescue": 3_000, "mail": 2, "risk:dunning": 5, "risk:saver": 5}  # a customer
GIVEN_BACK = {"rescue": 4_900, "mail": 1, "risk:dunning": 5}  # of the proposal that was edited
SHARED = """[[budget]]
name = "mail"
unit = "contacts"
channel = "email"
limit = 100
per = "day"

[[budget]]
name = "risk"
unit = "risk"
weights = { low = 1, medium = 5, high = 20 }
limit = 100
per = "day"
of = "agent"

"""
LADDER = ladder(people=2).replace('name = "retention"\nunit = "EUR"\nlimit = 10000', 'name = "rescue"\nunit = "EUR"\nlimit = 100000')
LADDER = LADDER.replace("[outcome]", SHARED + "[outcome]")
SAVER = planned(
    ("limit = 1000", "limit = 100000"),
    ("billing.offer_credit@1", "shop.gift@1"),
    ("[guardrails]\n", '[outcome]\non = ["billing/invoice-paid"]\nwithin_days = 14\n\n' + SHARED + "[guardrails]\n"),
)


class Back(ToolModel):
    customer: str
    key: str


class _Shop(Tool):
    """POSTs its key and asks for it again by GET."""

    breaker_after = max_attempts = 50
    timeout_s = 5.0

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc

    def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Receipt:
        status = self._said("POST", idempotency_key, timeout_s)
        if status >= 500:
            raise ToolUncertain(tool=self.ref.name, reason=f"status {status}")
        if status != 200:
            raise ToolRefused(tool=self.ref.name, reason=f"status {status}")
        return Receipt(receipt=idempotency_key)

    def query(self, idempotency_key: str, *, timeout_s: float) -> Receipt | None:
        status = self._said("GET", idempotency_key, timeout_s)
        if status not in {200, 404}:  # it does not say that nothing happened
            raise ToolUncertain(tool=self.ref.name, reason=f"status {status}")
        return Receipt(receipt=idempotency_key) if status == 200 else None

    def _said(self, method: str, key: str, timeout_s: float) -> int:
        connection = http.client.HTTPConnection(self._address, timeout=timeout_s)
        try:
            connection.request(method, f"/{self.name}", headers={"Idempotency-Key": key})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException) as error:
            raise ToolUncertain(tool=self.ref.name, reason=type(error).__name__) from None
        finally:
            connection.close()


class OfferCredit(_Shop):
    name, version, input = "billing.offer_credit", 1, Credit
    kind: ClassVar[ToolKind] = "queryable"
    undo = Undo("shop.back@1", {"customer": "$arguments.customer", "key": "$intent"})


class Gift(_Shop):
    name, version, input = "shop.gift", 1, Credit
    kind: ClassVar[ToolKind] = "idempotent"
    undo = Undo("shop.back@1", {"customer": "$arguments.customer", "key": "$intent"})


class GiveBack(_Shop):
    name, version, input = "shop.back", 1, Back
    kind: ClassVar[ToolKind] = "idempotent"


class CreateTask(_Shop):
    name, version, input = "crm.create_task", 1, Task
    kind: ClassVar[ToolKind] = "idempotent"


def opened(folder: Path, tools: str, url: str = "", schema: str = "postsale", step: Any = lambda: None, **more: Any) -> PostSale:
    def answer(_: Question) -> dict[str, Any]:
        step()
        return ANSWER

    saver = Agent(SAVER, planners=[FunctionPlanner("retention", answer)], prompts=[Prompt.from_toml(PROMPT)])
    return PostSale.open(
        url or f"sqlite:///{folder / 'log.db'}",
        agents=[Agent(Policy.from_toml(LADDER)), saver],
        tools=[OfferCredit(tools), Gift(tools), GiveBack(tools), CreateTask(tools)],
        sandbox=False,
        clock=FileClock(folder / "clock"),
        keys=folder / "log.keys" if url else None,
        schema=schema,
        escrow=Escrow() if url else None,
        **more,
    )


def prepare(ps: PostSale, customers: int) -> None:
    """What is there before anything happens: customers, roles, a delegation, agents that may act."""
    acme, begin = ps.tenant("acme"), NOON
    for n in range(customers):
        c = f"cus_{n}"
        acme.record(c, AccountProfiled(source="s", id=f"a{n}", occurred_at=NOON, segment="vip"))
        subscribed = {"subscription_id": "s", "mrr_minor": 4900, "interval": "month", "currency": "EUR", "effective_at": NOON}
        acme.record(c, SubscriptionStarted(source="s", id=f"s{n}", occurred_at=NOON, **subscribed))
        acme.consent(c, "email", "service", evidence="form")
    ps.run_once()
    for name in ("dunning", "saver"):
        acme.agent(name).act(reason="test", by=ANNA)
    for login, role in (("anna", "cs-head"), ("dora", "cs-head"), ("ben", "cs-lead")):
        acme.authority.grant(login, role, reason="staff list", by=CARA)
    acme.authority.delegate("emil", "cs-head", begin=begin, end=begin + timedelta(days=9), reason="on leave", by=ANNA)


def go(ps: PostSale, customers: int) -> bool:
    """One pass over everybody; whether nothing is left to be done."""
    acme = ps.tenant("acme")
    for n in range(customers):
        fact = {"source": "s", "id": f"f{n}", "occurred_at": NOON, "amount_minor": 4900, "currency": "EUR"}
        acme.record(f"cus_{n}", InvoicePaymentFailed(**fact))
    run(ps)
    for n in range(customers):
        for entry in acme.decisions(f"cus_{n}"):
            with suppress(ApprovalRefused):
                answer(acme, entry)
    run(ps)
    for n in range(customers):
        acted = [e for e in acme.decisions(f"cus_{n}") if set(e.effects.values()) == {"succeeded"}]
        for e in acted if len(acted) == 2 else ():
            (key,), at = e.effects, e.recorded.decided_at + timedelta(seconds=1)
            paid = {"source": "shop", "id": f"paid-{key}", "occurred_at": at, "amount_minor": 4900, "currency": "EUR"}
            acme.returned(key, InvoicePaid(**paid))
    run(ps)
    outcomes = [e.outcome for n in range(customers) for e in acme.decisions(f"cus_{n}") if e.disposition == "acted"]
    if outcomes != ["success"] * 2 * customers:
        return False
    done = [take_back(acme, policy.digest) for policy in (Policy.from_toml(LADDER), SAVER)]  # each of them
    return all(done)


def run(ps: PostSale) -> None:
    with suppress(LeaseHeld):
        report = ps.run_once(wait_s=0)
        assert not report.problems, report.problems


def answer(acme: Tenant, entry: Entry) -> None:
    id_, flags = entry.id, entry.recorded.flags or {}
    if entry.disposition != "awaiting":
        return
    if entry.recorded.agent == "saver":
        acme.approve(id_, reason="fine", by=ANNA)
    elif "edit.replaces" not in flags:
        acme.edit(id_, amount_minor=3_000, reason="less will do", by=BEN)
    else:
        asked = acme._ps.log.customer(acme._ps.decision_stream(acme.name, id_)).decisions[id_].asked
        if asked is not None and asked.level == 0:
            acme.escalate(id_, reason="too much for me", by=CARA)
        for person in (EMIL, DORA):
            with suppress(ApprovalRefused):
                acme.approve(id_, reason="fine", by=person)


def take_back(acme: Tenant, policy: str) -> bool:
    with suppress(UndoRefused):
        found = [u for u in acme.undos.list() if u.proposed.name == policy]
        if any(u.state.status == "finished" for u in found):
            return True
        undo = next((u for u in found if u.state.open), None) or acme.undos.propose(policy=policy, by=ANNA)[0]
        if undo.state.status == "proposed":
            undo = acme.undos.approve(undo.id, reason="test", by=ANNA)
        return acme.undos.run(undo.id).state.status == "finished"
    return False


def work(folder: str, tools: str, customers: int, die_at: int, url: str = "", schema: str = "postsale") -> int:
    steps = Steps(0)
    with opened(Path(folder), tools, url, schema, steps.step) as ps:
        steps.before(ps.log.store, "append")
        steps.before(ps.log.store.kv, "put")
        steps.before(ps.views, "write")
        steps.before(_Shop, "_said")
        steps.before(socket.socket, "sendall", "recv_into")
        steps.done, steps.die_at = 0, die_at
        done = go(ps, customers)
        steps.step()
    return 0 if done else 3


def main() -> None:
    for line in sys.stdin:
        orders: list[dict[str, Any]] = json.loads(line)
        children = []
        for order in orders:
            child = os.fork()
            if not child:
                try:
                    os._exit(work(**order))
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            children.append(child)
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        sys.stdout.write(json.dumps(ends) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
