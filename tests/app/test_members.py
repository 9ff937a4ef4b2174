"""The members of a customer by a live view: the same as from the log, whoever folded how much, in one share or in several."""

from __future__ import annotations

import json
import random
import subprocess
from typing import Any

import pytest

from postsale import foreign
from postsale.aggregates.signals import InvoicePaid
from postsale.app import PostSale
from postsale.errors import InvalidInput, UnknownWireName
from postsale.events import ManualClock, from_us, registry, to_us
from postsale.projections import Features, Fold, Kin, MemoryViews, Runner, SqliteViews, across, latest, total
from postsale.projections.comparing import compare
from postsale.projections.handover import duckdb_states
from postsale.projections.related import all_named
from postsale.projections.views import Views
from tests.nursery import Fork
from tests.projections.related import Invited

from . import members_killed
from .support import ANNA, NOON, Where, opened, paid, place_of
from .test_related import DAY, STEPS, Circle, invited, play

FOLD = Fold(Circle)


def runner_on(ps: PostSale, views: Views, shares: int = 3, **more: Any) -> Runner:
    kin = Kin(ps.log.store, views, ps.log.vault)
    return Runner(ps.log.store, views, FOLD, partitions=shares, clock=ps.clock, kin=kin, **more)


def entries(runner: Runner, views: Views) -> list[str]:
    """Beside the view: who is found where."""
    return [key for key, _ in views.scan(runner.names().aside, "belongs/")]


def check_now(ps: PostSale, runner: Runner, say: str = "", *, kept: bool) -> None:
    """Every customer, by the view, against the log; `kept` when the view is caught up."""
    acme, now = ps.tenant("acme"), ps.clock.now_us()
    expected = {ref: dict(values) for ref, values in acme.all_features(Circle)}
    for name in acme.names().values():
        customer = acme.customer(name)
        ways = [runner.read_state(customer.fact_streams), *([runner.kept(customer.fact_streams)] if kept else [])]
        for state, _, related in ways:
            values = FOLD.finish(state, now, related)
            if values.newest_us is None:
                assert customer.ref not in expected, say
            else:
                assert dict(values) == expected[customer.ref], say


def test_a_view_in_shares_reads_what_the_log_says_however_far_each_share_is() -> None:
    """Through moves, late links, merges and splits, with some shares caught up and others not."""
    seed = random.getrandbits(32)
    rng, clock = random.Random(seed), ManualClock(NOON)
    with opened(None, clock=clock) as ps:
        views = MemoryViews()
        runner = runner_on(ps, views)
        for n in range(4):
            play(ps.tenant(f"other{n}"), clock, [("pay", 0, 0), ("invite", 1, 0)])
            _story(ps, rng, 30, f"{n}/")
            for share in rng.sample(range(3), 2):
                runner.advance({share: None}, rng.randrange(ps.log.store.head() + 1))
            check_now(ps, runner, f"seed {seed}", kept=False)
        runner.catch_up()
        check_now(ps, runner, f"seed {seed}", kept=True)
        again = runner_on(ps, MemoryViews())
        again.catch_up()
        assert runner.digest() == again.digest()
        assert entries(runner, views) == entries(again, again._views)


def test_a_view_reads_the_past_as_the_log_does() -> None:
    """By either clock."""
    seed = random.getrandbits(32)
    rng, clock = random.Random(seed), ManualClock(NOON)
    with opened(None, clock=clock) as ps:
        acme = ps.tenant("acme")
        _story(ps, rng, 100)
        runner = runner_on(ps, MemoryViews())
        runner.catch_up()
        begin = to_us(NOON)
        for at in (rng.randrange(begin, clock.now_us()) for _ in range(6)):
            for name in acme.names().values():
                for known in (None, at):
                    known_at = None if known is None else from_us(known)
                    streams = acme.customer(name, known_at=known_at).fact_streams
                    read = runner.read_state(streams, as_of_us=at, known_at_us=known)
                    expected = acme.features(Circle, name, as_of=from_us(at), known_at=known_at)
                    assert dict(FOLD.finish(read.state, at, read.related)) == dict(expected), f"seed {seed}"


