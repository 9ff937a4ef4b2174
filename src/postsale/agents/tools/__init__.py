"""Tools: contracts with an effect in the world, their sandboxes, and the one door to them.

Deciders never import this room: replay runs without it. May import the deciding modules' types, events, errors.
"""

from postsale.agents.tools.contract import Rate, Receipt, RiskTier, Tool, ToolKind, ToolModel, Undo, contract_digest
from postsale.agents.tools.sandbox import Call, CloseTask, CreateTask, Ledger, OfferCredit, SandboxTool, SendEmail, WithdrawCredit
from postsale.agents.tools.toolbox import Result, Toolbox
from postsale.errors import ToolRefused, ToolUnavailable, ToolUncertain

__all__ = [
    "Call",
    "CloseTask",
    "CreateTask",
    "Ledger",
    "OfferCredit",
    "Rate",
    "Receipt",
    "Result",
    "RiskTier",
    "SandboxTool",
    "SendEmail",
    "Tool",
    "ToolKind",
    "ToolModel",
    "ToolRefused",
    "ToolUnavailable",
    "ToolUncertain",
    "Toolbox",
    "Undo",
    "WithdrawCredit",
    "contract_digest",
]
