"""Promises 1, 2, 4, 5 and 6 at the level of a whole application: real files, a real kill, a simulated quarter."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from postsale.agents import ChurnOutreach, RenewalRescue
from postsale.agents.tools import Receipt, Tool
from postsale.agents.tools.sandbox import Task
from postsale.aggregates.decisions import DecisionRecorded, TriggerRaised
from postsale.app import PostSale, Tenant
from postsale.errors import InvalidInput, ReplayDiverged, StoreUnavailable, ToolUnreachable
from postsale.events import Lane, ManualClock, Origin
from postsale.projections import CUSTOMER_HEALTH
from postsale.store import Query
from tests.nursery import Fork
from tests.postgres import server as admin_url

from . import killed
from .quarter import START, lived_through
from .support import ANNA, NOON, Where, arguments, cancelled, delete_views, execute, failed, head, opened, paid, subscribed, used

DISPOSITIONS = {"acted", "awaiting", "suppressed", "failed"}


def events(ps: PostSale, kind: str) -> list[Any]:
    return list(ps.log.events(Query(tenant="acme", lane=Lane.DECISION, kinds=frozenset({kind}))))


def assert_every_trigger_has_its_one_decision(ps: PostSale) -> None:
    """Promise 5: a bijection, a disposition each, a rule for each suppressed one; state and journal say the same."""
    triggers = [e.event_id for e in events(ps, "agent/trigger-raised")]
    decisions = [e.data.trigger_id for e in events(ps, "agent/decision-recorded")]
    assert Counter(triggers) == Counter(decisions)
    assert max(Counter(triggers).values(), default=1) == 1
    entries = {e.id: e for e in ps.tenant("acme").decisions()}
    assert {e.disposition for e in entries.values()} <= DISPOSITIONS
    assert all((e.disposition == "suppressed") == bool(e.suppressed_by) for e in entries.values())
    for ref in {e.stream for e in entries.values()}:
        for id_, open_ in ps.log.customer(ref).decisions.items():
            assert open_.disposition == entries[id_].disposition
            assert {k: e.status for k, e in open_.effects.items()} == dict(entries[id_].effects)


# ---------------------------------------------------------------- a quarter


@pytest.fixture(params=[(2, "sqlite"), (4, "sqlite"), (6, "postgres")], ids=str)
def quarter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[PostSale, ManualClock, Where]]:
    seed, kind = request.param
    where: Where = request.getfixturevalue("server") if kind == "postgres" else tmp_path
    clock = ManualClock(START)
    with opened(where, clock=clock, agents=[RenewalRescue()]) as ps:
        lived_through(ps, clock, seed=seed, pause_on=60)
        yield ps, clock, where


def answers(acme: Tenant) -> dict[str, Any]:
    """Everything a user may ask."""
    rows = acme.customers()
    return {
        "customers": [row.to_dict() for row in rows],
        "why": {row.name: acme.health(row.name).why(top=None).to_dict() for row in rows},
        "decisions": [e.to_dict() for e in acme.decisions()],
        "explained": [acme.explain(e.id).to_dict() for e in acme.decisions()],
        "waiting": [e.id for e in acme.approvals()],
    }


def test_a_quarter_keeps_its_promises(quarter: tuple[PostSale, ManualClock, Where]) -> None:
    """One story, several seeds: every trigger decided once (5), every number explained (6), every decision replayed (4),
    and the same answers and no second trigger after the views are deleted (1)."""
    ps, clock, where = quarter
    acme = ps.tenant("acme")
    assert_every_trigger_has_its_one_decision(ps)
    decided = acme.decisions()
    assert len({e.disposition for e in decided}) >= 2
    assert any(str(e.suppressed_by).startswith("autonomy:observe") for e in decided)

    for row in acme.customers():
        health = acme.health(row.name)
        assert health.value_micro == row.value_micro
        why = health.why(top=None)
        assert sum(e.contribution_micro for e in why.events) + why.others_micro == (health.value_micro or 0)
        assert sum(c.contribution_micro for c in health.components) == (health.value_micro or 0)
        short = health.why(top=2)
        assert sum(e.contribution_micro for e in short.events) + short.others_micro == (health.value_micro or 0)
        naive = refolded_without(ps, row.name, [e.position for e in why.events[:4]])
        for effect in why.events[:4]:
            expected = naive[effect.position]
            assert effect.without_micro == (None if expected is None else (health.value_micro or 0) - expected)

    calls = ps._toolbox.ledger.calls
    before = head(ps)
    for entry in decided:
        assert acme.replay(entry.id).intents == len(entry.recorded.intents)
    assert ps._toolbox.ledger.calls == calls
    assert head(ps) == before
    assert ps.verify().problems == []

    ps.run_once()
    told, raised = answers(acme), len(events(ps, "agent/trigger-raised"))
    ps.close()
    delete_views(where)
    with opened(where, clock=clock, agents=[RenewalRescue()]) as again:
        assert answers(again.tenant("acme")) == told
        report = again.run_once()
        assert (report.raised, report.decided, report.called) == (0, 0, 0)
        assert answers(again.tenant("acme")) == told
        assert len(events(again, "agent/trigger-raised")) == raised


def refolded_without(ps: PostSale, name: str, positions: list[int]) -> dict[int, int | None]:
    """The customer's value with each of these events left out, folded from the stored events by the plainest means."""
    from postsale.projections.folding import fact_of

    state = ps.tenant("acme").customer(name)
    fold = CUSTOMER_HEALTH.fold
    facts = [fact_of(e) for e in ps.log.store.read(Query(tenant="acme", streams=state.fact_streams, lane=Lane.FACT))]
    at_us = max([ps.clock.now_us(), *(f.occurred_at_us for f in facts if f.kind in fold.kinds)])
    out = {}
    for position in positions:
        rest = fold.fold(f for f in facts if f.position != position and f.kind in fold.kinds)
        out[position] = CUSTOMER_HEALTH.score(fold.finish(rest, at_us)).value_micro
    return out


