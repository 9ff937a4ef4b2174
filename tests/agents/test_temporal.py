"""The Temporal engine by itself: what travels, what is kept short, timers, drain, replay of histories, and a server that is not there."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from postsale.access import FileVault
from postsale.agents import Agent
from postsale.agents.engines import EmbeddedEngine, customer_workflow
from postsale.agents.engines.customer_workflow import CustomerWorkflow
from postsale.agents.engines.temporal import TemporalEngine
from postsale.agents.tools import Receipt, Tool, Toolbox, ToolKind, ToolModel
from postsale.errors import EngineUnavailable, ToolUnavailable
from postsale.events import StreamId, SystemClock
from postsale.store import SQLiteStore
from postsale.store.log import Log
from postsale.testing.tool_contract import one_effect
from tests.agents.world import World
from tests.temporal import Server, server

CANARY = "canary.bird@example.com"
KEPT = Path(__file__).parent / "data" / "temporal-histories-1.json"


class Said(ToolModel):
    customer: str
    text: str


class Told(Tool):
    """Does what the test says."""

    name = "test.tell"
    kind: ClassVar[ToolKind] = "idempotent"
    input = Said
    backoff_s = 0.5

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self.act = act
        self.calls = 0

    def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Receipt:
        self.calls += 1
        self.act()
        return Receipt()


def world(tool: Tool, text: str = "hello") -> World:
    w = World([Agent(one_effect(tool, {"customer": "$customer", "text": text}))], toolbox=Toolbox([tool], sandbox=False))
    w.mode("act", "contract")
    return w


def on(w: World, at: str | None = None) -> TemporalEngine:
    return TemporalEngine(w.engine, at or server().address, heartbeat_s=1.0)


async def _histories(engine: TemporalEngine, stream: StreamId) -> list[WorkflowHistory]:
    client = await Client.connect(engine.address)
    await client.count_workflows()
    first = await client.get_workflow_handle(engine.workflow_id(stream)).fetch_history()
    found = [first]
    while run := found[0].events[0].workflow_execution_started_event_attributes.continued_execution_run_id:
        found.insert(0, await client.get_workflow_handle(engine.workflow_id(stream), run_id=run).fetch_history())
    return found


def histories(engine: TemporalEngine, stream: StreamId) -> list[WorkflowHistory]:
    """Of every run of a customer's workflow, the newest last."""
    return asyncio.run(_histories(engine, stream))


async def _description(engine: TemporalEngine, stream: StreamId) -> Any:
    client = await Client.connect(engine.address)
    return (await client.get_workflow_handle(engine.workflow_id(stream)).describe()).raw_description


# ---------------------------------------------------------------- what travels


def test_no_personal_data_is_in_any_history_nor_in_the_failures_of_steps() -> None:
    """It is in the customer's facts, in the arguments of the effect, in what the tool and the evidence raise, and in the machine's names."""
    broken = threading.Event()

    class Leaky(Agent):
        def evidence(self, customer: Any, health: Any, at_us: int) -> dict[str, Any]:
            if broken.is_set():
                raise ZeroDivisionError(CANARY)
            return {}

    def act() -> None:
        raise RuntimeError(CANARY)

    tool = Told(act)
    w = World([Leaky(one_effect(tool, {"customer": "$customer", "text": CANARY}))], toolbox=Toolbox([tool], sandbox=False))
    w.mode("act", "contract")
    w.profile(segment=CANARY)
    with on(w) as engine, engine.worker():
        engine.attend(w.stream(), w.failed())
        engine.settle(w.stream())
        assert tool.calls == 1
        broken.set()
        engine.attend(w.stream(), w.paid())
        while b"ZeroDivisionError" not in (seen := asyncio.run(_description(engine, w.stream())).SerializeToString()):
            pass
        broken.clear()
        engine.settle(w.stream())
        told = b"".join(event.SerializeToString() for history in histories(engine, w.stream()) for event in history.events) + seen
    assert str(w.stream()).encode() in told
    for secret in (CANARY, "RuntimeError", "example", os.uname().nodename, "4900"):
        assert secret.encode() not in told, secret


def test_the_activity_of_an_effect_is_named_by_its_intent_which_is_the_key_that_the_tool_gets() -> None:
    w = World()
    w.mode("act")
    with on(w) as engine, engine.worker():
        engine.attend(w.stream(), w.failed())
        engine.settle(w.stream())
        (history,) = histories(engine, w.stream())
    ids = [e.activity_task_scheduled_event_attributes.activity_id for e in history.events]
    (call,) = w.toolbox.ledger.calls
    assert str(w.decisions()[0].intents[0].intent_id) in ids
    assert call.idempotency_key in ids


# ---------------------------------------------------------------- workflows


