"""Checkpoints: the signed heads of a log's trees (c2sp.org/tlog-checkpoint). Read, signed and kept here; verification is in `against`.

A head is signed only when it continues what was signed before, in the log and at the anchor. Imports access, the contract, notes, proofs.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, Protocol

from postsale.access import KeyVault
from postsale.errors import CheckpointRefused, InvalidInput, LogDamaged, NoteInvalid, PostSaleError
from postsale.events import Clock, iso, to_us
from postsale.store.contract import Kept, Store, TreeHead
from postsale.store.leaves import EMPTY_ROOT
from postsale.store.notes import ED25519, Note, VerifierKey, sign, unbase64
from postsale.store.proofs import MAX_SIZE, Tree, verify_consistency

SPACE: Final = "checkpoints"  # of the records beside the log: `LATEST`, and each checkpoint under its size in 20 digits
LATEST: Final = "latest"

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a tenant's tree was when it was signed: number of leaves, root, time. Not verified: `note` has the signatures."""

    origin: str  # whose tree: postsale/LOG ID/TENANT
    size: int
    root: bytes
    at_us: int | None  # the signer's clock; None when it does not say
    note: Note
    text: str  # the whole signed note, as it is published

    @classmethod
    def parse(cls, text: str | bytes) -> Checkpoint:
        """Read a signed note. NoteInvalid for anything but a checkpoint."""
        note = Note.parse(text)
        lines = note.text[:-1].split("\n")
        if len(lines) < 3 or not all(lines):
            raise NoteInvalid(reason="fewer than three lines of text, or an empty one")
        root = unbase64(lines[2])
        if not _SIZE.fullmatch(lines[1]) or int(lines[1]) > MAX_SIZE or root is None or len(root) != 32:
            raise NoteInvalid(reason="its second and third line are not a number of leaves and a root in base64")
        if int(lines[1]) == 0 and root != EMPTY_ROOT:
            raise NoteInvalid(reason="a root of an empty tree that is not that of an empty tree")
        return cls(lines[0], int(lines[1]), root, _time(lines[3:]), note, text if isinstance(text, str) else text.decode())

    def __str__(self) -> str:
        return self.text

    @property
    def signed_at(self) -> str:
        """For messages."""
        return "at a time that it does not say" if self.at_us is None else f"at {iso(self.at_us)}"


def _time(extensions: list[str]) -> int | None:
    """The time in the line that our checkpoints have; other lines mean nothing here."""
    for line in extensions:
        if line.startswith("time "):
            try:
                at_us = to_us(datetime.strptime(line, "time %Y-%m-%dT%H:%M:%S.%f%z"))
            except (ValueError, OverflowError):
                at_us = None
            if at_us is None or line != f"time {iso(at_us)}":
                raise NoteInvalid(reason="a line of time in another form than ours")
            return at_us
    return None


def origin_of(log_id: str, tenant: str) -> str:
    """The first line of a tenant's checkpoints, and the name of its key. It shows the tenant's name, as commitments do."""
    return f"postsale/{log_id}/{tenant}"


def tenant_of(log_id: str, origin: str) -> str | None:
    """The tenant of an origin; None for a checkpoint of another log."""
    tenant = origin.removeprefix(f"postsale/{log_id}/")
    return tenant if tenant != origin and tenant else None


def verifier_key(store: Store, vault: KeyVault, tenant: str) -> VerifierKey:
    """The public key to give to third parties; made at first use. Raises KeyUnavailable."""
    public = vault.verifier(tenant, create=True)
    assert public is not None
    return VerifierKey(origin_of(store.log_id, tenant), ED25519, public)


def known_keys(store: Store, vault: KeyVault, notes: Iterable[str]) -> list[VerifierKey]:
    """The public keys that the vault has for the log's tenants and those of these notes. Makes none, and never raises."""
    found = []
    try:
        tenants = {tenant_of(store.log_id, note.partition("\n")[0]) for note in notes} | set(store.tenants())
        for tenant in filter(None, tenants):
            public = vault.verifier(tenant, create=False)
            if public is not None:
                found.append(VerifierKey(origin_of(store.log_id, tenant), ED25519, public))
    except PostSaleError:  # without its keys, or in a damaged file, a log can still be verified
        pass
    return found


def tree_of(store: Store, tenant: str) -> Tree:
    """The tree of a tenant, for roots and proofs at any size up to its own."""
    return Tree(lambda level, start, stop: store.tree(tenant, level, start, stop))


class Anchor(Protocol):
    """Where checkpoints are kept outside the log, out of reach of whoever can write the log. Publishing twice does no harm."""

    def publish(self, checkpoint: Checkpoint) -> None:
        """Keep it for ever, durable before it returns. Raises AnchorUnavailable."""
        ...

    def latest(self, origin: str) -> Checkpoint | None:
        """The largest checkpoint of this origin. Raises AnchorUnavailable."""
        ...


