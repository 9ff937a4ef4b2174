"""An agent under a policy file of your own. It observes: it decides, and nothing leaves."""

from datetime import UTC, datetime
from pathlib import Path

from postsale import PostSale
from postsale.agents import Agent, Policy
from postsale.aggregates.signals import InvoicePaymentFailed

policy = Policy.load(Path(__file__).with_name("custom_policy.toml"))
print(policy)

with PostSale.open("memory:", agents=[Agent(policy)]) as ps:
    acme = ps.tenant("acme")
    at = datetime.now(UTC)
    acme.record("cus_42", InvoicePaymentFailed(source="billing", id="evt_1", occurred_at=at, amount_minor=4900, currency="EUR", attempt=3))
    ps.run_once()
    print(acme.explain(acme.decisions("cus_42")[-1].id))