def test_a_history_is_bounded_however_often_a_customer_is_visited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(customer_workflow, "VISITS", 5)
    w = World()
    w.mode("act")
    w.attend(w.failed())  # an outcome is due in 14 days, so that the workflow stays
    with on(w) as engine, engine.worker():
        for n in range(23):
            engine.attend(w.stream(), since_us=n)
        engine.settle(w.stream())
        runs = histories(engine, w.stream())
    assert len(runs) >= 4
    visits = [sum(e.activity_task_scheduled_event_attributes.activity_type.name == "postsale.visit" for e in run.events) for run in runs]
    assert max(visits) <= 5
    assert sum(visits) >= 23
    assert len(w.decisions()) == 1


def test_a_workflow_ends_when_nothing_can_ever_be_due_and_begins_again_when_it_is_called() -> None:
    w = world(Told())
    with on(w) as engine, engine.worker():
        engine.attend(w.stream(), w.paid())
        engine.settle(w.stream())
        w.wait(minutes=1)
        engine.attend(w.stream(), w.failed())
        engine.settle(w.stream())
    assert w.kinds()[-1] == "effect/succeeded"


def test_histories_replay_on_the_code_that_made_them_and_those_kept_from_this_version_do_too(tmp_path: Path) -> None:
    """The workflow decides nothing, so that any change of it may be a new VERSION; this finds one that was made without."""
    w = World()
    w.mode("act")
    with on(w) as engine, engine.worker():
        engine.attend(w.stream(), w.failed())
        engine.settle(w.stream())
        engine.attend(w.stream(), w.paid())
        engine.settle(w.stream())
        made = histories(engine, w.stream())
    if os.environ.get("POSTSALE_KEEP_HISTORIES"):
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps([[h.workflow_id, h.to_json_dict()] for h in made], indent=1))
    kept = [WorkflowHistory.from_json(id_, told) for id_, told in json.loads(KEPT.read_text())]
    replayer = Replayer(workflows=[CustomerWorkflow], workflow_runner=UnsandboxedWorkflowRunner())
    for history in (*made, *kept):
        asyncio.run(replayer.replay_workflow(history))
    assert len(kept) == 1


# ---------------------------------------------------------------- workers, timers, the server


def test_a_worker_that_stops_finishes_the_step_under_way_and_begins_none() -> None:
    called, go_on = threading.Event(), threading.Event()

    def act() -> None:
        called.set()
        assert go_on.wait(60)

    w = world(Told(act))
    with on(w) as engine:
        running = engine.worker()
        running.__enter__()
        engine.attend(w.stream(), w.failed())
        engine.attend(w.stream("c2"), w.paid("c2"))
        assert called.wait(60)
        stopping = threading.Thread(target=running.__exit__, args=(None, None, None))
        stopping.start()
        go_on.set()
        stopping.join()
        assert w.kinds()[-1] == "effect/succeeded"
        w.wait(minutes=1)
        head = w.store.head()
        engine.attend(w.stream("c2"), w.failed("c2"))
        assert w.store.head() == head + 1  # the fact alone
        with engine.worker():
            engine.settle(w.stream("c2"))
    assert w.kinds("c2")[-1] == "effect/succeeded"


def test_a_timer_outlives_worker_and_server_and_the_effect_leaves_in_its_time(tmp_path: Path) -> None:
    """On the machine's clock: a tool that is not there for now is called again half a second later, by Temporal's timer."""
    away = [True]

    def act() -> None:
        if away:
            away.pop()
            raise ToolUnavailable(tool="test.tell", reason="away")

    tool, clock = Told(act), SystemClock()
    store = SQLiteStore(tmp_path / "log.db", clock=clock)
    w = World([Agent(one_effect(tool, {"customer": "$customer", "text": "hi"}))], store=store, toolbox=Toolbox([tool], sandbox=False))
    w.log = Log(store, FileVault.in_memory(), clock)
    w.engine = EmbeddedEngine(w.log, list(w.engine.agents.values()), w.toolbox)
    w.mode("act", "contract")
    with on(w) as engine:
        with engine.worker():
            engine.attend(w.stream(), w.failed())
            while "effect/failed" not in w.kinds():
                store.wait(store.head(), 0.2)
        server().kill()
        server().start()
        with engine.worker():
            while "effect/succeeded" not in w.kinds():
                store.wait(store.head(), 0.2)
    store.close()
    assert tool.calls == 2


def test_a_server_that_is_not_there_is_named_and_nothing_is_lost() -> None:
    w = world(Told())
    nobody = Server()
    with on(w, nobody.address) as engine, pytest.raises(EngineUnavailable, match=nobody.address):
        engine.attend(w.stream(), w.failed())
    assert w.engine.attend(w.stream(), next(iter(w.events())).stored).called == 1
