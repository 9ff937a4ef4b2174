"""The demo's year: what every agent shows in it, and that its report says what the log says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from postsale.agents import SHIPPED
from postsale.app import PostSale, Tenant
from postsale.events import ManualClock, to_us
from postsale.simulator import TROUBLED, Vendor
from postsale.store.contract import Query
from tests.browser import widths
from tests.year import Lived, the_year

from .support import run

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    return the_year(tmp_path_factory)


@pytest.fixture(scope="module")
def acme(year: Lived) -> Iterator[Tenant]:
    """The tenant as it was when the demo looked at it."""
    with PostSale.open(year.url, clock=ManualClock(datetime.fromisoformat(year.story["report"]["as_of"]))) as ps:
        yield ps.tenant("acme")


# ---------------------------------------------------------------- what every agent shows


@pytest.mark.parametrize("agent", SHIPPED)
def test_each_agent_shows_an_acted_an_awaiting_and_two_differently_suppressed_cases(agent: str, year: Lived, acme: Tenant) -> None:
    """On its card, as decisions of the log that were what the card says."""
    (its,) = [a for a in year.story["report"]["agents"] if a["name"] == agent]
    log = {str(e.id): e for e in acme.decisions() if e.agent == agent}
    assert [case["kind"] for case in its["cases"]] == ["acted", "awaiting", "suppressed", "suppressed"]
    acted, awaiting, one, other = (log[case["decision_id"]] for case in its["cases"])
    assert acted.disposition == "acted"
    assert awaiting.recorded.disposition == "awaiting"
    assert (awaiting.disposition == "awaiting") is (its["cases"][1]["until"] is None)
    assert (one.disposition, other.disposition) == ("suppressed", "suppressed")
    assert one.suppressed_by != other.suppressed_by
    assert (its["cases"][2]["rule"], its["cases"][3]["rule"]) == (one.suppressed_by, other.suppressed_by)


@pytest.mark.parametrize("agent", SHIPPED)
def test_each_agent_goes_from_observing_to_acting_by_the_criteria_that_its_policy_states(agent: str, acme: Tenant) -> None:
    """Each step is an event with its reason; before its first proposal nothing of it waited, before it acted nothing left without a person."""
    turns = [t for t in acme.report(START, END).turns if t.what == "autonomy" and t.name == agent]
    assert [t.to for t in turns[:3]] == ["observe", "propose", "act"]
    assert all(t.reason.startswith("criteria met: decisions ") for t in turns[1:3])
    policy = acme.policy(agent)
    assert policy is not None
    assert policy.autonomy is not None
    for e in acme.decisions():
        if e.agent == agent and e.recorded.disposition in ("acted", "awaiting"):
            assert e.decided_at >= turns[1].at
            assert e.recorded.disposition == "awaiting" or e.decided_at >= turns[2].at


def test_nothing_leaves_while_the_kill_switch_is_thrown(year: Lived, acme: Tenant) -> None:
    thrown, lifted = (datetime.fromisoformat(s["at"]) for s in year.story["steps"] if s["what"] == "kill switch")
    assert timedelta(days=7) < lifted - thrown
    query = Query(tenant="acme", kinds=frozenset({"effect/started"}))
    started = [stored.occurred_at_us for stored in acme._ps.log.store.read(query)]
    assert started
    assert not [at for at in started if to_us(thrown) <= at < to_us(lifted)]
    assert any((e.suppressed_by or "").startswith("kill-switch:") for e in acme.decisions())


def test_a_wider_policy_is_tried_on_history_before_it_is_activated(year: Lived, acme: Tenant) -> None:
    (step,) = [s for s in year.story["steps"] if s["what"] == "policy"]
    tried = year.story["what_if"]
    assert 0 < tried["changed"] <= tried["decisions"]
    assert f"of {tried['decisions']} past decisions {tried['changed']} would have been others" in step["told"]
    policy = acme.policy("renewal-rescue")
    assert policy is not None
    assert {r.authority_limit_minor for r in policy.rules if r.authority_limit_minor} == {20_000}


def test_people_approve_edit_reject_and_let_lapse(year: Lived) -> None:
    said = year.story["report"]["approvals"]
    parts = [said[name] for name in ("approved", "edited", "rejected", "lapsed", "overtaken", "waiting")]
    assert sum(parts) == said["asked"]
    assert min(said[name] for name in ("approved", "edited", "rejected", "lapsed", "waiting")) > 0
    assert len({round(hours) for hours in said["hours"]}) > 1


def test_the_customer_who_was_erased_is_named_nowhere_and_every_proof_holds(year: Lived, acme: Tenant) -> None:
    erased = year.story["erased"]
    assert erased["asked"] > 0
    assert (erased["name_now"], erased["head_unchanged"], erased["problems"]) == ("•••", True, 0)
    assert acme.names()[erased["ref"]] == "•••"
    alone = Vendor(4, customers=29, start=START, days=365, model=TROUBLED)  # the same customers, but for whom others invited
    alone.live()
    gone = alone.outcomes().keys() - set(acme.names().values())
    assert len(gone) == 1
    assert gone.pop() not in (year.folder / "demo.html").read_text()
    assert acme._ps.verify().ok


def test_late_doubled_and_corrected_signals_are_told(year: Lived) -> None:
    text = (year.folder / "demo.html").read_text()
    late, doubled, corrected = (
        int(n.replace(",", ""))
        for n in re.search(r"([\d,]+) of them more than two days late; ([\d,]+)\s.*?([\d,]+) put an earlier", text).groups()
    )  # type: ignore[union-attr]
    assert min(late, doubled, corrected) > 0
    assert doubled == year.story["signals"]["duplicates"]


# ---------------------------------------------------------------- the report says what the log says


def test_the_figures_of_the_report_are_those_of_outcomes(year: Lived, acme: Tenant) -> None:
    told, whole = year.story["report"], acme.outcomes(START, END)
    assert told["measures"] == orjson.loads(orjson.dumps([m.to_dict() for m in whole.measures]))
    assert told["referrals"] == whole.invitations._asdict()
    assert [q["name"] for q in told["quarters"]] == ["2026 Q1", "2026 Q2", "2026 Q3", "2026 Q4"]
    for q, month in zip(told["quarters"], (1, 4, 7, 10), strict=True):
        end = END if month == 10 else datetime(2026, month + 3, 1, tzinfo=UTC)
        part = acme.outcomes(datetime(2026, month, 1, tzinfo=UTC), end)
        assert q["movements"] == part.movements[0].to_dict()
        assert (q["grr"]["value"], q["nrr"]["value"]) == (part.measure("grr").value, part.measure("nrr").value)
        assert q["nrr"]["interval"] == (None if (i := part.measure("nrr").interval) is None else i.to_dict())


def test_the_figures_of_the_report_are_those_of_decisions_cases_and_customers(year: Lived, acme: Tenant) -> None:
    told, entries = year.story["report"], acme.decisions()
    inside = [e for e in entries if START <= e.decided_at < END]
    for a in told["agents"]:
        own = [e for e in inside if e.agent == a["name"]]
        assert a["dispositions"] == dict(Counter(e.disposition for e in own))
        assert a["suppressed_by"] == dict(Counter(e.suppressed_by for e in own if e.disposition == "suppressed"))
        assert (a["triggers"], a["outcomes"]) == (len(own), sum(e.outcome is not None for e in own))
    assert sum(a["triggers"] for a in told["agents"]) == len(inside)
    assert told["approvals"]["rejected"] == sum(e.suppressed_by == "approval:rejected" for e in inside)
    assert told["approvals"]["edited"] == sum(e.replaced_by is not None for e in inside)
    assert told["risk"][-1]["open"] == len(acme.cases())
    last, rows = told["health"][-1], acme.customers(as_of=END)
    assert (last["good"], last["fair"]) == tuple(sum(r.band == band and r.stage != "churned" for r in rows) for band in ("good", "fair"))
    left = {r.ref for r in rows if acme._ps.model.stage is None or r.stage == "churned"}
    assert last["good"] + last["fair"] + last["poor"] + last["unscored"] + last["left"] == len(rows)
    assert len(left) >= last["left"] > 0
    head = acme._ps.log.store.tree_head("acme")
    assert (told["leaves"], told["root"], told["position"]) == (head.size, head.root.hex(), acme._ps.log.store.head())


def test_the_money_given_is_what_left_as_offers(year: Lived, acme: Tenant) -> None:
    given: Counter[str] = Counter()
    for e in acme.decisions():
        for r in e.recorded.reservations:
            if r.unit == "EUR" and e.effects.get(r.intent_id) == "succeeded":
                given[r.budget] += r.amount
    told = {b["name"]: sum(spent for spent, _ in b["months"].values()) for b in year.story["report"]["budgets"]}
    assert {name: n for name, n in told.items() if n} == dict(given)
    assert given["retention"] > 0


def test_the_report_of_a_log_is_the_same_on_the_command_line_and_from_the_tenant(year: Lived, acme: Tenant, tmp_path: Path) -> None:
    """Without the twin, the seed and the notes, which only a simulated story has."""
    at = year.story["report"]["as_of"]
    when = ("--from", "2026-01-01", "--to", "2026-12-31", "--as-of", at, "--known-at", year.story["report"]["known_at"], "--names")
    done = run("report", *when, "--json", "--db", year.url)
    assert done.code == 0, done.err
    own = {"seed", "twin", "notes"}
    assert {k: v for k, v in done.json().items() if k not in own} == {k: v for k, v in year.story["report"].items() if k not in own}
    to = tmp_path / "r.html"
    done = run("report", *when[:4], "--as-of", at, "--out", str(to), "--db", year.url)
    assert done.code == 0, done.err
    page = to.read_text()
    assert "With and without agents" not in page
    assert not re.search(r"\b(cus|new)_\d{3}", page), "without --names nobody is named"
    assert re.search(r"\b(cus|new)_\d{3}", (year.folder / "demo.html").read_text())


def test_a_report_known_at_midsummer_knows_nothing_of_what_came_later(acme: Tenant) -> None:
    middle = datetime(2026, 7, 1, tzinfo=UTC)
    then = acme.report(START, middle, as_of=middle, known_at=middle)
    assert then.position < acme.report(START, middle).position
    assert {t.what for t in then.turns} == {"autonomy"}
    assert max(p.at for p in then.health) == middle
    newest = next(iter(acme._ps.log.store.read(Query(tenant="acme", known_at_us=to_us(middle), backward=True, limit=1))))
    assert then.position == newest.position


# ---------------------------------------------------------------- as it is shown


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_scrolling_sideways(width: int, year: Lived) -> None:
    needed, seen = widths((year.folder / "demo.html").read_text(), width)
    assert width - 20 <= seen <= width  # less a scroll bar
    assert needed == seen


def test_what_the_terminal_shows_fits_on_two_screens(tmp_path: Path) -> None:
    done = run("demo", "--days", "40", "--customers", "8", "--folder", str(tmp_path), env={"COLUMNS": "120"})
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) <= 2 * 45
    assert max(map(len, lines)) <= 120 + len(str(tmp_path)) + 20  # a path is never cut
    assert str(tmp_path / "demo.html") in done.out
