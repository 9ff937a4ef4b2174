"""Features across customers: who is whose member by its state, and what the members of one have together. Pure.

A member's row says whose it is (the relation, a `latest` of an id) and what it gives (the state of each leaf that reads across). A
customer's value is finished from the merged states of its members: in any order, late links and late facts included. Who an id stands for
is the caller's to say: `who(relation, id)`. Imports algebra and fold.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from postsale.projections import algebra
from postsale.projections.folding import Fold, Related, State

K = TypeVar("K", bound=Hashable)

Who: TypeAlias = Callable[[str, str], K | None]
"""`who(relation, id)`: the customer that an id stands for, None while nobody has it."""


def named(fold: Fold, state: State, relation: str) -> str | None:
    """The id that a state names by a relation: of whom it is a member, until a later fact names somebody else."""
    id_: str | None = algebra.finish(fold.features.leaves[relation], fold.part(state, relation), 0)
    return id_


def all_named(fold: Fold, states: Iterable[State]) -> set[tuple[str, str]]:
    """Every (relation, id) that these states name."""
    pairs = ((relation, named(fold, state, relation)) for state in states for relation in fold.relations)
    return {(relation, id_) for relation, id_ in pairs if id_ is not None}


class Gathering:
    """Merges members one by one, each about log(members) times, so that many with large states stay near linear."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._leaves = [leaf for leaf in fold.features.leaves.values() if leaf.across is not None]
        self._parts: dict[str, list[tuple[int, Any]]] = {leaf.name: [] for leaf in self._leaves}  # (how many times merged, state)
        self._newest: int | None = None
        self._position = 0

    def add(self, relation: str, member: State) -> None:
        """One more member by this relation. Its state is not kept."""
        newest = self._fold.newest_us(member)
        self._newest = max((n for n in (self._newest, newest) if n is not None), default=None)
        self._position = max(self._position, self._fold.position(member))
        for leaf in self._leaves:
            if leaf.across is not None and leaf.across.relation == relation:
                parts, size, part = self._parts[leaf.name], 0, algebra.copy(self._fold.part(member, leaf.name))
                while parts and parts[-1][0] == size:
                    part, size = algebra.merge(leaf, parts.pop()[1], part), size + 1
                parts.append((size, part))

    def done(self) -> Related:
        """What they have together."""
        states = {}
        for leaf in self._leaves:
            state = algebra.empty(leaf)
            for _, part in reversed(self._parts[leaf.name]):
                state = algebra.merge(leaf, state, part)
            states[leaf.name] = state
        return Related(self._newest, self._position, states)


def gathered(fold: Fold, members: Iterable[tuple[str, State]]) -> Related:
    """What these members, each by a relation, have together."""
    gathering = Gathering(fold)
    for relation, state in members:
        gathering.add(relation, state)
    return gathering.done()


def exchanged(fold: Fold, states: Mapping[K, State], who: Who[K]) -> dict[K, Related]:
    """What the members among these customers have together, by whom they belong to.

    Customers without a member are not in it: theirs is `gathered(fold, ())`.
    """
    found: dict[K, Gathering] = {}
    for key, state in states.items():
        for relation in fold.relations:
            id_ = named(fold, state, relation)
            parent = None if id_ is None else who(relation, id_)
            if parent is not None and parent != key:
                found.setdefault(parent, Gathering(fold)).add(relation, state)
    return {key: gathering.done() for key, gathering in found.items()}


def given_by(fold: Fold, state: State) -> Related:
    """A state as if it were its own only member: what it gives, wherever it belongs. For comparing rows one by one."""
    return gathered(fold, ((relation, state) for relation in fold.relations))