def test_what_no_share_has_folded_yet_and_what_was_linked_later_is_told_apart() -> None:
    """An invitation that is only in the log counts now; a link counts from when it was recorded."""
    clock = ManualClock(NOON)
    with opened(None, clock=clock) as ps:
        acme, runner = ps.tenant("acme"), runner_on(ps, MemoryViews())
        acme.record("cus_1", paid("o", NOON))
        acme.record("cus_2", paid("p", NOON))
        runner.catch_up()
        known_us = to_us(acme.record("cus_2", invited("i", NOON, referrer="cus_1", company="hq")).recorded_at)
        clock.move_to(NOON + DAY)
        acme.link(foreign("crm", "hq"), "cus_1")
        streams = acme.customer("cus_1").fact_streams

        def values(**times: int) -> tuple[Any, Any]:
            read = runner.read_state(streams, **times)
            found = FOLD.finish(read.state, clock.now_us(), read.related)
            return found["friends_paid"], found["group_payments"]

        assert values() == ({"EUR": 4900}, 1)
        assert values(known_at_us=known_us) == ({"EUR": 4900}, 0)


def _story(ps: PostSale, rng: random.Random, steps: int, name: str = "") -> None:
    clock = ps.clock
    assert isinstance(clock, ManualClock)
    play(ps.tenant("acme"), clock, [(rng.choice(STEPS), rng.randrange(4), rng.randrange(21)) for _ in range(steps)], name)


def test_a_batch_hands_over_to_the_live_view_rows_and_entries_alike() -> None:
    """Computed by DuckDB up to a position, folded from the next one on: the digest and the entries of a view that folded it all."""
    seed = random.getrandbits(32)
    rng, clock = random.Random(seed), ManualClock(NOON)
    with opened(None, clock=clock) as ps:
        views = MemoryViews()
        live, batch = runner_on(ps, MemoryViews()), runner_on(ps, views)
        _story(ps, rng, 80)
        batch.rebuild(states=duckdb_states)
        check_now(ps, batch, kept=True)
        ps.tenant("acme").record("cus_0", invited("last", from_us(clock.now_us()), referrer="cus_3"))
        for runner in (live, batch):
            runner.catch_up()
        assert batch.digest() == live.digest(), seed
        assert entries(batch, views) == entries(live, live._views) != [], seed


