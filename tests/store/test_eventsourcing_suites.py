"""eventsourcing's own recorder suites, and one of its applications, run on every store through `StoreRecorder`."""

from __future__ import annotations

import importlib
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing import persistence as upstream
from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.projection import ApplicationSubscription
from eventsourcing.tests import persistence as suites  # as a module: pytest would collect an imported suite
from hypothesis import given
from hypothesis import strategies as st
from tests.store.stores import fresh_postgres

from postsale.errors import MissingExtra, StoreUnavailable, UnknownWireName
from postsale.events import Lane, ManualClock, StreamId, decode
from postsale.store import MemoryStore, Query, SQLiteStore, Store, Submission, verify
from postsale.store.recorders import OpaqueEvent, StoreRecorder
from postsale.testing import Events
from postsale.testing.store_building import START

# ---------------------------------------------------------------- their suites


class OnMemory:
    recorder: type[StoreRecorder] = StoreRecorder

    def new_store(self) -> Store:
        return MemoryStore()

    def create_recorder(self) -> StoreRecorder:
        store = self.new_store()
        self.addCleanup(store.close)
        return self.recorder(store)


class OnSQLite(OnMemory):
    def new_store(self) -> Store:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return SQLiteStore(Path(directory.name) / "log.db")


class OnPostgres(OnMemory):
    def new_store(self) -> Store:
        return fresh_postgres()


class FromZero:
    """Their suites start versions at 1; applications may start elsewhere."""

    INITIAL_VERSION = 0


class FromSeven:
    INITIAL_VERSION = 7


class TextIds:
    def new_originator_id(self) -> str:
        return f"order-{uuid4()}"


class WithoutIds(StoreRecorder):
    """`AggregateRecorderTestCase` wants None from `insert_events`: it is written for recorders that number no notifications. Ours
    numbers all (upstream's application recorders do too, and fail the case alike). So the ids are dropped here, nothing else."""

    def insert_events(self, *args: Any, **kwargs: Any) -> None:
        super().insert_events(*args, **kwargs)


class Subscribing:
    """A case that upstream leaves to recorders that can be subscribed to."""

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestAggregateRecorderOnMemory(OnMemory, suites.AggregateRecorderTestCase):
    recorder = WithoutIds


class TestAggregateRecorderOnSQLite(OnSQLite, suites.AggregateRecorderTestCase):
    recorder = WithoutIds


class TestAggregateRecorderOnPostgres(OnPostgres, suites.AggregateRecorderTestCase):
    recorder = WithoutIds


class TestAggregateRecorderFromZero(FromZero, TestAggregateRecorderOnMemory): ...


class TestAggregateRecorderFromSeven(FromSeven, TestAggregateRecorderOnSQLite): ...


class TestAggregateRecorderWithTextIds(TextIds, TestAggregateRecorderOnSQLite): ...


class TestApplicationRecorderOnMemory(OnMemory, Subscribing, suites.ApplicationRecorderTestCase): ...


class TestApplicationRecorderOnSQLite(OnSQLite, Subscribing, suites.ApplicationRecorderTestCase): ...


class TestApplicationRecorderOnPostgres(OnPostgres, Subscribing, suites.ApplicationRecorderTestCase): ...


class TestApplicationRecorderFromZero(FromZero, TestApplicationRecorderOnSQLite): ...


class TestApplicationRecorderFromSeven(FromSeven, TestApplicationRecorderOnMemory): ...


class TestApplicationRecorderWithTextIds(TextIds, TestApplicationRecorderOnMemory): ...


class TestNonInterleavingOnMemory(OnMemory, suites.NonInterleavingNotificationIDsBaseCase): ...


class TestNonInterleavingOnSQLite(OnSQLite, suites.NonInterleavingNotificationIDsBaseCase): ...


class TestNonInterleavingOnPostgres(OnPostgres, suites.NonInterleavingNotificationIDsBaseCase): ...


# ---------------------------------------------------------------- beyond their suites


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with closing(opened(request.param, tmp_path)) as store:
        yield store


def opened(kind: str, directory: Path) -> Store:
    match kind:
        case "memory":
            return MemoryStore()
        case "sqlite":
            return SQLiteStore(directory / "log.db", durable=False)
    return fresh_postgres()


def made(originator_id: UUID | str, *versions: int, topic: str = "topic", state: bytes = b"state") -> list[upstream.StoredEvent]:
    return [upstream.StoredEvent(originator_id, version, topic, state) for version in versions]


def kept(recorder: StoreRecorder) -> list[tuple[UUID | str, int]]:
    return [(n.originator_id, n.originator_version) for n in recorder.select_notifications(None, 1_000)]


