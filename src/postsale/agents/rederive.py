"""Rederive: a decision made again from its own record and its policy, and the first place where the bytes differ. Pure.

May import what `decide` may.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from postsale.agents.decide import AgentSpec, Case, Mac, decide
from postsale.agents.editing import edit_of
from postsale.agents.guardrails import Context, ToolRef
from postsale.agents.planner_answer import Asked
from postsale.agents.policy import Policy
from postsale.aggregates.decisions import DecisionRecorded
from postsale.errors import InvalidInput, PolicyInvalid
from postsale.events import encode_payload, to_us


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where regenerated and recorded differ. Values are shortened; arguments are named, never shown."""

    where: str
    recorded: str
    regenerated: str


@dataclass(frozen=True, slots=True)
class Rederived:
    """A decision made again from its own record."""

    event: DecisionRecorded
    arguments: tuple[dict[str, Any], ...]
    difference: Difference | None
    arguments_checked: bool  # False: they, or the answer they come from, are erased, or no key was given; the rest was compared


def rederive(recorded: DecisionRecorded, arguments: str | None, policy: Policy, mac: Mac | None, answer: str | None = None) -> Rederived:
    """Decide again from recorded evidence, recorded context and the policy alone, and compare canonical bytes.

    `arguments` is the unsealed canonical text, None when it is erased or there was none; `mac` is the tenant's keyed
    digest, None when its key is gone; `answer` is the planner's as it was recorded, where there was one: without it (erased) the
    decision's own record says what was chosen, and free texts are taken as they are. A policy other than the recorded one is the first
    difference. Never raises for a decision that differs.
    """
    if policy.digest != recorded.policy:
        return Rederived(recorded, (), Difference("policy", recorded.policy, policy.digest), False)
    try:
        case = case_of(recorded, answer)
        edited = orjson.loads(arguments) if arguments is not None else None
        again = decide(spec_of(recorded), policy, case, mac or (lambda _: ""), edited)
    except (InvalidInput, PolicyInvalid, KeyError, ValueError) as error:
        return Rederived(recorded, (), Difference("(deciding)", "a decision", type(error).__name__), False)
    event = again.event
    unread = case.asked is not None and case.asked.erased
    if unread:
        event = event.model_copy(update={"arguments": arguments})
    edit = edit_of(recorded.flags)
    lost = arguments is None and edit is not None and bool(edit.arguments)  # what a person wrote cannot be made again
    if mac is None or unread or lost:
        kept = {i.intent_id: i.arguments_mac for i in recorded.intents}
        intents = tuple(i.model_copy(update={"arguments_mac": kept.get(i.intent_id, "")}) for i in event.intents)
        event = event.model_copy(update={"intents": intents})
    had = recorded.arguments is not None
    compare = recorded.model_copy(update={"arguments": arguments})
    if arguments is None and had:  # erased: compare all but the clear text; with a key the digests still bind it
        event = event.model_copy(update={"arguments": None})
    left, right = encode_payload(compare), encode_payload(event)
    difference = first_difference(left, right)
    checked = not unread and (not recorded.intents or arguments is not None or (mac is not None and not lost))
    return Rederived(again.event, again.arguments, difference, checked)


def spec_of(event: DecisionRecorded) -> AgentSpec:
    """Who decided, as recorded."""
    return AgentSpec(event.agent, event.decider, event.decider_digest, event.package_version)


def case_of(event: DecisionRecorded, answer: str | None = None) -> Case:
    """What was decided on, as recorded; `answer` is its planner's, where there was one."""
    tools = {name: ToolRef(name, *text.split(":", 1)) for name, text in event.tools.items()}
    return Case(
        trigger_id=event.trigger_id,
        condition=event.condition,
        depth=event.depth,
        mode=event.mode,
        decided_at_us=to_us(event.decided_at),
        read_set=event.read_set,
        evidence=event.evidence,
        context=Context.from_scalars(event.context),
        tools=tools,
        model=event.model,
        flags={name: value for name, value in event.flags.items() if not name.startswith("plan.")},
        asked=Asked.from_scalars(event.flags, event.prompt, answer),
    )


def first_difference(recorded: bytes, regenerated: bytes) -> Difference | None:
    """The first place where two canonical payloads of a decision differ; None when their bytes are the same."""
    return None if recorded == regenerated else _first(orjson.loads(recorded), orjson.loads(regenerated), "")


def _first(recorded: Any, regenerated: Any, path: str) -> Difference:
    """The first difference in key order; the two are known to differ."""
    if isinstance(recorded, dict) and isinstance(regenerated, dict):
        for key in sorted(recorded.keys() | regenerated.keys()):
            a, b = recorded.get(key), regenerated.get(key)
            if a != b:
                return _first(a, b, f"{path}.{key}" if path else str(key))
    if isinstance(recorded, list) and isinstance(regenerated, list):
        for index in range(max(len(recorded), len(regenerated))):
            a = recorded[index] if index < len(recorded) else None
            b = regenerated[index] if index < len(regenerated) else None
            if a != b:
                return _first(a, b, f"{path}[{index}]")
    if path == "arguments":
        return _inside_arguments(recorded, regenerated)
    return Difference(path or "(whole)", _brief(recorded), _brief(regenerated))


def _inside_arguments(recorded: Any, regenerated: Any) -> Difference:
    """Arguments may be personal: name the place, never the values."""
    try:
        found = _first(orjson.loads(recorded), orjson.loads(regenerated), "arguments ")
        where = found.where.replace(" [", "[")
    except (TypeError, ValueError):
        where = "arguments"
    return Difference(where, "(not shown)", "(not shown)")


def _brief(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else text[:79] + "…"
