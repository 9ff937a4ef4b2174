"""Limits beyond one decision: tools by risk and segment, an agent's reach per hour, offers to one customer together; retirement."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postsale import PostSale
from postsale.agents import Agent, Policy
from postsale.agents.engines import EmbeddedEngine
from postsale.agents.limits import TIERS, Authority, ToolRisk, authority, tool_risk
from postsale.agents.rederive import rederive
from postsale.agents.retiring import settle_retired
from postsale.agents.undo import Scope
from postsale.agents.undoing import Undos
from postsale.agents.widening import widenings
from postsale.aggregates.artifacts import agent_stream
from postsale.aggregates.customer import MAX_OFFERS
from postsale.aggregates.decisions import DecisionRecorded, Offer
from postsale.audit.dispositions import check_dispositions
from postsale.errors import InvalidInput, NotAllowed, PolicyInvalid
from postsale.events import Lane
from postsale.projections.journal import read_journal
from postsale.store import Query
from tests.agents.world import ANNA, BEN, DUNNING, NOVEMBER, World, calls
from tests.cli.support import run

FREE = DUNNING.replace("authority_limit_minor = 1000", "authority_limit_minor = 90000").replace("count = 2\n", "count = 50\n")
FREE = FREE.replace("limit = 10000\n", "limit = 10000000\n")
RISK = 'tool_risk = { act = "low", by = "segment", segments = { vip = "high", smb = "medium" } }\nbound_to'
RADIUS = "blast_radius = { decisions = 3, hours = 1 }\nbound_to"
TOTAL = 'authority = { amount_minor = 10000, currency = "EUR", days = 30 }\nbound_to'


def world(limit: str, mode: Any = "act", text: str = FREE) -> World:
    w = World([Agent(Policy.from_toml(text.replace("bound_to", limit, 1)))])
    w.mode(mode)
    return w


def vip(w: World, ref: str = "c1") -> DecisionRecorded:
    """One more decision about a customer to whom a credit is offered."""
    if ref not in {e.stream.id for e in w.store.read(Query(tenant="acme", category="customers"))}:
        w.vip(ref)
    w.wait(seconds=1)
    (id_,) = w.attend(w.failed(ref), ref).decided
    w.wait(seconds=1)
    w.attend(w.paid(ref), ref)
    event = w.decision(id_).data
    policy = w.engine.desk.active_policy("acme", "dunning")[0]
    assert policy is not None
    assert rederive(event, event.arguments, policy, w.engine.desk.mac("acme")).difference is None
    return event


# ---------------------------------------------------------------- tools by risk


@pytest.mark.parametrize(("segment", "most"), [("vip", "high"), ("smb", "medium"), ("mid", "low"), (None, "low")])
@pytest.mark.parametrize("tier", TIERS)
def test_a_tool_that_is_riskier_than_the_segment_allows_asks_a_person(segment: str | None, most: Any, tier: Any) -> None:
    limit = ToolRisk(act="low", by="segment", segments={"vip": "high", "smb": "medium"})
    asked = tool_risk(limit, ["t@1"], {"t@1": tier}, {"segment": segment})
    assert asked.person is (TIERS.index(tier) > TIERS.index(most))
    assert asked.verdict.passed


def test_the_tier_is_the_contracts_and_a_tool_of_which_nothing_is_known_is_as_risky_as_can_be() -> None:
    w = world(RISK.replace('vip = "high"', 'vip = "medium"'))
    event = vip(w)
    assert event.disposition == "awaiting", "a credit's contract says high"
    assert event.context["tier.billing.offer_credit@1"] == "high"
    assert next(v for v in event.verdicts if v.guardrail == "tool-risk").rule == "tool-risk:medium/vip"
    assert vip(world(RISK)).disposition == "acted"
    assert tool_risk(ToolRisk(act="medium"), ["t@1"], {}, {}).person


# ---------------------------------------------------------------- blast radius


def test_an_agent_reaches_so_many_customers_an_hour_and_more_when_the_hour_is_over() -> None:
    w = world(RADIUS)
    events = [vip(w, f"c{n}") for n in range(5)]
    assert [e.disposition for e in events] == ["acted"] * 3 + ["suppressed"] * 2
    assert [e.context["reached"] for e in events] == [0, 1, 2, 3, 3]
    assert events[3].suppressed_by == "blast-radius:3/1h"
    w.wait(minutes=58)
    assert vip(w, "c6").disposition == "suppressed"
    w.wait(minutes=2)
    assert vip(w, "c7").disposition == "acted"


def test_what_an_agent_observes_reaches_nobody() -> None:
    w = world(RADIUS, mode="observe")
    for n in range(4):
        vip(w, f"c{n}")
    w.mode("act")
    assert vip(w, "c9").context["reached"] == 0


def test_the_radius_is_exact_when_several_workers_decide_at_once() -> None:
    w = world(RADIUS.replace("decisions = 3", "decisions = 7"))
    for n in range(20):
        w.vip(f"c{n}")
    facts = {f"c{n}": w.failed(f"c{n}") for n in range(20)}
    engines = [EmbeddedEngine(w.log, [Agent(a.policy) for a in w.engine.agents.values()], w.toolbox) for _ in range(4)]
    failed: list[BaseException] = []

    def work(engine: EmbeddedEngine, refs: list[str]) -> None:
        try:
            for ref in refs:
                engine.attend(w.stream(ref), facts[ref])
        except BaseException as error:  # told below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(e, [f"c{n}" for n in range(i, 20, 4)])) for i, e in enumerate(engines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    ends = [e.disposition for e in read_journal(w.store, "acme")]
    reached = w.store.versions([agent_stream("acme", "dunning")._replace(category="reach")])[0]
    assert ends.count("acted") == reached
    assert reached + ends.count("failed") >= 7
    assert reached <= 7


# ---------------------------------------------------------------- offers together


def test_offers_to_one_customer_add_up_and_above_the_limit_a_person_decides() -> None:
    w = world(TOTAL)
    assert [vip(w).disposition for _ in range(3)] == ["acted", "acted", "awaiting"]
    assert vip(w, "c2").disposition == "acted", "another customer"
    w.wait(days=29)
    assert vip(w).disposition == "awaiting", "what waits was offered too"
    w.wait(days=31)
    assert vip(w).disposition == "acted"


def test_what_was_not_offered_in_the_end_does_not_count() -> None:
    w = world(TOTAL)
    vip(w)
    vip(w)
    third = vip(w)
    (waiting,) = (e.id for e in read_journal(w.store, "acme") if e.disposition == "awaiting")
    w.engine.approvals.reject("acme", waiting, BEN, reason="no")
    assert len(w.customer().offered) == 2
    assert third.context["offered_minor"] == 9800
    first = read_journal(w.store, "acme")[0].id
    undos = Undos(w.engine.desk, w.toolbox, w.engine.outbox)
    undo, _ = undos.propose("acme", Scope("decision", str(first)), ANNA)
    undos.approve("acme", undo.id, ANNA, reason="x")
    undos.run("acme", undo.id)
    assert [o.amount_minor for o in w.customer().offered] == [4900], "what was taken back was not offered"
    assert vip(w).disposition == "acted"


def test_more_offers_than_are_remembered_ask_a_person() -> None:
    limit = TOTAL.replace("10000", "10000000").replace("30", "100")
    w = world(limit, text=FREE.replace("days = 30", "days = 1"))
    for n in range(MAX_OFFERS + 1):
        assert vip(w).disposition == "acted", n
        w.wait(days=1)
    event = vip(w)
    assert (event.disposition, event.context.get("offered_minor")) == ("awaiting", None)


@given(before=st.integers(0, 20_000) | st.none(), amount=st.integers(0, 20_000), may_ask=st.booleans())
@example(before=5_100, amount=4_900, may_ask=True)
@example(before=5_100, amount=4_901, may_ask=True)
def test_a_person_is_asked_exactly_above_the_limit_and_nobody_is_asked_in_vain(before: int | None, amount: int, may_ask: bool) -> None:
    limit = Authority(amount_minor=10_000, currency="EUR", days=30)
    offer = Offer(kind="credit", amount_minor=amount, currency="EUR", terms="x", authority_limit_minor=1)
    asked = authority(limit, offer, before, may_ask=may_ask)
    above = before is None or before + amount > 10_000
    assert (asked.person, asked.verdict.passed) == (above and may_ask, may_ask or not above)
    foreign = offer.model_copy(update={"currency": "USD"})
    assert not authority(limit, foreign, before, may_ask=may_ask).verdict.passed


# ---------------------------------------------------------------- declaring them


@pytest.mark.parametrize(
    ("limit", "where"),
    [
        (RISK.replace('by = "segment"', 'by = "mood"'), "guardrails.tool_risk.by"),
        (RISK.replace('by = "segment", ', ""), "guardrails.tool_risk.by"),
        (RADIUS.replace("3", "0"), "guardrails.blast_radius.decisions"),
        (TOTAL.replace("EUR", "USD"), "guardrails.authority.currency"),
    ],
)
def test_a_limit_that_cannot_work_is_refused_by_its_place(limit: str, where: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        Policy.from_toml(FREE.replace("bound_to", limit, 1))
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("limit", "wider", "where"),
    [
        (RISK, RISK.replace('smb = "medium"', 'smb = "high"'), "guardrails.tool_risk"),
        (RISK, RISK.replace('act = "low"', 'act = "medium"'), "guardrails.tool_risk"),
        (RISK, "bound_to", "guardrails.tool_risk"),
        (RADIUS, RADIUS.replace("3", "4"), "guardrails.blast_radius"),
        (RADIUS.replace("hours = 1", "hours = 2"), RADIUS, "guardrails.blast_radius"),
        (TOTAL, TOTAL.replace("10000", "10001"), "guardrails.authority"),
        (TOTAL, TOTAL.replace("30", "29"), "guardrails.authority"),
    ],
)
def test_less_of_a_limit_is_a_widening_and_more_is_none(limit: str, wider: str, where: str) -> None:
    old, new = (Policy.from_toml(FREE.replace("bound_to", x, 1)) for x in (limit, wider))
    assert [w.where for w in widenings(old, new)] == [where]
    assert where.rpartition(".")[2].replace("_", " ").split()[0] in old.table() or old.table() != new.table()
    assert widenings(new, old) == () or wider == "bound_to" or limit == wider


# ---------------------------------------------------------------- retirement


def test_a_retired_agent_decides_nothing_more_and_leaves_nothing_open() -> None:
    w = World([Agent(Policy.from_toml(DUNNING))])  # a credit above the limit waits for a person
    w.mode("act")
    w.one_decision("waits")
    w.vip("pending")
    w.engine.watch(w.stream("pending"), w.failed("pending"))
    steps, desk = w.engine, w.engine.desk
    from postsale.agents import control

    with pytest.raises(InvalidInput, match="not retired"):
        settle_retired(steps, "acme", "dunning", person=ANNA, reason="old")
    with pytest.raises(NotAllowed):
        control.retire(desk, "acme", "dunning", person="anna", reason="old")  # type: ignore[arg-type]
    assert control.retire(desk, "acme", "dunning", person=ANNA, reason="old").retired
    assert settle_retired(steps, "acme", "dunning", person=ANNA, reason="old") == 2
    assert settle_retired(steps, "acme", "dunning", person=ANNA, reason="old") == 0
    ends = {e.stream.id: (e.disposition, e.suppressed_by) for e in read_journal(w.store, "acme")}
    assert ends == {"waits": ("suppressed", "override"), "pending": ("suppressed", "kill-switch:retired")}
    assert w.engine.desk.budget("acme", "retention").left(10_000, NOVEMBER) == 10_000
    w.vip("later")
    assert w.attend(w.failed("later"), "later").raised == 0
    report = check_dispositions(w.store)
    assert (report.ok, report.waiting) == (True, 0)
    assert calls(w) == []


def test_there_is_no_way_back_from_retirement_and_it_is_recorded_once() -> None:
    w = World()
    from postsale.agents import control

    desk = w.engine.desk
    control.retire(desk, "acme", "dunning", person=ANNA, reason="old")
    control.retire(desk, "acme", "dunning", person=BEN, reason="again")
    control.pause(desk, "acme", "dunning", person=BEN, reason="again")
    for back in (control.resume, lambda *a, **k: control.set_mode(*a, "act", **k)):
        with pytest.raises(InvalidInput, match="for good"):
            back(desk, "acme", "dunning", person=ANNA, reason="back")  # type: ignore[operator]
    with pytest.raises(InvalidInput, match="one by one"):
        control.retire(desk, "acme", "all", person=ANNA, reason="x")
    kinds = [e.kind for e in w.store.read(Query(tenant="acme", category="agents", lane=Lane.DECISION))]
    assert kinds == ["agent/retired"]


def test_the_command_line_retires_an_agent_and_lists_it_so(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    with PostSale.open(url):
        pass
    where = ("--db", url, "--tenant", "acme")
    assert run("agent", "act", "renewal-rescue", "--reason", "go", *where).code == 0
    done = run("agent", "retire", "renewal-rescue", "--reason", "replaced", *where, "--json")
    assert (done.code, done.json()["retired"]) == (0, True)
    assert "retired" in run("agent", "list", *where).out
    assert run("agent", "act", "renewal-rescue", "--reason", "back", *where).code == 2
