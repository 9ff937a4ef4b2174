"""Data sets of training rows: pseudonyms, the manifest, and what is remembered beside the log about each that was made.

A manifest says from which log, up to which position, by which definitions a table was made, and its digest: made again with the
same arguments from the same log it is the same. The members of each data set are remembered, as pseudonyms, so that an erasure
can name the data sets that it affects. Imports the store's contract, events, errors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import orjson

from postsale.errors import InvalidInput
from postsale.events import canonical
from postsale.store.contract import KeyValue

DATASETS: Final = "datasets"
MEMBERS: Final = "dataset-members"
_PSEUDONYM_BYTES: Final = 16
_MEMBERS_PER_RECORD: Final = 500_000
_PERSON: Final = b"training-rows"


def pseudonym(key: bytes, ref: str) -> str:
    """A customer's stable name in data sets: a keyed digest, 32 hex digits. Without the tenant's key it leads nowhere."""
    return hashlib.blake2b(ref.encode(), key=key, digest_size=_PSEUDONYM_BYTES, person=_PERSON).hexdigest()


@dataclass(frozen=True, slots=True)
class Declared:
    """Which declaration a column comes from."""

    name: str
    version: int
    digest: str
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a data set is. `id` names exactly it: equal content, equal id. No personal data; times are UTC microseconds."""

    name: str
    tenant: str
    log_id: str
    position: int  # of the log; nothing after it was read
    tree_size: int  # the tenant's events up to there, and the root of their tree: what a checkpoint signs
    tree_root: str  # hex
    known_at_us: int  # labels know what was recorded by then
    knowledge: str  # recorded | claimed
    lag_us: int
    horizon_us: int  # 0 without an outcome
    until_us: int  # rows whose horizon ends later are censored
    features: Declared
    outcome: Declared | None
    agent: str | None  # whose decisions the treatment columns show
    key_id: str  # of the tenant's keys that made the pseudonyms
    rows: int
    censored: int
    customers: int
    columns: tuple[tuple[str, str], ...]  # name, Arrow type
    sha256: str  # of the table as one Arrow IPC stream
    written_by: str  # versions of postsale and pyarrow: the stream's bytes are theirs

    def to_json(self) -> str:
        """Canonical JSON."""
        return canonical(asdict(self)).decode()

    @classmethod
    def from_json(cls, raw: str | bytes) -> Manifest:
        """The manifest that `to_json` wrote; InvalidInput for anything else."""
        try:
            d: dict[str, Any] = orjson.loads(raw)
            d["features"] = Declared(**d["features"])
            d["outcome"] = None if d["outcome"] is None else Declared(**d["outcome"])
            d["columns"] = tuple((name, kind) for name, kind in d["columns"])
            if set(d) == {f.name for f in fields(cls)}:
                return cls(**d)
        except (ValueError, TypeError, KeyError):
            pass
        raise InvalidInput(what="manifest", field="content", reason="not a manifest of training rows")

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON, hex: what a model names as the rows it was trained on."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


class Datasets:
    """What is remembered of a tenant's data sets. Making the same one again changes nothing."""

    def __init__(self, kv: KeyValue, tenant: str) -> None:
        self._kv = kv
        self._tenant = tenant

    def remember(self, manifest: Manifest, customers: Iterable[str]) -> None:
        """Keep a manifest with its members, members first: a manifest that is kept has all of them."""
        names = sorted(set(customers))
        for n, start in enumerate(range(0, len(names), _MEMBERS_PER_RECORD)):
            packed = b"".join(bytes.fromhex(name) for name in names[start : start + _MEMBERS_PER_RECORD])
            self._kv.put(MEMBERS, self._tenant, f"{manifest.id}/{n:06d}", packed)
        self._kv.put(DATASETS, self._tenant, manifest.id, manifest.to_json().encode())

    def manifests(self) -> list[Manifest]:
        """Every data set that was made, by name, then by position."""
        return sorted(self._manifests(), key=lambda m: (m.name, m.position, m.id))

    def holding(self, customers: Iterable[str]) -> list[Manifest]:
        """The data sets that hold any of these customers, by name, then by position."""
        wanted = {bytes.fromhex(name) for name in customers}
        return [manifest for manifest in self.manifests() if any(member in wanted for member in self._members(manifest))]

    def _members(self, manifest: Manifest) -> Iterator[bytes]:
        after = f"{manifest.id}/"
        for kept in self._kv.scan(MEMBERS, self._tenant, after=after, upto=f"{manifest.id}0"):  # "0" follows "/"
            for start in range(0, len(kept.value), _PSEUDONYM_BYTES):
                yield kept.value[start : start + _PSEUDONYM_BYTES]

    def _manifests(self) -> Iterator[Manifest]:
        after = ""
        while page := self._kv.scan(DATASETS, self._tenant, after=after):
            for kept in page:
                yield Manifest.from_json(kept.value)
            after = page[-1].key
