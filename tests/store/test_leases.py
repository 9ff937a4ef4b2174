"""Leases: one worker works, the others wait; whoever lost a lease cannot write, whatever clocks, pauses and crashes do."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.nursery import Fork
from tests.postgres import fresh_log
from tests.shared import examples
from tests.store.meddled import Meddled
from tests.store.stores import STORES, Maker

from postsale.errors import InvalidInput, LeaseHeld, LeaseLost, StoreUnavailable
from postsale.events import ManualClock, to_us
from postsale.store import Appended, Holds, LeaseName, Leases, Query, SQLiteStore, Store, Submission, open_store
from postsale.store.contract import LEASES
from postsale.store.leases import Lease
from postsale.store.postgres import PostgresStore
from postsale.store.postgres_link import Patience
from postsale.store.postgres_schema import DEFAULT_SCHEMA
from postsale.testing import Events
from postsale.testing.store_building import START, in_threads

JOB = LeaseName("_system", "job")
TTL_S = 30.0
WORKER = Path(__file__).with_name("lease_worker.py")


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def passes(store: Store, lease: Lease) -> bool:
    """Whether the fence lets this lease's holder write."""
    (outcome,) = store.append([Submission((), (lease.condition,))])
    assert isinstance(outcome, Appended | LeaseLost), outcome
    return isinstance(outcome, Appended)


@pytest.fixture
def workers(store: Store, clock: ManualClock) -> tuple[Leases, Leases]:
    return Leases(store.kv, clock, "one"), Leases(store.kv, clock, "two")


def taken(lease: Lease | None) -> Lease:
    assert lease is not None
    return lease


# ---------------------------------------------------------------- one works, the other waits


def test_one_worker_holds_a_lease_and_the_other_gets_it_when_it_is_given_back(store: Store, workers: tuple[Leases, Leases]) -> None:
    one, two = workers
    first = taken(one.acquire(JOB))
    assert two.acquire(JOB) is None
    assert one.acquire(JOB) is None  # not re-entrant
    found = two.look(JOB)
    assert found is not None
    assert (found.holder, found.token, found.until_us) == ("one", first.token, first.until_us)
    assert first.release()
    assert two.look(JOB) is None
    second = taken(two.acquire(JOB))
    assert not passes(store, first)
    assert passes(store, second)
    assert not first.release()
    assert passes(store, second)


def test_a_lease_is_of_its_tenant_and_name(workers: tuple[Leases, Leases]) -> None:
    one, two = workers
    names = [JOB, LeaseName("acme", "job"), LeaseName("_system", "other")]
    held = [taken(worker.acquire(name)) for worker, name in zip((one, two, two), names, strict=True)]
    found = [one.look(name) for name in names]
    assert [lease and (lease.holder, lease.token) for lease in found] == [
        (holder, lease.token) for holder, lease in zip(("one", "two", "two"), held, strict=True)
    ]


def test_an_expired_lease_is_taken_over_and_its_former_holder_is_fenced_off(
    store: Store, clock: ManualClock, workers: tuple[Leases, Leases]
) -> None:
    one, two = workers
    first = taken(one.acquire(JOB, TTL_S))
    clock.advance(seconds(TTL_S) - timedelta(microseconds=1))
    assert two.acquire(JOB, TTL_S) is None
    assert passes(store, first)
    clock.advance(timedelta(microseconds=1))
    assert passes(store, first)  # expired, but nobody else works
    second = taken(two.acquire(JOB, TTL_S))
    assert second.token > first.token
    assert not passes(store, first)
    with pytest.raises(LeaseLost) as lost:
        first.renew()
    assert (lost.value.token, lost.value.newest_token) == (first.token, second.token)


def test_a_renewed_lease_keeps_its_token_and_outlives_its_first_term(
    store: Store, clock: ManualClock, workers: tuple[Leases, Leases]
) -> None:
    one, two = workers
    lease = taken(one.acquire(JOB, TTL_S))
    token = lease.token
    for _ in range(5):
        clock.advance(seconds(TTL_S - 1))
        lease.renew()
        assert two.acquire(JOB, TTL_S) is None
    assert lease.token == token
    assert passes(store, lease)
    clock.advance(seconds(TTL_S * 9))
    lease.renew()  # it expired, and nobody took it
    assert two.acquire(JOB, TTL_S) is None


