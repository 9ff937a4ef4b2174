"""The contract of a log, fourth part: what is proved from its trees and signed of them. See `StoreContract`."""

from __future__ import annotations

import random
from contextlib import closing

from postsale.access import FileVault
from postsale.events import ManualClock
from postsale.store import (
    Checkpoint,
    Query,
    Store,
    TreeHead,
    kept_checkpoints,
    sign_checkpoint,
    tree_of,
    verifier_key,
    verify,
    verify_consistency,
    verify_inclusion,
)
from postsale.store.notes import sign
from postsale.testing.store_building import Events, Hooks, each, in_threads


class ProofContract(Hooks):
    """What the proofs of a log promise."""

    def test_every_event_is_in_every_later_tree_and_every_tree_is_the_beginning_of_every_later_one(
        self, store: Store, events: Events
    ) -> None:
        rand = random.Random(events.seed)
        heads: list[TreeHead] = []
        while not heads or heads[-1].size < 600:
            store.append(each(*(events.fact(events.stream(rand.choice(["acme", "acme", "globex"]))) for _ in range(rand.choice([1, 90])))))
            heads.append(store.tree_head("acme"))
        leaves = [event.leaf for event in store.read(Query(tenant="acme"))]
        tree = tree_of(store, "acme")
        for _ in range(200):
            first, second = sorted(rand.choices(heads, k=2))
            assert verify_consistency(first.size, first.root, second.size, second.root, tree.consistency(first.size, second.size))
            if second.size:
                index = rand.randrange(second.size)
                assert verify_inclusion(leaves[index], index, second.size, tree.inclusion(index, second.size), second.root)
                assert tree.root(second.size) == second.root

    def test_threads_that_append_and_sign_at_once_agree_on_one_checkpoint_for_each_size(
        self, store: Store, events: Events, clock: ManualClock
    ) -> None:
        signed: list[Checkpoint] = []
        facts = [[[events.fact() for _ in range(turn % 3 + 1)] for turn in range(8)] for _ in range(4)]
        with closing(FileVault.in_memory()) as vault:

            def run(index: int) -> None:
                for turn in facts[index]:
                    store.append(each(*turn))
                    signed.append(sign_checkpoint(store, vault, clock, "acme"))

            in_threads(run, 4)
            key = verifier_key(store, vault, "acme")
        sizes: dict[int, str] = {}
        for checkpoint in signed:
            assert sizes.setdefault(checkpoint.size, checkpoint.text) == checkpoint.text
        assert set(kept_checkpoints(store, "acme")) == set(sizes.values())
        report = verify(store, against=signed, keys=[key], clock=clock)
        assert (report.problems, report.warnings, report.signed) == ([], [], {"acme": store.tree_head("acme").size})

    def test_a_log_that_ends_before_its_checkpoint_or_differs_from_it_is_named(
        self, store: Store, events: Events, clock: ManualClock
    ) -> None:
        with closing(FileVault.in_memory()) as vault:
            for count in (3, 4):
                store.append(each(*(events.fact() for _ in range(count)), *(events.fact(events.stream("globex")) for _ in range(2))))
                last = sign_checkpoint(store, vault, clock, "acme")
            key = verifier_key(store, vault, "acme")
            longer, other = (
                sign(last.note.text.replace(old, new), key, lambda message: vault.sign("acme", message))
                for old, new in (("\n7\n", "\n9\n"), ("\n7\n", "\n6\n"))
            )
        report = verify(store, against=[longer], keys=[key], clock=clock)
        ((position, reason),) = report.problems
        assert position == 10, "after its newest event"
        assert "tenant 'acme' has 7 leaves" in reason
        assert "says 9: 2 events are missing at the end" in reason
        report = verify(store, against=[other], keys=[key], clock=clock)
        ((position, reason),) = report.problems
        assert position == 6, "after the last event that a checkpoint confirms"
        assert "from here to position 8 do not lead to the checkpoint of 6 events" in reason
        assert report.signed == {"acme": 3}
