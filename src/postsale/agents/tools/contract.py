"""What a tool is: a versioned contract and a call. No tool lives here, and nothing here calls one.

May import errors and events. A tool knows a customer by its random reference only and looks addresses up on its own side.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from postsale.agents.guardrails import ToolRef
from postsale.errors import BadDeclaration
from postsale.events import canonical

ToolKind = Literal["idempotent", "queryable", "unsafe"]
KINDS: tuple[ToolKind, ...] = ("idempotent", "queryable", "unsafe")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}\Z")


class ToolModel(BaseModel):
    """Base for inputs and outputs: closed and strict, so that garbage is found and not passed on."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class Receipt(ToolModel):
    """The plainest output: the tool's own reference for what it did."""

    receipt: str = ""


class Tool(ABC):
    """Something that can have an effect in the world. Subclass, declare the contract, write `call`.

    kind: `idempotent` (the same key again has no second effect), `queryable` (it can be asked whether a key took effect),
    `unsafe` (neither: called at most once, and a person looks when the outcome is unknown).
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    kind: ClassVar[ToolKind]
    input: ClassVar[type[BaseModel]]
    output: ClassVar[type[BaseModel]] = Receipt
    sandbox: ClassVar[bool] = False  # True: nothing leaves the building
    timeout_s: ClassVar[float] = 30.0
    max_attempts: ClassVar[int] = 5
    backoff_s: ClassVar[float] = 2.0  # before the second attempt; doubles, at most an hour

    @abstractmethod
    def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> BaseModel:
        """Have the effect once for this key, within `timeout_s`. `arguments` is an instance of `input`.

        Raises ToolRefused (never) or ToolUnavailable (not now) when certainly nothing happened; anything else means that
        something may have happened.
        """

    def query(self, idempotency_key: str, *, timeout_s: float) -> BaseModel | None:
        """For queryable tools: the output of the call with this key when it took effect, None when it did not."""
        raise NotImplementedError

    @property
    def ref(self) -> ToolRef:
        """The contract by name, kind and digest."""
        return ToolRef(f"{self.name}@{self.version}", self.kind, contract_digest(self))


def contract_digest(tool: Tool) -> str:
    """SHA-256, hex, of name, version, kind and the JSON Schemas of input and output: what a decision relied on."""
    contract = {
        "name": tool.name,
        "version": tool.version,
        "kind": tool.kind,
        "input": tool.input.model_json_schema(),
        "output": tool.output.model_json_schema(),
    }
    return hashlib.sha256(canonical(contract)).hexdigest()


def check_tool(tool: Tool) -> None:
    """Return when the declaration can work; else BadDeclaration."""
    what = type(tool).__name__
    for attribute in ("name", "kind", "input"):
        if not hasattr(tool, attribute):
            raise BadDeclaration(what=what, reason=f"a tool declares {attribute}")
    if not _NAME.match(tool.name) or tool.version < 1:
        raise BadDeclaration(what=what, reason="name: 1 to 61 of a-z, 0-9, '.', '_', '-'; version: 1 or more")
    if tool.kind not in KINDS:
        raise BadDeclaration(what=what, reason="kind is idempotent, queryable or unsafe")
    if tool.kind == "queryable" and type(tool).query is Tool.query:
        raise BadDeclaration(what=what, reason="a queryable tool has a query method")
    if tool.max_attempts < 1 or tool.timeout_s <= 0 or tool.backoff_s < 0:
        raise BadDeclaration(what=what, reason="max_attempts ≥ 1, timeout_s > 0, backoff_s ≥ 0")