@pytest.mark.parametrize("base", [-3, 0, 1, 2, 40])
def test_versions_follow_one_another_from_any_first_one(store: Store, base: int) -> None:
    recorder, id_ = StoreRecorder(store), uuid4()
    recorder.insert_events(made(id_, base))
    recorder.insert_events(made(id_, base + 1, base + 2))
    for refused in ([base - 1], [base], [base + 2], [base + 4], [base + 3, base + 5], [base + 4, base + 3], [base + 2, base + 3]):
        with pytest.raises(upstream.IntegrityError):
            recorder.insert_events(made(id_, *refused))
        assert [e.originator_version for e in recorder.select_events(id_)] == [base, base + 1, base + 2]
    assert recorder.insert_events(made(id_, base + 3)) == [4]


@pytest.mark.parametrize("base", [0, 1, 5])
def test_a_batch_of_several_originators_is_stored_whole_or_not_at_all(store: Store, base: int) -> None:
    recorder = StoreRecorder(store)
    old, new, other = uuid4(), uuid4(), uuid4()
    recorder.insert_events(made(old, base))
    assert recorder.insert_events([*made(new, base), *made(old, base + 1), *made(new, base + 1)]) == [2, 3, 4]
    with pytest.raises(upstream.IntegrityError):
        recorder.insert_events([*made(other, base), *made(old, base + 3)])
    assert kept(recorder) == [(old, base), (new, base), (old, base + 1), (new, base + 1)]
    assert recorder.insert_events([*made(old, base + 2), *made(other, 1)]) == [5, 6]


def test_a_batch_may_be_of_any_size(store: Store) -> None:
    recorder, id_ = StoreRecorder(store), uuid4()
    batch = made(id_, *range(1, 6_001))
    assert recorder.insert_events(batch) == list(range(1, 6_001))
    assert recorder.select_events(id_) == batch
    assert recorder.max_notification_id() == 6_000


@pytest.mark.parametrize("limit", [None, 0, 1, 3, 99])
@pytest.mark.parametrize("desc", [False, True])
def test_a_selection_is_the_slice_that_was_asked_for(store: Store, desc: bool, limit: int | None) -> None:
    recorder, id_ = StoreRecorder(store), uuid4()
    every = made(id_, *range(3, 11))
    recorder.insert_events(every)
    for gt in (None, 0, 2, 3, 6, 10, 11):
        for lte in (None, 0, 3, 6, 10, 11):
            wanted = [e for e in every if (gt is None or e.originator_version > gt) and (lte is None or e.originator_version <= lte)]
            wanted = (wanted[::-1] if desc else wanted)[:limit]
            assert recorder.select_events(id_, gt=gt, lte=lte, desc=desc, limit=limit) == wanted


names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200)
batches = st.dictionaries(
    st.uuids() | names, st.tuples(st.integers(-5, 2**40), st.lists(st.tuples(st.text(max_size=40), st.binary(max_size=80)), max_size=4))
)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
@given(batch=batches)
def test_whatever_is_inserted_is_selected_equal(kind: str, batch: dict[UUID | str, tuple[int, list[tuple[str, bytes]]]]) -> None:
    inserted = {
        id_: [upstream.StoredEvent(id_, first + at, topic, state) for at, (topic, state) in enumerate(contents)]
        for id_, (first, contents) in batch.items()
        if not (isinstance(id_, str) and _is_uuid(id_) and UUID(id_) in batch)  # to upstream, too, these are one originator
    }
    together = [event for events in inserted.values() for event in events]
    with tempfile.TemporaryDirectory() as directory, closing(opened(kind, Path(directory))) as store:
        recorder = StoreRecorder(store)
        ids = recorder.insert_events(together)
        assert {id_: recorder.select_events(id_) for id_ in inserted} == inserted
        notifications = recorder.select_notifications(None, len(together))
        assert [n.id for n in notifications] == ids
        assert [upstream.StoredEvent(n.originator_id, n.originator_version, n.topic, n.state) for n in notifications] == together


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


@pytest.mark.parametrize(
    "refused",
    [
        upstream.StoredEvent("", 1, "topic", b""),
        upstream.StoredEvent("x" * 201, 1, "topic", b""),
        upstream.StoredEvent("a\nb", 1, "topic", b""),
        upstream.StoredEvent("id", 2**60, "topic", b""),
        upstream.StoredEvent("id", 1, "\ud800", b""),
        upstream.StoredEvent("id", 1, "topic", bytes(2**20)),
    ],
    ids=["no id", "long id", "control character", "version beyond 53 bits", "lone surrogate", "too large"],
)
def test_what_no_log_can_hold_is_a_data_error_and_nothing_is_stored(store: Store, refused: upstream.StoredEvent) -> None:
    recorder = StoreRecorder(store)
    with pytest.raises(upstream.DataError):
        recorder.insert_events([*made(uuid4(), 1), refused])
    assert store.head() == 0
    assert recorder.max_notification_id() is None