def test_a_renewal_of_an_earlier_holder_says_nothing_about_the_present_one(
    store: Store, clock: ManualClock, workers: tuple[Leases, Leases]
) -> None:
    one, two = workers
    first = taken(one.acquire(JOB, TTL_S))
    first.renew()
    first.release()
    taken(two.acquire(JOB, 1))
    assert one.acquire(JOB, TTL_S) is None  # two's, for a second
    clock.advance(seconds(1))
    assert one.acquire(JOB, TTL_S) is not None  # not for the rest of the term that one had renewed


def test_keep_renews_after_a_third_of_the_term_and_writes_nothing_before(
    store: Store, clock: ManualClock, workers: tuple[Leases, Leases]
) -> None:
    lease = taken(workers[0].acquire(JOB, TTL_S))
    until = lease.until_us
    clock.advance(seconds(TTL_S / 3 - 1))
    lease.keep()
    assert lease.until_us == until
    clock.advance(seconds(1))
    lease.keep()
    assert lease.until_us == until + 10_000_000


def test_a_lease_record_that_cannot_be_read_is_an_expired_one(store: Store, workers: tuple[Leases, Leases]) -> None:
    for value in (b"", b"worker 1", b"[]", b'{"holder":"x"}', b'{"holder":"x","until_us":"soon","ttl_us":1}'):
        store.kv.put(LEASES, *JOB, value)
        assert workers[0].look(JOB) is None
        taken(workers[0].acquire(JOB)).release()


@pytest.mark.parametrize("ttl_s", [0, -1])
def test_a_term_is_positive(workers: tuple[Leases, Leases], ttl_s: float) -> None:
    with pytest.raises(InvalidInput):
        workers[0].acquire(JOB, ttl_s)


def test_of_many_threads_one_takes_a_lease(store: Store, clock: ManualClock) -> None:
    won: list[Lease] = []

    def run(index: int) -> None:
        lease = Leases(store.kv, clock, str(index)).acquire(JOB)
        if lease is not None:
            won.append(lease)

    in_threads(run, 8)
    assert len(won) == 1


def test_threads_that_renew_one_lease_at_once_do_not_lose_it(store: Store, workers: tuple[Leases, Leases]) -> None:
    lease = taken(workers[0].acquire(JOB))
    in_threads(lambda _: [lease.renew() for _ in range(10)], 4)
    assert passes(store, lease)


def test_what_a_lease_allowed_is_there_before_another_worker_has_taken_it(tmp_path: Path) -> None:
    """A takeover in the middle of an append waits for it, and the new holder finds the event; or the append is refused."""

    class Interrupted(ManualClock):
        """An append asks for the time between looking at the fence and storing."""

        meanwhile: threading.Thread | None = None

        def now_us(self) -> int:
            if (thread := self.meanwhile) is not None:
                self.meanwhile = None
                thread.start()
                thread.join(0.1)  # long enough to get in, were there a way
            return super().now_us()

    for make in STORES.values():
        clock = Interrupted(START)
        with closing(make(tmp_path, clock)) as store:
            lease = taken(Leases(store.kv, ManualClock(START), "one").acquire(JOB, TTL_S))
            two, heads = Leases(store.kv, ManualClock(START + seconds(TTL_S)), "two"), list[int]()
            thread = clock.meanwhile = threading.Thread(target=lambda: (taken(two.acquire(JOB)), heads.append(store.head())))  # noqa: B023
            (outcome,) = store.append([Submission((Events().fact(),), (lease.condition,))])
            thread.join()
            assert isinstance(outcome, Appended | LeaseLost), outcome
            assert heads == [int(isinstance(outcome, Appended))]


# ---------------------------------------------------------------- with leases.held(…)


def test_a_with_block_holds_the_lease_and_gives_it_back_even_after_an_error(store: Store, workers: tuple[Leases, Leases]) -> None:
    one, two = workers
    held: list[Lease] = []

    def work() -> None:
        with one.held(JOB) as lease:
            held.append(lease)
            assert passes(store, lease)
            assert two.acquire(JOB) is None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert not passes(store, held[0])
    with two.held(JOB):
        pass


def test_who_waits_too_long_is_told_who_holds_the_lease_and_until_when(workers: tuple[Leases, Leases]) -> None:
    one, two = workers
    with one.held(JOB, ttl_s=TTL_S), pytest.raises(LeaseHeld) as held, two.held(JOB):
        pass
    assert held.value.fields() == {"lease": "_system/job", "holder": "one", "until": "2027-01-01T00:00:30.000000Z"}


