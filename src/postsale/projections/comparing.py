"""Comparing two views row by row, as of one position of the log: what a person looks at before a switch. Writes nothing.

Imports the runner and folds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from postsale.errors import InvalidInput
from postsale.events import StreamId
from postsale.projections.folding import State
from postsale.projections.related import given_by
from postsale.projections.runner import Runner

SAMPLES: Final = 5
_TOLD_EVERY: Final = 500


class Sample(NamedTuple):
    """One row that differs: its stream, and the finished value in each view."""

    key: str
    old: Any
    new: Any


class Differing(NamedTuple):
    """Rows in which one feature differs: how many, and the first few by key."""

    rows: int
    samples: tuple[Sample, ...]


class ViewDiff(NamedTuple):
    """Two views of one log, up to one position. Features that only one declares are named and not compared."""

    position: int
    as_of_us: int
    rows: int  # streams with a row in either
    only_old: int  # of these, with facts in only one: the other reads kinds that it does not
    only_new: int
    differing: int  # rows in which any feature differs
    features: dict[str, Differing]  # those that differ in any row, by name
    added: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether no finished value of a feature that both declare differs."""
        return not self.features


def compare(
    old: Runner, new: Runner, as_of_us: int, *, samples: int = SAMPLES, on_progress: Callable[[int], None] = lambda _: None
) -> ViewDiff:
    """Compare finished values at `as_of_us`, or at a row's newest fact where that is later, up to where both views are folded.

    A row that holds later facts already is folded again from the log without them, so live traffic makes no difference. Features
    `across` customers are compared by what each stream gives to whom it belongs. A missing
    row counts as one without facts. Raises InvalidInput for views of different projections, and what an unreadable event raises.
    """
    if old.fold.name != new.fold.name:
        raise InvalidInput(what="diff", field="projection", reason="expected two versions of one projection")
    position = min(old.position(), new.position())
    before, after = (frozenset([*r.fold.features.leaves, *(d.name for d in r.fold.features.deriveds)]) for r in (old, new))
    both = sorted(before & after)
    rows = only_old = only_new = differing = 0
    counts: dict[str, int] = {}
    shown: dict[str, list[Sample]] = {}
    for key, one, other in _joined(old, new):
        states = [_upto(runner, key, raw, position) for runner, raw in ((old, one), (new, other))]
        empty = [runner.fold.position(state) == 0 for runner, state in zip((old, new), states, strict=True)]
        rows += 1
        if rows % _TOLD_EVERY == 0:
            on_progress(_TOLD_EVERY)
        if all(empty):
            continue
        only_old, only_new = only_old + empty[1], only_new + empty[0]
        at_us = max([as_of_us, *(n for n in (old.fold.newest_us(states[0]), new.fold.newest_us(states[1])) if n is not None)])
        left, right = (dict(r.fold.finish(state, at_us, given_by(r.fold, state))) for r, state in zip((old, new), states, strict=True))
        wrong = [name for name in both if not _equal(left[name], right[name])]
        differing += bool(wrong)
        for name in wrong:
            counts[name] = counts.get(name, 0) + 1
            if len(kept := shown.setdefault(name, [])) < samples:
                kept.append(Sample(key, left[name], right[name]))
    on_progress(rows % _TOLD_EVERY)
    features = {name: Differing(counts[name], tuple(shown[name])) for name in sorted(counts)}
    added, removed = tuple(sorted(after - before)), tuple(sorted(before - after))
    return ViewDiff(position, as_of_us, rows, only_old, only_new, differing, features, added, removed)


def _joined(old: Runner, new: Runner) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    """Rows of both views by key; memory is bounded."""
    left, right = old.rows(), new.rows()
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            yield one[0], one[1], None
            one = next(left, None)
        elif one is None or other[0] < one[0]:
            yield other[0], None, other[1]
            other = next(right, None)
        else:
            yield one[0], one[1], other[1]
            one, other = next(left, None), next(right, None)


def _upto(runner: Runner, key: str, raw: bytes | None, position: int) -> State:
    state = runner.fold.empty() if raw is None else runner.fold.load(raw)
    if runner.fold.position(state) <= position:
        return state
    return runner.folded(StreamId(*key.split("/", 2)), position)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)  # NaN is what it is