# ---------------------------------------------------------------- a kill


def test_a_killed_application_loses_nothing_and_does_nothing_twice(lasting: Where, tmp_path: Path) -> None:
    """SIGKILL in mid record_many and mid run_once, many times; then everything is sent again.

    Every acknowledged signal is there, each signal once, each trigger has one decision, each effect counts once.
    """
    seed = random.randrange(10**9)
    rand, place, outbox = random.Random(seed), arguments(lasting), tmp_path / "outbox"
    acknowledged: set[int] = set()
    first = 0
    lives = 8 if isinstance(lasting, Path) else 4
    for life in range(lives):
        with Fork(killed.__file__, *place, seed, first, outbox, life, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            lines = [process.stdout.readline() for _ in range(rand.randrange(9))]
            process.kill()
            lines += process.stdout.readlines()
        numbers = [int(line.split()[1]) for line in lines if line.endswith("\n") and line.startswith("batch")]
        acknowledged.update(numbers)
        first = max(acknowledged, default=0) if rand.random() < 0.5 else max(acknowledged, default=-1) + 1

    clock = ManualClock(NOON + lives * killed.LIFE)
    with killed.opened(*place, outbox, clock) as ps:
        acme = ps.tenant("acme")
        assert ps.verify().problems == [], f"seed {seed}"
        sent: Counter[str] = Counter()
        for number in range(max(acknowledged) + 2):
            items = killed.batch(seed, number)
            sent.update(customer for customer, _ in items)
            report = acme.record_many(items)
            assert report.rejects == [], f"seed {seed}"
            assert report.recorded + report.duplicates == len(items)
            if number in acknowledged:
                assert report.recorded == 0, f"seed {seed}: acknowledged and not there"
        for n in range(killed.CUSTOMERS):
            acme.record(f"cus_{n}", paid(f"first-{n}"))
            sent[f"cus_{n}"] += 1
        counted = {row.name: sum(s.count for s in acme.customer(row.name).facts.values()) for row in acme.customers()}
        assert counted == dict(sent), f"seed {seed}"
        ps.run_once()
        clock.advance(timedelta(minutes=10))  # what a dead worker had begun may be taken over now
        ps.run_once()
        report2 = ps.run_once()
        assert (report2.raised, report2.decided, report2.called) == (0, 0, 0), f"seed {seed}"
        assert_every_trigger_has_its_one_decision(ps)
        statuses = Counter(status for e in acme.decisions() for status in e.effects.values())
        assert set(statuses) <= {"succeeded", "cancelled"}, f"seed {seed}: {statuses}"
        left = outbox.read_text().split() if outbox.exists() else []
        succeeded = {str(k) for e in acme.decisions() for k, status in e.effects.items() if status == "succeeded"}
        assert set(left) == succeeded, f"seed {seed}"
        assert ps.verify().problems == [], f"seed {seed}"


# ---------------------------------------------------------------- replay, import, simulation


class Loud(Tool):
    """A real tool that says when it is called."""

    name, version, kind, input = "crm.create_task", 1, "idempotent", Task

    def __init__(self) -> None:
        self.calls = 0

    def call(self, arguments: Any, *, idempotency_key: str, timeout_s: float) -> Receipt:
        self.calls += 1
        return Receipt(receipt="rang")


def one_acted(ps: PostSale) -> Any:
    """A decision with a task as its effect."""
    acme = ps.tenant("acme")
    acme.agent("renewal-rescue").act(reason="test", by=ANNA)
    acme.record("cus_42", subscribed("s", mrr_minor=60_000))
    acme.record("cus_42", failed("f1", attempt=2))
    ps.run_once()
    return next(e for e in acme.decisions() if e.recorded.condition == "payment-failing")


def test_replay_reaches_no_tool_and_gives_the_same_bytes(tmp_path: Path) -> None:
    loud = Loud()
    with opened(tmp_path, agents=[RenewalRescue()], tools=[loud], sandbox=False) as ps:
        entry = one_acted(ps)
        called, before = loud.calls, head(ps)
        assert called >= 1
        replayed = ps.tenant("acme").replay(entry.id)
        assert (replayed.intents, replayed.arguments_checked, replayed.decider_is_installed) == (1, True, True)
        assert (loud.calls, head(ps)) == (called, before)


@pytest.mark.parametrize("change", ['"failed_payments":2', '"failed_payments":3', '"mrr_minor":60000', '"rationale":"'])
def test_a_recorded_value_that_was_changed_is_found_by_replay_or_verify(change: str, tmp_path: Path) -> None:
    """One value of the stored decision is altered behind the library's back, protections switched off."""
    old, new = {
        '"failed_payments":2': ('"failed_payments":2', '"failed_payments":1'),
        '"failed_payments":3': ('"failed_payments":2', '"failed_payments":3'),
        '"mrr_minor":60000': ('"mrr_minor":60000', '"mrr_minor":10000'),
        '"rationale":"': ('"rationale":"', '"rationale":"Surely '),
    }[change]
    with opened(tmp_path, agents=[RenewalRescue()]) as ps:
        entry = one_acted(ps)
    execute(
        tmp_path / "log.db",
        *(f"DROP TRIGGER {name}" for name in triggers_of(tmp_path / "log.db")),
        f"UPDATE events SET data = CAST(replace(CAST(data AS TEXT), '{old}', '{new}') AS BLOB) WHERE position = {entry.position}",
    )
    with opened(tmp_path, agents=[RenewalRescue()]) as ps:
        assert entry.position in [position for position, _ in ps.verify().problems]
        with pytest.raises(ReplayDiverged) as caught:
            ps.tenant("acme").replay(entry.id)
        assert caught.value.where


def triggers_of(path: Path) -> list[str]:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as db:
        return [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]


def test_an_import_raises_no_trigger_whatever_is_in_it(where: Where) -> None:
    """Also not a day later, nor when everything is looked at again; a live fact may."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        acme.agent("renewal-rescue").act(reason="test", by=ANNA)
        items = [("cus_42", subscribed("s", NOON - timedelta(days=40))), ("cus_42", failed("f", NOON - timedelta(days=3), attempt=3))]
        acme.record_many([*items, ("cus_42", cancelled("c", NOON - timedelta(days=1)))], origin=Origin.IMPORT)
        for _ in range(3):
            report = ps.run_once()
            assert (report.raised, report.decided, report.called) == (0, 0, 0)
            clock.advance(timedelta(days=1))
        assert acme.decisions() == []
        assert ps._toolbox.ledger.calls == ()


def kept(where: Where) -> Any:
    """Every byte of a log and its keys: of its files, or of the rows of its tables, and of its key file."""
    if isinstance(where, Path):
        return {p.name: p.read_bytes() for p in where.iterdir() if p.name in {"log.db", "log.keys"}}
    assert where is not None
    with psycopg.connect(admin_url()) as db:
        tables = db.execute("SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'p')", (where.schema,))
        rows = {name: sorted(db.execute(f"SELECT t::text FROM {where.schema}.{name} t").fetchall()) for (name,) in tables.fetchall()}
    assert len(rows["events"]) > 100
    return rows, where.keys.read_bytes()


def test_a_simulation_leaves_its_source_byte_for_byte_and_reaches_no_real_tool(
    lasting: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Effects are simulated; the simulated decisions explain, replay and verify in a database of their own: a file, here where nothing is said."""
    loud = Loud()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with opened(lasting, agents=[RenewalRescue()], tools=[loud], sandbox=False) as ps:
        acme = ps.tenant("acme")
        for n in range(20):
            items = [(f"c{n}", paid(f"{n}-{k}", NOON - timedelta(days=200 - 15 * k + n))) for k in range(6)]
            acme.record_many(items, origin=Origin.IMPORT)
        acme.record_many([("c0", paid("later", NOON - timedelta(days=1)))], origin=Origin.IMPORT)
        clock_before = ps.clock.now_us()
        before_head = head(ps)
    before = kept(lasting)
    with opened(lasting, tools=[loud], sandbox=False) as ps:
        as_of = NOON - timedelta(days=10)
        result = ps.simulate("acme", as_of, agents=[ChurnOutreach()])
        assert (ps.clock.now_us(), head(ps)) == (clock_before, before_head)
    assert kept(lasting) == before
    assert Path(result.url.removeprefix("sqlite:///")).parent == (tmp_path if lasting == tmp_path else tmp_path / "here")
    assert loud.calls == 0
    assert result.report.decided > 0
    assert result.report.called > 0
    with PostSale.open(result.url, agents=[ChurnOutreach()]) as there:
        acme = there.tenant("acme")
        assert {e.header.origin for e in events(there, "agent/trigger-raised")} == {Origin.SIMULATION}
        assert "later" not in [e.header.source_id for e in acme.timeline("c0")]
        for entry in acme.decisions():
            assert acme.replay(entry.id)
            assert acme.explain(entry.id).effects == () or acme.explain(entry.id).effects[0].status == "succeeded"
        assert there.verify().problems == []


def test_a_simulation_knows_only_the_consents_of_its_time(tmp_path: Path) -> None:
    """A consent that was given after the simulated time is unknown there: nothing is written to the customer."""
    clock = ManualClock(NOON - timedelta(days=90))
    with opened(tmp_path, clock=clock) as ps:
        acme = ps.tenant("acme")
        for name in ("early", "late"):
            acme.record_many([(name, paid(name, NOON - timedelta(days=170)))], origin=Origin.IMPORT)
        acme.consent("early", "email", "marketing", evidence="form")
        clock.move_to(NOON)
        acme.consent("late", "email", "marketing", evidence="form")
        result = ps.simulate("acme", (NOON - timedelta(days=80)).replace(hour=16), agents=[ChurnOutreach()])
    with PostSale.open(result.url) as there:
        acme = there.tenant("acme")
        found = {name: [(e.action, e.suppressed_by) for e in acme.decisions(name)] for name in ("early", "late")}
    assert found["early"] == [("email", None)]
    assert found["late"] == [("email", "consent:email/marketing")]


def test_a_simulation_never_replaces_a_database_that_is_not_a_simulations(tmp_path: Path) -> None:
    """Neither the source under another spelling, nor another log, nor any other file, nor somebody's keys."""
    other = tmp_path / "other"
    other.mkdir()
    with opened(other) as ps:
        ps.tenant("acme").record("x", paid("1"))
    (tmp_path / "notes.db").write_text("not a database")
    (tmp_path / "alone.keys").write_bytes(b"somebody's keys")
    (tmp_path / "link.db").symlink_to(tmp_path / "log.db")
    with opened(tmp_path) as ps:
        acme = ps.tenant("acme")
        acme.record_many([("c", paid("1", NOON - timedelta(days=100)))], origin=Origin.IMPORT)
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.suffix in {".db", ".keys"}}
        for into in ("log.db", "./log.db", "other/../log.db", "link.db", "log", "other/log.db", "notes.db", "alone.db"):
            with pytest.raises((InvalidInput, StoreUnavailable)):
                ps.simulate("acme", NOON, agents=[ChurnOutreach()], into=f"sqlite:///{tmp_path}/{into}")
        assert {p: p.read_bytes() for p in before} == before
        for _ in range(2):  # its own, again and again
            ps.simulate("acme", NOON, agents=[ChurnOutreach()], into=f"sqlite:///{tmp_path}/sim.db")
        with pytest.raises(InvalidInput):
            ps.simulate("acme", NOON, agents=[])


