"""Inclusion and consistency proofs in one tree, made and checked, beside pymerkle and the bare hashing, in the same process.

`python -m benchmarks.proofs --json --size 1000000`. Neighbours share what was read for them; alone, each proof reads its runs of 256
hashes anew, as the first one in a process does. The limit hashes as many nodes as an inclusion proof has.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pymerkle

from benchmarks._common import fastest, measure, options, report
from postsale.store import Tree, verify_consistency, verify_inclusion
from postsale.store.leaves import Frontier, leaf_of

PROOFS = 2_000


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__, argv, size=1_000_000, rounds=3)
    size, rand = chosen.size, random.Random(7)
    entries = [b"%d" % number for number in range(size)]
    levels = {0: [leaf_of(entry) for entry in entries]}
    frontier = Frontier()
    for level, _, hash_ in frontier.extend(levels[0]):
        levels.setdefault(level, []).append(hash_)
    oracle = pymerkle.InmemoryTree.init_from_entries(entries, algorithm="sha256")
    root = frontier.root()
    if oracle.get_root() != root:
        raise SystemExit("pymerkle finds another root")

    def tree() -> Tree:
        return Tree(lambda level, start, stop: levels.get(level, [])[start:stop])

    leaves, count = levels[0], min(PROOFS, size)
    first = rand.randrange(size - count + 1)
    neighbours, anywhere = range(first, first + count), [rand.randrange(size) for _ in range(count)]
    earlier = [rand.randrange(1, size) for _ in range(count)]
    held = tree()
    paths = [held.inclusion(index, size) for index in neighbours]
    theirs = [oracle.prove_inclusion(index + 1, size) for index in neighbours]
    steps = [(first, held.root(first), held.consistency(first, size)) for first in earlier]
    if not all(verify_inclusion(leaves[index], index, size, path, root) for index, path in zip(neighbours, paths, strict=True)):
        raise SystemExit("a proof of ours does not verify")

    def check_ours() -> None:
        for index, path in zip(neighbours, paths, strict=True):
            verify_inclusion(leaves[index], index, size, path, root)

    def check_theirs() -> None:
        for index, proof in zip(neighbours, theirs, strict=True):
            pymerkle.verify_inclusion(leaves[index], root, proof)

    def hash_paths() -> None:
        for path in paths:
            for hash_ in path:
                sha256(b"\x01" + hash_ + hash_).digest()

    best = fastest(
        chosen.rounds,
        neighbours=lambda _: seconds(lambda: [held.inclusion(index, size) for index in neighbours]),
        alone=lambda _: seconds(lambda: [tree().inclusion(index, size) for index in anywhere]),
        their_proofs=lambda _: seconds(lambda: [oracle.prove_inclusion(index + 1, size) for index in anywhere]),
        check=lambda _: seconds(check_ours),
        their_check=lambda _: seconds(check_theirs),
        consistency=lambda _: seconds(lambda: [tree().consistency(first, size) for first in earlier]),
        check_consistency=lambda _: seconds(lambda: [verify_consistency(first, old, size, root, path) for first, old, path in steps]),
        limit=lambda _: seconds(hash_paths),
    )
    rate = {name: count / taken for name, taken in best.items()}
    measures = [
        measure("prove inclusion of neighbours", rate["neighbours"], "proofs/s", peer=rate["their_proofs"], limit=rate["limit"]),
        measure("prove inclusion, each alone", rate["alone"], "proofs/s", peer=rate["their_proofs"], limit=rate["limit"]),
        measure("check inclusion", rate["check"], "proofs/s", peer=rate["their_check"], limit=rate["limit"]),
        measure("prove consistency, each alone", rate["consistency"], "proofs/s"),
        measure("check consistency", rate["check_consistency"], "proofs/s", limit=rate["limit"]),
    ]
    return report("proofs", measures, only_json=chosen.json)


if __name__ == "__main__":
    main()
