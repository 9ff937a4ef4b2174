"""The part of a log that proves: signs its tenants' heads, proves events to third parties, recomputes all. Part of the wiring, as `postsale`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

from postsale.events import Clock, check_tenant
from postsale.store import Anchor, Checkpoint, EventProof, VerifierKey, VerifyReport, prove, sign_checkpoint, verifier_key, verify
from postsale.store.checkpoints import known_keys
from postsale.store.log import Log


class Proofs:
    """What `PostSale` inherits; never made alone."""

    log: Log
    clock: Clock

    def checkpoint(self, tenant: str, anchor: Anchor | None = None) -> Checkpoint:
        """Sign the tenant's head and keep it, also at the anchor. Raises CheckpointRefused when history was cut off or rewritten."""
        return sign_checkpoint(self.log.store, self.log.vault, self.clock, check_tenant(tenant), anchor)

    def verifier_key(self, tenant: str) -> VerifierKey:
        """The public key of the tenant's checkpoints, for third parties: `str` of it is what they type."""
        return verifier_key(self.log.store, self.log.vault, check_tenant(tenant))

    def prove(self, tenant: str, event: UUID | int, checkpoint: Checkpoint | None = None) -> EventProof:
        """A proof for third parties that an event, by id or position, is in the log, under the newest checkpoint or this one.

        Raises UnknownEvent, NotCheckpointed, LogDamaged.
        """
        return prove(self.log.store, check_tenant(tenant), event, checkpoint)

    def verify(self, on_progress: Callable[[int], None] | None = None, against: Iterable[Checkpoint | str] = ()) -> VerifyReport:
        """Recompute every leaf from stored bytes and name every event that is not what was recorded.

        With `against`, checkpoints kept elsewhere (`FileAnchor(path).notes()`), also what was cut off or rewritten as a whole.
        """
        store, notes = self.log.store, list(map(str, against))
        keys = known_keys(store, self.log.vault, notes)
        return verify(store, on_progress, against=notes, keys=keys, clock=self.clock)
