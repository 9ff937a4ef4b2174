"""The outbox and tools: effects leave once, faults of tools become events, switches hold in mid-run, a SIGKILL loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from postsale.access import FileVault
from postsale.agents import Agent, Policy
from postsale.agents.engines import EmbeddedEngine
from postsale.agents.reach import no_effects, simulated_only
from postsale.agents.tools import Ledger, Receipt, Tool, Toolbox, ToolModel, ToolRefused, ToolUnavailable, ToolUncertain, contract_digest
from postsale.agents.tools.sandbox import CreateTask, Task
from postsale.aggregates.decisions import EffectFailed, EffectStarted, EffectSucceeded, EffectUnknown
from postsale.errors import BadDeclaration, ToolUnreachable
from postsale.events import Origin
from postsale.store import SQLiteStore
from tests.agents.world import ANNA, DUNNING, World, calls


class Scripted(Tool):
    """A task tool that does what the next step of its script says, and counts effects by key."""

    name, version, kind, input = "crm.create_task", 1, "idempotent", Task
    backoff_s, max_attempts = 60.0, 3

    def __init__(self, *script: object) -> None:
        self.script = list(script)
        self.effects: set[str] = set()
        self.calls: list[str] = []

    def call(self, arguments: Task, *, idempotency_key: str, timeout_s: float) -> Receipt:
        self.calls.append(idempotency_key)
        step = self.script.pop(0) if self.script else "ok"
        if isinstance(step, BaseException):
            if not isinstance(step, ToolRefused | ToolUnavailable):  # the rest broke off after it had acted
                self.effects.add(idempotency_key)
            raise step
        self.effects.add(idempotency_key)
        return step if step != "ok" else Receipt(receipt="r1")  # type: ignore[return-value]


class Queryable(Scripted):
    kind = "queryable"

    def query(self, idempotency_key: str, *, timeout_s: float) -> Receipt | None:
        return Receipt(receipt="found") if idempotency_key in self.effects else None


class Unsafe(Scripted):
    kind = "unsafe"


def acting(tool: Tool) -> World:
    w = World(toolbox=Toolbox([tool], sandbox=False))
    w.mode("act")
    return w


def results(w: World) -> list[str]:
    found = [r.data for r in w.events() if r.stored.kind.startswith("effect/") and not isinstance(r.data, EffectStarted)]
    return [f"{x.kind.removeprefix('effect/')}:{getattr(x, 'reason', '')}" for x in found]


UNAVAILABLE = ToolUnavailable(tool="crm.create_task@1", reason="busy")


def test_a_refusal_is_final_and_nothing_is_tried_again() -> None:
    tool = Scripted(ToolRefused(tool="crm.create_task@1", reason="closed account"))
    w = acting(tool)
    w.attend(w.failed())
    w.wait(days=1)
    w.attend()
    assert results(w) == ["failed:closed account"]
    assert len(tool.calls) == 1
    assert w.customer().decisions == {}


def test_an_unavailable_tool_is_tried_again_with_growing_pauses_and_then_fails() -> None:
    tool = Scripted(*[UNAVAILABLE] * 9)
    w = acting(tool)
    w.attend(w.failed())
    waits = []
    for _ in range(2):
        due = w.attend().next_due_us
        assert due is not None
        waits.append((due - w.clock.now_us()) / 1e6)
        assert w.attend().called == 0
        w.clock.move_to(due)
        assert w.attend().called == 1
    assert 30.0 <= waits[0] <= 60.0
    assert 60.0 <= waits[1] <= 120.0
    assert results(w) == ["failed:busy"] * 3
    assert [x.data.final for x in w.events() if isinstance(x.data, EffectFailed)] == [False, False, True]


def test_a_tool_that_comes_back_has_its_effect_once_under_one_key() -> None:
    tool = Scripted(UNAVAILABLE, ConnectionResetError())
    w = acting(tool)
    w.attend(w.failed())
    for _ in range(3):
        w.wait(hours=1)
        w.attend()
    assert results(w) == ["failed:busy", "failed:it raised ConnectionResetError", "succeeded:"]
    assert len(set(tool.calls)) == 1
    assert len(tool.effects) == 1


def test_an_outcome_that_stays_unclear_goes_to_a_person_and_is_never_called_a_failure() -> None:
    tool = Scripted(*[ConnectionResetError()] * 9)
    w = acting(tool)
    w.attend(w.failed())
    for _ in range(5):
        w.wait(hours=1)
        w.attend()
    assert results(w)[-1].startswith("unknown:")
    assert len(tool.calls) == 3


def test_a_queryable_tool_is_asked_before_it_is_called_again() -> None:
    tool = Queryable(ConnectionResetError())
    w = acting(tool)
    w.attend(w.failed())
    w.wait(hours=1)
    w.attend()
    assert results(w)[-1] == "succeeded:"
    assert len(tool.calls) == 1


def test_a_queryable_tool_that_said_nothing_had_happened_is_asked_all_the_same_and_a_lie_costs_no_second_effect() -> None:
    class Lying(Queryable):
        def call(self, arguments: Task, *, idempotency_key: str, timeout_s: float) -> Receipt:
            super().call(arguments, idempotency_key=idempotency_key, timeout_s=timeout_s)
            raise UNAVAILABLE

    tool = Lying()
    w = acting(tool)
    w.attend(w.failed())
    w.wait(hours=1)
    w.attend()
    assert results(w) == ["failed:busy", "succeeded:"]
    assert len(tool.calls) == 1


@pytest.mark.parametrize("kind", ["idempotent", "queryable"])
def test_after_the_life_of_a_key_what_may_have_happened_is_not_sent_again_unless_it_can_be_asked(kind: str) -> None:
    class Forgetful(Queryable):
        key_lives_s = 3600.0

    Forgetful.kind = kind  # type: ignore[assignment]
    tool = Forgetful(ConnectionResetError())
    w = acting(tool)
    w.attend(w.failed())
    w.wait(minutes=61)
    w.attend()
    assert len(tool.calls) == 1
    assert results(w)[-1].partition(":")[0] == ("unknown" if kind == "idempotent" else "succeeded")


def test_what_certainly_did_not_happen_is_sent_again_after_the_life_of_a_key() -> None:
    class Forgetful(Scripted):
        key_lives_s = 3600.0

    tool = Forgetful(UNAVAILABLE)
    w = acting(tool)
    w.attend(w.failed())
    w.wait(minutes=61)
    w.attend()
    assert results(w)[-1] == "succeeded:"


def test_a_tool_may_say_why_an_outcome_is_uncertain() -> None:
    w = acting(Unsafe(ToolUncertain(tool="crm.create_task@1", reason="status 500")))
    w.attend(w.failed())
    assert results(w) == ["unknown:status 500"]


def test_an_unsafe_tool_is_called_at_most_once() -> None:
    tool = Unsafe(ConnectionResetError())
    w = acting(tool)
    w.attend(w.failed())
    for _ in range(3):
        w.wait(hours=1)
        w.attend()
    assert results(w) == ["unknown:it raised ConnectionResetError"]
    assert len(tool.calls) == 1


@pytest.mark.parametrize(
    "garbage", ["text", None, 7, {"receipt": 5}, {"other": "x"}, ToolModel(), {"receipt": "a\x00b"}, {"receipt": "x" * 9999}]
)
def test_garbage_as_an_answer_is_noticed_and_retried_and_the_decision_stands(garbage: object) -> None:
    tool = Scripted(garbage if garbage is not None else Receipt.model_construct(receipt=None))
    w = acting(tool)
    w.attend(w.failed())
    assert len(w.decisions()) == 1
    if isinstance(garbage, ToolModel):
        assert results(w) == ["succeeded:"]  # an empty answer is an answer: the receipt is optional
        return
    assert results(w) == ["failed:its answer does not fit its output"]
    w.wait(hours=1)
    w.attend()
    assert results(w)[-1] == "succeeded:"


def test_a_tool_that_hangs_is_left_behind() -> None:
    release = threading.Event()

    class Hanging(Scripted):
        timeout_s = 0.05

        def call(self, arguments: Task, *, idempotency_key: str, timeout_s: float) -> Receipt:
            release.wait(30)
            return Receipt()

    w = acting(Hanging())
    try:
        w.attend(w.failed())
        assert results(w) == ["failed:no answer within 0.05 s"]
    finally:
        release.set()


def test_what_a_tool_says_while_failing_does_not_reach_the_log() -> None:
    w = acting(Scripted(ValueError("anna@example.org")))
    w.attend(w.failed())
    assert all(b"anna@" not in r.stored.data for r in w.events())


def test_a_contract_that_changed_since_the_decision_is_not_called() -> None:
    class Wider(Task):
        urgent: bool = False

    class Changed(Scripted):
        input = Wider

    w = acting(Scripted(UNAVAILABLE))
    w.attend(w.failed())
    changed = Changed()
    assert contract_digest(changed) != contract_digest(Scripted())
    later = EmbeddedEngine(w.log, w.engine.agents.values(), Toolbox([changed], sandbox=False))
    w.wait(hours=1)
    later.attend(w.stream())
    assert results(w)[-1] == "failed:the contract of crm.create_task@1 changed since the decision"
    assert changed.calls == []


def test_a_kill_switch_thrown_in_mid_run_lets_no_further_effect_leave() -> None:
    tool = Scripted()
    w = acting(tool)
    refs = [f"c{i}" for i in range(5)]
    for ref in refs:
        w.engine.watch(w.stream(ref), w.failed(ref))
        for trigger in w.customer(ref).pending:
            w.engine.handle(w.stream(ref), trigger)
    for i, ref in enumerate(refs):
        if i == 2:
            w.engine.pause("acme", person=ANNA, reason="stop")
        w.engine.outbox.dispatch(w.stream(ref))
    assert len(tool.calls) == 2
    w.engine.resume("acme", person=ANNA, reason="go on")
    for ref in refs:
        w.engine.outbox.dispatch(w.stream(ref))
    assert len(tool.calls) == 5


def test_a_switch_thrown_between_reading_it_and_claiming_stops_the_effect() -> None:
    tool = Scripted()
    w = acting(tool)
    w.engine.watch(w.stream(), w.failed())
    (trigger,) = w.customer().pending
    w.engine.handle(w.stream(), trigger)
    switches, thrown = w.engine.desk.switches, []

    def late(tenant: str, agent: str):  # type: ignore[no-untyped-def]
        answer = switches(tenant, agent)
        if not thrown:
            thrown.append(w.engine.pause("acme", person=ANNA, reason="now"))
        return answer

    w.engine.desk.switches = late  # type: ignore[method-assign]
    w.engine.outbox.dispatch(w.stream())
    assert tool.calls == []


def test_consent_withdrawn_after_the_decision_cancels_the_effect() -> None:
    w = World()
    w.mode("act")
    w.profile(segment="smb")
    w.consent()
    w.engine.watch(w.stream(), w.failed())
    (trigger,) = w.customer().pending
    w.engine.handle(w.stream(), trigger)
    w.consent(given=False)
    w.attend()
    assert results(w) == ["cancelled:consent for email/service was withdrawn"]
    assert calls(w) == []
    assert w.customer().touches == ()


def test_an_effect_that_could_not_leave_for_days_is_cancelled_not_sent_late() -> None:
    w = World()
    w.mode("act")
    w.engine.watch(w.stream(), w.failed())
    (trigger,) = w.customer().pending
    w.engine.handle(w.stream(), trigger)
    w.wait(days=4)
    w.attend()
    assert results(w) == ["cancelled:it could not leave within 3 days"]


def test_a_tool_that_may_take_long_is_not_called_by_a_second_worker_while_the_first_still_may() -> None:
    """Asked while the first request is under way it would say that nothing has happened."""

    class Slow(Queryable):
        timeout_s, counted = 600.0, 0

        def call(self, arguments: Task, *, idempotency_key: str, timeout_s: float) -> Receipt:
            if not self.calls:
                self.calls.append(idempotency_key)
                w.wait(seconds=599)
                EmbeddedEngine(w.log, [Agent(Policy.from_toml(DUNNING))], Toolbox([self], sandbox=False)).attend(w.stream())
            self.counted += 1
            return super().call(arguments, idempotency_key=idempotency_key, timeout_s=timeout_s)

    tool = Slow()
    w = acting(tool)
    w.attend(w.failed())
    assert tool.counted == 1
    assert results(w) == ["succeeded:"]


def test_a_worker_that_looks_too_late_after_its_claim_sends_nothing_and_the_effect_is_tried_again() -> None:
    tool = Queryable()
    w = acting(tool)
    put = w.store.append

    def stood_still(*args: object, **kwargs: object) -> object:
        done = put(*args, **kwargs)
        if w.kinds()[-1:] == ["effect/started"] and not tool.calls:
            w.store.append = put
            w.wait(seconds=271)  # of 300, and the tool may take 30
        return done

    w.store.append = stood_still
    w.attend(w.failed())
    assert tool.calls == []
    assert results(w) == ["failed:its worker stood still for too long after the claim, and sent nothing"]
    assert w.engine.outbox.gate.state("acme", tool.ref.name).failures == 0, "that is no fault of the tool"
    w.wait(minutes=2)
    w.attend()
    assert len(tool.effects) == 1


def test_two_workers_race_for_an_effect_and_one_calls() -> None:
    tool = Scripted()
    w = acting(tool)
    other = EmbeddedEngine(w.log, w.engine.agents.values(), w.toolbox)
    w.engine.watch(w.stream(), w.failed())
    (trigger,) = w.customer().pending
    w.engine.handle(w.stream(), trigger)
    switches, raced = w.engine.desk.switches, []

    def late(tenant: str, agent: str):  # type: ignore[no-untyped-def]
        if not raced:
            raced.append(True)
            other.outbox.dispatch(w.stream())  # wins while the first is between reading and claiming
        return switches(tenant, agent)

    w.engine.desk.switches = late  # type: ignore[method-assign]
    assert w.engine.outbox.dispatch(w.stream()).called == 0
    assert len(tool.calls) == 1


def test_many_threads_over_one_sqlite_log_have_each_effect_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "effects.jsonl")
    store = SQLiteStore(tmp_path / "log.db")
    w = World(store=store, vault=FileVault(tmp_path / "log.keys"), toolbox=Toolbox(ledger=ledger))
    w.mode("act")
    facts = {f"c{i}": w.failed(f"c{i}") for i in range(6)}
    errors: list[BaseException] = []

    def work() -> None:
        engine = EmbeddedEngine(w.log, [Agent(Policy.from_toml(DUNNING))], w.toolbox)
        try:
            for ref, fact in facts.items():
                engine.attend(w.stream(ref), fact)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    for ref in facts:
        assert w.kinds(ref) == ["agent/trigger-raised", "agent/decision-recorded", "effect/started", "effect/succeeded"]
    assert len(ledger.calls) == 6
    store.close()


# ---------------------------------------------------------------- a crash for real

CRASHING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.agents.world import *
from tests.agents.test_outbox import *

class Dying(CreateTask):
    sandbox = True
    kind = {kind!r}
    def call(self, arguments, *, idempotency_key, timeout_s):
        if {after}:
            super().call(arguments, idempotency_key=idempotency_key, timeout_s=timeout_s)
        os.kill(os.getpid(), signal.SIGKILL)

path = Path({path!r})
w = World(store=SQLiteStore(path / "log.db"), vault=FileVault(path / "log.keys"), toolbox=Toolbox([Dying(Ledger(path / "effects.jsonl"))]))
w.mode("act")
w.attend(w.failed())
"""


