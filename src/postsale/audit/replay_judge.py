"""The parent's side of the sandbox: starts the process that decides again, feeds it, and takes its answers. Trusts none of them.

May import everything below `audit`, but neither tools nor engines.
"""

from __future__ import annotations

import copy
import importlib
import io
import marshal
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Any, Final, NamedTuple, Self

import orjson

from postsale.agents.agent import Agent
from postsale.agents.policy import Policy
from postsale.audit.replay_again import Models, Wanted
from postsale.audit.replay_child import ANSWER, FAILED, FRAME, READY, TRIED
from postsale.audit.replay_sandbox import TRIED_STATUS, Sandbox
from postsale.errors import SandboxFailed, SandboxViolation
from postsale.events import StoredEvent, StreamId
from postsale.projections.health import Component, HealthModel
from postsale.projections.targets import Target

WITHIN_S: Final = 60.0  # of one decision, and of the start
_AHEAD: Final = 2  # batches sent before the first one's answers are taken
_SILENT: Final = "a call with signals blocked, such as a thread"  # the kernel killed it, and it had no say
_LARGEST: Final = 16 << 20  # an answer


class Asked(NamedTuple):
    """One decision to make again, with whose it is for messages."""

    decision_id: str
    decider: str
    wanted: Wanted


class Customer(NamedTuple):
    """A customer's part of a batch: its stream, the events, the decisions."""

    stream: StreamId
    events: Sequence[StoredEvent]
    asked: Sequence[Asked]


class Judge:
    """A process in the sandbox. A context manager; for one thread. `sandbox` says how it is closed."""

    def __init__(
        self,
        agents: Mapping[str, Agent],
        models: Models | None,
        modules: Iterable[str] = (),
        *,
        enforce: bool = True,
        within_s: float = WITHIN_S,
    ) -> None:
        """`agents` by key; `modules` declare the signals of the log. What cannot be sent, or not be loaded there, is in `missing`,
        agents by key, the models as "health"."""
        self.missing: dict[str, str] = {}
        self._within_s = within_s
        self._given = self._set_up(agents, models, sorted(set(modules)), enforce)
        self._known: set[str] = set()  # policies that were sent
        self.sandbox = Sandbox("", False)

    def __enter__(self) -> Self:
        # Nothing of the environment: tokens and passwords are there.
        environment = {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
        command = [sys.executable, "-m", "postsale.audit.replay_child"]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the parent, which ends it
            )
        except OSError as error:
            raise SandboxFailed(decision_id=None, reason=f"it cannot be started ({error.strerror})") from None
        self._frames: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._take, self._give)]
        for thread in self._threads:
            thread.start()
        try:
            self._send(self._given)
            kind, body = self._frame(None)
            said = orjson.loads(body) if kind == READY else {}
            if not isinstance(said.get("missing"), dict):
                raise SandboxFailed(decision_id=None, reason="it did not come up")
            self.missing |= said["missing"]
            self.sandbox = Sandbox(str(said["sandbox"]), said["enforced"] is True and _filtered(self._process.pid))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def answers(self, batches: Iterable[tuple[Mapping[str, str], Sequence[Customer]]]) -> Iterator[list[dict[str, Any]]]:
        """Answers batch by batch, in order; each batch with the policies (content by digest) that it needs.

        Raises SandboxViolation for the first decision whose code tried something, SandboxFailed.
        """
        waiting: deque[list[Asked]] = deque()
        for policies, customers in batches:
            new = {digest: content for digest, content in policies.items() if digest not in self._known}
            self._known |= new.keys()
            self._send(marshal.dumps((new, [_marshalled(c) for c in customers])))
            waiting.append([one for customer in customers for one in customer.asked])
            if len(waiting) > _AHEAD:
                yield [self._answer(one) for one in waiting.popleft()]
        while waiting:
            yield [self._answer(one) for one in waiting.popleft()]

    def _answer(self, asked: Asked) -> dict[str, Any]:
        kind, body = self._frame(asked)
        try:
            answer = orjson.loads(body) if kind == ANSWER else None
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            raise SandboxFailed(decision_id=asked.decision_id, reason="an answer that is none")
        return answer

    # ------------------------------------------------------------ the pipes

    def _send(self, body: bytes) -> None:
        self._outgoing.put(len(body).to_bytes(4, "big") + body)

    def _frame(self, asked: Asked | None) -> tuple[bytes, bytes]:
        decision_id = asked.decision_id if asked is not None else None
        try:
            frame = self._frames.get(timeout=self._within_s)
        except queue.Empty:
            raise SandboxFailed(decision_id=decision_id, reason=f"no answer within {self._within_s:g} s") from None
        if frame is not None and frame[0] == FAILED:
            raise SandboxFailed(decision_id=decision_id, reason=f"it ended with {frame[1].decode(errors='replace')[:64]}")
        if frame is not None and frame[0] != TRIED:
            return frame
        tried = frame[1].decode(errors="replace")[:64] if frame is not None else ""
        try:
            status = self._process.wait(5.0)
        except subprocess.TimeoutExpired:  # it said so and went on
            status = TRIED_STATUS if tried else 0
        if status in {TRIED_STATUS, -signal.SIGSYS} and asked is not None:
            raise SandboxViolation(decision_id=asked.decision_id, decider=asked.decider, tried=tried or _SILENT, sandbox=self.sandbox.name)
        ended = f"it tried {tried}" if tried else f"it ended with status {status}"
        raise SandboxFailed(decision_id=decision_id, reason=ended)

    def _take(self) -> None:
        """In a thread of its own, so that neither side waits for the other's pipe."""
        source = self._process.stdout
        assert source is not None
        with source:
            reader = io.BufferedReader(source, 1 << 16)  # type: ignore[type-var]
            while len(head := reader.read(FRAME.size)) == FRAME.size:
                size, kind = FRAME.unpack(head)
                if size > _LARGEST or len(body := reader.read(size)) < size:
                    self._frames.put((b"", b""))  # nothing that follows can be told apart
                    break
                self._frames.put((bytes([kind]), body))
        self._frames.put(None)

    def _give(self) -> None:
        sink = self._process.stdin
        assert sink is not None
        with sink:
            try:
                while (body := self._outgoing.get()) is not None:
                    left = memoryview(body)
                    while left:
                        left = left[sink.write(left) :]
            except OSError:  # it is gone; whoever waits for its answer says so
                return

    def _end(self) -> None:
        self._outgoing.put(None)
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join()

    # ------------------------------------------------------------ the set-up

    def _set_up(self, agents: Mapping[str, Agent], models: Models | None, modules: list[str], enforce: bool) -> bytes:
        sent: dict[str, bytes] = {}
        for key, agent in agents.items():
            decider = copy.copy(agent)
            decider.planners, decider.prompts = {}, {}  # no model is asked again
            if (raw := self._pickled(key, decider)) is not None:
                sent[key] = raw
        health = None if models is None else self._pickled("health", models)
        return pickle.dumps({"enforce": enforce, "modules": modules, "agents": sent, "models": health})

    def _pickled(self, key: str, what: object) -> bytes | None:
        out = io.BytesIO()
        try:
            _Pickler(out).dump(what)
        except Exception as error:  # whatever an object of somebody's own raises: it cannot be sent
            self.missing[key] = type(error).__name__
            return None
        return out.getvalue()


