"""A process that takes two effects back and dies at a step of it by SIGKILL: `python -m tests.agents.killed_undo`.

Steps are those of `killed_dispatch`: the moment before each thing that anybody else can see. Each run goes on with what it finds.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import traceback
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from postsale.access import FileVault, Person
from postsale.agents import Agent
from postsale.agents.adapters.webhook import Webhook
from postsale.agents.engines import EmbeddedEngine
from postsale.agents.tools import Rate, Toolbox
from postsale.agents.tools.contract import ToolModel, Undo
from postsale.agents.undo import Scope
from postsale.agents.undoing import Undos
from postsale.aggregates.identity import customer_stream
from postsale.aggregates.signals import InvoicePaymentFailed
from postsale.errors import UndoRefused
from postsale.events import ManualClock
from postsale.store import SQLiteStore
from postsale.store.log import Cause, Log
from postsale.testing.tool_contract import one_effect
from tests.agents.killed_dispatch import ARGUMENTS, START, Steps
from tests.agents.shapes import TOKEN
from tests.agents.test_adapters import Told

CUSTOMERS = ("c1", "c2")


class Back(ToolModel):
    customer: str
    key: str


class Did(Webhook):
    name, version, input = "acme.did", 1, Told
    max_attempts, breaker_after, rate = 50, 50, Rate(50, 1.0)
    undo = Undo("acme.undid@1", {"customer": "$arguments.customer", "key": "$intent"})


class Undid(Webhook):
    name, version, input = "acme.undid", 1, Back
    max_attempts, breaker_after, rate = 50, 50, Rate(50, 1.0)


class BlindUndid(Undid):
    kind = "unsafe"


def run(folder: Path, url: str, kind: str, minutes: int, die_at: int) -> None:
    """Have the effects at first (`die_at` -1; at -2 only what comes before), else undo what the policy did; at START plus minutes."""
    clock = ManualClock(START + timedelta(minutes=minutes))
    store = SQLiteStore(folder / "log.db", clock=clock)
    tools = [Did(url, TOKEN, clock=lambda: 1_000.0), (Undid if kind == "idempotent" else BlindUndid)(url, TOKEN, clock=lambda: 1_000.0)]
    log = Log(store, FileVault(folder / "log.keys"), clock)
    engine = EmbeddedEngine(log, [Agent(one_effect(tools[0], ARGUMENTS))], Toolbox(tools, sandbox=False))
    anna = Person("anna", "os-user")
    if die_at < 0:
        engine.install("acme", "contract")
        engine.set_mode("acme", "contract", "act", person=anna, reason="test")
        for ref in CUSTOMERS if die_at == -1 else ():
            stream = customer_stream("acme", ref)
            failed = InvoicePaymentFailed(source="test", id=ref, occurred_at=START, amount_minor=1, currency="EUR")
            fact = log.fact(stream, failed, said_of=ref, subject=ref, cause=Cause())
            log.append([fact])
            engine.attend(stream, store.find("acme", fact.event_id))
    else:
        steps = Steps(die_at)
        steps.before(store, "append")
        steps.before(store.kv, "put")
        steps.before(socket.socket, "connect", "send", "sendall", "recv")
        undos = Undos(engine.desk, engine.toolbox, engine.outbox, frozenset(engine.agents))
        undo = next((u for u in undos.all("acme") if u.state.open), None)
        try:
            if undo is None:
                policy = engine.agents["contract"].policy.digest
                undo, _ = undos.propose("acme", Scope("policy", policy), anna)
            if undo.state.status == "proposed":
                undo = undos.approve("acme", undo.id, anna, reason="test")
            undos.run("acme", undo.id)
        except UndoRefused as refused:
            if "by hand" not in refused.reason and "nothing is left" not in refused.reason:
                raise
        steps.step()
    store.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, closing(socket.create_server(("127.0.0.1", 0))) as free:
        run(
            Path(folder), f"http://127.0.0.1:{free.getsockname()[1]}", "idempotent", 0, -2
        )  # what is computed once in a process is there before it forks
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            try:
                run(Path(order["folder"]), order["url"], order["kind"], order["minutes"], order["die_at"])
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
