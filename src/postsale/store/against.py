"""A log compared with checkpoints that were signed earlier: what was cut off, rewritten or put back is named. Part of `verify`.

`verify` shows that a log agrees with itself; only what was kept elsewhere shows that it is still the same log. Imports no store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from postsale.errors import NoteInvalid, PostSaleError
from postsale.events import SECOND_US
from postsale.store.checkpoints import Checkpoint, kept_checkpoints, tenant_of, tree_of
from postsale.store.contract import Query, Store
from postsale.store.notes import VerifierKey

SKEW_US: Final = 300 * SECOND_US  # how far a signer's clock may be ahead of ours before we say so


@dataclass(slots=True)
class Compared:
    """What the comparison found; goes into a `VerifyReport`."""

    problems: list[tuple[int, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    signed: dict[str, int] = field(default_factory=dict)  # tenant -> events of the largest checkpoint that the log matches


def compare(store: Store, tenants: Iterable[str], against: Iterable[str], keys: Iterable[VerifierKey], now_us: int) -> Compared:
    """Compare with the checkpoints that the log keeps of these tenants, and with those given. Never raises for what is stored."""
    found = Compared()
    ours, unkept = _kept(store, tenants)
    if unkept:
        found.problems.append((0, f"the checkpoints that the log keeps cannot be read: {unkept}"))
    given, foreign = _given(store, against, found)
    if foreign and not given:
        found.problems.append((0, f"of {_counted(foreign)} given, none is of this log (log id {store.log_id})"))
    elif foreign:
        found.warnings.append(f"not compared, because of other logs: {_counted(foreign)}")
    by_tenant: dict[str, dict[str, Checkpoint]] = {}
    for tenant, checkpoint in (*ours, *given):
        by_tenant.setdefault(tenant, {})[checkpoint.text] = checkpoint
    known = {key.name: key for key in keys}
    for tenant in sorted(by_tenant):
        checkpoints = sorted(by_tenant[tenant].values(), key=lambda checkpoint: checkpoint.size)
        signed = _check_signatures(tenant, checkpoints, known, found)
        _check_times(tenant, signed, now_us, found)
        _check_tree(store, tenant, signed, found)
    return found


def _kept(store: Store, tenants: Iterable[str]) -> tuple[list[tuple[str, Checkpoint]], str]:
    """The log's own checkpoints, and why some cannot be read."""
    ours, reason = [], ""
    for tenant in tenants:
        try:
            for note in kept_checkpoints(store, tenant):
                checkpoint = Checkpoint.parse(note)
                if tenant_of(store.log_id, checkpoint.origin) != tenant:
                    raise NoteInvalid(reason="it is of another tenant or log")
                ours.append((tenant, checkpoint))
        except PostSaleError as error:
            reason = reason or (error.reason if isinstance(error, NoteInvalid) else type(error).__name__)
    return ours, reason


def _given(store: Store, against: Iterable[str], found: Compared) -> tuple[list[tuple[str, Checkpoint]], int]:
    """Checkpoints of this log, and how many are of others."""
    given, foreign, unreadable = [], 0, Counter[str]()
    for note in against:
        try:
            checkpoint = Checkpoint.parse(note)
        except NoteInvalid as error:
            unreadable[error.reason] += 1
            continue
        tenant = tenant_of(store.log_id, checkpoint.origin)
        if tenant is None:
            foreign += 1
        else:
            given.append((tenant, checkpoint))
    found.warnings += [f"not compared, because not readable ({reason}): {_counted(count)}" for reason, count in unreadable.items()]
    return given, foreign