class _Pickler(pickle.Pickler):
    """Objects by value, policies by their content, models by where they are declared: their functions cannot be sent."""

    def reducer_override(self, what: Any) -> Any:
        if isinstance(what, Policy):
            return Policy.from_json, (what.content,)
        if isinstance(what, MappingProxyType):
            return frozen, (dict(what),)
        if isinstance(what, HealthModel):
            module, name = _declared(what)
            weights = [c.weight for c in what.components]
            return reweighed, (module, name, weights, what.bands, what.rows, what.weighing)
        if isinstance(what, Target):
            return declared, _named(what)
        if isinstance(what, type) and what.__module__ == "__main__":
            raise pickle.PicklingError("a class of the program itself")
        return NotImplemented


def frozen(values: dict[Any, Any]) -> Mapping[Any, Any]:
    """What it was: pickle knows no such type."""
    return MappingProxyType(values)


def reweighed(module: str, name: str, weights: Sequence[int], bands: Any, rows: Any, weighing: int) -> HealthModel:
    """The model that a module declares under a name, with the weights that a file gave it."""
    base: HealthModel = getattr(importlib.import_module(module), name)
    components = tuple(replace(c, weight=weight) for c, weight in zip(base.components, weights, strict=True))
    return replace(base, components=components, bands=bands, rows=rows, weighing=weighing)


def declared(module: str, name: str) -> Any:
    """What a module declares under a name."""
    return getattr(importlib.import_module(module), name)


def _named(target: Target) -> tuple[str, str]:
    """Where a target is declared. PicklingError when it is nowhere."""
    for module in list(sys.modules.values()):
        for name, found in list(getattr(module, "__dict__", {}).items()):
            if found is target and module.__name__ != "__main__":
                return module.__name__, name
    raise pickle.PicklingError("no module declares this target")


def _declared(model: HealthModel) -> tuple[str, str]:
    """Where the model, or the one it is a weighing of, is declared. PicklingError when it is nowhere."""
    own = sys.modules.get(model.features.__module__)
    for module in [*filter(None, [own]), *sys.modules.values()]:
        for name, base in list(getattr(module, "__dict__", {}).items()):
            if module.__name__ != "__main__" and isinstance(base, HealthModel) and _same_but_for_weights(base, model):
                return module.__name__, name
    raise pickle.PicklingError("no module declares this model")


def _same_but_for_weights(base: HealthModel, model: HealthModel) -> bool:
    def rest(m: HealthModel) -> tuple[Any, ...]:
        parts: tuple[Component, ...] = tuple(replace(c, weight=1) for c in m.components)
        return m.name, m.version, m.features, parts, m.segment, m.stage, m.stages

    return base is model or rest(base) == rest(model)


def _marshalled(customer: Customer) -> tuple[list[str], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    numbers = {customer.stream: 0}
    for event in customer.events:
        numbers.setdefault(event.stream, len(numbers))
    events = [(e[0], numbers[e[1]], int(e[2]), e[3], e[4].bytes, *e[5:]) for e in customer.events]
    return [str(s) for s in numbers], events, [tuple(one.wanted) for one in customer.asked]


def _filtered(pid: int) -> bool:
    """What the kernel says of that process, which cannot speak for itself; True where it does not say."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        with open(f"/proc/{pid}/status") as status:
            said = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    except OSError:
        return False
    return said.get("Seccomp") == "2" and said.get("NoNewPrivs") == "1"
