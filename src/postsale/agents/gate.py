"""The gate before a tool or a planner: its rate, its circuit, the pause it asked for, the budget of retries; by name and tenant.

`admit` and `settle` are pure: state, settings and time in, state out. `Gate` keeps the state in a record beside the log, changed by
compare-and-set, so that all processes together keep to it. Lose it, and every circuit is closed and every bucket full. No effect is
decided here. May import the tool contract, the contract of the store, events.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Final, Literal, NamedTuple, Protocol
from uuid import UUID

import orjson

from postsale.agents.guardrails import ToolRef
from postsale.agents.tools.contract import Rate, Tool
from postsale.agents.tools.toolbox import Result
from postsale.events import DAY_US, SECOND_US, Clock, canonical, derive_id
from postsale.store.contract import KeyValue

GATES: Final = "tool-gates"
"""The space of these records: by tenant and tool."""

MAX_OPEN_US: Final = 3_600 * SECOND_US
MAX_PAUSE_US: Final = DAY_US
MAX_BACKOFF_S: Final = 3_600.0
_RACES: Final = 50
_CONTENDED_US: Final = 10_000

Circuit = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class GateState:
    """What is known about one tool for one tenant. Times in UTC microseconds. A bucket is the time at which it is full again."""

    failures: int = 0  # in a row
    opened: int = 0  # times in a row that the circuit opened without a success in between
    open_until_us: int = 0  # 0: closed
    probe_until_us: int = 0  # half-open: somebody is trying, until then at most
    pause_until_us: int = 0  # the tool asked for it
    calls_full_us: int = 0
    retries_full_us: int = 0
    reason: str = ""  # of the newest failure

    def circuit(self, now_us: int) -> Circuit:
        """closed: calls pass; open: none does; half-open: the next one tries, and its result decides."""
        if not self.open_until_us:
            return "closed"
        return "open" if now_us < self.open_until_us else "half-open"


class Gated(Protocol):
    """What a gate stands before: a tool, or whatever else may hang and fail, under a name and with limits."""

    @property
    def ref(self) -> ToolRef: ...
    @property
    def sandbox(self) -> bool: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def rate(self) -> Rate | None: ...
    @property
    def retry_budget(self) -> Rate | None: ...
    @property
    def breaker_after(self) -> int: ...
    @property
    def breaker_open_s(self) -> float: ...


class Admitted(NamedTuple):
    """Whether a call may be made: at `wait_us` it may be asked again; None is now, and `state` says that it was."""

    wait_us: int | None
    state: GateState


def admit(state: GateState, tool: Gated, now_us: int, *, retry: bool = False, requests: int = 1) -> Admitted:
    """Take what one call needs, or say when it can be had. Pure; all or nothing."""
    if now_us < state.pause_until_us <= now_us + MAX_PAUSE_US:
        return Admitted(state.pause_until_us, state)
    half_open = state.circuit(now_us) != "closed"
    if half_open:
        until_us = state.open_until_us if now_us < state.open_until_us else state.probe_until_us
        if now_us < until_us <= now_us + MAX_OPEN_US:  # a clock that was moved back keeps nothing closed for longer than that
            return Admitted(until_us, state)
    calls_us, wait_us = _take(state.calls_full_us, tool.rate, now_us, requests)
    if wait_us is not None:
        return Admitted(wait_us, state)
    retries_us, wait_us = _take(state.retries_full_us, tool.retry_budget if retry else None, now_us, 1)
    if wait_us is not None:
        return Admitted(wait_us, state)
    probe_us = now_us + int(2 * tool.timeout_s * SECOND_US) if half_open else state.probe_until_us
    return Admitted(None, replace(state, calls_full_us=calls_us, retries_full_us=retries_us, probe_until_us=probe_us))


def _take(full_us: int, rate: Rate | None, now_us: int, requests: int) -> tuple[int, int | None]:
    """The bucket after taking, and None; or the bucket as it was, and when there is enough in it."""
    if rate is None:
        return full_us, None
    whole_us = max(1, int(rate.per_s * SECOND_US))
    cost_us = -(-whole_us * min(requests, rate.requests) // rate.requests)
    after_us = min(max(full_us, now_us), now_us + whole_us) + cost_us  # no bucket is emptier than empty, whatever the clock did
    if after_us <= now_us + whole_us:
        return after_us, None
    return full_us, after_us - whole_us


def settle(state: GateState, tool: Gated, result: Result, now_us: int) -> GateState:
    """What a result says about the tool. An answer closes the circuit, a refusal too; being asked to wait is no failure. Pure."""
    if result.status in {"done", "refused", "absent"}:
        return replace(state, failures=0, opened=0, open_until_us=0, probe_until_us=0, reason="")
    if result.retry_after_s is not None:
        pause_us = min(MAX_PAUSE_US, max(0, int(result.retry_after_s * SECOND_US)))
        state = replace(state, pause_until_us=max(now_us + pause_us, state.pause_until_us if state.pause_until_us > now_us else 0))
        if not result.ambiguous:
            return replace(state, probe_until_us=0, reason=result.reason)
    failures, circuit = state.failures + 1, state.circuit(now_us)
    if circuit == "open" or (circuit == "closed" and failures < tool.breaker_after):  # open: a call that was under way before
        return replace(state, failures=failures, reason=result.reason)
    open_us = min(MAX_OPEN_US, int(tool.breaker_open_s * SECOND_US) * 2 ** min(state.opened, 20))
    return replace(
        state, failures=failures, opened=state.opened + 1, open_until_us=now_us + open_us, probe_until_us=0, reason=result.reason
    )


def pause_s(tool: Tool, intent_id: UUID, attempt: int, retry_after_s: float | None = None) -> float:
    """Seconds before the attempt after `attempt`: from half of the doubled backoff to all of it, after what the tool asked for.

    Where in that range is drawn from the effect's id and the attempt: spread over effects, and the same whenever it is asked.
    """
    longest_s: float = min(MAX_BACKOFF_S, tool.backoff_s * 2 ** min(attempt - 1, 40))
    draw: float = derive_id(intent_id, "pause", attempt).int / 2**128
    if retry_after_s is None:
        return longest_s * (1 + draw) / 2
    return min(MAX_PAUSE_US / SECOND_US, max(0.0, retry_after_s)) + tool.backoff_s * draw


class Gate:
    """The gates of one log. Thread-safe; shared by every process over that log. Sandboxes have none."""

    def __init__(self, kv: KeyValue, clock: Clock) -> None:
        self._kv = kv
        self._clock = clock

    def state(self, tenant: str, tool: str) -> GateState:
        """What is known about a tool, by `name@version`."""
        return self._load(tenant, tool)[0]

    def states(self, tenant: str) -> dict[str, GateState]:
        """Every tool of which anything is known, by name."""
        return {kept.key: _parse(kept.value) for kept in self._kv.scan(GATES, tenant)}

    def admit(self, tenant: str, tool: Gated, *, retry: bool, requests: int) -> int | None:
        """Take what one call needs and return None, or return when to ask again (UTC microseconds)."""
        if tool.sandbox:
            return None
        for _ in range(_RACES):
            state, revision = self._load(tenant, tool.ref.name)
            wait_us, after = admit(state, tool, self._clock.now_us(), retry=retry, requests=requests)
            if wait_us is not None:
                return wait_us
            if after == state or self._keep(tenant, tool, after, revision):
                return None
        return self._clock.now_us() + _CONTENDED_US

    def next_us(self, tenant: str, tool: Gated, *, retry: bool, requests: int = 1) -> int:
        """When a call may be made as things stand; 0 when now. Takes nothing."""
        if tool.sandbox:
            return 0
        return admit(self.state(tenant, tool.ref.name), tool, self._clock.now_us(), retry=retry, requests=requests).wait_us or 0

    def settle(self, tenant: str, tool: Gated, result: Result) -> None:
        """Remember what a result says about the tool. Costs a read, and a write when anything changed."""
        if tool.sandbox:
            return
        for _ in range(_RACES):
            state, revision = self._load(tenant, tool.ref.name)
            after = settle(state, tool, result, self._clock.now_us())
            if after == state or self._keep(tenant, tool, after, revision):
                return

    def _load(self, tenant: str, tool: str) -> tuple[GateState, int]:
        kept = self._kv.get(GATES, tenant, tool)
        return (GateState(), 0) if kept is None else (_parse(kept.value), kept.revision)

    def _keep(self, tenant: str, tool: Gated, state: GateState, revision: int) -> bool:
        return self._kv.put(GATES, tenant, tool.ref.name, canonical(asdict(state)), expected=revision) is not None


def _parse(raw: bytes) -> GateState:
    """A record that cannot be read says nothing."""
    try:
        return GateState(**orjson.loads(raw))
    except (ValueError, TypeError):
        return GateState()
