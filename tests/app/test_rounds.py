"""Rounds: what is skipped never, what a look costs, and what happens when the views beside the log are not the log's own."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path

from postsale.access import FileVault
from postsale.agents import ChurnOutreach, RenewalRescue
from postsale.aggregates.signals import InvoicePaid
from postsale.app import PostSale
from postsale.events import ManualClock, StoredEvent
from postsale.projections import Component, Features, HealthModel, count, derived
from postsale.projections.views import MemoryViews
from postsale.store import MemoryStore, Query
from postsale.testing.engine_stage import effects_of, embedded, staged
from tests.agents.engine_processes import on_temporal

from .support import NOON, cancelled, failed, head, opened, paid, subscribed, used

SOON = NOON + timedelta(hours=1)


class CountingStore(MemoryStore):
    """A store that knows how many events were read from it."""

    events_read = 0

    def read(self, query: Query) -> Generator[StoredEvent, None, None]:
        for event in super().read(query):
            self.events_read += 1
            yield event


def put_back(folder: Path, copy: Path) -> None:
    for leftover in folder.glob("log.db*"):
        leftover.unlink()
    shutil.copyfile(copy, folder / "log.db")


def test_facts_after_an_older_log_was_put_back_beside_newer_views_raise_their_triggers(tmp_path: Path) -> None:
    """The views had seen positions that now hold other events; what is recorded there since must not be taken for seen."""
    clock = ManualClock(NOON)
    with opened(tmp_path, clock=clock, agents=[RenewalRescue()]) as ps:
        ps.tenant("acme").record("cus_1", subscribed("s1", NOON - timedelta(days=100)))
        ps.run_once()
        old = head(ps)
    backup = Path(shutil.copyfile(tmp_path / "log.db", tmp_path / "backup"))
    with opened(tmp_path, clock=clock, agents=[RenewalRescue()]) as ps:
        ps.tenant("acme").record_many([("cus_2", used(f"u{i}")) for i in range(9)])
        ps.run_once()
        assert head(ps) > old + 2
    put_back(tmp_path, backup)
    clock.move_to(SOON)
    with opened(tmp_path, clock=clock, agents=[RenewalRescue()]) as ps:
        ps.run_once()
        ps.tenant("acme").record("cus_1", cancelled("c1", SOON))
        ps.run_once()
        assert "cancellation" in {d.recorded.condition for d in ps.tenant("acme").decisions("cus_1")}


def test_the_fact_that_made_the_difference_is_found_without_reading_the_past_for_each() -> None:
    """Of 40 new facts the one that raised the trigger is named, and a long past is not read 40 times for it."""
    clock, past, news = ManualClock(NOON), 1_000, 40
    store = CountingStore(clock=clock)
    with PostSale(store, FileVault.in_memory(), MemoryViews(), clock=clock, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", subscribed("s1", NOON - timedelta(days=100)))
        acme.record_many([("cus_1", used(f"old{i}")) for i in range(past)])
        ps.run_once()
        clock.move_to(SOON)
        receipts = [
            acme.record("cus_1", failed("f1", SOON, invoice_id="in_1", attempt=2) if i == 30 else used(f"new{i}", SOON))
            for i in range(news)
        ]
        store.events_read = 0
        ps.run_once()
        raised = next(e.data for e in acme.timeline("cus_1") if getattr(e.data, "condition", "") == "payment-failing")
        assert raised.model_dump()["causing_event"] == receipts[30].event_id
        assert store.events_read < news * past


def test_a_condition_that_time_alone_makes_true_is_noticed_however_often_the_agents_run() -> None:
    """It becomes true at noon, and everybody is looked at after midnight: true an hour before is no reason to be silent."""
    clock = ManualClock(NOON)
    with PostSale(MemoryStore(clock=clock), FileVault.in_memory(), MemoryViews(), clock=clock, agents=[ChurnOutreach()]) as ps:
        for days in (21, 11, 1):
            ps.tenant("acme").record("cus_1", paid(f"p{days}", NOON - timedelta(days=days)))
        raised = []
        for _ in range(24 * 31):
            clock.advance(timedelta(hours=1))
            raised.append(ps.run_once().raised)
        assert sum(raised) == 1
        assert raised.index(1) // 24 == 29  # 1 March + 30 days is 31 March, noon; the next look is at midnight


def test_agents_that_move_to_another_engine_and_back_leave_nothing_that_was_due_behind(tmp_path: Path) -> None:
    """The retry of an effect waits in one engine's store when the other takes over."""
    for first, second in ((embedded, on_temporal), (on_temporal, embedded)):
        with staged(tmp_path / first.__name__, first) as s:
            s.begins()
            s.server.faults.append("500")
            s.fails("a")
            assert s.kinds("a")[-1] == "effect/failed"
            with second(s.site) as drive:
                s.drive = drive
                s.wait(hours=1)
            assert s.kinds("a")[-1] == "effect/succeeded"
            assert len(effects_of(s)) == 1


class Rates(Features, version=1, owner="tests"):
    """Its author did not think of customers with two payments."""

    paid = count(InvoicePaid)

    @derived(unit="ratio")
    def rate(paid: int) -> float:
        return 1 / (paid - 2)


def test_a_feature_whose_function_raises_for_one_customer_stops_nobody_elses_agents() -> None:
    """That customer is named with the feature, nobody decides about it, and the others, of this tenant and of others, are decided about."""
    model = HealthModel(name="rates", version=1, features=Rates, components=(Component("paid", 1, lambda v: v["paid"]),))
    clock = ManualClock(NOON)
    with opened(None, clock=clock, agents=[RenewalRescue()], health=model) as ps:
        for name in ("acme", "globex"):
            tenant = ps.tenant(name)
            for n in range(1, 4):
                for k in range(n if name == "acme" else 1):
                    tenant.record(f"cus_{n}", paid(f"p{n}{k}"))
                tenant.record(f"cus_{n}", subscribed(f"s{n}"))
        ps.run_once()
        clock.move_to(SOON)
        for name in ("acme", "globex"):
            for n in range(1, 4):
                ps.tenant(name).record(f"cus_{n}", cancelled(f"c{n}", SOON))
        report = ps.run_once()
        stream = ps.tenant("acme").customer("cus_2").stream
        assert [key for key, _ in report.problems] == [str(stream)]
        assert "feature.rate: its function raised ZeroDivisionError" in report.problems[0][1]
        decided = {(name, n): bool(ps.tenant(name).decisions(f"cus_{n}")) for name in ("acme", "globex") for n in range(1, 4)}
        assert decided == {key: key != ("acme", 2) for key in decided}
