"""The policy that the benchmarks of agents and of replay decide by. No measure here."""

from __future__ import annotations

from postsale.agents import Policy

_DUNNING = """
name = "dunning"
version = 1
owner = "benchmarks"
description = "A task for whoever's payment fails."
[inputs]
failed_payments = "integer"
mrr_minor = "integer"
segment = "text"
MORE
[[trigger]]
id = "failing"
when = { failed_payments = ">= 1" }
[[rule]]
id = "large"
when = { segment = "enterprise", mrr_minor = "> 1000000" }
action = "none"
because = "A person has it."
[[rule]]
id = "task"
when = { failed_payments = ">= 1" }
action = "task"
tool = "TOOL"
arguments = { customer = "$customer", title = "Payment failing", note = "$because" }
approval = "none"
because = "{failed_payments} failedTOLD."
[guardrails]
purpose = "service"
max_depth = 2
[[guardrails.frequency]]
count = 5
days = 30
"""


def dunning(tool: str, *, health: bool = False) -> Policy:
    """With `tool`; with `health` it reads and tells the score too, so that read models have to answer."""
    text = _DUNNING.replace("TOOL", tool)
    return Policy.from_toml(
        text.replace("MORE", 'health = "integer"' if health else "").replace("TOLD", ", health {health}" if health else "")
    )