@pytest.mark.parametrize("kind", ["idempotent", "queryable", "unsafe"])
@pytest.mark.parametrize("after", [True, False])
def test_a_process_killed_between_the_effect_and_its_record_leaves_it_counted_once(tmp_path: Path, kind: str, after: bool) -> None:
    script = textwrap.dedent(CRASHING).format(tests=str(Path(__file__).parents[1]), kind=kind, after=after, path=str(tmp_path))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()

    class Surviving(CreateTask):
        pass

    Surviving.kind = kind  # type: ignore[assignment]
    ledger = Ledger(tmp_path / "effects.jsonl")
    assert len(ledger.calls) == int(after)
    store = SQLiteStore(tmp_path / "log.db")
    w = World(store=store, vault=FileVault(tmp_path / "log.keys"), toolbox=Toolbox([Surviving(ledger)]))
    assert w.kinds()[-1] == "effect/started"
    w.attend()
    assert w.kinds()[-1] == "effect/started"  # perhaps somebody is still at it
    w.wait(minutes=6)
    w.attend()
    if kind == "unsafe":
        assert isinstance(w.events()[-1].data, EffectUnknown)
        assert len(ledger.calls) == int(after)
    else:
        assert isinstance(w.events()[-1].data, EffectSucceeded)
        assert len(ledger.calls) == 1
    store.close()


