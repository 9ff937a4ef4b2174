"""The gate before planners: the circuit of tools, and how many questions an agent that only observes may ask.

Lives here: what a planner is to the gate. The mechanism is `gate`, its state beside the log. May import the gate, tools, events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from postsale.agents.gate import Gate, GateState
from postsale.agents.guardrails import ToolRef
from postsale.agents.planner import Answer
from postsale.agents.tools.contract import Rate, Tool
from postsale.agents.tools.toolbox import Result
from postsale.events import DAY_US, SECOND_US, iso

OBSERVED_PER_DAY: Final = 100  # questions of an agent that observes, to one planner, where its policy says nothing
_PLANNER: Final = "planner:"
_OBSERVED: Final = "observed:"


@dataclass(frozen=True, slots=True)
class _Guarded:
    """A planner, or an agent's budget of questions, as the gate sees it."""

    ref: ToolRef
    timeout_s: float = 1.0
    rate: Rate | None = None
    sandbox: bool = False
    retry_budget: Rate | None = None  # attempts are bounded by the policy
    breaker_after: int = Tool.breaker_after
    breaker_open_s: float = Tool.breaker_open_s


def _planner(name: str, timeout_s: float) -> _Guarded:
    return _Guarded(ToolRef(f"{_PLANNER}{name}", "idempotent", ""), timeout_s)


def shut(gate: Gate, tenant: str, planner: str, timeout_s: float) -> str:
    """Why a planner may not be asked now; "" when it may, and then the caller asks it: half-open, that is the one question that tries."""
    until_us = gate.admit(tenant, _planner(planner, timeout_s), retry=False, requests=1)
    if until_us is None:
        return ""
    state = gate.state(tenant, f"{_PLANNER}{planner}")
    return f"its circuit is open until {iso(until_us)}, after {state.failures} failures in a row, the newest: {state.reason}"


def spent(gate: Gate, tenant: str, agent: str, planner: str, per_day: int | None) -> str:
    """Why an agent that observes may not ask now; "" when it may, and then one of its questions is taken."""
    most = OBSERVED_PER_DAY if per_day is None else per_day
    if most == 0:
        return "while it observes, its policy has it ask nothing"
    guard = _Guarded(ToolRef(f"{_OBSERVED}{agent}/{planner}", "idempotent", ""), rate=Rate(most, DAY_US / SECOND_US))
    if gate.admit(tenant, guard, retry=False, requests=1) is None:
        return ""
    return f"while it observes it asks {most} times a day, and those are used up"


def settle(gate: Gate, tenant: str, planner: str, timeout_s: float, said: Answer | str) -> None:
    """Remember that a planner answered, with whatever; or that it did not: the kind of fault."""
    result = Result("retry", said, ambiguous=True) if isinstance(said, str) else Result("done")
    gate.settle(tenant, _planner(planner, timeout_s), result)


def planner_gates(gate: Gate, tenant: str) -> dict[str, GateState]:
    """Every planner of which anything is known, by name."""
    return {name.removeprefix(_PLANNER): state for name, state in gate.states(tenant).items() if name.startswith(_PLANNER)}


def is_tool(name: str) -> bool:
    """Whether a gate stands before a tool."""
    return not name.startswith((_PLANNER, _OBSERVED))
