"""Dispositions: triggers and decisions of any log are one to one, or the one that is not is named; shown by forging logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.access import FileVault
from postsale.agents.decide import decision_id
from postsale.aggregates import decisions as d
from postsale.audit import check_dispositions
from postsale.events import Event, ManualClock
from postsale.store import open_store
from postsale.store.log import Cause, Draft
from tests.agents.world import NOON, World
from tests.cli.support import run


def forge(w: World, event: Event, event_id: UUID | None = None, ref: str = "c1") -> UUID:
    """An event that no rule let pass, at the end of a customer's lane."""
    id_, stream = event_id or uuid4(), w.stream(ref)
    draft = Draft(event, id_, w.clock.now_us(), Cause(), ref)
    w.log.append(w.log.decisions(stream, w.store.versions([stream])[0], [draft]))
    return id_


def decided(w: World, ref: str = "c1") -> tuple[UUID, d.DecisionRecorded]:
    w.mode("act")
    id_ = w.one_decision(ref)
    return id_, w.decision(id_).data


def trigger(**fields: Any) -> d.TriggerRaised:
    return d.TriggerRaised(**{"agent": "dunning", "condition": "failing", "cause": "fact", "causing_event": uuid4()} | fields)


def problems(w: World, **how: Any) -> list[tuple[str, UUID]]:
    return [(p.what, p.id) for p in check_dispositions(w.store, **how).problems]


@given(
    story=st.lists(
        st.tuples(st.sampled_from(["failed", "paid", "vip", "wait", "ask", "pause", "resume"]), st.sampled_from("ab")), max_size=12
    )
)
def test_whatever_happens_triggers_and_decisions_stay_one_to_one(story: list[tuple[str, str]]) -> None:
    from tests.agents.world import ANNA

    w = World()
    w.mode("act")
    for what, ref in story:
        match what:
            case "failed" | "paid":
                w.attend(getattr(w, what)(ref), ref)
            case "vip":
                w.vip(ref)
            case "wait":
                w.wait(days=3)
            case "ask":
                w.engine.ask(w.stream(ref), "dunning", "look", person=ANNA, reason="x")
                w.wait(seconds=1)
            case "pause" | "resume":
                getattr(w.engine, what)("acme", "dunning", person=ANNA, reason="x")
    for ref in "ab":
        w.attend(None, ref)
    report = check_dispositions(w.store)
    assert report.problems == []
    assert report.triggers == report.decisions == sum(report.dispositions.values())


def test_a_trigger_without_a_decision_is_missing_one_and_within_the_grace_it_waits() -> None:
    w = World()
    decided(w)
    w.wait(hours=1)
    id_ = forge(w, trigger())
    assert problems(w) == [("missing", id_)]
    report = check_dispositions(w.store, since_us=w.clock.now_us() - 60_000_000)
    assert (report.ok, report.waiting) == (True, 1)
    assert problems(w, since_us=w.clock.now_us()) == [("missing", id_)]


def test_a_second_decision_about_a_trigger_is_doubled() -> None:
    w = World()
    _, event = decided(w)
    id_ = forge(w, event)
    (problem,) = check_dispositions(w.store).problems
    assert (problem.what, problem.id) == ("doubled", id_)
    assert problem.position == w.store.head()


def test_a_decision_that_nothing_asked_for_is_an_orphan() -> None:
    w = World()
    _, event = decided(w)
    alone = uuid4()
    id_ = forge(w, event.model_copy(update={"trigger_id": alone}), decision_id(alone))
    assert problems(w) == [("orphan", id_)]


def test_a_trigger_raised_after_its_decision_did_not_ask_for_it() -> None:
    w = World()
    _, event = decided(w)
    late = uuid4()
    id_ = forge(w, event.model_copy(update={"trigger_id": late}), decision_id(late))
    forge(w, trigger(), late)
    assert problems(w) == [("orphan", id_)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"agent": "other"}, "another agent"),
        ({"condition": "other"}, "another condition"),
        ({"depth": 1}, "another depth"),
        ({"disposition": "suppressed"}, "another reason to be suppressed"),
    ],
)
def test_a_decision_that_does_not_fit_its_trigger_is_named(change: dict[str, Any], says: str) -> None:
    w = World()
    _, event = decided(w)
    w.wait(seconds=1)
    id_ = forge(w, trigger())
    forge(w, event.model_copy(update={"trigger_id": id_, "suppressed_by": None, "disposition": "awaiting"} | change), decision_id(id_))
    (problem,) = check_dispositions(w.store).problems
    assert problem.what == "mismatch"
    assert says in problem.reason


def test_a_decision_about_another_customers_trigger_and_under_another_id_is_named() -> None:
    w = World()
    _, event = decided(w)
    id_ = forge(w, trigger())
    forge(w, event.model_copy(update={"trigger_id": id_}), uuid4(), "c2")
    assert [p.reason.rpartition("another ")[2] for p in check_dispositions(w.store).problems][:2] == [
        "customer",
        "id, which derives from the trigger's",
    ]


def test_an_effect_without_a_decision_or_that_it_did_not_intend_is_an_orphan() -> None:
    w = World()
    id_, event = decided(w)
    nobody = uuid4()
    forge(w, d.EffectSucceeded(intent_id=event.intents[0].intent_id, decision_id=nobody, attempt=1, sandbox=True))
    forge(w, d.EffectSucceeded(intent_id=nobody, decision_id=id_, attempt=1, sandbox=True))
    assert problems(w) == [("orphan", nobody), ("orphan", id_)]


def test_the_command_says_so_with_its_exit_status(tmp_path: Path) -> None:
    url, clock = f"sqlite:///{tmp_path / 'log.db'}", ManualClock(NOON)
    store = open_store(url, clock)
    w = World(store=store, vault=FileVault(tmp_path / "log.keys", create=True))
    decided(w)
    said = run("log", "verify", "--dispositions", "--db", url, "--json")
    assert (said.code, said.json()["dispositions"]["triggers"], said.json()["dispositions"]["ok"]) == (0, 1, True)
    assert "dispositions" not in run("log", "verify", "--db", url, "--json").json()
    id_ = forge(w, trigger())
    store.close()
    done = run("log", "verify", "--dispositions", "--db", url)
    assert done.code == 1
    assert "missing" in done.out
    assert str(id_) in done.out
    patient = run("log", "verify", "--dispositions", "--grace", "1e10", "--db", url, "--json")
    assert (patient.code, patient.json()["dispositions"]["waiting"]) == (0, 1)