def test_who_waits_gets_the_lease_as_soon_as_it_is_given_back(workers: tuple[Leases, Leases]) -> None:
    one, two = workers
    first = taken(one.acquire(JOB))
    got: list[int] = []

    def wait() -> None:
        with two.held(JOB, wait_s=60) as lease:
            got.append(lease.token)

    waiter = threading.Thread(target=wait)
    waiter.start()
    first.release()
    waiter.join()
    assert got > [first.token]


def test_a_lease_that_is_given_back_at_the_last_moment_is_taken(store: Store, clock: ManualClock, workers: tuple[Leases, Leases]) -> None:
    """After the last try and before looking who holds it: there is nobody to name, so it is tried again."""
    first = taken(workers[0].acquire(JOB))
    kv = Meddled(store.kv)
    kv.left, kv.meanwhile = 3, first.release
    with Leases(kv, clock, "two").held(JOB) as lease:
        assert passes(store, lease)


def test_a_lease_is_left_to_expire_when_the_store_cannot_be_written(tmp_path: Path, clock: ManualClock) -> None:
    """The work is done by then: giving back late is no reason to fail it."""
    with closing(SQLiteStore(tmp_path / "log.db", clock=clock)) as store:
        with Leases(store.kv, clock, "one").held(JOB) as lease:
            store.close()
        with pytest.raises(StoreUnavailable):
            lease.renew()
    with closing(SQLiteStore(tmp_path / "log.db", clock=clock)) as store:
        assert Leases(store.kv, clock, "two").acquire(JOB) is None


# ---------------------------------------------------------------- clocks


def test_a_clock_moved_back_does_not_lock_a_job_for_ever(store: Store, clock: ManualClock, workers: tuple[Leases, Leases]) -> None:
    """The holder died, then the clock went back a day: who has watched the lease for its term takes it, no renewal having come."""
    one, two = workers
    dead = taken(one.acquire(JOB, TTL_S))
    clock.advance(-timedelta(days=1))
    assert two.acquire(JOB, TTL_S) is None
    clock.advance(seconds(TTL_S - 1))
    assert two.acquire(JOB, TTL_S) is None
    clock.advance(seconds(1))
    taken(two.acquire(JOB, TTL_S))
    assert not passes(store, dead)


def test_a_holder_that_renews_is_never_overtaken_by_one_that_watches(clock: ManualClock, workers: tuple[Leases, Leases]) -> None:
    one, two = workers
    lease = taken(one.acquire(JOB, TTL_S))
    clock.advance(-timedelta(days=1))
    for _ in range(10):
        clock.advance(seconds(TTL_S - 1))
        assert two.acquire(JOB, TTL_S) is None
        lease.keep()
    assert lease.until_us <= clock.now_us() + TTL_S * 1_000_000  # keep noticed that the clock went back


def test_watching_begins_again_when_the_clock_goes_back_while_watching(clock: ManualClock, workers: tuple[Leases, Leases]) -> None:
    one, two = workers
    taken(one.acquire(JOB, TTL_S))
    assert two.acquire(JOB, TTL_S) is None
    clock.advance(-timedelta(days=1))
    assert two.acquire(JOB, TTL_S) is None
    clock.advance(seconds(TTL_S - 1))
    assert two.acquire(JOB, TTL_S) is None
    clock.advance(seconds(1))
    taken(two.acquire(JOB, TTL_S))


# ---------------------------------------------------------------- any interleaving


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_renewal_that_is_overtaken_leaves_the_successors_term_alone(store: Store, clock: ManualClock, call: int) -> None:
    """Between any two of its steps another worker takes the expired lease and renews it."""
    kv, two = Meddled(store.kv), Leases(store.kv, clock, "two")
    first = taken(Leases(kv, clock, "one").acquire(JOB, 1))
    first.renew()
    clock.advance(seconds(1))
    second: list[Lease] = []

    def meanwhile() -> None:
        second.append(taken(two.acquire(JOB, TTL_S)))
        second[0].renew()

    kv.left, kv.meanwhile = call, meanwhile
    with pytest.raises(LeaseLost):
        first.renew()
    found = two.look(JOB)
    assert found is not None
    assert (found.token, found.until_us) == (second[0].token, second[0].until_us)


