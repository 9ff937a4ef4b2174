"""A tool of your own: a contract and a call. Without `sandbox=False` a recorder stands in for it, and nothing leaves."""

from datetime import UTC, datetime
from pathlib import Path

from postsale import PostSale
from postsale.agents import Agent, Policy
from postsale.agents.tools import Receipt, Tool, ToolModel
from postsale.aggregates.signals import InvoicePaymentFailed


class Card(ToolModel):
    customer: str  # the customer's random reference; look the name up on your side
    title: str
    note: str


class Board(Tool):
    name, version, kind, input = "crm.create_task", 1, "idempotent", Card

    def call(self, arguments: Card, *, idempotency_key: str, timeout_s: float) -> Receipt:
        print(f"your CRM is called here, within {timeout_s:g} s: {arguments.title}")
        return Receipt(receipt=f"card-{idempotency_key[:8]}")  # the same key again must not make a second card


policy = Policy.load(Path(__file__).with_name("custom_policy.toml"))
with PostSale.open("memory:", agents=[Agent(policy)], tools=[Board()], sandbox=False) as ps:
    acme = ps.tenant("acme")
    acme.agent("kind-words").act(reason="tried on a copy first")
    at = datetime.now(UTC)
    acme.record("cus_42", InvoicePaymentFailed(source="billing", id="evt_1", occurred_at=at, amount_minor=4900, currency="EUR", attempt=3))
    ps.run_once()
    print(acme.explain(acme.decisions("cus_42")[-1].id))