def test_no_real_tool_is_reachable_in_a_simulated_world(tmp_path: Path) -> None:
    """Even a log that was opened with real tools: the attempt is a loud error, before anything is claimed."""
    loud = Loud()
    with opened(tmp_path, agents=[RenewalRescue()], tools=[loud], sandbox=False, world=Origin.SIMULATION) as ps:
        with pytest.raises(ToolUnreachable) as caught:
            one_acted(ps)
        assert caught.value.tool == "crm.create_task@1"
        assert loud.calls == 0
        assert events(ps, "effect/started") == []


def test_a_decision_says_what_it_read_and_what_it_was_bound_to(tmp_path: Path) -> None:
    """Its read set names the customer's stream at the position and version it was decided on."""
    with opened(tmp_path, agents=[RenewalRescue()]) as ps:
        entry = one_acted(ps)
        recorded = entry.recorded
        assert isinstance(recorded, DecisionRecorded)
        (own,) = recorded.read_set
        assert own.stream == str(entry.stream)
        raised = next(e for e in events(ps, "agent/trigger-raised") if e.event_id == recorded.trigger_id)
        assert isinstance(raised.data, TriggerRaised)
        cause = ps.log.store.find("acme", raised.data.causing_event)
        assert cause is not None
        assert cause.position <= own.fact_position < entry.position
        assert own.decision_version < ps.log.store.find("acme", entry.id).version  # type: ignore[union-attr]


def test_use_of_what_was_used_before_changes_nothing(where: Where) -> None:
    """run_once on a log in which nothing is new appends nothing."""
    with opened(where, agents=[RenewalRescue()]) as ps:
        ps.tenant("acme").record("c", used("u"))
        ps.run_once()
        before = head(ps)
        for _ in range(3):
            ps.run_once()
        assert head(ps) == before
