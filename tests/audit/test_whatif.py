"""What if: history under another policy equals a life under it where nothing feeds back; widening names customers; values need support."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale import PostSale
from postsale.agents import Agent, Policy
from postsale.agents.outbox import Outbox
from postsale.aggregates import decisions as d
from postsale.aggregates.artifacts import content_digest
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.signals import AccountProfiled, SubscriptionStarted
from postsale.audit import Estimate, WhatIf, what_if
from postsale.audit.estimate import LEAST, Sample, estimate
from postsale.audit.whatif_results import result_of
from postsale.errors import InvalidInput, PolicyWidens
from postsale.events import ManualClock, derive_id
from postsale.store.log import Cause, Draft
from tests.agents.test_sequences import RULE
from tests.agents.world import ANNA, DUNNING, NOON, World
from tests.app.support import failed, subscribed
from tests.cli.support import run

BASE = Policy.from_toml(DUNNING)
CHANGES = [
    ("count = 2\n", "count = 1\n"),
    ("count = 2\n", "count = 5\n"),
    ("limit = 10000", "limit = 5000"),
    ("limit = 10000", "limit = 90000"),
    ("authority_limit_minor = 1000", "authority_limit_minor = 9000"),
    ('segment = "vip"', 'segment = "nobody"'),
    ('segment = "smb"', 'segment = "is known"'),
    ('when = { failed_payments = ">= 2" }', 'when = { failed_payments = ">= 3" }'),
    ('start = "20:00"', 'start = "12:30"'),
    ("[guardrails.quiet_hours]", RULE.replace("ticketing/ticket-escalated", "billing/invoice-paid") + "\n[guardrails.quiet_hours]"),
]
steps = st.lists(
    st.tuples(
        st.sampled_from(["failed", "failed", "failed", "paid", "wait", "vip", "smb", "consent", "pause", "resume"]),
        st.sampled_from(["a", "b"]),
        st.integers(1, 3),
    ),
    min_size=3,
    max_size=16,
)


def policy(*changes: tuple[str, str]) -> Policy:
    text = DUNNING
    for old, new in changes:
        text = text.replace(old, new, 1)
    return Policy.from_toml(text)


def live(story: list[tuple[str, str, int]], under: Policy, *, mode: str = "act", hours: int = 3) -> World:
    w = World([Agent(under)])
    w.mode(mode)
    for ref in "ab":
        w.vip(ref, mrr_minor=3000)
    for what, ref, n in story:
        match what:
            case "failed":
                w.attend(w.failed(ref, attempt=n), ref)
            case "paid":
                w.attend(w.paid(ref), ref)
            case "wait":
                w.wait(hours=hours * n)
                w.attend(None, ref)
            case "vip" | "smb":
                w.profile(ref, segment=what)
            case "consent":
                w.consent(ref, given=n > 1)
            case _:
                getattr(w.engine, what)("acme", "dunning", person=ANNA, reason="x")
        w.wait(minutes=1)
    return w


def asked(w: World, candidate: Policy, **how: Any) -> WhatIf:
    def values(c: CustomerAggregate, at_us: int, known_us: int) -> Mapping[str, Any]:
        agent = Agent(candidate)
        return agent.values(c, w.engine.health.read(c, at_us, agent.wanted), at_us)

    return what_if(w.log, "acme", candidate, values, begin_us=0, end_us=w.clock.now_us(), **how)


@given(story=steps, hours=st.sampled_from([3, 100, 400]))
def test_the_policy_that_decided_would_have_decided_the_same(story: list[tuple[str, str, int]], hours: int) -> None:
    """Also where approvals expired, and gave contacts and money back, in between."""
    w = live(story, BASE, hours=hours)
    found = asked(w, BASE)
    assert found.changed == []
    assert found.before == found.after
    assert found.decisions == len(w.decisions("a") + w.decisions("b")) + len(w.decisions())
    assert (found.widens, found.touched, found.unreadable) == ((), [], 0)


@given(story=steps, changes=st.lists(st.sampled_from(CHANGES), min_size=1, max_size=2, unique_by=lambda c: c[0]))
def test_history_under_a_candidate_is_what_a_life_under_it_was(story: list[tuple[str, str, int]], changes: list[tuple[str, str]]) -> None:
    candidate = policy(*changes)
    was, would = live(story, BASE), live(story, candidate)
    found = asked(was, candidate)
    before = [e for ref in "ab" for e in was.decisions(ref)]
    after = [e for ref in "ab" for e in would.decisions(ref)]
    assert len(before) == len(after) == found.decisions
    expected = {}
    for a, b in zip(before, after, strict=True):  # ids differ: each log has keys of its own
        assert (a.condition, a.decided_at) == (b.condition, b.decided_at)
        expected[derive_id(a.trigger_id, "decision")] = result_of(b)
    changed = {c.decision_id: c for c in found.changed}
    for id_, result in expected.items():
        mine = changed[id_].after if id_ in changed else result_of(was.decision(id_).data)
        if result.acts or mine.acts or id_ in changed:
            assert mine == result, id_
    contacts = sum(r.contacts for r in expected.values() if r.acts)
    money = sum(r.offer_minor for r in expected.values() if r.acts)
    assert (found.after["contacts"], found.after["offers EUR"]) == (contacts, money)


def test_a_contact_that_was_not_made_leaves_room_for_a_later_one() -> None:
    again = [("failed", "a", 2), ("paid", "a", 1)]
    story = [*again, *again, ("smb", "a", 1), ("failed", "a", 2)]
    was, candidate = live(story, BASE), policy(('segment = "vip"', 'segment = "nobody"'))
    assert [e.suppressed_by for e in was.decisions("a")] == [None, None, "frequency:2/30d"]
    found = asked(was, candidate)
    assert [str(c.after) for c in found.changed] == ["acted: task", "acted: task", "acted: email"]
    assert found.changed[-1].why == "no longer suppressed by frequency:2/30d"
    assert (found.before["contacts"], found.after["contacts"]) == (2, 1)


def test_what_a_narrower_trigger_would_not_have_asked_is_not_asked() -> None:
    w = live([("failed", "a", 1), ("failed", "b", 3)], BASE)
    found = asked(w, policy(('when = { failed_payments = ">= 1" }', 'when = { failed_payments = ">= 2" }')))
    ((change),) = found.changed
    assert (change.customer, str(change.after), change.why) == ("a", "not asked", "no trigger would have asked")


def test_a_wider_policy_names_the_customers_it_would_newly_touch_and_those_it_would_ask_about() -> None:
    w = live([("smb", "a", 1), ("failed", "a", 1), ("failed", "b", 3), ("smb", "b", 1)], BASE, mode="observe")
    w.profile("c", segment="mid")
    w.attend(w.failed("c", attempt=1), "c")
    wider = policy(('segment = "smb"', 'segment = "in [smb, mid]"'))
    assert asked(w, wider).touched == []  # it only observed
    w.consent("c")
    w.attend(w.paid("c"), "c")
    w.wait(minutes=1)
    w.attend(w.failed("c", attempt=1), "c")
    found = asked(w, wider, mode="act")
    assert [c.where for c in found.widens] == ["rule 'mail'"]
    assert found.touched == ["c"]
    (change,) = found.changed[-1:]
    assert (str(change.before), str(change.after)) == ("suppressed by policy:wait", "acted: email")
    everybody = [(w.customer(ref), {"failed_payments": 0, "segment": segment}) for ref, segment in (("a", "smb"), ("b", "x"), ("c", "mid"))]
    asks = policy(('when = { failed_payments = ">= 1" }', 'when = { failed_payments = ">= 0" }'))
    assert asked(w, asks, everybody=everybody).asked == ["a"]


def test_evidence_that_was_not_recorded_is_read_again_as_it_was_known_then() -> None:
    w = World()
    w.mode("act")
    w.profile("a", segment="other", country="DE")
    w.attend(w.failed("a", attempt=1), "a")
    w.wait(days=1)
    w.profile("a", segment="other", country="FR")
    text = DUNNING.replace("[inputs]", '[inputs]\ncountry = "text"').replace(
        'when = { failed_payments = ">= 2" }', 'when = { country = "DE" }'
    )
    found = asked(w, Policy.from_toml(text))
    (change,) = found.changed
    assert change.after.rules == ("task",)


def test_a_window_ends_after_it_begins() -> None:
    with pytest.raises(InvalidInput, match="after the end"):
        what_if(World().log, "acme", BASE, lambda *_: {}, begin_us=2, end_us=1)


# ---------------------------------------------------------------- worth


def samples(seed: int, n: int, chance: float) -> list[Sample]:
    """Two actions, drawn with recorded chances; the candidate always takes the second, which succeeds in 30 % of cases."""
    rng, out = random.Random(seed), []
    for _ in range(n):
        second = rng.random() < chance
        success = rng.random() < (0.3 if second else 0.1)
        out.append(Sample(success, agrees=second, chance=chance))
    return out


@pytest.mark.parametrize("chance", [0.2, 0.5, 1.0])
def test_the_interval_holds_the_truth_as_often_as_it_says(chance: float) -> None:
    held = [estimate(samples(seed, 400, chance)) for seed in range(200)]
    assert all(isinstance(e, Estimate) for e in held)
    inside = sum(e.low <= 0.3 <= e.high for e in held if isinstance(e, Estimate))
    assert inside >= 190, f"chance {chance}, seeds 0 to 199"
    mean = sum(e.value for e in held if isinstance(e, Estimate)) / 200
    assert abs(mean - 0.3) < 0.02, f"chance {chance}, seeds 0 to 199"


def test_without_support_or_with_few_decisions_there_is_no_estimate_but_a_reason() -> None:
    enough = samples(1, LEAST, 0.5)
    assert isinstance(estimate(enough), Estimate)
    assert "too few" in str(estimate(enough[1:]))
    assert estimate([*enough, replace(enough[0], chance=0.0)]) == (
        f"in 1 of {LEAST + 1} decisions the candidate does what had no recorded chance: nothing is known of its outcome"
    )


def drawn(w: World, ref: str, rng: random.Random) -> None:
    """A decision that was drawn among two rows, as a planner that explores records it, with its outcome."""
    w.vip(ref, mrr_minor=900)
    trigger, stream = uuid4(), w.stream(ref)
    action = rng.choice(["offer", "task"])
    event = d.DecisionRecorded(
        trigger_id=trigger, agent="dunning", condition="failing", depth=0, mode="act", decided_at=w.now(),
        read_set=(d.ReadRef(stream=str(stream), fact_position=1, decision_version=1),),
        evidence={"failed_payments": 2, "mrr_minor": 900, "segment": "vip", "time_zone": None},
        context={"local_time": "13:00", "time_zone": "Europe/Berlin", "consent.email": True, "touches.30d": 0, "budget_left.retention": 9000, "budget_period.retention": "2026-11"},
        policy=BASE.digest, tools={"crm.create_task@1": "idempotent:x", "billing.offer_credit@1": "idempotent:x"}, decider="m:C", decider_digest="d",
        package_version="1", flags={}, draw_ppm=1,
        eligible=(d.Eligible(action="offer", rule="credit", propensity_ppm=500_000), d.Eligible(action="task", rule="task", propensity_ppm=500_000)),
        verdicts=(), action=action, rule="credit" if action == "offer" else "task", rationale="drawn", disposition="acted",
        outcome_kinds=("billing/invoice-paid",), outcome_by=w.now(),
    )  # fmt: skip
    id_ = derive_id(trigger, "decision")
    outcome = d.OutcomeObserved(decision_id=id_, outcome="success" if rng.random() < (0.9 if action == "task" else 0.2) else "none")
    version = w.store.versions([stream])[0]
    drafts = [Draft(event, id_, w.clock.now_us(), Cause(), ref), Draft(outcome, uuid4(), w.clock.now_us(), Cause())]
    w.log.append(w.log.decisions(stream, version, drafts))


def test_where_decisions_were_drawn_with_recorded_chances_the_worth_of_each_row_is_told_apart() -> None:
    w, rng = World(), random.Random(7)
    w.engine.install("acme", "dunning")
    for n in range(300):
        drawn(w, f"c{n}", rng)
    big = ("limit = 10000", "limit = 1000000")
    task, offer = asked(w, policy(big, ('segment = "vip"', 'segment = "nobody"'))), asked(w, policy(big))
    assert isinstance(task.value, Estimate), task.value
    assert isinstance(offer.value, Estimate), offer.value
    assert task.value.low < 0.9 < task.value.high
    assert offer.value.low < 0.2 < offer.value.high
    assert task.value.low > offer.value.high


def test_where_rows_are_certain_another_action_has_no_estimate() -> None:
    story = [("failed", "a", 3)]
    found = asked(live(story, BASE), policy(('segment = "vip"', 'segment = "nobody"')))
    assert "no recorded chance" in str(found.value) or "too few" in str(found.value)
    assert found.to_dict()["value"] is None


# ---------------------------------------------------------------- the command


@pytest.fixture
def place(tmp_path: Path) -> tuple[str, Path]:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    clock = ManualClock(NOON)
    with PostSale.open(url, clock=clock, agents=[Agent(BASE)]) as ps:
        acme = ps.tenant("acme")
        acme.agent("dunning").act(reason="test", by=ANNA)
        for n, ref in enumerate(["canary.bird@example.com", "cus_2"]):
            acme.record(ref, subscribed(f"s{n}", NOON))
            acme.record(ref, failed(f"f{n}", NOON, attempt=n + 1))
        assert ps.run_once().decided == 2
    return url, tmp_path


def test_the_command_shows_what_would_change_and_fails_a_step_of_ci(place: tuple[str, Path]) -> None:
    url, folder = place
    (folder / "same.toml").write_text(DUNNING)
    (folder / "wider.toml").write_text(DUNNING.replace('when = { failed_payments = ">= 2" }', 'when = { failed_payments = ">= 1" }'))
    (folder / "says.toml").write_text((folder / "wider.toml").read_text().replace("version = 1", "version = 2\nwidens = true"))
    (folder / "less.toml").write_text(DUNNING.replace('when = { failed_payments = ">= 2" }', 'when = { failed_payments = ">= 3" }'))

    def whatif(name: str, *more: str) -> Any:
        return run("decision", "whatif", "--db", url, "--policy", str(folder / name), "--from", "2026-11-01", "--to", "2026-11-30", *more)

    said = whatif("wider.toml", "--json")
    assert (said.code, said.json()["decisions"], len(said.json()["changed"])) == (0, 2, 1)
    assert len(said.json()["newly_touched"]) == 1
    assert (said.json()["before"]["acted"], said.json()["after"]["acted"]) == (1, 2)
    shown = whatif("wider.toml", "--fail-on", "widen")
    assert shown.code == 1
    assert "Customers it would newly touch" in shown.out
    assert "canary" not in shown.out + said.out
    assert [whatif(n, "--fail-on", "widen").code for n in ("same.toml", "says.toml", "less.toml")] == [0, 0, 0]
    assert [whatif(n, "--fail-on", "change").code for n in ("same.toml", "wider.toml", "less.toml")] == [0, 1, 1]
    assert whatif("same.toml", "--fail-on", "rain").code == 2
    assert whatif("none.toml").code == 2


def test_a_wider_policy_is_activated_only_when_somebody_says_that_it_is(place: tuple[str, Path]) -> None:
    url, folder = place
    file = folder / "wider.toml"
    file.write_text(DUNNING.replace("count = 2", "count = 3"))
    refused = run("policy", "activate", str(file), "--db", url, "--reason", "more mails")
    assert refused.code == 3
    assert "more than 2 contacts in 30 days" in refused.err
    assert run("policy", "show", "active:dunning", "--db", url, "--json").json()["digest"] == BASE.digest
    done = run("policy", "activate", str(file), "--db", url, "--reason", "more mails", "--widens", "--json")
    assert done.json()["activated"] is True
    assert run("policy", "show", "active:dunning", "--db", url, "--json").json()["digest"] == Policy.load(file).digest
    with PostSale.open(url) as ps, pytest.raises(PolicyWidens):
        ps.tenant("acme").activate(policy(("count = 2\n", "count = 9\n")), reason="x", by=ANNA)


def test_offers_are_summed_as_money(tmp_path: Path) -> None:
    """49.00, and under a smaller budget none of it."""
    url, dearer = f"sqlite:///{tmp_path / 'log.db'}", tmp_path / "less.toml"
    dearer.write_text(DUNNING.replace("limit = 10000", "limit = 4000"))
    with PostSale.open(url, clock=ManualClock(NOON), agents=[Agent(BASE)]) as ps:
        acme = ps.tenant("acme")
        acme.agent("dunning").propose(reason="test", by=ANNA)
        acme.record("cus_1", AccountProfiled(source="crm", id="p", occurred_at=NOON, segment="vip"))
        terms = {"subscription_id": "s", "mrr_minor": 4900, "interval": "month", "currency": "EUR", "effective_at": NOON}
        acme.record("cus_1", SubscriptionStarted(source="b", id="s", occurred_at=NOON, **terms))
        acme.consent("cus_1", "email", "service", evidence="form")
        acme.record("cus_1", failed("f", NOON))
        assert ps.run_once().dispositions == {"awaiting": 1}
    window = ("--from", "2026-11-01", "--to", "2026-11-30")
    told = run("decision", "whatif", "--db", url, "--policy", str(dearer), *window)
    (line,) = [line.split() for line in told.out.splitlines() if line.startswith("offers EUR")]
    assert line == ["offers", "EUR", "49.00", "0.00", "-49.00"]


def test_a_what_if_changes_nothing_and_reaches_no_tool(place: tuple[str, Path]) -> None:
    url, _ = place
    with PostSale.open(url, clock=ManualClock(NOON), agents=[Agent(BASE)]) as ps:
        head = ps.log.store.head()
        found = ps.tenant("acme").what_if(policy(CHANGES[0]), begin=NOON.replace(day=1))
        assert ps.log.store.head() == head
        assert isinstance(ps.engine.outbox, Outbox)
        assert content_digest(found.policy.content) == found.policy.digest
