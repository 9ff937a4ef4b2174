"""Any answer at all: never an unlisted tool, an argument outside the contract, or an exception; always one disposition, made again alike."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postsale.agents import Policy
from postsale.agents.budget_policy import Left
from postsale.agents.decide import AgentSpec, Case, decide, to_ask
from postsale.agents.guardrails import Context, ToolRef
from postsale.agents.planner_answer import Asked, answer_type, options_of
from postsale.agents.rederive import rederive
from postsale.agents.tools import Toolbox
from postsale.aggregates.decisions import DecisionRecorded, ReadRef
from postsale.errors import InvalidInput
from postsale.events import MASKED, canonical, encode_payload, registry
from tests.agents.planned import CALL, OTHERWISE, Planned, policy
from tests.shared import examples

SPEC = AgentSpec("saver", "m:C", "d", "1")
POLICIES = (policy(), policy(*OTHERWISE))
TOOLBOX = Toolbox()
TOOLS = {name: TOOLBOX.refs[name] for name in POLICIES[0].tools}
BASE = Case(
    trigger_id=UUID(int=7),
    condition="failing",
    depth=0,
    mode="act",
    decided_at_us=1_000_000_000_000_000,
    read_set=(ReadRef(stream="acme/customers/c1", fact_position=5, decision_version=2),),
    evidence={"failed_payments": 2, "segment": "vip", "seats": None},
    context=Context(
        local_time="12:00", time_zone="UTC", consent={"email": True}, touches={}, budgets={"retention": Left(1_000, "2026-11")}
    ),
    tools=TOOLS,
)

keys = st.sampled_from(["option", "rationale", "note", "amount", "customer", "tool", "calls", "terms", "offer"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["call", "credit", "wait", "vip-gift"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=6,
)
near = st.fixed_dictionaries(
    {"option": st.sampled_from(["call", "credit", "wait", "vip-gift", "human", "small", "email.send@1"]), "rationale": st.text(max_size=5)},
    optional={"note": st.text(max_size=250) | values, "amount": st.integers(-5, 600) | values, "customer": values},
)
answers = (
    st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "backslashreplace"))
    | st.text(max_size=60)
    | (values | near | st.dictionaries(keys, values, max_size=4)).map(json.dumps)
)
statuses = st.sampled_from(["answered", "answered", "answered", "too-long", "failed", "silent", "not-asked"])


def mac(raw: bytes) -> str:
    return f"{len(raw)}-{sum(raw)}"


@settings(max_examples=examples(400))
@given(answer=answers, which=st.sampled_from(POLICIES), status=statuses, mode=st.sampled_from(["observe", "propose", "act"]))
def test_any_answer_comes_to_one_disposition_within_the_policy_and_is_made_again_byte_for_byte(
    answer: str, which: Policy, status: Any, mode: Any
) -> None:
    kept = answer if status == "answered" else None
    asked = Asked(status=status, planner="retention", prompt="ab" * 32, attempts=1, oldest_at_us=BASE.decided_at_us, answer=kept)
    case = Case(**{**{f: getattr(BASE, f) for f in BASE.__slots__}, "asked": asked, "mode": mode})
    decided = decide(SPEC, which, case, mac)
    event = decided.event
    assert event.disposition in {"acted", "awaiting", "suppressed", "failed"}
    allowed = {o.id: o for o in options_of(which, which.rules[1], BASE.evidence)}
    assert event.rule in {*allowed, "judge"}
    for intent, arguments in zip(event.intents, decided.arguments, strict=True):
        assert intent.tool == allowed[str(event.rule)].tool
        assert TOOLBOX.misfit(intent.tool, arguments) == ""
        assert arguments["customer"] == "c1"
    if event.offer is not None:
        assert 0 <= event.offer.amount_minor <= 500
        assert event.disposition != "acted" or event.offer.amount_minor <= 300
    if "plan.problem" in event.flags:
        assert event.disposition in {"failed", "awaiting"}
    raw = encode_payload(event)
    assert raw == encode_payload(decide(SPEC, which, case, mac).event)
    stored: DecisionRecorded = registry.get(DecisionRecorded.wire_name).__pydantic_validator__.validate_json(raw)
    text = stored.arguments if isinstance(stored.arguments, str) else None
    again = rederive(stored, text, Policy.from_json(which.content), mac, kept)
    assert again.difference is None
    assert encode_payload(again.event) == raw
    erased = stored.model_copy(update={"arguments": None if text is None else MASKED})
    without = rederive(erased, None, which, mac, None)
    assert without.difference is None
    assert without.arguments_checked is (status != "answered")


@given(raw=st.binary(max_size=80) | st.text(max_size=80) | near.map(json.dumps) | values.map(json.dumps))
def test_any_bytes_from_a_planner_give_one_decision_on_a_log_and_no_exception(raw: Any) -> None:
    w = Planned(raw)
    w.consent()
    event = w.decided()
    assert w.kinds().count("agent/decision-recorded") == 1
    assert {i.tool for i in event.intents} <= set(policy().tools)
    assert w.again(event).difference is None
    assert w.again(event, erased=True).difference is None


def test_the_type_of_an_answer_names_the_options_that_apply_here_and_the_bounds_of_what_they_take() -> None:
    row = POLICIES[0].rules[1]
    assert row.plan is not None
    schema = answer_type(row.plan, options_of(POLICIES[0], row, {"segment": "x", "failed_payments": 2})).model_json_schema()
    assert schema["properties"]["option"]["enum"] == ["credit", "call", "wait"]
    assert schema["properties"]["amount"]["anyOf"][0] == {"type": "integer", "minimum": 0, "maximum": 500}
    assert schema["properties"]["note"]["anyOf"][0]["maxLength"] == 200
    assert schema["additionalProperties"] is False
    vip = options_of(POLICIES[0], row, BASE.evidence)
    assert [option.id for option in vip] == ["credit", "call", "wait", "vip-gift"]


@given(asked=st.builds(Asked, status=statuses, reason=st.text(max_size=5), request=st.none() | st.uuids(), received=st.none() | st.uuids(), attempts=st.integers(0, 5), propensity_ppm=st.none() | st.integers(0, 10**6), misfit=st.text(max_size=4), oldest_at_us=st.integers(0, 2**52)))  # fmt: skip
def test_what_came_of_asking_is_read_back_from_the_flags_of_a_decision(asked: Asked) -> None:
    assert Asked.from_scalars(asked.scalars(), asked.prompt) == asked


def test_a_tampered_reference_to_an_answer_is_a_difference_and_no_exception() -> None:
    w = Planned()
    event = w.decided()
    bad = event.model_copy(update={"flags": {**event.flags, "plan.request": "no uuid", "plan.status": "invented"}})
    found = rederive(bad, None, policy(), w.engine.desk.mac(w.tenant), canonical(CALL).decode()).difference
    assert found is not None


def test_no_planner_is_to_be_asked_where_something_else_has_failed() -> None:
    assert to_ask(POLICIES[0], BASE) is not None
    failed = Case(**{**{f: getattr(BASE, f) for f in BASE.__slots__}, "flags": {"failed": "it broke"}})
    assert to_ask(POLICIES[0], failed) is None
    event = decide(SPEC, POLICIES[0], failed, mac).event
    assert (event.disposition, event.flags) == ("failed", {"failed": "it broke"})
    with pytest.raises(InvalidInput):
        DecisionRecorded(**{**event.model_dump(), "disposition": "planned"})


def test_a_tool_that_is_not_installed_is_suppressed_as_for_rules() -> None:
    answer = canonical(CALL).decode()
    asked = Asked(status="answered", oldest_at_us=BASE.decided_at_us, answer=answer)
    case = Case(**{**{f: getattr(BASE, f) for f in BASE.__slots__}, "asked": asked, "tools": {"x@1": ToolRef("x@1", "unsafe", "ab")}})
    assert decide(SPEC, POLICIES[0], case, mac).event.suppressed_by == "tool:crm.create_task@1"