def test_tracking_is_refused_rather_than_dropped(store: Store) -> None:
    recorder = StoreRecorder(store)
    with pytest.raises(upstream.NotSupportedError):
        recorder.insert_events(made(uuid4(), 1), tracking=upstream.Tracking("upstream", 1))
    assert store.head() == 0


def test_a_closed_store_is_an_operational_error_with_its_cause(store: Store) -> None:
    recorder = StoreRecorder(store)
    store.close()
    for use in (
        lambda: recorder.insert_events(made(uuid4(), 1)),
        lambda: recorder.select_events(uuid4()),
        lambda: recorder.select_notifications(None, 1),
        recorder.max_notification_id,
        lambda: next(recorder.subscribe()),
    ):
        with pytest.raises(upstream.OperationalError) as raised:
            use()
        assert isinstance(raised.value.__cause__, StoreUnavailable)


def test_notifications_share_positions_with_the_rest_of_the_log_and_show_none_of_it(store: Store) -> None:
    mine, theirs = StoreRecorder(store), StoreRecorder(store, "globex")
    a, b = uuid4(), uuid4()
    other = Events().decision(StreamId("default", "customers", "c1"), 0)
    mine.insert_events(made(a, 1))
    store.append([Submission((other,))])
    theirs.insert_events(made(b, 1))
    theirs.insert_events(made(a, 1))  # the same originator in another tenant is another one
    assert mine.insert_events(made(a, 2)) == [5]
    assert [n.id for n in mine.select_notifications(None, 9)] == [1, 5]
    assert [n.id for n in theirs.select_notifications(None, 9)] == [3, 4]
    assert (mine.max_notification_id(), theirs.max_notification_id()) == (5, 4)
    assert [n.id for n in mine.select_notifications(2, 9)] == [5]
    assert list(mine.select_notifications(2, 9, stop=4)) == []
    with mine.subscribe() as subscription:
        assert [next(subscription).id, next(subscription).id] == [1, 5]


def test_a_foreign_kind_in_the_category_is_named_and_not_skipped(store: Store) -> None:
    recorder = StoreRecorder(store)
    stream = StreamId("default", "events", str(uuid4()))
    store.append([Submission((Events().decision(stream, 0),))])
    with pytest.raises(upstream.InternalError) as raised:
        recorder.select_notifications(None, 1)
    assert isinstance(raised.value.__cause__, UnknownWireName)


def test_other_readers_of_the_log_can_decode_it_and_verify_it(store: Store) -> None:
    clock = ManualClock(START)
    StoreRecorder(store, clock=clock).insert_events(made("order-1", 4, topic="shop:Paid", state=b"\x00\xff"))
    (row,) = store.read(Query(tenant="default", lane=Lane.DECISION))
    recorded = decode(row)
    assert recorded.data == OpaqueEvent(originator="text", originator_version=4, topic="shop:Paid", state="AP8=")
    assert (str(row.stream), row.version, recorded.occurred_at) == ("default/events/order-1", 1, START)
    assert str(recorded.header.actor) == "system:eventsourcing"
    assert verify(store).ok


# ---------------------------------------------------------------- subscriptions


def test_a_waiting_subscription_is_woken_by_an_insert_and_ended_by_stop(store: Store) -> None:
    recorder = StoreRecorder(store)
    seen: list[int] = []
    caught_up = threading.Semaphore(0)

    def follow() -> None:
        for notification in subscription:
            seen.append(notification.id)
            caught_up.release()

    with recorder.subscribe() as subscription:
        follower = threading.Thread(target=follow)
        follower.start()
        for version in range(1, 4):
            recorder.insert_events(made("order-1", version))
            assert caught_up.acquire(timeout=100)  # the limits only keep a failure from hanging
        subscription.stop()
        follower.join(100)
    assert not follower.is_alive()
    assert seen == [1, 2, 3]