class LeaseMachine(RuleBasedStateMachine):
    """Three workers with clocks of their own, any of which may go anywhere, stopped between any two of their calls."""

    make: Maker
    leases = Bundle("leases")
    worker = st.integers(0, 2)
    call = st.integers(0, 4)  # 0: nothing happens meanwhile

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.store = type(self).make(self.directory, ManualClock(START))
        self.clocks = [ManualClock(START) for _ in range(3)]
        self.kvs = [Meddled(self.store.kv) for _ in range(3)]
        self.workers = [Leases(kv, clock, str(i)) for i, (kv, clock) in enumerate(zip(self.kvs, self.clocks, strict=True))]
        self.all: list[Lease] = []
        self.newest: Lease | None = None  # who took it last
        self.free = True
        self.events = Events()

    @initialize(seed=st.integers(0, 2**32))
    def seeded(self, seed: int) -> None:
        self.events = Events(seed)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)

    def take(self, worker: int) -> Lease | None:
        """Meanwhile or not: whoever gets the lease is the newest holder from then on."""
        lease = self.workers[worker].acquire(JOB, TTL_S)
        if lease is not None:
            assert all(lease.token > other.token for other in self.all)
            self.all.append(lease)
            self.newest, self.free = lease, False
        return lease

    @contextmanager
    def between(self, worker: int, other: int, call: int) -> Iterator[None]:
        """Before the call of that number another worker takes the lease, if it may, and renews it."""

        def meanwhile() -> None:
            if (lease := self.take(other)) is not None:
                lease.renew()

        self.kvs[worker].left = call
        self.kvs[worker].meanwhile = meanwhile if call and other != worker else None
        yield
        self.kvs[worker].meanwhile = None

    @rule(worker=worker, by=st.sampled_from([-90_000, -31, -1, 1, 9, 29, 30, 31]))
    def time_passes(self, worker: int, by: int) -> None:
        self.clocks[worker].advance(seconds(by))

    @rule(by=st.sampled_from([1, 10, 29, 30]))
    def time_passes_for_all(self, by: int) -> None:
        for clock in self.clocks:
            clock.advance(seconds(by))

    @rule(target=leases, worker=worker, other=worker, call=call)
    def acquire(self, worker: int, other: int, call: int) -> Any:
        free, number = self.free, len(self.all)
        with self.between(worker, other, call):
            lease = self.take(worker)
        taken = len(self.all) - number
        assert taken or not free
        assert taken <= 1 or call == 1  # then the other one was there first, and to this clock its term is over already
        return lease or self.newest

    @rule(lease=leases, other=worker, call=call)
    def renew(self, lease: Lease | None, other: int, call: int) -> None:
        if lease is None:
            return
        worker = int(lease.holder)
        was = lease is self.newest and not self.free
        token = lease.token
        with self.between(worker, other, call):
            try:
                lease.renew()
            except LeaseLost:
                assert not was or lease is not self.newest
            else:
                assert was
                assert lease.until_us == self.clocks[worker].now_us() + TTL_S * 1_000_000
        assert lease.token == token

    @rule(lease=leases)
    def release(self, lease: Lease | None) -> None:
        if lease is not None:
            assert lease.release() == (lease is self.newest and not self.free)
            self.free = self.free or lease is self.newest

    @rule(lease=leases)
    def write(self, lease: Lease | None) -> None:
        """A write passes under the newest lease alone, and tells afterwards under which it was made."""
        if lease is not None:
            event = self.events.fact(data=b"%d" % lease.token)
            (outcome,) = self.store.append([Submission((event,), (lease.condition,))])
            assert isinstance(outcome, Appended) == (lease is self.newest and not self.free), outcome

    @rule(worker=worker)
    def an_unexpired_lease_is_not_taken_by_who_looks_once(self, worker: int) -> None:
        fresh = Leases(self.store.kv, self.clocks[worker], "fresh")  # has watched nothing yet
        if (found := fresh.look(JOB)) is not None:
            assert fresh.acquire(JOB, TTL_S) is None
            assert self.newest is not None
            assert found.token == self.newest.token

    @invariant()
    def at_most_the_newest_holder_passes_the_fence(self) -> None:
        passing = [lease for lease in self.all if passes(self.store, lease)]
        assert passing == ([] if self.free or self.newest is None else [self.newest])

    @invariant()
    def everybody_sees_the_term_that_the_holder_believes_in(self) -> None:
        found = Leases(self.store.kv, ManualClock(START - timedelta(days=99)), "x").look(JOB)
        held = None if self.free or self.newest is None else (self.newest.holder, self.newest.token, self.newest.until_us)
        assert found == held

    @invariant()
    def nobody_wrote_after_a_successor_did(self) -> None:
        tokens = [int(event.data) for event in self.store.read(Query())]
        assert tokens == sorted(tokens)


