"""The process that decides again: loads what it needs, closes the sandbox, then answers frames until its input ends.

`python -m postsale.audit.replay_child`, started by `replay_judge`, without keys, without the log, without the environment. What arrives
before it is closed is its parent's; what arrives afterwards are events as they are stored, sealed fields sealed.
"""

from __future__ import annotations

import importlib
import io
import linecache
import marshal
import os
import pickle
import struct
import sys
import warnings
import zoneinfo
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import orjson

from postsale.agents import Agent
from postsale.agents.decide import Case, decide
from postsale.agents.guardrails import Context
from postsale.agents.policy import Policy
from postsale.agents.shipped import SHIPPED
from postsale.aggregates.decisions import ReadRef
from postsale.audit.replay_again import Again, Models, Wanted, blanked
from postsale.audit.replay_sandbox import IN, OUT, TRIED_STATUS, lock
from postsale.errors import ToolUnreachable
from postsale.events import Lane, StoredEvent, StreamId, encode_payload
from postsale.projections.customer_health import CUSTOMER_HEALTH

READY: Final = b"r"
ANSWER: Final = b"a"
TRIED: Final = b"t"
FAILED: Final = b"f"
FRAME: Final = struct.Struct(">IB")
_LAZY: Final = ("_strptime", "decimal", "fractions", "statistics", "encodings.idna", "encodings.ascii", "encodings.latin_1", "calendar")
_zones: list[zoneinfo.ZoneInfo] = []


def main() -> None:
    """Read the set-up, close, answer."""
    for ours, theirs in ((0, IN), (1, OUT)):
        os.dup2(ours, theirs)
    sys.stdin = sys.stdout = sys.stderr = io.StringIO()  # what a decider prints goes nowhere
    given = pickle.loads(_read())  # from the parent, before anything of the log
    again, missing = _load(given)
    _warm()
    sandbox = lock(lambda what: _write(TRIED, what.encode()), enforce=given["enforce"])
    _write(READY, orjson.dumps({"sandbox": sandbox.name, "enforced": sandbox.enforced, "missing": missing}))
    try:
        _answer(again)
    except ToolUnreachable as error:
        _write(TRIED, f"the tool {error.tool}".encode())
        os._exit(TRIED_STATUS)
    except BaseException as error:  # also SystemExit: an interpreter that ends by itself would be taken for one that tries something
        _write(FAILED, type(error).__name__.encode())
    os._exit(0)


def _answer(again: Again) -> None:
    while raw := _read():
        policies, customers = marshal.loads(raw)
        for digest, content in policies.items():
            again.policies[digest] = Policy.from_json(content)
        for names, events, wanted in customers:
            for answer in again.customer(*_customer(names, events, wanted)):
                _write(ANSWER, orjson.dumps(answer))


def _load(given: dict[str, Any]) -> tuple[Again, dict[str, str]]:
    """Import the modules of signals, then the agents and models; what cannot be had is told by name, with the name of the error."""
    missing: dict[str, str] = {}
    for module in given["modules"]:
        try:
            importlib.import_module(module)
        except Exception as error:
            missing[module] = type(error).__name__
    agents: dict[str, Agent] = {}
    for key, raw in given["agents"].items():
        try:
            agents[key] = pickle.loads(raw)
        except Exception as error:
            missing[key] = type(error).__name__
    models: Models | None = None
    if given["models"] is not None:
        try:
            models = pickle.loads(given["models"])
        except Exception as error:
            missing["health"] = type(error).__name__
    return Again(agents, models), missing


def _warm() -> None:
    """Whatever is loaded at first use is used once: afterwards nothing can be opened any more."""
    for name in _LAZY:
        importlib.import_module(name)
    for key in sorted(zoneinfo.available_timezones()):
        try:
            _zones.append(zoneinfo.ZoneInfo(key))
        except (OSError, ValueError):
            continue
    warnings.simplefilter("ignore")
    linecache.updatecache = lambda *_: []  # a traceback that is formatted opens its sources
    policy = next(iter(SHIPPED.values()))().policy
    stream = StreamId("warm", "customers", "up")
    agent, ref = Agent(policy), ReadRef(stream=str(stream), fact_position=0, decision_version=0)
    case = Case(
        trigger_id=UUID(int=0),
        condition="warm-up",
        depth=0,
        mode="observe",
        decided_at_us=1,
        read_set=(ref,),
        evidence=dict.fromkeys(policy.inputs),
        context=Context(local_time="12:00", time_zone="Europe/Berlin", consent={}, touches={}),
        tools={},
        model="",
    )
    recorded = decide(agent.spec, policy, case, lambda _: "").event
    own = Again({}, Models(CUSTOMER_HEALTH))  # of our own code alone: no other runs before the sandbox is closed
    own.policies[policy.digest] = policy
    inputs = blanked(orjson.loads(encode_payload(recorded)))
    list(own.customer(stream, (), [Wanted(1, inputs, policy.digest, "")]))


def _customer(names: Sequence[str], events: Sequence[Sequence[Any]], wanted: Sequence[Any]) -> tuple[Any, list[StoredEvent], list[Wanted]]:
    streams = [StreamId(*name.split("/", 2)) for name in names]
    stored = [StoredEvent(p, streams[s], Lane(lane), v, UUID(bytes=id_), *rest) for p, s, lane, v, id_, *rest in events]
    return streams[0], stored, [Wanted(*one) for one in wanted]


# ---------------------------------------------------------------- the pipes


def _read() -> bytes:
    """The next frame; b"" at the end."""
    head = _exactly(4)
    return _exactly(int.from_bytes(head, "big")) if head else b""


def _exactly(size: int) -> bytes:
    parts, left = [], size
    while left:
        part = os.read(IN, min(left, 1 << 20))
        if not part:
            return b""
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _write(kind: bytes, body: bytes) -> None:
    left = memoryview(FRAME.pack(len(body), kind[0]) + body)
    while left:
        left = left[os.write(OUT, left) :]


if __name__ == "__main__":
    main()