def test_a_subscription_sees_what_another_process_would_write(store: Store) -> None:
    reader, writer = StoreRecorder(store), StoreRecorder(store)
    writer.insert_events(made("order-1", *range(1, 1_201)))  # more than it holds at once
    with reader.subscribe(gt=10) as subscription:
        assert [next(subscription).id for _ in range(1_190)] == list(range(11, 1_201))
        late = threading.Thread(target=writer.insert_events, args=(made("order-1", 1_201),))
        late.start()
        assert next(subscription).id == 1_201
        late.join()


def test_subscriptions_lose_nothing_under_concurrent_writers(store: Store) -> None:
    recorder, writers, each = StoreRecorder(store), 4, 40

    def write(id_: str) -> None:
        try:
            for version in range(1, each + 1):
                recorder.insert_events(made(id_, version, topic="odd" if version % 2 else "even"))
        except BaseException:
            every.stop()  # or the test would wait for ever for what was not written
            raise

    threads = [threading.Thread(target=write, args=(f"order-{n}",)) for n in range(writers)]
    with recorder.subscribe() as every, recorder.subscribe(topics=["odd"]) as odd:
        for thread in threads:
            thread.start()
        assert [next(every).id for _ in range(writers * each)] == list(range(1, writers * each + 1))
        some = [next(odd) for _ in range(writers * each // 2)]
        for thread in threads:
            thread.join()
    assert {n.topic for n in some} == {"odd"}
    assert [n.id for n in some] == [n.id for n in recorder.select_notifications(None, 999, topics=["odd"])]


# ---------------------------------------------------------------- a whole application


class Order(Aggregate):
    @event("Placed")
    def __init__(self, customer: str) -> None:
        self.customer = customer
        self.lines: list[str] = []

    @event("LineAdded")
    def add(self, line: str) -> None:
        self.lines.append(line)


class Orders(Application[UUID]):
    def __init__(self, store: Store) -> None:
        self._store = store
        super().__init__()

    def construct_recorder(self) -> StoreRecorder:
        return StoreRecorder(self._store)


@pytest.fixture
def orders(store: Store) -> Iterator[Orders]:
    with Orders(store) as orders:
        yield orders


def test_an_application_saves_and_gets_its_aggregates(orders: Orders) -> None:
    order = Order("c1")
    order.add("tea")
    saved = orders.save(order)
    assert [recording.notification.id for recording in saved] == [1, 2]
    again = orders.repository.get(order.id)
    assert (again.customer, again.lines, again.version) == ("c1", ["tea"], 2)
    again.add("milk")
    orders.save(again)
    assert orders.repository.get(order.id).lines == ["tea", "milk"]
    assert orders.repository.get(order.id, version=1).lines == []
    assert orders.snapshots is None
    with pytest.raises(AggregateNotFoundError):
        orders.repository.get(uuid4())


def test_of_two_writers_of_an_aggregate_one_gets_an_integrity_error(orders: Orders) -> None:
    order = Order("c1")
    orders.save(order)
    first, second = orders.repository.get(order.id), orders.repository.get(order.id)
    first.add("tea")
    second.add("milk")
    orders.save(first)
    with pytest.raises(upstream.IntegrityError):
        orders.save(second)
    assert orders.repository.get(order.id).lines == ["tea"]


def test_the_same_events_saved_twice_are_an_integrity_error(orders: Orders) -> None:
    order = Order("c1")
    order.add("tea")
    pending = order.collect_events()
    orders.events.put(pending)
    with pytest.raises(upstream.IntegrityError):
        orders.events.put(pending)
    assert orders.recorder.max_notification_id() == 2


def test_the_notification_log_has_every_event_in_the_order_of_saving(orders: Orders) -> None:
    placed = [Order(f"c{n}") for n in range(25)]
    for order in placed:
        orders.save(order)
    for order in reversed(placed):
        order.add("tea")
    orders.save(*reversed(placed))
    wanted = [(order.id, 1) for order in placed] + [(order.id, 2) for order in reversed(placed)]
    pages = [orders.notification_log.select(start, limit=10) for start in range(1, 51, 10)]
    assert [(n.originator_id, n.originator_version) for page in pages for n in page] == wanted
    section = orders.notification_log["1,10"]
    assert (section.id, section.next_id, len(section.items)) == ("1,10", "11,20", 10)
    with ApplicationSubscription(orders, gt=48) as subscription:
        events = [(domain_event.originator_id, tracking.notification_id) for domain_event, tracking in (next(subscription),)]
    assert events == [(placed[1].id, 49)]


def test_without_the_extra_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "postsale.store.recorders")
    monkeypatch.setitem(sys.modules, "eventsourcing", None)  # as where it is not installed
    with pytest.raises(MissingExtra, match=r"postsale\[eventsourcing\]"):
        importlib.import_module("postsale.store.recorders")
