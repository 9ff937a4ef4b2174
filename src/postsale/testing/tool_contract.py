"""The claims that every tool over HTTP must hold, against a real server on this machine that misbehaves. Needs pytest.

Subclass `ToolContract`, say how your tool is made and how the other side behaves, and run it. What counts is the other side's own
record: each effect once, of an unsafe tool at most once.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import ClassVar
from uuid import UUID, uuid4

import pytest

from postsale.access import FileVault, Person
from postsale.agents import Agent, Policy
from postsale.agents.engines import EmbeddedEngine
from postsale.agents.tools import Result, Tool, Toolbox
from postsale.aggregates.decisions import DecisionRecorded
from postsale.aggregates.identity import customer_stream
from postsale.aggregates.signals import InvoicePaymentFailed
from postsale.events import Lane, ManualClock, canonical
from postsale.store import MemoryStore, Query
from postsale.store.log import Cause, Log
from postsale.testing.tool_server import AFTER, BEFORE, CANARY, FAULTS, LIES, Shape, ToolServer

_START = datetime(2026, 1, 5, 12, tzinfo=UTC)
_VISITS = 40
_QUICK = tuple(fault for fault in FAULTS if not fault.startswith(("hang", "drip")))
_THRICE = ("429", "500", "close", "500-after", "close-after", "half-after", *LIES)


class ToolContract(ABC):
    """Subclass it as `class TestMyTool(ToolContract)`, with `arguments`, `make_tool` and `make_shape`."""

    arguments: ClassVar[Mapping[str, str | int | bool]]
    timeout_s: ClassVar[float] = 0.5  # what a hanging server costs each test

    @abstractmethod
    def make_tool(self, url: str) -> Tool:
        """Your tool, set up for a server at `url`."""

    @abstractmethod
    def make_shape(self) -> Shape:
        """The other side: what it answers, and the record of effects that counted there, by the tool's idempotency key."""

    # ------------------------------------------------------------ given

    @pytest.fixture
    def server(self) -> Iterator[ToolServer]:
        with ToolServer(self.make_shape()) as server:
            yield server

    @pytest.fixture
    def tool(self, server: ToolServer) -> Iterator[Tool]:
        tool = self._made(server.url)
        yield tool
        if hasattr(tool, "close"):
            tool.close()

    def _made(self, url: str) -> Tool:
        tool = self.make_tool(url)
        tool.timeout_s = self.timeout_s  # type: ignore[misc]
        return tool

    def _call(self, tool: Tool, key: str) -> Result:
        return Toolbox([tool], sandbox=False).call(tool.ref.name, self.arguments, idempotency_key=key)

    # ------------------------------------------------------------ the claims

    def test_a_call_has_its_effect_once_under_its_key_and_answers_as_declared(self, tool: Tool, server: ToolServer) -> None:
        key = str(uuid4())
        result = self._call(tool, key)
        assert (result.status, result.reason) == ("done", "")
        assert server.shape.effects == [key]

    def test_two_effects_are_two_effects(self, tool: Tool, server: ToolServer) -> None:
        keys = [str(uuid4()) for _ in range(2)]
        assert [self._call(tool, key).status for key in keys] == ["done", "done"]
        assert server.shape.effects == keys

    def test_the_same_key_again_has_no_second_effect(self, tool: Tool, server: ToolServer) -> None:
        if tool.kind != "idempotent":
            pytest.skip("only an idempotent tool promises it")
        key = str(uuid4())
        assert self._call(tool, key).receipt == self._call(tool, key).receipt
        assert server.shape.effects == [key]

    def test_a_query_tells_whether_a_key_took_effect(self, tool: Tool) -> None:
        if tool.kind != "queryable":
            pytest.skip("only a queryable tool promises it")
        key, box = str(uuid4()), Toolbox([tool], sandbox=False)
        assert box.query(tool.ref.name, idempotency_key=key).status == "absent"
        receipt = self._call(tool, key).receipt
        assert box.query(tool.ref.name, idempotency_key=key)[:3] == ("done", "", receipt)
        assert box.query(tool.ref.name, idempotency_key=str(uuid4())).status == "absent"

    @pytest.mark.parametrize("fault", AFTER)
    def test_what_may_have_happened_is_never_told_as_if_it_had_not(self, fault: str, tool: Tool, server: ToolServer) -> None:
        server.faults.append(fault)
        result = self._call(tool, str(uuid4()))
        assert result.status == "done" or result.ambiguous, result

    @pytest.mark.parametrize("fault", LIES)
    def test_an_unsafe_tool_believes_no_failure_after_its_request_has_left(self, fault: str, tool: Tool, server: ToolServer) -> None:
        if tool.kind != "unsafe":
            pytest.skip("the others may be asked twice")
        server.faults.append(fault)
        assert self._call(tool, str(uuid4())).ambiguous

    @pytest.mark.parametrize("fault", _QUICK)
    def test_no_answer_gets_into_a_reason(self, fault: str, tool: Tool, server: ToolServer) -> None:
        server.faults.append(fault)
        result = self._call(tool, str(uuid4()))
        assert CANARY not in result.reason
        assert CANARY not in result.receipt
        for value in self.arguments.values():
            assert not isinstance(value, str) or len(value) < 4 or value not in result.reason

    def test_where_nobody_listens_nothing_happened_and_it_is_tried_again(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            port = taken.getsockname()[1]
        tool = self._made(f"http://127.0.0.1:{port}")
        result = self._call(tool, str(uuid4()))
        assert (result.status, result.ambiguous) == ("retry", False)

    def test_a_server_that_asks_to_wait_is_heard(self, tool: Tool, server: ToolServer) -> None:
        server.faults.append("429")
        assert self._call(tool, str(uuid4())).retry_after_s == 7.0

    @pytest.mark.parametrize("fault", FAULTS)
    def test_through_a_fault_the_other_sides_own_record_has_the_effect_once(self, fault: str, tool: Tool, server: ToolServer) -> None:
        """Through the outbox, over a real log, until nothing is left to do."""
        server.faults.append(fault)
        self._dispatched_once(tool, server, fault)

    @pytest.mark.parametrize("fault", _THRICE)
    def test_through_the_same_fault_three_times_too(self, fault: str, tool: Tool, server: ToolServer) -> None:
        server.faults.extend([fault] * 3)
        self._dispatched_once(tool, server, fault)

    def _dispatched_once(self, tool: Tool, server: ToolServer, fault: str) -> None:
        intent, kinds = dispatched(tool, self.arguments)
        effects = server.shape.effects
        assert effects.count(str(intent)) == len(effects)
        last = kinds[-1]
        if tool.kind == "unsafe":
            assert len(effects) <= 1
            assert (last == "effect/succeeded") <= (len(effects) == 1)
            assert last in {"effect/succeeded", "effect/failed", "effect/unknown"}
        elif fault == "400" or (fault in BEFORE and last == "effect/failed"):
            assert effects == []
            assert last == "effect/failed"
        else:
            assert effects == [str(intent)], kinds
            assert last == "effect/succeeded", kinds


_POLICY = {
    "version": 1,
    "owner": "tests",
    "description": "One effect.",
    "inputs": {"failed_payments": "integer"},
    "trigger": [{"id": "failing", "when": {"failed_payments": ">= 1"}}],
    "guardrails": {"purpose": "service"},
}


def one_effect(tool: Tool, arguments: Mapping[str, str | int | bool]) -> Policy:
    """The policy `contract`: whoever's payment fails gets one effect of this tool."""
    row = {"id": "one", "action": "act", "tool": tool.ref.name, "arguments": dict(arguments), "approval": "none", "because": "A test."}
    return Policy.from_json(canonical({**_POLICY, "name": "contract", "rule": [row]}).decode())


def dispatched(tool: Tool, arguments: Mapping[str, str | int | bool]) -> tuple[UUID, list[str]]:
    """Have one effect through agent, log and outbox, moving the clock until nothing waits: its id and the kinds of its events."""
    clock = ManualClock(_START)
    log = Log(MemoryStore(clock=clock), FileVault.in_memory(), clock)
    engine = EmbeddedEngine(log, [Agent(one_effect(tool, arguments))], Toolbox([tool], sandbox=False))
    engine.set_mode("acme", "contract", "act", person=Person("tests", "os-user"), reason="test")
    stream = customer_stream("acme", "c1")
    failed = InvoicePaymentFailed(source="test", id="1", occurred_at=_START, amount_minor=1, currency="EUR")
    fact = log.fact(stream, failed, said_of="c1", subject="c1", cause=Cause())
    log.append([fact])
    due = engine.attend(stream, log.store.find("acme", fact.event_id)).next_due_us
    for _ in range(_VISITS):
        if due is None:
            break
        clock.move_to(max(due, clock.now_us()))
        due = engine.attend(stream).next_due_us
    assert due is None, "it never comes to rest"
    events = list(log.events(Query(tenant="acme", streams=(stream,), lane=Lane.DECISION)))
    (decision,) = (r.data for r in events if isinstance(r.data, DecisionRecorded))
    return decision.intents[0].intent_id, [r.stored.kind for r in events]
