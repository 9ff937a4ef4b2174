"""Keys: where they live and how they are destroyed. Embedded, they are in a 0600 file beside the database, never in it.

May import `events` and `errors` only. What keys are used for is in `sealing.py`.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from postsale.errors import KeyUnavailable


class TenantKeys(NamedTuple):
    """The three keyed digests of a tenant. 32 bytes each; `id` names them in envelopes."""

    id: str
    content: bytes  # "is it the same content?"
    blind: bytes  # external id -> alias stream
    dedup: bytes  # (source, source id, index) -> event id


class SubjectKey(NamedTuple):
    """The key that seals one person's fields (AES-256-GCM, 32 bytes)."""

    id: str
    key: bytes


class KeyVault(Protocol):
    """Makes, hands out and destroys keys. Durable before it returns: a key is never used before it is kept."""

    def tenant(self, tenant: str) -> TenantKeys:
        """The tenant's keys, made at first use."""
        ...

    def subjects(self, tenant: str, refs: Iterable[str], *, create: bool) -> Mapping[str, SubjectKey]:
        """Keys by subject. With `create`, missing ones are made; a destroyed one raises KeyUnavailable.

        Without `create`, missing and destroyed ones are left out: the reader masks.
        """
        ...

    def destroy(self, tenant: str, ref: str) -> None:
        """Destroy a subject's key for ever; a key for this subject is never made again."""
        ...

    def verifier(self, tenant: str, *, create: bool) -> bytes | None:
        """The public half (Ed25519, 32 bytes) of the key that signs the tenant's checkpoints; None when there is none yet.

        With `create`, it is made at first use. The private half never leaves the vault.
        """
        ...

    def sign(self, tenant: str, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature over `message` by the key of `verifier`, which is made at first use."""
        ...

    def add_token(self, tenant_or_all: str, name: str, digest: bytes) -> None:
        """Keep the digest of an access token under a person's name."""
        ...

    def token_owner(self, digest: bytes) -> str | None:
        """The person whose token has this digest."""
        ...

    def close(self) -> None: ...


_SCHEMA = """
CREATE TABLE IF NOT EXISTS tenant_keys (tenant TEXT PRIMARY KEY, id TEXT NOT NULL, content BLOB NOT NULL, blind BLOB NOT NULL, dedup BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS subject_keys (tenant TEXT NOT NULL, ref TEXT NOT NULL, id TEXT NOT NULL, key BLOB, PRIMARY KEY (tenant, ref)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS signing_keys (tenant TEXT PRIMARY KEY, seed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tokens (digest BLOB PRIMARY KEY, name TEXT NOT NULL, scope TEXT NOT NULL) WITHOUT ROWID;
"""


class FileVault:
    """A key vault in one SQLite file of mode 0600; `secure_delete` overwrites what is destroyed.

    A file that others may read is refused: KeyUnavailable says how to mend it. So is a missing one without `create`: pass
    False beside a log that has events, whose keys were in it.
    """

    def __init__(self, path: Path | str, *, create: bool = True) -> None:
        self._path = Path(path)
        self._lock = threading.RLock()
        self._cache: dict[str, TenantKeys] = {}
        self._asked: set[tuple[str, str]] = set()  # by all threads that wait: whoever makes keys makes these too
        try:
            if not self._path.exists():  # another process may make it first: both then open the same file
                if not create:
                    raise KeyUnavailable(what=self._path.name, reason="the key file is missing; new keys would not open what is stored")
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            mode = stat.S_IMODE(self._path.stat().st_mode)
        except OSError as error:
            raise KeyUnavailable(what=self._path.name, reason=f"it cannot be opened ({type(error).__name__})") from None
        if mode & 0o077:
            raise KeyUnavailable(
                what=self._path.name, reason=f"its mode is {mode:04o}, so others may read it; run: chmod 600 {self._path.name}"
            )
        try:
            self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
            self._db.executescript(
                "PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON; PRAGMA busy_timeout=10000;" + _SCHEMA
            )
        except sqlite3.Error as error:
            raise KeyUnavailable(what=self._path.name, reason=f"not readable as a key file ({type(error).__name__})") from None

    @classmethod
    def in_memory(cls) -> FileVault:
        """A vault that is gone with the process; for `memory:` logs."""
        vault = cls.__new__(cls)
        vault._path = Path(":memory:")
        vault._lock = threading.RLock()
        vault._cache = {}
        vault._asked = set()
        vault._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        vault._db.executescript(_SCHEMA)
        return vault

    def tenant(self, tenant: str) -> TenantKeys:
        if (known := self._cache.get(tenant)) is not None:
            return known
        with self._lock, self._work():
            new = (tenant, secrets.token_hex(8), secrets.token_bytes(32), secrets.token_bytes(32), secrets.token_bytes(32))
            self._db.execute("INSERT OR IGNORE INTO tenant_keys VALUES (?, ?, ?, ?, ?)", new)
            row = self._db.execute("SELECT id, content, blind, dedup FROM tenant_keys WHERE tenant = ?", (tenant,)).fetchone()
        keys = self._cache[tenant] = TenantKeys(*row)
        return keys

    def subjects(self, tenant: str, refs: Iterable[str], *, create: bool) -> Mapping[str, SubjectKey]:
        wanted = list(dict.fromkeys(refs))
        mine = {(tenant, ref) for ref in wanted} if create else set()
        self._asked |= mine
        try:
            with self._lock, self._work():
                found = self._known(tenant, wanted)
                if create and len(found) < len(wanted):
                    self._make(mine)
                    found = self._known(tenant, wanted)
        finally:
            self._asked -= mine
        alive = {ref: SubjectKey(id_, key) for ref, (id_, key) in found.items() if key is not None}
        if create and len(alive) < len(wanted):
            raise KeyUnavailable(what="subject key", reason="it was destroyed by an erasure; nothing more can be sealed for this subject")
        return alive

    def _make(self, mine: set[tuple[str, str]]) -> None:
        """Keys for subjects that have none, in one commit: it costs several flushes of the disk, however many they are."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            rows = [(*who, secrets.token_hex(8), secrets.token_bytes(32)) for who in mine | self._asked]
            self._db.executemany("INSERT OR IGNORE INTO subject_keys VALUES (?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def _known(self, tenant: str, refs: list[str]) -> dict[str, tuple[str, bytes | None]]:
        found: dict[str, tuple[str, bytes | None]] = {}
        for start in range(0, len(refs), 500):
            chunk = refs[start : start + 500]
            marks = ",".join("?" * len(chunk))
            rows = self._db.execute(f"SELECT ref, id, key FROM subject_keys WHERE tenant = ? AND ref IN ({marks})", (tenant, *chunk))
            found |= {ref: (id_, key) for ref, id_, key in rows}
        return found

    def destroy(self, tenant: str, ref: str) -> None:
        with self._lock, self._work():
            self._db.execute(
                "INSERT INTO subject_keys VALUES (?, ?, ?, NULL) ON CONFLICT (tenant, ref) DO UPDATE SET key = NULL",
                (tenant, ref, secrets.token_hex(8)),
            )

    def verifier(self, tenant: str, *, create: bool) -> bytes | None:
        key = self._signing_key(tenant, create=create)
        return None if key is None else key.public_key().public_bytes_raw()

    def sign(self, tenant: str, message: bytes) -> bytes:
        key = self._signing_key(tenant, create=True)
        assert key is not None
        return key.sign(message)

    def _signing_key(self, tenant: str, *, create: bool) -> Ed25519PrivateKey | None:
        with self._lock, self._work():
            row = self._db.execute("SELECT seed FROM signing_keys WHERE tenant = ?", (tenant,)).fetchone()
            if row is None and create:
                self._db.execute("INSERT OR IGNORE INTO signing_keys VALUES (?, ?)", (tenant, secrets.token_bytes(32)))
                row = self._db.execute("SELECT seed FROM signing_keys WHERE tenant = ?", (tenant,)).fetchone()
        if row is not None and (type(row[0]) is not bytes or len(row[0]) != 32):
            raise KeyUnavailable(what="signing key", reason="it is not 32 bytes long in the key file")
        return None if row is None else Ed25519PrivateKey.from_private_bytes(row[0])

    def add_token(self, tenant_or_all: str, name: str, digest: bytes) -> None:
        with self._lock, self._work():
            self._db.execute("INSERT INTO tokens VALUES (?, ?, ?)", (digest, name, tenant_or_all))

    def token_owner(self, digest: bytes) -> str | None:
        with self._lock, self._work():
            row = self._db.execute("SELECT name FROM tokens WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else str(row[0])

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _work(self) -> _Translate:
        return _Translate(self._path.name)


class _Translate:
    """Turns the driver's errors into ours: writes of personal data fail closed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise KeyUnavailable(what=self._name, reason=type(error).__name__) from None