def sign_checkpoint(store: Store, vault: KeyVault, clock: Clock, tenant: str, anchor: Anchor | None = None) -> Checkpoint:
    """Sign the tenant's head, keep it beside the log, publish it; the kept one when nothing was appended since.

    Any number of signers may run: for each size one checkpoint comes to be, and each continues the one before. Raises
    CheckpointRefused when the log does not continue what was signed before, InvalidInput for a tenant without events,
    LogDamaged, KeyUnavailable, StoreUnavailable, AnchorUnavailable (signed and kept, but not published: call again).
    """
    key = verifier_key(store, vault, tenant)
    while True:  # again only when another signer was quicker, so all signers together always come on
        record = _newest(store, tenant)
        try:
            signed = None if record is None else Checkpoint.parse(record.value)
        except NoteInvalid:
            raise CheckpointRefused(tenant=tenant, reason="the newest checkpoint that the log kept is none any more") from None
        anchored = anchor.latest(key.name) if anchor else None
        head = store.tree_head(tenant)  # after what it must continue was read
        _check_continues(tree_of(store, tenant), head, [before for before in (signed, anchored) if before], key, tenant)
        if signed is None or signed.size < head.size:
            if signed is not None:
                _file(store, tenant, signed)  # the signer before may have been killed in between
            at_us = clock.now_us()
            body = f"{key.name}\n{head.size}\n{base64.b64encode(head.root).decode()}\ntime {iso(at_us)}\n"
            new = Checkpoint.parse(sign(body, key, partial(vault.sign, tenant)))
            if store.kv.put(SPACE, tenant, LATEST, new.text.encode(), expected=record.revision if record else 0) is None:
                continue
            signed = new
        _file(store, tenant, signed)
        if anchor:
            anchor.publish(signed)
        return signed


def latest_checkpoint(store: Store, tenant: str) -> Checkpoint | None:
    """The newest checkpoint that the log keeps. Not verified; NoteInvalid when it is none."""
    record = store.kv.get(SPACE, tenant, LATEST)
    return None if record is None else Checkpoint.parse(record.value)


def kept_checkpoints(store: Store, tenant: str) -> Iterator[str]:
    """Every checkpoint that the log keeps of a tenant, by size, the newest perhaps twice; as they are kept, perhaps damaged."""
    after = ""
    while page := store.kv.scan(SPACE, tenant, after=after, limit=_PAGE):
        yield from (record.value.decode(errors="replace") for record in page)
        after = page[-1].key


def _newest(store: Store, tenant: str) -> Kept | None:
    record = store.kv.get(SPACE, tenant, LATEST)
    if record is None and store.kv.scan(SPACE, tenant, limit=1):
        record = store.kv.get(SPACE, tenant, LATEST)  # another signer may have kept the first one just now
        if record is None:
            raise CheckpointRefused(tenant=tenant, reason="the newest of the checkpoints that the log kept is missing")
    return record


def _check_continues(tree: Tree, head: TreeHead, earlier: list[Checkpoint], key: VerifierKey, tenant: str) -> None:
    """CheckpointRefused unless `head` continues each of the earlier ones; LogDamaged when it is not the head of its own leaves."""
    for before in earlier:
        try:
            genuine = bool(before.note.signed_by([key]))
        except NoteInvalid:
            genuine = False
        if not genuine:
            reason = (
                f"an earlier checkpoint, of {before.size} events, is not signed by the key in the key file: one of the two was replaced"
            )
            raise CheckpointRefused(tenant=tenant, reason=reason)
        if before.size > head.size:
            reason = f"it has {head.size} events, the checkpoint signed {before.signed_at} says {before.size}"
            raise CheckpointRefused(tenant=tenant, reason=reason)
    if head.size == 0:
        raise InvalidInput(what="checkpoint", field="tenant", reason="it has no events")
    if tree.root(head.size) != head.root:
        raise LogDamaged(position=0, reason=f"the tree head of tenant {tenant!r} is not that of its leaves")
    for before in earlier:
        if not verify_consistency(before.size, before.root, head.size, head.root, tree.consistency(before.size, head.size)):
            reason = f"its first {before.size} events are not those of the checkpoint signed {before.signed_at}"
            raise CheckpointRefused(tenant=tenant, reason=reason)


def _file(store: Store, tenant: str, checkpoint: Checkpoint) -> None:
    """Keep it under its size, for those who look back. Two of one size cannot come to be: `LATEST` is what signers agree on."""
    store.kv.put(SPACE, tenant, f"{checkpoint.size:020d}", checkpoint.text.encode(), expected=0)
