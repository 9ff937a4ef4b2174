"""Tools: contracts with an effect in the world, their sandboxes, and the one door to them.

Deciders never import this room: replay runs without it. May import the deciding modules' types, events, errors.
"""

from postsale.agents.tools.contract import Receipt, Tool, ToolKind, ToolModel, contract_digest
from postsale.agents.tools.sandbox import Call, CreateTask, Ledger, OfferCredit, SandboxTool, SendEmail
from postsale.agents.tools.toolbox import Result, Toolbox
from postsale.errors import ToolRefused, ToolUnavailable

__all__ = [
    "Call",
    "CreateTask",
    "Ledger",
    "OfferCredit",
    "Receipt",
    "Result",
    "SandboxTool",
    "SendEmail",
    "Tool",
    "ToolKind",
    "ToolModel",
    "ToolRefused",
    "ToolUnavailable",
    "Toolbox",
    "contract_digest",
]
