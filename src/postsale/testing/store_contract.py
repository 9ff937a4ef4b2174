"""The contract every log must pass. Subclass `StoreContract`, supply `make_store()`, and pytest runs each claim against your store.

    class TestMyStore(StoreContract):
        def make_store(self, clock, limit_bytes):
            return MyStore(self.directory, clock=clock, limit_bytes=limit_bytes)

Needs pytest. Imports the store and the events; nothing here knows which store it tests.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from postsale.errors import InvalidInput, StoreUnavailable, VersionConflict
from postsale.events import Lane, ManualClock, StoredEvent, StreamId
from postsale.store import Appended, QuarantineItem, Query, Store, verify
from postsale.store.leaves import commitment, leaf_of
from postsale.testing.store_building import LIMIT_BYTES, Events, Hooks, each, in_threads, one, positions, stored
from postsale.testing.store_contract_append import AppendContract, ConditionContract
from postsale.testing.store_contract_beside import KeyValueContract, LeaseConditionContract, TreeContract, WaitContract
from postsale.testing.store_contract_proofs import ProofContract


class ReadContract(Hooks):
    """What reads promise."""

    @pytest.fixture
    def history(self, store: Store, events: Events, clock: ManualClock) -> list[StoredEvent]:
        """120 events: three tenants, two categories, two lanes, three kinds."""
        rand = random.Random(events.seed)
        streams = [events.stream(tenant, category) for tenant in ("acme", "globex", "tiny") for category in ("customers", "policies")]
        streams += [events.stream("acme", "customers") for _ in range(70)]
        versions = dict.fromkeys(streams, 0)
        for _ in range(40):
            batch = []
            for _ in range(3):
                stream = rand.choice(streams[:5] if rand.random() < 0.7 else streams)
                if rand.random() < 0.3:
                    batch.append(events.decision(stream, versions[stream]))
                    versions[stream] += 1
                else:
                    batch.append(events.fact(stream, rand.choice(["test/seen", "test/paid"]), rand.choice([1, 2])))
            store.append(each(*batch))
            clock.advance(timedelta(minutes=rand.randrange(3)))
        found = list(store.read(Query()))
        assert [event.position for event in found] == list(range(1, 121))
        return found

    def test_every_field_of_a_query_narrows_and_combines(self, store: Store, events: Events, history: list[StoredEvent]) -> None:
        rand = random.Random(events.seed)
        streams = sorted({event.stream for event in history})
        times = [event.recorded_at_us for event in history]
        for _ in range(300):
            query = Query(
                tenant=rand.choice([None, None, "acme", "globex", "tiny", "unknown"]),
                category=rand.choice([None, None, "customers", "policies", "unknown"]),
                streams=tuple(rand.sample(streams, rand.choice([0, 0, 0, 1, 2, 10]))),
                lane=rand.choice([None, None, Lane.FACT, Lane.DECISION]),
                kinds=frozenset(rand.sample(["test/seen", "test/paid", "test/decided", "no/such"], rand.choice([0, 0, 1, 2]))),
                after=rand.choice([0, 0, rand.randrange(130)]),
                upto=rand.choice([None, None, rand.randrange(130)]),
                known_at_us=rand.choice([None, None, rand.choice(times) + rand.choice([-1, 0, 1])]),
                as_of_us=rand.choice([None, None, rand.choice(history).occurred_at_us]),
                backward=rand.random() < 0.4,
                limit=rand.choice([None, None, 0, 1, 5]),
            )
            assert list(store.read(query)) == self._expected(query, history), (events.seed, query)

    @staticmethod
    def _expected(query: Query, history: list[StoredEvent]) -> list[StoredEvent]:
        """The query read aloud."""
        found = []
        for event in history:
            if query.tenant is not None and event.tenant != query.tenant:
                continue
            if query.category is not None and event.stream.category != query.category:
                continue
            if query.streams and event.stream not in query.streams:
                continue
            if query.lane is not None and event.lane is not query.lane:
                continue
            if query.kinds and event.wire_name.split("@")[0] not in query.kinds:
                continue
            if event.position <= query.after or (query.upto is not None and event.position > query.upto):
                continue
            if query.known_at_us is not None and event.recorded_at_us > query.known_at_us:
                continue
            if query.as_of_us is not None and event.occurred_at_us > query.as_of_us:
                continue
            found.append(event)
        if query.backward:
            found.reverse()
        return found if query.limit is None else found[: query.limit]

    @pytest.mark.parametrize(
        "number", [{"limit": -1}, *({name: 2**63} for name in ("limit", "after", "upto", "known_at_us", "as_of_us"))], ids=str
    )
    def test_a_number_that_no_position_time_or_limit_can_be_is_invalid_input(self, store: Store, number: dict[str, int]) -> None:
        with pytest.raises(InvalidInput):
            list(store.read(Query(**number)))  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["a\0b", "\ud800"], ids=["NUL", "surrogate"])
    def test_a_name_that_no_log_can_hold_is_not_there_or_invalid_input(self, store: Store, name: str) -> None:
        """Never a store that is said to be unavailable: whoever asks would wait and ask again."""
        stream = StreamId("acme", "customers", name)
        asks: list[Callable[[], object]] = [
            lambda: list(store.read(Query(streams=(stream,)))),
            lambda: list(store.read(Query(tenant=name))),
            lambda: list(store.read(Query(kinds=frozenset({name})))),
            lambda: store.find(name, UUID(int=1)) or [],
            lambda: [version for version in store.versions([stream]) if version],
        ]
        for ask in asks:
            with suppress(InvalidInput):
                assert ask() == []

    def test_the_snapshot_is_taken_at_the_first_next(self, store: Store, events: Events) -> None:
        store.append(each(events.fact()))
        with closing(store.read(Query())) as reader:
            store.append(each(events.fact()))
            assert next(reader).position == 1
            store.append(each(events.fact()))
            assert [event.position for event in reader] == [2]

    def test_an_open_reader_blocks_neither_writers_nor_other_readers(self, store: Store, events: Events) -> None:
        store.append(each(*(events.fact() for _ in range(50))))
        readers = [store.read(Query()) for _ in range(8)]
        assert [next(reader).position for reader in readers] == [1] * 8
        assert stored(store.append(each(events.fact()))[0]).positions == (51,)
        assert positions(store, Query(after=49)) == [50, 51]
        for reader in readers:
            reader.close()
        assert positions(store, Query(after=49)) == [50, 51]

    def test_find_latest_versions_and_head_agree_with_the_log(self, store: Store, history: list[StoredEvent], events: Events) -> None:
        streams = sorted({event.stream for event in history})
        decisions = {event.stream: event for event in history if event.lane is Lane.DECISION}
        asked = [events.stream(), *streams, events.stream("nobody")]
        assert store.latest(asked) == [decisions.get(stream) for stream in asked]
        assert store.versions(asked) == [decisions[stream].version if stream in decisions else 0 for stream in asked]
        assert store.latest([]) == []
        assert store.head() == len(history)
        for event in history:
            assert store.find(event.tenant, event.event_id) == event
        assert store.find("acme", UUID(int=1)) is None

    def test_the_tenants_are_those_with_events(self, store: Store, history: list[StoredEvent], events: Events) -> None:
        store.append(each(events.fact(events.stream("refused"), data=b"x" * (LIMIT_BYTES + 1))))
        assert store.tenants() == sorted({event.tenant for event in history})

    def test_leaf_indexes_are_gapless_per_tenant_and_leaves_commit_to_the_event(self, history: list[StoredEvent]) -> None:
        counts: dict[str, int] = {}
        for event in history:
            assert event.leaf_index == counts.get(event.tenant, 0)
            counts[event.tenant] = event.leaf_index + 1
            fields = event._asdict()
            leaf = fields.pop("leaf")
            assert leaf_of(commitment(**fields)) == leaf

    def test_verification_finds_nothing_wrong_and_counts_everything(self, store: Store, history: list[StoredEvent]) -> None:
        seen: list[int] = []
        report = verify(store, seen.append)
        assert report.ok, report.problems
        assert (report.events, report.tenants) == (120, 3)
        assert {tenant: size for tenant, (size, _) in report.roots.items()} == {
            tenant: sum(event.tenant == tenant for event in history) for tenant in ("acme", "globex", "tiny")
        }
        assert seen[-1] == 120

    def test_an_empty_log_is_readable_and_sound(self, store: Store) -> None:
        assert list(store.read(Query(backward=True, known_at_us=5, limit=3))) == []
        assert store.head() == 0
        report = verify(store)
        assert (report.ok, report.events, report.roots) == (True, 0, {})


class LifeContract(Hooks):
    """Threads, identity, closing."""

    def test_one_winner_per_version_among_threads(self, store: Store, events: Events) -> None:
        stream, threads, rounds = events.stream(), 6, 15
        offers = [[events.decision(stream, version) for version in range(rounds)] for _ in range(threads)]
        barrier = threading.Barrier(threads)
        outcomes: list[list[object]] = [[] for _ in range(threads)]

        def run(index: int) -> None:
            barrier.wait()
            for offer in offers[index]:
                outcomes[index] += store.append(each(offer))

        in_threads(run, threads)
        for version in range(rounds):
            results = [outcomes[index][version] for index in range(threads)]
            assert sum(isinstance(result, Appended) for result in results) == 1, events.seed
            assert all(isinstance(result, Appended | VersionConflict) for result in results)
        assert store.versions([stream]) == [rounds]
        assert verify(store).ok

    def test_a_tailing_reader_skips_nothing_while_threads_append(self, store: Store, events: Events) -> None:
        threads, each_writes = 4, 60
        batches = [[one(events.fact(), events.fact()) for _ in range(each_writes)] for _ in range(threads)]
        done = threading.Event()
        tailed: list[int] = []

        def run(index: int) -> None:
            if index < threads:
                for batch in batches[index]:
                    store.append(batch)
                return
            while True:
                last_round = done.is_set()
                tailed.extend(positions(store, Query(after=tailed[-1] if tailed else 0)))
                if last_round:
                    return

        in_threads(run, threads + 1, writers=threads, done=done)
        assert tailed == list(range(1, 2 * threads * each_writes + 1)), events.seed

    def test_each_log_has_an_id_of_its_own(self, store: Store, clock: ManualClock) -> None:
        with closing(self.make_store(clock, LIMIT_BYTES)) as other:
            assert store.log_id != other.log_id
            assert len(store.log_id) == 32

    def test_a_closed_store_is_unavailable_and_closing_twice_is_fine(self, store: Store, events: Events) -> None:
        store.close()
        store.close()
        with pytest.raises(StoreUnavailable):
            store.append(each(events.fact()))
        with pytest.raises(StoreUnavailable):
            list(store.read(Query()))


class QuarantineContract(Hooks):
    """What the quarantine promises."""

    @staticmethod
    def item(number: int, tenant: str = "acme", **fields: Any) -> QuarantineItem:
        item = QuarantineItem(
            id=f"{number:032x}",
            tenant=tenant,
            source="crm",
            reason="no such field: plan",
            received_at_us=number,
            body=b"sealed %d" % number,
        )
        return replace(item, **fields)

    def test_items_come_back_oldest_first_and_per_tenant(self, store: Store) -> None:
        quarantine = store.quarantine
        assert quarantine.put([self.item(2), self.item(1), self.item(3, tenant="globex")]) == 3
        assert list(quarantine.items("acme")) == [self.item(1), self.item(2)]
        assert list(quarantine.items("globex")) == [self.item(3, tenant="globex")]
        assert list(quarantine.items("nobody")) == []

    def test_the_same_failure_is_kept_once(self, store: Store) -> None:
        quarantine = store.quarantine
        first = self.item(1)
        assert quarantine.put([first, replace(first, body=b"other"), self.item(1, tenant="globex")]) == 2
        assert quarantine.put([first]) == 0
        assert list(quarantine.items("acme")) == [first]
        assert quarantine.put([]) == 0

    def test_settling_takes_an_item_out_of_the_waiting(self, store: Store) -> None:
        quarantine = store.quarantine
        quarantine.put([self.item(1), self.item(2), self.item(3)])
        assert quarantine.settle("acme", self.item(1).id, "recorded")
        assert quarantine.settle("acme", self.item(3).id, "dropped")
        assert not quarantine.settle("globex", self.item(2).id, "dropped")
        assert not quarantine.settle("acme", self.item(9).id, "dropped")
        assert list(quarantine.items("acme")) == [self.item(2)]
        assert [item.status for item in quarantine.items("acme", status=None)] == ["recorded", "waiting", "dropped"]
        assert list(quarantine.items("acme", status="dropped")) == [self.item(3, status="dropped")]
        assert quarantine.put([self.item(1)]) == 0

    def test_items_may_be_settled_while_they_are_listed(self, store: Store) -> None:
        quarantine = store.quarantine
        quarantine.put([self.item(n) for n in range(5)])
        assert [item.id for item in quarantine.items("acme") if quarantine.settle("acme", item.id, "dropped")] == [
            self.item(n).id for n in range(5)
        ]

    def test_an_unknown_status_is_invalid_input(self, store: Store) -> None:
        with pytest.raises(InvalidInput):
            store.quarantine.put([self.item(1, status="lost")])
        with pytest.raises(InvalidInput):
            store.quarantine.settle("acme", self.item(1).id, "lost")

    def test_nothing_in_quarantine_is_in_the_log(self, store: Store) -> None:
        store.quarantine.put([self.item(1)])
        assert store.head() == 0
        assert verify(store).ok


class StoreContract(
    AppendContract,
    ConditionContract,
    ReadContract,
    LifeContract,
    QuarantineContract,
    TreeContract,
    WaitContract,
    LeaseConditionContract,
    KeyValueContract,
    ProofContract,
):
    """Everything a store promises; see the module for how to use it."""
