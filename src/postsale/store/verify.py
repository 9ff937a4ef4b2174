"""Verification: recompute every leaf from the stored bytes and say which events are not what was appended.

Trusts nothing that is stored: a store lays its raw values open as `Evidence`, and whatever they hold, the answer is a report.
Imports no store.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from postsale.store.contract import Evidence, Row, Store, Unreadable
from postsale.store.leaves import Frontier, StreamNames, inner_digest, join_commitment, kind_names, leaf_of

MAX_PROBLEMS: Final = 10_000  # a wholly damaged file must not fill the memory with reasons
_PROGRESS_EVERY: Final = 10_000
_BUCKET: Final = 1_024  # positions per bucket when events and keys are compared
_MAX_BUCKETS: Final = 256  # buckets looked into when they differ
_NAMES_HELD: Final = 100_000
_ROW_IN_INDEX: Final = re.compile(r"row (\d+) missing from index (?:events|decisions)_")


@dataclass(slots=True, kw_only=True)
class VerifyReport:
    """What verification found. `problems` are (position, reason) by position; position 0 concerns the log as a whole."""

    events: int = 0
    tenants: int = 0
    roots: dict[str, tuple[int, str]] = field(default_factory=dict)  # tenant -> (number of leaves, root in hex), recomputed
    problems: list[tuple[int, str]] = field(default_factory=list)
    truncated: bool = False  # there were more than MAX_PROBLEMS

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ok": self.ok,
            "events": self.events,
            "roots": {tenant: {"size": size, "root": root} for tenant, (size, root) in self.roots.items()},
            "problems": [{"position": position, "reason": reason} for position, reason in self.problems],
            "truncated": self.truncated,
        }


def verify(store: Store, on_progress: Callable[[int], None] | None = None) -> VerifyReport:
    """Check the whole log as it is now. `on_progress` is told the number of events done, every 10,000.

    Never raises for what is stored; StoreUnavailable when the store cannot be opened at all.
    """
    with store.evidence() as evidence:
        return _Verification(evidence, on_progress or (lambda _: None)).run()


class _Verification:
    def __init__(self, evidence: Evidence, on_progress: Callable[[int], None]) -> None:
        self._evidence = evidence
        self._on_progress = on_progress
        self._report = VerifyReport()
        self._heads = dict(evidence.heads())
        self._streams: dict[Any, tuple[Any, StreamNames] | None] = {}
        self._kinds: dict[Any, bytes | None] = {}
        self._frontiers: dict[Any, Frontier] = {}  # by tenant
        self._next_leaf: dict[Any, int] = {}  # by tenant; differs from the frontier's size once a leaf is missing
        self._damaged: set[Any] = set()  # tenants with a problem that has a position already
        self._versions: dict[Any, int] = {}  # by stream: newest decision
        self._sums: dict[int, int] = {}  # by bucket of positions: digests of keys that events ask for less those that are there

    def run(self) -> VerifyReport:
        last = self._scan()
        self._check_head(last)
        for tenant in sorted(self._frontiers.keys() | self._heads.keys(), key=str):
            self._check_tenant(tenant)
        if self._sum_keys():
            self._compare_keys({bucket for bucket, total in self._sums.items() if total})
        for reason in self._evidence.structure():
            row = _ROW_IN_INDEX.match(reason)
            self._problem(int(row[1]) if row else 0, reason)
        self._report.problems.sort()
        return self._report

    def _problem(self, position: Any, reason: str) -> None:
        if len(self._report.problems) < MAX_PROBLEMS:
            self._report.problems.append((position if type(position) is int else 0, reason))
        else:
            self._report.truncated = True

    # ---------------------------------------------------------------- events

    def _scan(self) -> int:
        """Check every row for itself and against the one before; returns the last position."""
        last, last_recorded_at, done = 0, -(2**63), 0
        sums = self._sums
        for row in self._evidence.rows():
            if isinstance(row, Unreadable):
                self._problem(row.first, f"cannot be read up to position {row.last}: {row.reason}")
                last = max(last, row.last)
                continue
            position, tenant, recorded_at = row[0], row[1], row[8]
            before = len(self._report.problems)
            last = position if position == last + 1 else self._gap(position, last)
            try:
                if recorded_at <= last_recorded_at:
                    self._problem(position, f"recorded_at {recorded_at} is not after its predecessor's {last_recorded_at}")
                else:
                    last_recorded_at = recorded_at
                self._check_row(row)
                bucket = position // _BUCKET
                sums[bucket] = sums.get(bucket, 0) + hash((tenant, row[5], position, row[9]))
            except (TypeError, ValueError, struct.error) as error:
                self._problem(position, f"a column has a value of a wrong type or size ({type(error).__name__})")
            if len(self._report.problems) != before:
                self._damaged.add(tenant)
            done += 1
            if not done % _PROGRESS_EVERY:
                self._on_progress(done)
        self._report.events = done
        self._on_progress(done)
        return last

    def _gap(self, position: Any, last: int) -> int:
        if type(position) is int and position > last:
            missing = f"position {last + 1} is" if position == last + 2 else f"positions {last + 1} to {position - 1} are"
            self._problem(last + 1, f"{missing} missing before position {position}")
            return position
        self._problem(position, f"position {position} follows position {last}")
        return last

    def _check_row(self, row: Row) -> None:
        position, tenant, stream, lane, version, event_id, kind, occurred_at, recorded_at, mac, header, data, salt, leaf_index, leaf = row
        if (due := self._next_leaf.get(tenant, 0)) != leaf_index:
            self._problem(position, f"leaf index {leaf_index} where {due} was due")
        self._next_leaf[tenant] = (leaf_index if type(leaf_index) is int else due) + 1
        try:
            home, names = self._streams[stream] or self._unknown
            kind_bytes = self._kinds[kind]
        except KeyError:
            home, names = self._stream(stream) or self._unknown
            kind_bytes = self._kind(kind)
        if names is None or kind_bytes is None:
            self._problem(position, f"its {'stream' if names is None else 'kind'} is not in the table of names")
            return
        if home != tenant:
            self._problem(position, "its tenant is not the tenant of its stream")
        if not len(salt) == len(mac) == len(event_id) == 16:
            self._problem(position, "event id, salt or content_mac is not 16 bytes long")
        if lane == 0:
            if version != position:
                self._problem(position, f"a fact's version is its position, not {version}")
        elif lane == 1:
            expected = self._versions.get(stream, 0) + 1
            if version != expected:
                self._problem(position, f"decision version {version} where {expected} was due")
            self._versions[stream] = version if type(version) is int else expected
        else:
            self._problem(position, f"lane {lane!r} does not exist")
        inner = inner_digest(salt, position, event_id, occurred_at, recorded_at, header, mac, data)
        computed = leaf_of(join_commitment(names, leaf_index, lane, version, kind_bytes, inner))
        if computed != leaf:
            self._problem(position, "the stored bytes do not match their leaf")
        frontier = self._frontiers.get(tenant)
        if frontier is None:
            frontier = self._frontiers[tenant] = Frontier()
        frontier.append(computed)

    _unknown: tuple[None, None] = (None, None)

    def _stream(self, ref: Any) -> tuple[Any, StreamNames] | None:
        found = self._evidence.stream(ref)
        if len(self._streams) >= _NAMES_HELD:
            self._streams.clear()
        names = self._streams[ref] = None if found is None else (found[0], StreamNames.of_bytes(*found[1:]))
        return names

    def _kind(self, ref: Any) -> bytes | None:
        found = self._evidence.kind(ref)
        names = self._kinds[ref] = None if found is None or len(found[1]) != 16 else kind_names(*found)
        return names

    # ---------------------------------------------------------------- heads

    def _check_head(self, last: int) -> None:
        position, _ = self._evidence.head()
        if type(position) is not int:
            self._problem(0, "the log's head is unreadable")
        elif position > last:
            self._problem(last + 1, f"positions {last + 1} to {position} are missing: the log's head says {position}")
        elif position < last:
            self._problem(position + 1, f"positions {position + 1} to {last} are beyond the log's head")

    def _check_tenant(self, tenant: Any) -> None:
        frontier = self._frontiers.get(tenant, Frontier())
        name, size, raw = self._heads.get(tenant, (str(tenant).encode(), None, None))
        label = name.decode(errors="backslashreplace")
        self._report.tenants += 1
        self._report.roots[label] = (frontier.size, frontier.root().hex())
        if type(size) is not int or type(raw) is not bytes:
            self._problem(0, f"tenant {label!r} has no readable tree head")
            return
        leaves = self._next_leaf.get(tenant, 0)
        if size != leaves:
            self._problem(0, f"tenant {label!r} has {leaves} leaves, its tree head says {size}")
            return
        try:
            stored = Frontier.from_bytes(size, raw)
        except ValueError:
            self._problem(0, f"the tree head of tenant {label!r} is unreadable")
            return
        if tenant not in self._damaged and stored.to_bytes() != frontier.to_bytes():
            for mine, theirs in zip(frontier.subtrees(), stored.subtrees(), strict=True):
                if mine != theirs:
                    self._rewritten(tenant, label, mine[0], mine[0] + mine[1] - 1)

    def _rewritten(self, tenant: Any, label: str, first: int, last: int) -> None:
        """Rows that agree with their leaves but not with the tree: somebody computed new leaves. Names the smallest known range."""
        ends = [
            row[0] for row in self._evidence.rows() if not isinstance(row, Unreadable) and row[1] == tenant and row[13] in (first, last)
        ]
        self._problem(ends[0], f"events of tenant {label!r} from here to position {ends[-1]} do not match its tree head")

    # ---------------------------------------------------------------- keys

    def _sum_keys(self) -> bool:
        """Take every key off the sums; False when the keys cannot be read, so that comparing would blame the wrong."""
        sums, previous = self._sums, None
        for key in self._evidence.ids():
            if isinstance(key, Unreadable):
                self._problem(0, f"the table of ids cannot be read: {key.reason}")
                return False
            try:
                if previous is not None and key[:2] <= previous:
                    self._problem(key[2], "its id is not in order in the table of ids")
                previous = key[:2]
                bucket = key[2] // _BUCKET
                sums[bucket] = sums.get(bucket, 0) - hash(key)
            except TypeError:
                self._problem(0, "a row of the table of ids has a value of a wrong type")
        return True

    def _compare_keys(self, buckets: set[int]) -> None:
        """Name the positions in buckets whose sums differ. Memory: the keys of `_MAX_BUCKETS` buckets."""
        if len(buckets) > _MAX_BUCKETS:
            buckets = set(sorted(buckets)[:_MAX_BUCKETS])
            self._report.truncated = True
        if not buckets:
            return
        keys: dict[tuple[Any, ...], int] = {}
        for key in self._evidence.ids():
            if not isinstance(key, Unreadable) and type(key[2]) is int and key[2] // _BUCKET in buckets:
                keys[key] = keys.get(key, 0) + 1
        for row in self._evidence.rows():
            if not isinstance(row, Unreadable) and type(row[0]) is int and row[0] // _BUCKET in buckets:
                wanted = (row[1], row[5], row[0], row[9])
                if keys.pop(wanted, None) is None:
                    self._problem(row[0], "its id and content_mac are not in the table of ids")
        for key in keys:
            self._problem(key[2], "the table of ids has an id for this position that no event has")
