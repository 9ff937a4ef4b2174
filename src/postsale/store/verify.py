"""Verification: recompute every leaf from the stored bytes and say which events are not what was appended.

Trusts nothing that is stored: a store lays its raw values open as `Evidence`, and whatever they hold, the answer is a report.
Imports no store.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from postsale.events import Clock, SystemClock
from postsale.store.against import compare
from postsale.store.checkpoints import Checkpoint
from postsale.store.contract import Evidence, Row, Store, Unreadable
from postsale.store.leaves import Frontier, Node, StreamNames, kind_names, leaf_hash
from postsale.store.notes import VerifierKey

MAX_PROBLEMS: Final = 10_000  # a wholly damaged file must not fill the memory with reasons
_PROGRESS_EVERY: Final = 10_000
_BUCKET: Final = 1_024  # positions per bucket when events and keys are compared
_MAX_BUCKETS: Final = 256  # buckets looked into when they differ
_NAMES_HELD: Final = 100_000
_LEAVES_HELD: Final = 4_096
_ENDLESS: Final = 2**64
_MALFORMED: Final = (KeyError, TypeError, ValueError, AttributeError, struct.error)  # what garbage in place of a value leads to
_ROW_IN_INDEX: Final = re.compile(r"row (\d+) missing from index (?:events|decisions)_")


@dataclass(slots=True, kw_only=True)
class VerifyReport:
    """What verification found. `problems` are (position, reason) by position; position 0 concerns the log as a whole."""

    events: int = 0
    tenants: int = 0
    roots: dict[str, tuple[int, str]] = field(default_factory=dict)  # tenant -> (number of leaves, root in hex), recomputed
    problems: list[tuple[int, str]] = field(default_factory=list)
    truncated: bool = False  # there were more than MAX_PROBLEMS
    warnings: list[str] = field(default_factory=list)  # what could not be checked, or looks odd and proves nothing
    signed: dict[str, int] = field(default_factory=dict)  # tenant -> events of the largest checkpoint that they lead to

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def first_problem(self) -> tuple[int, str] | None:
        """The first wrong event, else the first problem of the log as a whole; None when there is none.

        The position of what is missing is the first at which it can have been.
        """
        return next((problem for problem in self.problems if problem[0] > 0), self.problems[0] if self.problems else None)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ok": self.ok,
            "events": self.events,
            "first_problem": None if self.first_problem is None else dict(zip(("position", "reason"), self.first_problem, strict=True)),
            "roots": {tenant: {"size": size, "root": root} for tenant, (size, root) in self.roots.items()},
            "problems": [{"position": position, "reason": reason} for position, reason in self.problems],
            "truncated": self.truncated,
            "warnings": self.warnings,
            "signed": self.signed,
        }


def verify(
    store: Store,
    on_progress: Callable[[int], None] | None = None,
    *,
    against: Iterable[Checkpoint | str] = (),
    keys: Iterable[VerifierKey] = (),
    clock: Clock | None = None,
) -> VerifyReport:
    """Check the whole log as it is now. `on_progress` is told the number of events done, every 10,000.

    It is compared with the checkpoints that it keeps itself and with `against`, checkpoints that were kept elsewhere: only
    those show that its end was not cut off and that it was not rewritten as a whole. `keys` are their signers'.
    Never raises for what is stored; StoreUnavailable when the store cannot be opened at all.
    """
    with store.evidence() as evidence:
        report = _Verification(evidence, on_progress or (lambda _: None)).run()
    compared = compare(store, report.roots, map(str, against), keys, (clock or SystemClock()).now_us())
    report.problems = sorted(report.problems + compared.problems)
    report.warnings, report.signed = compared.warnings, compared.signed
    return report


class _Tenant:
    """How far a tenant's leaves have been followed."""

    __slots__ = ("damaged", "frontier", "holes", "leaves", "next_leaf", "nodes")

    def __init__(self) -> None:
        self.frontier = Frontier()
        self.leaves: list[bytes] = []  # that the frontier has not taken in yet
        self.nodes: list[Node] = []  # that the leaves completed
        self.next_leaf = 0  # differs from the frontier's size once a leaf could not be computed
        self.damaged = False  # a problem with a position is known already
        self.holes = 0  # that its leaf indexes have jumped over

    def settle(self) -> Frontier:
        """The frontier over all leaves so far."""
        self.nodes += self.frontier.extend(self.leaves)
        self.leaves.clear()
        return self.frontier


