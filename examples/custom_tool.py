"""A tool of one's own: a contract and a call. Nothing leaves the building until somebody says sandbox=False."""

from postsale import PostSale
from postsale.agents import Agent, Policy
from postsale.agents.tools import Receipt, Tool, ToolModel


class Task(ToolModel):
    customer: str
    title: str
    note: str = ""


class Board(Tool):
    name, version, kind, input = "crm.create_task", 1, "idempotent", Task

    def call(self, arguments: Task, *, idempotency_key: str, **_: object) -> Receipt:
        return Receipt(receipt=f"card {idempotency_key[:8]} for {arguments.customer}")


policy = Policy.load(__file__.replace("custom_tool.py", "custom_policy.toml"))
with PostSale.open("memory:", agents=[Agent(policy)], tools=[Board()], sandbox=False) as ps:
    print(ps.run_once())
