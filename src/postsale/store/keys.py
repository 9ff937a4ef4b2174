"""Keys that belong to their log: a vault that refuses to answer for a tenant whose events were written under other keys.

Imports the contract, access and events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from postsale.access import KeyVault, SubjectKey, TenantKeys
from postsale.errors import KeyUnavailable
from postsale.events import Header, Lane, StoredEvent
from postsale.store.contract import Query, Store


class LogVault:
    """The vault of one log. Under another log's keys, or new ones, every known id would be a stranger's and every fact news.

    Looked at when a tenant's keys are first used; everything else is passed on.
    """

    def __init__(self, vault: KeyVault, store: Store) -> None:
        self._vault = vault
        self._store = store
        self._sound: set[str] = set()

    def tenant(self, tenant: str) -> TenantKeys:
        """The tenant's keys; KeyUnavailable when they are not those that its events name."""
        keys = self._vault.tenant(tenant)
        if tenant not in self._sound:
            named = self._named(tenant)
            if named and keys.id not in named:
                raise KeyUnavailable(
                    what=f"keys of tenant {tenant!r}", reason="the log was written with other keys than the key file holds"
                )
            self._sound.add(tenant)
        return keys

    def _named(self, tenant: str) -> set[str]:
        """The key ids that the tenant's oldest and newest events name; two, so that one damaged event locks nobody out."""
        for lane in (Lane.DECISION, Lane.FACT):  # few tenants have facts alone, and decisions are found faster
            ends = [e for back in (False, True) for e in self._store.read(Query(tenant=tenant, lane=lane, limit=1, backward=back))]
            if ends:
                return {key for key in map(_content_key, ends) if key}
        return set()

    def subjects(self, tenant: str, refs: Iterable[str], *, create: bool) -> Mapping[str, SubjectKey]:
        return self._vault.subjects(tenant, refs, create=create)

    def destroy(self, tenant: str, ref: str) -> None:
        self._vault.destroy(tenant, ref)

    def verifier(self, tenant: str, *, create: bool) -> bytes | None:
        return self._vault.verifier(tenant, create=create)

    def sign(self, tenant: str, message: bytes) -> bytes:
        return self._vault.sign(tenant, message)

    def add_token(self, tenant_or_all: str, name: str, digest: bytes) -> None:
        self._vault.add_token(tenant_or_all, name, digest)

    def token_owner(self, digest: bytes) -> str | None:
        return self._vault.token_owner(digest)

    def close(self) -> None:
        self._vault.close()


def _content_key(stored: StoredEvent) -> str:
    try:
        return Header.from_bytes(stored.header).content_key
    except (ValueError, KeyError, TypeError, AttributeError):  # damage is for `verify` to name
        return ""