def test_entries_and_rows_are_one_transaction_and_survive_another_process(where: Where) -> None:
    """The public way: a projector's runner in one handle, reads in another."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("o", NOON))
        acme.record("cus_2", invited("i", NOON, referrer="cus_1"))
        acme.record("cus_2", paid("p", NOON))
        runner = ps.runner_of(Circle)
        runner.catch_up()
        streams = acme.customer("cus_1").fact_streams
        state, position, related = ps.runner_of(Circle).kept(streams, at_least=position_of_head(ps))
        assert FOLD.finish(state, clock.now_us(), related)["friends_paid"] == {"EUR": 4900}
        assert position == ps.log.store.head()


def position_of_head(ps: PostSale) -> int:
    return ps.log.store.head()


def test_a_process_killed_while_it_folds_leaves_entries_that_fit_the_rows(lasting: Where) -> None:
    """SIGKILL at any moment, several times; reads between are right, and the end is a view that was never interrupted."""
    seed = random.getrandbits(32)
    rng, (url, options) = random.Random(seed), place_of(lasting)
    with opened(lasting, clock=ManualClock(NOON)) as ps:
        _story(ps, rng, 60)
        runner = members_killed.runner_of(ps)
        for _ in range(2):
            with Fork(members_killed.__file__, url, json.dumps(options), stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                for _ in range(rng.randrange(1, 4)):
                    process.stdout.readline()
                process.kill()
            held = {key for key, row in runner.rows() for _ in all_named(FOLD, [FOLD.load(row)])}
            assert {"/".join(entry.split("/")[4:]) for entry in entries(runner, ps.views)} == held, f"seed {seed}"
        check_now(ps, runner, f"seed {seed}", kept=False)
        runner.catch_up()
        again = runner_on(ps, MemoryViews())
        again.catch_up()
        assert (runner.digest(), entries(runner, ps.views)) == (again.digest(), entries(again, again._views)), f"seed {seed}"


def test_a_refused_commit_leaves_neither_row_nor_entry() -> None:
    """A write that is refused changes nothing."""

    class Refusing(MemoryViews):
        refuse = False

        def write(self, *args: Any, **more: Any) -> None:
            if self.refuse:
                raise OSError("the disk is full")
            super().write(*args, **more)

    with opened(None, clock=ManualClock(NOON)) as ps:
        acme, views = ps.tenant("acme"), Refusing()
        runner = runner_on(ps, views, 1)
        acme.record("cus_2", invited("i", NOON, referrer="cus_1"))
        views.refuse = True
        with pytest.raises(OSError, match="full"):
            runner.catch_up()
        assert entries(runner, views) == []
        views.refuse = False
        runner.catch_up()
        assert len(entries(runner, views)) == 1


def test_a_view_holds_no_name_that_a_row_did_not_hold(tmp_path: Any) -> None:
    """Beside the rows stand blind indexes and references only; a name that a fact gives is where `latest` keeps it, and nowhere else."""
    with opened(None, clock=ManualClock(NOON)) as ps:
        acme = ps.tenant("acme")
        views = SqliteViews(tmp_path / "views.db", ps.log.store.log_id)
        runner = runner_on(ps, views)
        acme.record("cus_canary", paid("o", NOON))
        acme.record("cus_2", invited("i", NOON, referrer="cus_canary"))
        runner.catch_up()
        read = runner.read_state(acme.customer("cus_canary").fact_streams)
        assert read.related is not None
        assert read.related.position > 0
        for info in views.views():
            for key, value in views.scan(info.view):
                assert "canary" not in key
                assert info.view == runner.view or b"canary" not in value, info.view
        views.close()


def test_a_stream_that_waits_may_be_anybodys_member_and_is_not_left_out_silently() -> None:
    """A relation behind an event that cannot be read: reading now says so, and the kept state is as old as that event."""
    with opened(None, clock=ManualClock(NOON)) as ps:
        acme, runner = ps.tenant("acme"), runner_on(ps, MemoryViews())
        acme.record("cus_1", paid("o", NOON))
        acme.record("cus_2", paid("p", NOON))
        acme.record("cus_3", invited("i", NOON, referrer="cus_1"))
        runner.catch_up()
        at = acme.record("cus_2", invited("j", NOON, referrer="cus_1")).position
        with (
            pytest.MonkeyPatch.context() as patch
        ):  # as a process that has not imported the module: at one position, so that one stream waits
            real = registry.get
            patch.setattr(registry, "get", lambda name, position=None: _unknown(name) if position == at else real(name, position))
            runner.catch_up()
            assert [parked.position for parked in runner.parked()] == [at]
            streams = acme.customer("cus_1").fact_streams
            with pytest.raises(UnknownWireName):
                runner.read_state(streams)
            assert runner.kept(streams).position == at - 1
        runner.retry()
        state, _, related = runner.kept(streams)
        assert FOLD.finish(state, ps.clock.now_us(), related)["friends_paid"] == {"EUR": 4900}


def _unknown(name: str) -> Any:
    raise UnknownWireName(wire_name=name)


def test_ids_by_customer_follow_a_log_that_was_restored_from_an_older_copy() -> None:
    """What was linked in the lost part is forgotten; what came instead is found."""
    with opened(None, clock=ManualClock(NOON)) as ps, opened(None, clock=ManualClock(NOON)) as other:
        views = MemoryViews()
        for log, name in ((ps, "lost"), (other, "found")):
            acme = log.tenant("acme")
            acme.record("cus_1", paid("o", NOON))
            acme.link(foreign("crm", name), "cus_1")
            ref = acme.customer("cus_1").ref
            kin = Kin(log.log.store, views, log.log.vault)
            assert kin.aliases("acme", [ref]) == {kin.alias("acme", "", "cus_1"), kin.alias("acme", "crm", name)}


def test_a_runner_that_is_not_told_who_is_who_is_refused_where_it_is_made() -> None:
    with opened(None, clock=ManualClock(NOON)) as ps, pytest.raises(InvalidInput, match="who is who"):
        Runner(ps.log.store, MemoryViews(), FOLD)


def test_two_versions_are_compared_by_what_each_customer_gives() -> None:
    """A row is a member's, so the one that pays otherwise differs, and not the one it belongs to."""

    class Changed(Features, version=2, owner="growth"):
        invited_by = latest(Invited, lambda e: e.referrer)
        friends_paid = across(invited_by, total(InvoicePaid, lambda e: 2 * e.amount_minor, by=lambda e: e.currency))

    Changed.__name__ = "Circle"
    with opened(None, clock=ManualClock(NOON)) as ps:
        acme, views = ps.tenant("acme"), MemoryViews()
        acme.record("cus_1", invited("o", NOON))
        acme.record("cus_2", invited("i", NOON, referrer="cus_1"))
        acme.record("cus_2", paid("p", NOON))
        new = Runner(ps.log.store, views, Fold(Changed), clock=ps.clock, kin=Kin(ps.log.store, views, ps.log.vault))
        old = runner_on(ps, views)
        for runner in (old, new):
            runner.catch_up()
        diff = compare(old, new, ps.clock.now_us())
        (sample,) = diff.features["friends_paid"].samples
        assert (sample.key, sample.old, sample.new) == (str(acme.customer("cus_2").stream), {"EUR": 4900}, {"EUR": 9800})
        assert diff.features.keys() == {"friends_paid"}