class _Verification:
    def __init__(self, evidence: Evidence, on_progress: Callable[[int], None]) -> None:
        self._evidence = evidence
        self._on_progress = on_progress
        self._report = VerifyReport()
        self._heads = dict(evidence.heads())
        self._tenants: dict[Any, _Tenant] = {}
        self._streams: dict[Any, tuple[Any, Any]] = {}  # tenant and names, or None twice
        self._kinds: dict[Any, Any] = {}
        self._kept_nodes: dict[Any, list[tuple[Any, ...]]] = {}  # by tenant
        self._versions: dict[Any, int] = {}  # by stream: newest decision
        self._sums: dict[int, int] = {}  # by bucket of positions: digests of keys that events ask for less those that are there
        self._last = 0  # position
        self._holes: list[tuple[int, int]] = []  # positions that could not be read; single ones in between may have been
        self._next_hole = 0
        self._last_recorded_at = -(2**63)

    def run(self) -> VerifyReport:
        self._scan()
        self._check_head()
        self._read_nodes()
        for tenant in sorted(self._tenants.keys() | self._heads.keys(), key=str):
            self._check_tenant(tenant)
        if self._sum_keys():
            self._compare_keys(
                {
                    bucket
                    for bucket, total in self._sums.items()
                    if total and not self._in_hole(bucket * _BUCKET, (bucket + 1) * _BUCKET - 1)
                }
            )
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

    def _scan(self) -> None:
        """Every row in order. One test tells a sound row from the rest; what is wrong with the rest is found out apart."""
        tenants, streams, kinds, versions, sums = self._tenants, self._streams, self._kinds, self._versions, self._sums
        last, last_recorded_at, done = self._last, self._last_recorded_at, 0
        row: Any
        for row in self._evidence.rows():
            try:
                position, tenant, stream, lane, version, event_id, kind, occurred_at, recorded_at, mac, header, data, salt, index, leaf = (
                    row
                )
                home, names = streams[stream]
                state = tenants[tenant]
                computed = leaf_hash(
                    names, kinds[kind], index, lane, version, salt, position, event_id, occurred_at, recorded_at, header, mac, data
                )
                sound = (
                    computed == leaf
                    and position == last + 1
                    and index == state.next_leaf
                    and recorded_at > last_recorded_at
                    and version == (position if lane == 0 else versions.get(stream, 0) + 1)
                    and home == tenant
                    and len(salt) == len(mac) == len(event_id) == 16
                    and lane in (0, 1)
                )
            except _MALFORMED:
                sound = False
            if sound:
                last = position
                last_recorded_at = recorded_at
                state.next_leaf = index + 1
                state.leaves.append(computed)
                if len(state.leaves) >= _LEAVES_HELD:
                    state.settle()
                if lane:
                    versions[stream] = version
                bucket = position // _BUCKET
                sums[bucket] = sums.get(bucket, 0) + hash((tenant, event_id, position, recorded_at, mac))
            elif isinstance(row, Unreadable):
                self._problem(row.first, f"cannot be read up to position {row.last}: {row.reason}")
                self._holes.append((row.first, row.last))
                continue
            else:
                self._last, self._last_recorded_at = last, last_recorded_at
                self._examine(row)
                last, last_recorded_at = self._last, self._last_recorded_at
            done += 1
            if not done % _PROGRESS_EVERY:
                self._on_progress(done)
        self._last, self._last_recorded_at = last, last_recorded_at
        self._report.events = done
        self._on_progress(done)

    def _examine(self, row: Row) -> None:
        """A row that is not sound, or the first of its tenant, stream or kind: name whatever is wrong with it."""
        position, tenant, recorded_at = row[0], row[1], row[8]
        state = self._tenants.setdefault(tenant, _Tenant())
        before = len(self._report.problems)
        if position != self._last + 1:
            self._gap(position)
        else:
            self._last = position
        try:
            bucket = position // _BUCKET
            self._sums[bucket] = self._sums.get(bucket, 0) + hash((tenant, row[5], position, recorded_at, row[9]))
            if recorded_at <= self._last_recorded_at:
                self._problem(position, f"recorded_at {recorded_at} is not after its predecessor's {self._last_recorded_at}")
            else:
                self._last_recorded_at = recorded_at
            self._examine_leaf(row, state)
        except _MALFORMED as error:
            self._problem(position, f"a column has a value of a wrong type or size ({type(error).__name__})")
        state.damaged |= len(self._report.problems) != before

    def _gap(self, position: Any) -> None:
        last = self._last
        if type(position) is int and last < position:
            while self._next_hole < len(self._holes) and self._holes[self._next_hole][0] <= last + 1:
                end = self._holes[self._next_hole][1]
                last = max(last, min(end, position - 1))
                if end >= position:
                    break  # this row could be read, what follows it in the hole could not
                self._next_hole += 1
            if position == last + 1:
                self._last = position
                return
        if type(position) is int and position > last:
            missing = f"position {last + 1} is" if position == last + 2 else f"positions {last + 1} to {position - 1} are"
            self._problem(last + 1, f"{missing} missing before position {position}")
            self._last = position
        else:
            self._problem(position, f"position {position} follows position {last}")

    def _examine_leaf(self, row: Row, state: _Tenant) -> None:
        position, tenant, stream, lane, version, event_id, kind, occurred_at, recorded_at, mac, header, data, salt, leaf_index, leaf = row
        if (due := state.next_leaf) != leaf_index:
            in_hole = bool(self._holes) and (state.holes < len(self._holes) or position <= self._holes[-1][1])
            if not (in_hole and type(leaf_index) is int and leaf_index > due):
                self._problem(position, f"leaf index {leaf_index} where {due} was due")
            state.damaged = True
        state.holes = len(self._holes)
        state.next_leaf = (leaf_index if type(leaf_index) is int else due) + 1
        home, names = self._streams.get(stream) or self._stream(stream)
        kind_bytes = self._kinds.get(kind) or self._kind(kind)
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
        computed = leaf_hash(
            names, kind_bytes, leaf_index, lane, version, salt, position, event_id, occurred_at, recorded_at, header, mac, data
        )
        if computed != leaf:
            self._problem(position, "the stored bytes do not match their leaf")
        state.leaves.append(computed)

    def _stream(self, ref: Any) -> tuple[Any, Any]:
        found = self._evidence.stream(ref)
        if len(self._streams) >= _NAMES_HELD:
            self._streams.clear()
        names = self._streams[ref] = (None, None) if found is None else (found[0], StreamNames.of_bytes(*found[1:]))
        return names

    def _kind(self, ref: Any) -> bytes | None:
        found = self._evidence.kind(ref)
        names = self._kinds[ref] = None if found is None or len(found[1]) != 16 else kind_names(*found)
        return names

    # ---------------------------------------------------------------- heads

    def _check_head(self) -> None:
        last = max((self._last, *(hole[1] for hole in self._holes)))
        position, recorded_at = self._evidence.head()
        if type(position) is not int:
            self._problem(0, "the log's head is unreadable")
        elif position > last:
            self._problem(last + 1, f"positions {last + 1} to {position} are missing: the log's head says {position}")
        elif position < last:
            self._problem(position + 1, f"positions {position + 1} to {last} are beyond the log's head")
        elif last and last == self._last and recorded_at is not None and recorded_at != self._last_recorded_at:
            self._problem(0, "the log's head does not say when its newest event was recorded")

    def _check_tenant(self, tenant: Any) -> None:
        state = self._tenants.get(tenant) or _Tenant()
        frontier = state.settle()
        name, size, raw = self._heads.get(tenant, (str(tenant).encode(), None, None))
        label = name.decode(errors="backslashreplace")
        self._report.tenants += 1
        self._report.roots[label] = (frontier.size, frontier.root().hex())
        if type(size) is not int or type(raw) is not bytes:
            self._problem(0, f"tenant {label!r} has no readable tree head")
            return
        if size != state.next_leaf:
            self._problem(0, f"tenant {label!r} has {state.next_leaf} leaves, its tree head says {size}")
            return
        try:
            stored = Frontier.from_bytes(size, raw)
        except ValueError:
            self._problem(0, f"the tree head of tenant {label!r} is unreadable")
            return
        if state.damaged:
            return
        if self._kept_nodes.pop(tenant, []) != sorted(state.nodes):
            self._problem(0, f"the kept nodes of tenant {label!r} are not those of its tree")
        if stored.to_bytes() != frontier.to_bytes():
            for mine, theirs in zip(frontier.subtrees(), stored.subtrees(), strict=True):
                if mine != theirs:
                    self._rewritten(tenant, label, mine[0], mine[0] + mine[1] - 1)

    def _read_nodes(self) -> None:
        for node in self._evidence.nodes():
            if isinstance(node, Unreadable):
                self._problem(0, f"the kept nodes of the trees cannot be read: {node.reason}")
            else:
                self._kept_nodes.setdefault(node[0], []).append(node[1:])

    def _rewritten(self, tenant: Any, label: str, first: int, last: int) -> None:
        """Rows that agree with their leaves but not with the tree: somebody computed new leaves. Names the smallest known range."""
        ends = [
            row[0] for row in self._evidence.rows() if not isinstance(row, Unreadable) and row[1] == tenant and row[13] in (first, last)
        ]
        self._problem(ends[0], f"events of tenant {label!r} from here to position {ends[-1]} do not match its tree head")

    # ---------------------------------------------------------------- keys

    def _sum_keys(self) -> bool:
        """Take every key off the sums; False when the keys cannot be read, so that comparing would blame the wrong."""
        sums, last_tenant, last_id = self._sums, None, b""
        key: Any
        for key in self._evidence.ids():
            if isinstance(key, Unreadable):
                self._problem(0, f"the table of ids cannot be read: {key.reason}")
                return False
            try:
                tenant, event_id, position, _, _ = key
                if tenant == last_tenant and event_id <= last_id:
                    self._problem(position, "its id is not in order in the table of ids")
                last_tenant, last_id = tenant, event_id
                bucket = position // _BUCKET
                sums[bucket] = sums.get(bucket, 0) - hash(key)
            except TypeError:
                self._problem(0, "a row of the table of ids has a value of a wrong type")
        return True

    def _in_hole(self, first: int, last: int) -> bool:
        """Whether these positions are within one hole: said already."""
        at = bisect_right(self._holes, (first, _ENDLESS)) - 1
        return at >= 0 and last <= self._holes[at][1]

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
                wanted = (row[1], row[5], row[0], row[8], row[9])
                if keys.pop(wanted, None) is None:
                    self._problem(row[0], "its id and content_mac are not in the table of ids")
        for key in keys:
            if not self._in_hole(key[2], key[2]):
                self._problem(key[2], "the table of ids has an id for this position that no event has")