@pytest.mark.torture
@pytest.mark.parametrize("name", STORES)
def test_never_two_holders_whose_writes_pass_the_fence(name: str) -> None:
    machine = type("Machine", (LeaseMachine,), {"make": staticmethod(STORES[name])})
    many = {"memory": 120, "sqlite": 25}.get(name, 8)
    run_state_machine_as_test(machine, settings=settings(max_examples=examples(many), stateful_step_count=30))  # type: ignore[no-untyped-call]


# ---------------------------------------------------------------- real processes, really stopped and killed


class Worker:
    """A real process that is told what to do."""

    def __init__(self, process: Fork) -> None:
        self.process = process

    def tell(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()

    def said(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def asked(self, what: str) -> list[str]:
        self.tell(what)
        return self.said()


class Place(NamedTuple):
    """A log that several processes open, and the file with the time for all of them."""

    url: str
    schema: str
    clock: Path

    def set_clock(self, us: int) -> None:
        new = self.clock.with_suffix(".new")
        new.write_text(str(us))
        new.replace(self.clock)

    def impatient(self) -> Store:
        """The log, for who will not wait for a lock."""
        if self.url.startswith("sqlite"):
            return SQLiteStore(self.url.removeprefix("sqlite:///"), busy_timeout_s=0)
        return PostgresStore(self.url, schema=self.schema, patience=Patience(lock=0.1))


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    url, schema = fresh_log() if request.param == "postgres" else (f"sqlite:///{tmp_path / 'log.db'}", DEFAULT_SCHEMA)
    place = Place(url, schema, tmp_path / "clock")
    place.set_clock(to_us(START))
    return place


@contextmanager
def worker(place: Place, name: str, seed: int) -> Iterator[Worker]:
    with Fork(WORKER, place.url, place.schema, place.clock, name, seed, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        one = Worker(process)
        try:
            assert one.said() == ["ready"]
            yield one
        finally:
            process.kill()


def stop(one: Worker, place: Place) -> None:
    """SIGSTOP, anywhere but within a write transaction, which would hold up everybody's writes."""
    while True:
        one.process.stand_still()
        with closing(place.impatient()) as store:
            try:
                store.append([Submission((), (Holds(JOB, 0),))])
                return
            except StoreUnavailable:
                one.process.send_signal(signal.SIGCONT)
        one.said()


@pytest.mark.parametrize("again", range(int(os.environ.get("POSTSALE_STOPS", "2"))))
def test_a_paused_holder_cannot_write_after_another_took_over(place: Place, again: int) -> None:
    seed = random.getrandbits(32)
    rand = random.Random(seed)
    with worker(place, "one", seed) as one, worker(place, "two", seed + 1) as two:
        assert one.asked("try")[0] == "took"
        assert two.asked("try") == ["waits"]
        one.tell("loop")
        acknowledged = [int(one.said()[1]) for _ in range(rand.randrange(1, 30))]
        stop(one, place)
        assert two.asked("try") == ["waits"]
        place.set_clock(to_us(START) + 30_000_000)
        assert two.asked("try")[0] == "took", f"seed {seed}"
        first = int(two.asked("write")[1])
        one.process.send_signal(signal.SIGCONT)  # in the middle of its loop, knowing nothing
        while (line := one.said())[0] == "stored":
            acknowledged.append(int(line[1]))
        assert line == ["lost"], f"seed {seed}"
        assert two.asked("write")[0] == "stored"
        assert one.asked("write") == ["lost"]
        assert one.asked("try") == ["waits"]
    with closing(open_store(place.url, schema=place.schema)) as store:
        by = {event.position: event.stream.id for event in store.read(Query())}
    assert {position for position, name in by.items() if name == "two"} == {first, first + 1}, f"seed {seed}"
    assert {position for position, name in by.items() if name == "one"} == set(range(1, first)), f"seed {seed}"
    assert set(acknowledged) <= set(range(1, first)), f"seed {seed}"


def test_the_lease_of_a_killed_holder_is_taken_over_when_it_expires(place: Place) -> None:
    seed = random.getrandbits(32)
    with worker(place, "two", seed) as two:
        with worker(place, "one", seed + 1) as one:
            assert one.asked("try")[0] == "took"
            one.tell("loop")
            for _ in range(5):
                one.said()
            one.process.kill()
            one.process.wait()
        assert two.asked("try") == ["waits"]
        place.set_clock(to_us(START) + 29_999_999)
        assert two.asked("try") == ["waits"]
        place.set_clock(to_us(START) + 30_000_000)
        assert two.asked("try")[0] == "took"
        assert two.asked("write")[0] == "stored", f"seed {seed}"