def test_a_merge_moves_members_at_once_without_a_new_fact() -> None:
    """Of the one they belong to, and of the member."""
    with opened(None, clock=ManualClock(NOON)) as ps:
        acme, runner = ps.tenant("acme"), runner_on(ps, MemoryViews())
        for name in ("cus_1", "cus_2", "cus_3", "cus_4"):
            acme.record(name, paid(f"p-{name}", NOON))
        acme.record("cus_3", invited("i", NOON, referrer="cus_1"))
        runner.catch_up()
        acme.merge("cus_1", into="cus_2", reason="the same company", by=ANNA)
        acme.merge("cus_3", into="cus_4", reason="the same company", by=ANNA)
        check_now(ps, runner, kept=True)
        state, _, related = runner.kept(acme.customer("cus_1").fact_streams)
        assert FOLD.finish(state, ps.clock.now_us(), related)["friends_paid"] == {"EUR": 9800}
        acme.split("cus_3", reason="not the same", by=ANNA)
        check_now(ps, runner, kept=True)


class Meddling(MemoryViews):
    """Something happens to the view just before a scan that begins with a prefix, once."""

    def __init__(self) -> None:
        super().__init__()
        self.then: tuple[str, Any] | None = None

    def scan(self, view: str, prefix: str = "") -> Any:
        if self.then is not None and prefix.startswith(self.then[0]):
            (_, meddle), self.then = self.then, None
            meddle()
        return super().scan(view, prefix)


@pytest.mark.parametrize("shares", [1, 3])
@pytest.mark.parametrize("refolded", [0, 2], ids=["dropped", "dropped and folded half-way"])
def test_a_view_dropped_while_members_are_looked_up_hides_none_of_them(shares: int, refolded: int) -> None:
    """As when another build serves and this one is cleared away under a reader: read from the log, and kept as old as it says."""
    with opened(None, clock=ManualClock(NOON)) as ps:
        acme, views = ps.tenant("acme"), Meddling()
        for n in range(1, 5):
            acme.record(f"cus_{n}", invited(f"i{n}", NOON, referrer="cus_1"))
            acme.record(f"cus_{n}", paid(f"p{n}", NOON))
        runner, other = runner_on(ps, views, shares), runner_on(ps, views, shares, batch=2)
        streams, expected = acme.customer("cus_1").fact_streams, {"EUR": 3 * 4900}

        def drop() -> None:
            other.drop()
            if refolded:
                views.then = "belongs/", lambda: other.advance(dict.fromkeys(range(shares)), ps.log.store.head())

        for _ in range(2):
            runner.catch_up()
            views.then = "belongs/", drop
            read = runner.read_state(streams)
            assert views.then is None
            assert FOLD.finish(read.state, ps.clock.now_us(), read.related)["friends_paid"] == expected
        runner.catch_up()
        views.then = "belongs/", drop
        read = runner.kept(streams)
        assert (read.position, FOLD.finish(read.state, ps.clock.now_us(), read.related)["friends_paid"] == expected) in [
            (8, True),
            (0, False),
        ]


@pytest.mark.parametrize("prefix", ["belongs/", "parked/"])
def test_a_stream_that_is_freed_while_members_are_looked_up_is_among_them(prefix: str) -> None:
    """Another process folds it again, and takes it from those that wait: it is found there or by its entry, never by neither."""
    with opened(None, clock=ManualClock(NOON)) as ps:
        acme, views = ps.tenant("acme"), Meddling()
        acme.record("cus_1", paid("o", NOON))
        at = acme.record("cus_2", invited("i", NOON, referrer="cus_1")).position
        acme.record("cus_2", paid("p", NOON))
        runner, other = runner_on(ps, views), runner_on(ps, views)
        with pytest.MonkeyPatch.context() as patch:
            real = registry.get
            patch.setattr(registry, "get", lambda name, position=None: _unknown(name) if position == at else real(name, position))
            runner.catch_up()
        streams = acme.customer("cus_1").fact_streams
        for read in (runner.read_state, runner.kept):
            assert len(runner.parked()) == 1
            views.then = prefix, other.retry
            state, position, related = read(streams)
            paid_by = FOLD.finish(state, ps.clock.now_us(), related)["friends_paid"]
            assert paid_by == {"EUR": 4900} or position < at, read.__name__
            assert views.then is None
            other.drop()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(registry, "get", lambda name, position=None: _unknown(name) if position == at else real(name, position))
                runner.catch_up()