# ---------------------------------------------------------------- reach


@pytest.mark.parametrize("during", ["replay", "rebuild", "import", "audit"])
def test_no_tool_is_reachable_in_replay_rebuild_import_and_audit(during: str) -> None:
    w = World()
    w.mode("act")
    w.engine.watch(w.stream(), w.failed())
    (trigger,) = w.customer().pending
    w.engine.handle(w.stream(), trigger)
    with no_effects(during), pytest.raises(ToolUnreachable, match=during):
        w.attend()
    with no_effects(during), simulated_only(), pytest.raises(ToolUnreachable, match=during):
        w.toolbox.call("crm.create_task@1", {}, idempotency_key="k")
    assert calls(w) == []
    assert w.kinds()[-1] == "agent/decision-recorded"  # nothing is left claimed
    assert w.attend().called == 1


def test_in_simulation_only_simulated_tools_are_reachable() -> None:
    tool = Scripted()
    w = World(toolbox=Toolbox([tool], sandbox=False), origin=Origin.SIMULATION)
    w.mode("act")
    with pytest.raises(ToolUnreachable, match="simulation"):
        w.attend(w.failed())
    assert tool.calls == []


def test_tools_are_sandboxes_until_somebody_says_otherwise() -> None:
    tool = Scripted()
    w = World(toolbox=Toolbox([tool]))
    w.mode("act")
    w.attend(w.failed())
    (done,) = [r.data for r in w.events() if isinstance(r.data, EffectSucceeded)]
    assert done.sandbox is True
    assert tool.calls == []
    assert w.decisions()[0].intents[0].tool_digest == contract_digest(tool)  # the same contract, so that going live changes nothing


