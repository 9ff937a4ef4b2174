"""Contracts of tools: what is in the digest and what is not, and how an effect is taken back."""

from __future__ import annotations

from typing import Any

import pytest

from postsale.agents.tools import CreateTask, OfferCredit, Rate, Receipt, Tool, Toolbox, Undo, contract_digest
from postsale.agents.tools.sandbox import Credit, Task
from postsale.errors import BadDeclaration


class Plain(Tool):
    name, version, kind, input = "crm.note", 1, "idempotent", Task

    def call(self, arguments: Task, *, idempotency_key: str, timeout_s: float) -> Receipt:
        return Receipt()


def with_(**declared: Any) -> Tool:
    tool = type("Changed", (Plain,), declared)()
    assert isinstance(tool, Tool)
    return tool


@pytest.mark.parametrize(
    "declared",
    [
        {"version": 2},
        {"kind": "unsafe"},
        {"input": Credit},
        {"risk_tier": "high"},
        {"undo": Undo("crm.close_task@1", {"task": "$receipt"})},
    ],
    ids=lambda d: next(iter(d)),
)
def test_what_a_decision_relies_on_changes_the_digest(declared: dict[str, Any]) -> None:
    assert contract_digest(with_(**declared)) != contract_digest(Plain())


@pytest.mark.parametrize(
    "declared",
    [
        {"timeout_s": 1.0},
        {"max_attempts": 9},
        {"rate": Rate(1)},
        {"breaker_after": 1},
        {"key_lives_s": 9.0},
        {"retry_budget": Rate(2, 3.0)},
    ],
    ids=lambda d: next(iter(d)),
)
def test_how_a_tool_is_dispatched_does_not_change_the_digest(declared: dict[str, Any]) -> None:
    assert contract_digest(with_(**declared)) == contract_digest(Plain())


@pytest.mark.parametrize(
    "declared",
    [
        {"rate": Rate(0)},
        {"rate": Rate(1, 0.0)},
        {"retry_budget": Rate(1, 1e9)},
        {"breaker_after": 0},
        {"breaker_open_s": 0.0},
        {"key_lives_s": 0.0},
        {"risk_tier": "extreme"},
        {"undo": Undo("crm.close_task", {})},
        {"undo": Undo("crm.close_task@1", {"customer": "$arguments.nobody", "task": "$receipt"})},
        {"undo": Undo("crm.close_task@1", {"customer": "$customer", "task": "$receipt"})},
        {"undo": Undo("crm.close_task@1", {"customer": "$arguments.customer"})},
        {"undo": Undo("crm.close_task@1", {"customer": "$arguments.customer", "task": "$receipt", "extra": 1})},
        {"undo": Undo("crm.nothing@1", {})},
    ],
    ids=str,
)
def test_a_contract_that_cannot_work_is_refused_when_the_toolbox_is_made(declared: dict[str, Any]) -> None:
    with pytest.raises(BadDeclaration):
        Toolbox([with_(**declared)])


def test_the_arguments_of_an_undo_follow_from_the_effect_and_fit_the_tool_that_does_it() -> None:
    undo = OfferCredit.undo
    assert undo is not None
    given = {"customer": "c1", "amount_minor": 500, "currency": "EUR", "terms": "One month."}
    back = undo.of(given, receipt="cr_1", intent_id="i")
    assert back == {"customer": "c1", "credit": "cr_1", "amount_minor": 500, "currency": "EUR"}
    other = Toolbox().get(undo.tool)
    assert other is not None
    other.input.model_validate(back)


def test_an_undo_may_name_the_intent_and_plain_values() -> None:
    undo = Undo("x@1", {"a": "$intent", "b": "word", "c": 7, "d": True})
    assert undo.of({}, receipt="r", intent_id="i9") == {"a": "i9", "b": "word", "c": 7, "d": True}


def test_a_sandbox_has_the_contract_of_the_tool_that_it_stands_for() -> None:
    class Real(CreateTask):
        sandbox = False
        risk_tier = "high"

    stand_in = Toolbox([Real()]).get("crm.create_task@1")
    assert stand_in is not None
    assert stand_in.sandbox
    assert stand_in.ref == Real().ref
