"""Decide: the same case gives the same bytes, and a decision is made again from its own record; differences are named."""

from __future__ import annotations

from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.agents import Agent, Policy, RenewalRescue
from postsale.agents.agent import decider_digest
from postsale.agents.budget_policy import Left
from postsale.agents.decide import AgentSpec, Case, decide, decision_id
from postsale.agents.evidence import EvidenceRecorder
from postsale.agents.guardrails import Context, ToolRef
from postsale.agents.rederive import rederive
from postsale.aggregates.decisions import DecisionRecorded, ReadRef
from postsale.errors import InvalidInput, NotAllowed
from postsale.events import MASKED, encode_payload, registry
from tests.agents.world import BEN, DUNNING, World

POLICY = Policy.from_toml(DUNNING)
SPEC = AgentSpec("dunning", "m:C", "d", "1")
TOOLS = {t: ToolRef(t, "idempotent", "ab" * 32) for t in POLICY.tools}


def mac(raw: bytes) -> str:
    return f"{len(raw)}-{sum(raw)}"


evidence = st.fixed_dictionaries(
    {
        "failed_payments": st.none() | st.integers(-1, 5),
        "mrr_minor": st.none() | st.integers(-5, 20_000),
        "segment": st.none() | st.sampled_from(["vip", "smb", "other"]),
        "time_zone": st.none() | st.just("Europe/Berlin"),
    }
)
contexts = st.builds(
    Context,
    local_time=st.sampled_from(["12:00", "03:00"]),
    time_zone=st.just("Europe/Berlin"),
    consent=st.fixed_dictionaries({"email": st.booleans()}),
    touches=st.fixed_dictionaries({30: st.integers(0, 3)}),
    budgets=st.integers(0, 10_000).map(lambda left: {"retention": Left(left, "2026-11")}),
    paused_by=st.sampled_from(["", "", "", "agent"]),
    merged=st.booleans(),
)
cases = st.builds(
    Case,
    trigger_id=st.uuids(),
    condition=st.just("failing"),
    depth=st.integers(0, 4),
    mode=st.sampled_from(["observe", "propose", "act"]),
    decided_at_us=st.integers(0, 2 * 10**15),
    read_set=st.just((ReadRef(stream="acme/customers/c1", fact_position=5, decision_version=2),)),
    evidence=evidence,
    context=contexts,
    tools=st.sampled_from([TOOLS, {}]),
    model=st.none() | st.just("m"),
    flags=st.none() | st.just({"failed": "it broke"}),
)


@given(case=cases)
def test_the_same_case_gives_the_same_bytes_and_is_made_again_from_its_record(case: Case) -> None:
    first, second = decide(SPEC, POLICY, case, mac), decide(SPEC, POLICY, case, mac)
    raw = encode_payload(first.event)
    assert raw == encode_payload(second.event)
    stored = registry.get(DecisionRecorded.wire_name).__pydantic_validator__.validate_json(raw)
    text = stored.arguments
    again = rederive(stored, text, Policy.from_json(POLICY.content), mac)
    assert again.difference is None
    assert again.arguments == first.arguments
    assert again.arguments_checked


@given(case=cases)
def test_every_case_gets_exactly_one_disposition_that_explains_itself(case: Case) -> None:
    event = decide(SPEC, POLICY, case, mac).event
    failed = [v.rule for v in event.verdicts if not v.passed]
    match event.disposition:
        case "suppressed":
            assert event.suppressed_by == failed[0]
        case "failed":
            assert (event.suppressed_by, event.intents) == (None, ())
        case _:
            assert failed == []
            assert event.suppressed_by is None
            assert event.intents
    if event.disposition not in {"acted", "awaiting"}:
        assert (event.intents, event.arguments, event.reservations) == ((), None, ())
    if event.disposition == "acted":
        assert event.mode == "act"
    assert sum(e.propensity_ppm for e in event.eligible) in {0, 1_000_000}
    assert event.evidence == dict(case.evidence)


def test_a_row_whose_value_is_missing_fails_and_says_which() -> None:
    w = World()
    w.mode("act")
    w.profile(segment="vip")
    w.consent()
    w.attend(w.failed())
    (event,) = w.decisions()
    assert event.disposition == "failed"
    assert "$mrr_minor is missing" in event.rationale


def test_unique_means_that_two_matching_rows_decide_nothing() -> None:
    text = DUNNING.replace('action = "none"\n', 'action = "none"\nwhen = { failed_payments = "< 2" }\n')
    published = Policy.from_toml(text).content.replace('"hit":"first"', '"hit":"unique"')  # by a release that did not refuse it
    w = World([Agent(Policy.from_json(published))])
    w.mode("act")
    w.profile(segment="smb")
    w.consent()
    w.attend(w.failed(attempt=2))
    (event,) = w.decisions()
    assert event.suppressed_by == "policy:not-unique"
    assert [e.rule for e in event.eligible] == ["mail", "task"]