def test_a_tool_that_cannot_work_is_refused_when_it_is_declared() -> None:
    class NoQuery(Scripted):
        kind = "queryable"

    class BadName(Scripted):
        name = "Crm Task"

    class NoKind(Tool):
        name, input = "x", Task

        def call(self, arguments: Task, *, idempotency_key: str, timeout_s: float) -> Receipt:
            return Receipt()

    for tool in (NoQuery(), BadName(), NoKind()):
        with pytest.raises(BadDeclaration):
            Toolbox([tool])
    with pytest.raises(BadDeclaration, match="given twice"):
        Toolbox([Scripted(), Scripted()])


def test_a_ledger_in_a_file_keeps_each_key_once_for_all_processes(tmp_path: Path) -> None:
    path = tmp_path / "effects.jsonl"
    for key in ("k1", "k2", "k1"):
        Toolbox(ledger=Ledger(path)).call("crm.create_task@1", {"customer": "c", "title": "t"}, idempotency_key=key)
    assert len(path.read_bytes().splitlines()) == 2
    with path.open("ab") as file:
        file.write(b'["crm.create_task@1","k3",{"cus')  # a line that a crash tore
    assert [c.idempotency_key for c in Ledger(path).calls] == ["k1", "k2"]
    Toolbox(ledger=Ledger(path)).call("crm.create_task@1", {"customer": "c", "title": "t"}, idempotency_key="k3")
    assert [c.idempotency_key for c in Ledger(path).calls] == ["k1", "k2", "k3"]


def test_arguments_that_do_not_fit_are_refused_before_the_tool_runs() -> None:
    tool = Scripted()
    result = Toolbox([tool], sandbox=False).call("crm.create_task@1", {"customer": "c1", "title": 7}, idempotency_key="k")
    assert (result.status, result.reason) == ("refused", "the arguments do not fit the tool's input at title")
    assert tool.calls == []


def test_deciders_load_without_tools_engines_and_outbox() -> None:
    script = "import sys, postsale.agents; print([m for m in sys.modules if m.startswith('postsale.')])"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True, text=True)
    for room in ("tools", "engines", "outbox", "desk", "approvals"):
        assert f"postsale.agents.{room}" not in done.stdout
    for module in ("socket", "subprocess", "http"):
        assert f"'{module}'" not in done.stdout
