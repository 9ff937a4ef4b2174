"""A planner that is a function, inside a policy, tested as agents are: nothing leaves, and no model is asked."""

from datetime import UTC, datetime
from pathlib import Path

from postsale.agents import Agent, FunctionPlanner, Policy, Prompt, Question
from postsale.aggregates.signals import InvoicePaymentFailed, TicketOpened
from postsale.testing import decision, effect, given

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def think(question: Question) -> dict[str, str]:
    if any(fact["fields"]["priority"] == "urgent" for fact in question.facts):
        return {"option": "call", "rationale": "They asked for help and cannot pay.", "note": "An urgent ticket is open."}
    return {"option": "wait", "rationale": "Nothing urgent."}


listen = Prompt(name="listen", version=1, owner="anna", description="How to listen.", instructions="Decide whether somebody should call.")
agent = Agent(Policy.load(Path(__file__).with_suffix(".toml")), planners=[FunctionPlanner("thinker", think)], prompts=[listen])
failed = InvoicePaymentFailed(source="billing", id="e1", occurred_at=NOON, amount_minor=4900, currency="EUR", attempt=3)
story = given(agent, ("cus_42", TicketOpened(source="desk", id="t1", occurred_at=NOON, ticket_id="t1", priority="urgent")), at=NOON)
called = effect("crm.create_task@1", customer="cus_42", title="Call them", note="An urgent ticket is open.")
story.when(("cus_42", failed)).then(decision("cus_42", "acted", "call"), effects=[called])
print(story.entries[0].recorded.rationale)