def recorded() -> tuple[World, DecisionRecorded, str]:
    w = World()
    w.mode("act")
    event = w.decision(w.one_decision()).data
    assert isinstance(event.arguments, str)
    return w, event, event.arguments


def test_a_stored_decision_is_made_again_byte_for_byte() -> None:
    w, event, text = recorded()
    again = rederive(event, text, POLICY, w.engine.desk.mac("acme"))
    assert again.difference is None
    assert encode_payload(again.event) == encode_payload(event)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"evidence": {"failed_payments": 1, "mrr_minor": 4900, "segment": "vip", "time_zone": None}}, "eligible[1].action"),
        ({"evidence": {"failed_payments": 2, "mrr_minor": 5000, "segment": "vip", "time_zone": None}}, "arguments[0].amount_minor"),
        ({"rationale": "because I say so"}, "rationale"),
        ({"disposition": "acted"}, "disposition"),
        ({"rule": "task"}, "rule"),
        ({"outcome_kinds": ()}, "outcome_kinds[0]"),
        ({"depth": 3}, "approval_expires_at"),
        ({"mode": "observe"}, "approval_expires_at"),
        ({"context": {"local_time": "03:00", "time_zone": "UTC"}}, "approval_expires_at"),
        ({"context": {}}, "(deciding)"),
    ],
)
def test_a_record_that_was_altered_differs_at_a_named_place(change: dict[str, object], where: str) -> None:
    w, event, text = recorded()
    found = rederive(event.model_copy(update=change), text, POLICY, w.engine.desk.mac("acme")).difference
    assert found is not None
    assert found.where == where


def test_altered_arguments_are_named_and_not_shown() -> None:
    w, event, text = recorded()
    changed = orjson.dumps([{**orjson.loads(text)[0], "amount_minor": 9900}]).decode()
    found = rederive(event, changed, POLICY, w.engine.desk.mac("acme")).difference
    assert found is not None
    assert (found.where, found.recorded) == ("arguments[0].amount_minor", "(not shown)")


def test_another_policy_is_the_difference() -> None:
    w, event, text = recorded()
    other = Policy.from_toml(DUNNING.replace("version = 1", "version = 2"))
    found = rederive(event, text, other, w.engine.desk.mac("acme")).difference
    assert found is not None
    assert (found.where, found.recorded, found.regenerated) == ("policy", event.policy, other.digest)


def test_erased_arguments_are_compared_by_their_keyed_digest_and_without_a_key_not_at_all() -> None:
    w, event, _ = recorded()
    erased = event.model_copy(update={"arguments": MASKED})
    with_key = rederive(erased, None, POLICY, w.engine.desk.mac("acme"))
    assert (with_key.difference, with_key.arguments_checked) == (None, True)
    without = rederive(erased, None, POLICY, None)
    assert (without.difference, without.arguments_checked) == (None, False)
    other = event.intents[0].model_copy(update={"arguments_mac": "00"})
    found = rederive(erased.model_copy(update={"intents": (other,)}), None, POLICY, w.engine.desk.mac("acme")).difference
    assert found is not None
    assert found.where == "intents[0].arguments_mac"


def test_arguments_are_sealed_in_the_log_and_evidence_is_not_personal() -> None:
    w, event, text = recorded()
    raw = w.store.find("acme", decision_id(event.trigger_id)).data
    assert b"One month" not in raw.split(b'"arguments":')[1][:200]
    assert b"$sealed" in raw
    assert text.startswith("[{")


def test_an_undeclared_value_cannot_be_read_and_what_was_read_is_noted() -> None:
    recorder = EvidenceRecorder("a", {"x": "integer", "y": "text"}, {"x": 2.5, "secret": 1, "y": 3}, ())
    assert recorder.read("x") == 2
    with pytest.raises(NotAllowed, match="secret"):
        recorder.read("secret")
    with pytest.raises(InvalidInput, match="y"):
        recorder.read("y")
    assert recorder.seen == {"x": 2}


def test_the_digest_of_the_deciding_code_covers_the_agents_own_module() -> None:
    class Mine(Agent):
        pass

    assert decider_digest(Mine) != decider_digest(Agent)
    assert decider_digest(RenewalRescue) != decider_digest(Agent)
    assert len(decider_digest(Mine)) == 64


def test_derived_ids_never_change() -> None:
    assert decision_id(UUID(int=1)) == UUID("bd93734b-4e87-5b36-9a41-55bb42286f72")


def test_an_approved_decision_is_still_made_again_alike() -> None:
    w, event, text = recorded()
    w.engine.approvals.approve("acme", decision_id(event.trigger_id), BEN)
    w.attend()
    assert rederive(w.decisions()[0], text, POLICY, w.engine.desk.mac("acme")).difference is None
