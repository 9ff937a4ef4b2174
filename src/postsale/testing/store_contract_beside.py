"""The contract of a log, third part: its trees, waiting for events, leases as conditions, and the records beside it. See `StoreContract`."""

from __future__ import annotations

import random
import threading
from hashlib import sha256
from typing import Any

import pytest

from postsale.errors import InvalidInput, LeaseLost
from postsale.store import Holds, Kept, LeaseName, Query, Store, Submission
from postsale.store.contract import LEASES
from postsale.testing.store_building import Events, Hooks, each, in_threads, stored


def root(hashes: list[bytes]) -> bytes:
    """RFC 6962, 2.1, read aloud."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return sha256(b"\x01" + root(hashes[:split]) + root(hashes[split:])).digest()


class TreeContract(Hooks):
    """What the trees of a log promise."""

    def test_an_empty_tree_has_the_hash_of_nothing(self, store: Store) -> None:
        assert store.tree_head("acme") == (0, root([]))
        assert store.tree("acme", 0, 0, 10) == []
        assert store.tree("acme", 1, 0, 10) == []

    def test_a_tree_is_the_leaves_of_its_tenant_and_every_256_of_them_have_a_kept_root(self, store: Store, events: Events) -> None:
        rand = random.Random(events.seed)
        left = {"acme": 600, "globex": 255}
        while any(left.values()):
            tenant = rand.choice([tenant for tenant, count in left.items() if count])
            count = min(left[tenant], rand.choice([1, 7, 300]))
            left[tenant] -= count
            store.append(each(*(events.fact(events.stream(tenant)) for _ in range(count))))
        for tenant, nodes in (("acme", 2), ("globex", 0)):
            leaves = [event.leaf for event in store.read(Query(tenant=tenant))]
            assert store.tree_head(tenant) == (len(leaves), root(leaves))
            for _ in range(20):
                start, stop = sorted(rand.randrange(700) for _ in range(2))
                assert store.tree(tenant, 0, start, stop) == leaves[start:stop]
            assert store.tree(tenant, 1, 0, 10) == [root(leaves[256 * n : 256 * (n + 1)]) for n in range(nodes)]
            assert store.tree(tenant, 1, 1, 2) == [root(leaves[256:512])][: nodes - 1 if nodes else 0]
            assert store.tree(tenant, 2, 0, 10) == []

    def test_a_refused_submission_adds_no_leaf(self, store: Store, events: Events) -> None:
        stream = events.stream()
        store.append([*each(events.decision(stream, 0)), *each(events.decision(stream, 0))])
        assert store.tree_head("acme").size == 1


class WaitContract(Hooks):
    """What waiting for events promises."""

    def test_waiting_ends_with_an_append_from_another_thread(self, store: Store, events: Events) -> None:
        store.append(each(events.fact()))
        assert store.wait(0, 0)
        assert not store.wait(1, 0)
        found: list[bool] = []
        waiter = threading.Thread(target=lambda: found.append(store.wait(1, 60)))
        waiter.start()
        store.append(each(events.fact()))
        waiter.join()
        assert found == [True]

    def test_waiting_in_vain_ends(self, store: Store) -> None:
        assert not store.wait(0, 0.01)


class LeaseConditionContract(Hooks):
    """What the fence of a lease promises."""

    def test_only_the_newest_token_of_a_lease_may_write(self, store: Store, events: Events) -> None:
        lease = LeaseName("_system", "runner/health")
        (never_taken,) = store.append([Submission((events.fact(),), (Holds(lease, 1),))])
        assert isinstance(never_taken, LeaseLost)
        old = store.kv.put(LEASES, *lease, b"worker 1", expected=0)
        assert old
        assert stored(store.append([Submission((events.fact(),), (Holds(lease, old),))])[0]).stored
        new = store.kv.put(LEASES, *lease, b"worker 2", expected=old)
        assert new
        fenced, passed = store.append([Submission((events.fact(),), (Holds(lease, token),)) for token in (old, new)])
        assert isinstance(fenced, LeaseLost)
        assert (fenced.token, fenced.newest_token) == (old, new)
        assert stored(passed).stored
        assert store.head() == 2

    def test_a_lease_is_of_its_tenant(self, store: Store, events: Events) -> None:
        token = store.kv.put(LEASES, "acme", "worker", b"", expected=0)
        assert token
        mine, other = store.append([Submission((events.fact(),), (Holds(LeaseName(t, "worker"), token),)) for t in ("acme", "_system")])
        assert stored(mine).stored
        assert isinstance(other, LeaseLost)


class KeyValueContract(Hooks):
    """What the records beside a log promise."""

    def test_a_record_is_what_was_last_written_under_exactly_its_names(self, store: Store) -> None:
        kv = store.kv
        first = kv.put("a", "acme", "k", b"1")
        assert first
        second = kv.put("a", "acme", "k", b"2")
        assert second
        assert second > first
        assert kv.get("a", "acme", "k") == Kept("k", b"2", second)
        assert kv.get("b", "acme", "k") is None
        assert kv.get("a", "globex", "k") is None
        assert kv.get("a", "acme", "K") is None

    def test_compare_and_set_writes_only_over_the_expected_revision(self, store: Store) -> None:
        kv = store.kv
        assert kv.put("a", "acme", "k", b"x", expected=7) is None
        revision = kv.put("a", "acme", "k", b"1", expected=0)
        assert revision
        assert kv.put("a", "acme", "k", b"x", expected=0) is None
        assert kv.put("a", "acme", "k", b"x", expected=revision + 1) is None
        assert kv.get("a", "acme", "k") == Kept("k", b"1", revision)
        newer = kv.put("a", "acme", "k", b"2", expected=revision)
        assert newer
        assert not kv.delete("a", "acme", "k", expected=revision)
        assert kv.delete("a", "acme", "k", expected=newer)
        assert not kv.delete("a", "acme", "k")

    def test_a_revision_is_never_used_twice_even_after_a_delete(self, store: Store) -> None:
        kv, seen = store.kv, []
        for _ in range(3):
            seen.append(kv.put("a", "acme", "k", b""))
            kv.delete("a", "acme", "k")
            seen.append(kv.put("a", "acme", "other", b""))
        assert all(seen)
        assert len(set(seen)) == len(seen)

    def test_of_many_threads_that_compare_and_set_exactly_one_wins(self, store: Store) -> None:
        won: list[int] = []

        def run(index: int) -> None:
            if store.kv.put("a", "acme", "k", b"%d" % index, expected=0) is not None:
                won.append(index)

        in_threads(run, 8)
        assert len(won) == 1
        kept = store.kv.get("a", "acme", "k")
        assert kept is not None
        assert kept.value == b"%d" % won[0]

    def test_a_scan_is_a_range_of_keys_in_order_of_code_points(self, store: Store) -> None:
        keys = ["10", "2", "A", "a", "b", "é", "ﬁ", "😀"]
        for key in random.sample(keys, len(keys)):
            store.kv.put("a", "acme", key, key.encode())
            store.kv.put("a", "globex", key, b"not mine")
        assert [kept.key for kept in store.kv.scan("a", "acme")] == sorted(keys)
        assert [kept.key for kept in store.kv.scan("a", "acme", after="2", upto="b")] == ["A", "a", "b"]
        assert [kept.key for kept in store.kv.scan("a", "acme", after="a", limit=2)] == ["b", "é"]
        assert store.kv.scan("a", "acme", limit=0) == []
        assert store.kv.scan("nothing", "acme") == []

    def test_many_records_are_read_at_once_and_those_that_are_not_there_are_left_out(self, store: Store) -> None:
        keys = ["a", "é", "'", "😀"]
        kept = {Kept(key, key.encode(), store.kv.put("a", "acme", key, key.encode()) or 0) for key in keys}
        store.kv.put("a", "globex", "b", b"not mine")
        store.kv.put("b", "acme", "b", b"not mine")
        found = store.kv.get_many("a", "acme", [*keys, "b", "a"])
        assert set(found) == kept
        assert len(found) == len(kept)
        assert store.kv.get_many("a", "acme", []) == []
        assert store.kv.get_many("nothing", "acme", keys) == []

    @pytest.mark.parametrize(
        "names", [("", "acme", "k"), ("a", "", "k"), ("a", "acme", ""), ("a", "acme", "\x00"), ("a", "acme", "k" * 201)]
    )
    def test_names_that_no_log_can_keep_are_invalid_input(self, store: Store, names: tuple[str, str, str]) -> None:
        space, tenant, key = names
        with pytest.raises(InvalidInput):
            store.kv.get(space, tenant, key)
        with pytest.raises(InvalidInput):
            store.kv.get_many(space, tenant, ["sound", key])
        with pytest.raises(InvalidInput):
            store.kv.put(space, tenant, key, b"")
        with pytest.raises(InvalidInput):
            store.kv.delete(space, tenant, key)

    def test_a_value_is_bytes(self, store: Store) -> None:
        wrong: Any = "text"
        with pytest.raises(InvalidInput):
            store.kv.put("a", "acme", "k", wrong)