def _check_signatures(tenant: str, checkpoints: Sequence[Checkpoint], known: dict[str, VerifierKey], found: Compared) -> list[Checkpoint]:
    """Those that are not shown to be false."""
    key = known.get(checkpoints[0].origin)
    if key is None:
        found.warnings.append(
            f"the signatures of {_counted(len(checkpoints))} of tenant {tenant!r} were not checked: its key was not given"
        )
        return list(checkpoints)
    sound = []
    for checkpoint in checkpoints:
        try:
            reason = "" if checkpoint.note.signed_by([key]) else "it has no signature by the key of the log"
        except NoteInvalid as error:
            reason = error.reason
        if reason:
            found.problems.append((0, f"a checkpoint of tenant {tenant!r} of size {checkpoint.size} is not genuine: {reason}"))
        else:
            sound.append(checkpoint)
    roots: dict[int, bytes] = {}
    for checkpoint in sound:
        if roots.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
            reason = f"two different histories of tenant {tenant!r} were signed for {checkpoint.size} events: its key may be stolen"
            found.problems.append((0, reason))
    return sound


def _check_times(tenant: str, checkpoints: Sequence[Checkpoint], now_us: int, found: Compared) -> None:
    ahead = [checkpoint for checkpoint in checkpoints if checkpoint.at_us is not None and checkpoint.at_us > now_us + SKEW_US]
    if ahead:
        last = max(ahead, key=lambda checkpoint: checkpoint.at_us or 0)
        seconds = ((last.at_us or 0) - now_us) // SECOND_US
        found.warnings.append(
            f"the time of {_counted(len(ahead))} of tenant {tenant!r} is in the future: that of {last.size} events was signed"
            f" {last.signed_at}, {seconds:,} s ahead of this clock; one of the clocks is or was wrong"
        )


def _check_tree(store: Store, tenant: str, checkpoints: Sequence[Checkpoint], found: Compared) -> None:
    """Sizes ascending. One problem for the first checkpoint that the events do not lead to, one for what is missing at the end."""
    tree = tree_of(store, tenant)
    beyond: Checkpoint | None = None
    wrong: list[Checkpoint] = []
    right = [0]  # sizes
    try:
        size = store.tree_head(tenant).size
        for checkpoint in checkpoints:
            if checkpoint.size > size:
                beyond = checkpoint
            elif tree.root(checkpoint.size) != checkpoint.root:
                wrong.append(checkpoint)
            else:
                right.append(checkpoint.size)
    except PostSaleError as error:
        found.problems.append((0, f"the tree of tenant {tenant!r} cannot be compared with its checkpoints: {type(error).__name__}"))
        return
    sound = max(at for at in right if not wrong or at < wrong[0].size)
    if sound:
        found.signed[tenant] = sound
    if wrong:
        end = _position(store, tenant, wrong[0].size - 1)
        where = f"from here to position {end}" if end else "from here on"
        more = f", nor to {len(wrong) - 1} later ones" if len(wrong) > 1 else ""
        reason = (
            f"events of tenant {tenant!r} {where} do not lead to the checkpoint of {wrong[0].size} events signed {wrong[0].signed_at}{more}:"
            " they were changed, removed or put back after they were signed"
        )
        found.problems.append((_position(store, tenant, sound), reason))
    if beyond:
        count = beyond.size - size
        missing = "1 event is" if count == 1 else f"{count} events are"
        reason = f"tenant {tenant!r} has {size} leaves, the checkpoint signed {beyond.signed_at} says {beyond.size}: {missing} missing at the end"
        found.problems.append((_position(store, tenant, size - 1) + 1 if size else 1, reason))


def _counted(count: int) -> str:
    return "1 checkpoint" if count == 1 else f"{count} checkpoints"


def _position(store: Store, tenant: str, leaf_index: int) -> int:
    """The position of a tenant's event by its leaf index, 0 when it cannot be told: a binary search, because both ascend together."""
    position = 0
    try:
        low, high = 1, store.head() + 1
        while low < high:
            middle = (low + high) // 2
            with closing(store.read(Query(tenant=tenant, after=middle - 1, limit=1))) as events:
                event = next(events, None)
            if event is not None and event.leaf_index < leaf_index:
                low = event.position + 1
            else:
                position = event.position if event is not None and event.leaf_index == leaf_index else position
                high = middle
    except PostSaleError:
        return 0
    return position
