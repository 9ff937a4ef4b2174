"""What a tool is: a versioned contract and a call. No tool lives here, and nothing here calls one.

May import errors and events. A tool knows a customer by its random reference only and looks addresses up on its own side.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from postsale.agents.guardrails import ToolRef
from postsale.errors import BadDeclaration
from postsale.events import canonical

ToolKind = Literal["idempotent", "queryable", "unsafe"]
KINDS: tuple[ToolKind, ...] = ("idempotent", "queryable", "unsafe")
RiskTier = Literal["low", "medium", "high"]
RISK_TIERS: tuple[RiskTier, ...] = ("low", "medium", "high")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}\Z")
_NAMED = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}@[1-9][0-9]{0,5}\Z")
_FROM_ARGUMENTS = "$arguments."


class Rate(NamedTuple):
    """At most `requests` at once, and as many more in every `per_s` seconds, evenly."""

    requests: int
    per_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Undo:
    """The tool that takes an effect back, and how its arguments follow from that effect.

    `arguments`: name -> `$receipt` (what the tool answered), `$intent` (the effect's id), `$arguments.NAME` (what it was called
    with), or a plain value.
    """

    tool: str  # name@version
    arguments: Mapping[str, str | int | bool]
    within_s: float | None = None  # after the effect it can be taken back for so long; None: for ever

    def of(self, arguments: Mapping[str, Any], *, receipt: str, intent_id: str) -> dict[str, Any]:
        """The arguments that take back one effect. Pure. KeyError for an argument that the effect was not given."""
        whole: dict[str, Any] = {"$receipt": receipt, "$intent": intent_id}
        out: dict[str, Any] = {}
        for name, value in self.arguments.items():
            if isinstance(value, str) and value.startswith(_FROM_ARGUMENTS):
                out[name] = arguments[value.removeprefix(_FROM_ARGUMENTS)]
            else:
                out[name] = whole.get(value, value) if isinstance(value, str) else value
        return out


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
    A worker that stands still exactly before the last piece of its request, until another one took over (300 s after the claim, or three
    times the longest time-out), sends it late. What becomes of it is the other side's to say: an idempotent one knows the key; an
    unsafe one was not called by anybody else; of a queryable one there are two effects, unless it gives up a request that is not whole
    within those 300 s, as servers do that bound reading a request, or takes each key once, and then it is idempotent.
    Name, version, kind, input, output, risk tier and undo are what a decision relies on; the rest says how it is dispatched and may
    change at any time. Limits hold per tool and tenant, for all processes together.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    kind: ClassVar[ToolKind]
    input: ClassVar[type[BaseModel]]
    output: ClassVar[type[BaseModel]] = Receipt
    risk_tier: ClassVar[RiskTier] = "medium"  # how bad a wrong effect is
    undo: ClassVar[Undo | None] = None  # None: it cannot be taken back
    by_hand: ClassVar[str] = ""  # what a person does where the software cannot take it back; a sentence

    sandbox: ClassVar[bool] = False  # True: nothing leaves the building
    timeout_s: ClassVar[float] = 30.0
    max_attempts: ClassVar[int] = 5
    backoff_s: ClassVar[float] = 2.0  # before the second attempt, at most; doubles, at most an hour
    rate: ClassVar[Rate | None] = None  # requests; None: as fast as effects are due
    retry_budget: ClassVar[Rate] = Rate(60, 60.0)  # second and later attempts at all effects together
    breaker_after: ClassVar[int] = 5  # failures in a row that open the circuit
    breaker_open_s: ClassVar[float] = 30.0  # until one call tries again; doubles, at most an hour
    key_lives_s: ClassVar[float | None] = None  # for how long the other side remembers a key; None: for ever

    @abstractmethod
    def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> BaseModel:
        """Have the effect once for this key, within `timeout_s`. `arguments` is an instance of `input`.

        Raises ToolRefused (never) or ToolUnavailable (not now) when certainly nothing happened; ToolUncertain, and anything else,
        when something may have happened.
        """

    def query(self, idempotency_key: str, *, timeout_s: float) -> BaseModel | None:
        """For queryable tools: the output of the call with this key when it took effect, None when it did not and will not any more.

        Whoever says None while a request that was given up may still be carried out will be called a second time: raise ToolUncertain.
        """
        raise NotImplementedError

    @cached_property
    def ref(self) -> ToolRef:
        """The contract by name, kind and digest; computed once, because schemas take long to make."""
        return ToolRef(f"{self.name}@{self.version}", self.kind, contract_digest(self), self.risk_tier)


def contract_digest(tool: Tool) -> str:
    """SHA-256, hex, of name, version, kind, the JSON Schemas of input and output, risk tier and undo: what a decision relied on."""
    contract: dict[str, Any] = {
        "name": tool.name,
        "version": tool.version,
        "kind": tool.kind,
        "input": tool.input.model_json_schema(),
        "output": tool.output.model_json_schema(),
    }
    if tool.risk_tier != Tool.risk_tier:  # left out where it says nothing: contracts from before there were tiers keep their digest
        contract["risk_tier"] = tool.risk_tier
    if tool.undo is not None:
        contract["undo"] = {"tool": tool.undo.tool, "arguments": dict(tool.undo.arguments)}
        if tool.undo.within_s is not None:
            contract["undo"]["within_s"] = repr(float(tool.undo.within_s))
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
    if tool.breaker_after < 1 or tool.breaker_open_s <= 0 or (tool.key_lives_s is not None and tool.key_lives_s <= 0):
        raise BadDeclaration(what=what, reason="breaker_after ≥ 1, breaker_open_s > 0, key_lives_s > 0 or None")
    for rate in (tool.rate, tool.retry_budget):
        if rate is not None and not (1 <= rate.requests <= 1_000_000 and 0.001 <= rate.per_s <= 86_400):
            raise BadDeclaration(what=what, reason="a rate has 1 to 1,000,000 requests per 0.001 to 86,400 seconds")
    if tool.risk_tier not in RISK_TIERS:
        raise BadDeclaration(what=what, reason="risk_tier is low, medium or high")
    if tool.undo is not None:
        _check_undo(what, tool, tool.undo)


def _check_undo(what: str, tool: Tool, undo: Undo) -> None:
    if not _NAMED.match(undo.tool):
        raise BadDeclaration(what=what, reason="undo names a tool as name@version")
    if undo.within_s is not None and undo.within_s <= 0:
        raise BadDeclaration(what=what, reason="undo's within_s > 0, or None")
    for name, value in undo.arguments.items():
        if not isinstance(value, str) or not value.startswith("$") or value in ("$receipt", "$intent"):
            continue
        if not value.startswith(_FROM_ARGUMENTS) or value.removeprefix(_FROM_ARGUMENTS) not in tool.input.model_fields:
            raise BadDeclaration(what=what, reason=f"undo's {name} is $receipt, $intent, $arguments.NAME of an input, or a plain value")


def check_undo_fits(tool: Tool, other: Tool | None) -> None:
    """Return when `other`, the tool that takes back what `tool` did, is there and takes the arguments given; else BadDeclaration."""
    if tool.undo is None:
        return
    what = type(tool).__name__
    if other is None:
        raise BadDeclaration(what=what, reason=f"its undo, {tool.undo.tool}, is not among the tools")
    fields = other.input.model_fields
    for name in tool.undo.arguments:
        if name not in fields:
            raise BadDeclaration(what=what, reason=f"{tool.undo.tool} takes no {name}")
    for name, info in fields.items():
        if info.is_required() and name not in tool.undo.arguments:
            raise BadDeclaration(what=what, reason=f"{tool.undo.tool} needs {name}")
