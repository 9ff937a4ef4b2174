"""Exports: the log as Parquet tables, one per kind, each run writing only what is new; and snapshots of features.

A run sets out to write the events of a window of positions, says so in the manifest (`pending`), writes one file per table, and
lists them. Killed at any moment, it leaves whole files with the names that the next run gives the same windows: that run finishes
what is pending first, and writes the same rows to the same names. So readers of a folder never see half a file, or a row twice.
One run at a time: the caller holds a lease, and `keep` renews it. Imports event_tables, export_place, the store's contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from postsale.access import TenantKeys
from postsale.errors import ExportRefused
from postsale.events import decode, schema_digest
from postsale.projections.event_tables import Rows, event_tables
from postsale.projections.export_place import MANIFEST, ExportedFile, ExportedTable, ExportManifest, Pending, Place, Sink, parquet_library
from postsale.projections.features import Features
from postsale.store.checkpoints import tree_of
from postsale.store.contract import Query, Store

_TOGETHER: Final = 65_536  # events that are held until they are written
WINDOW: Final = 1_048_576
"""Positions that one file of a table covers at most."""

Told = Callable[[int, int], None]
"""How many positions are done, of how many."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What a run wrote."""

    url: str
    position: int  # the export is complete up to here
    rows: int
    files: tuple[str, ...]  # below the URL, in the order in which they were written

    def to_dict(self) -> dict[str, Any]:
        return {"url": self.url, "position": self.position, "rows": self.rows, "files": list(self.files)}


def manifest_at(place: Place, *, tenant: str, log_id: str, key_id: str) -> ExportManifest:
    """The manifest of an export, a new one where there is none. ExportRefused when it is of another log, tenant or keys."""
    raw = place.read(MANIFEST)
    if raw is None:
        return ExportManifest(tenant=tenant, log_id=log_id, key_id=key_id)
    manifest = ExportManifest.from_json(raw, place.url)
    for name, value in {"tenant": tenant, "log_id": log_id, "key_id": key_id}.items():
        if (found := getattr(manifest, name)) != value:
            raise ExportRefused(url=place.url, reason=f"it holds an export with {name} {found}, not {value}")
    return manifest


class LogExport:
    """Exporting one tenant's events to one place."""

    def __init__(
        self,
        store: Store,
        tenant: str,
        keys: TenantKeys,
        place: Place,
        *,
        written_by: str = "",
        window: int = WINDOW,
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._tenant = tenant
        self._keys = keys
        self._place = place
        self._window = window
        self._keep = keep
        self._manifest = manifest_at(place, tenant=tenant, log_id=store.log_id, key_id=keys.id)
        self._manifest.written_by = written_by
        self._tables = {f"{table.name}/v{table.version}": table for table in event_tables().values()}
        self._files: list[ExportedFile] = []
        for name, table in self._tables.items():
            columns: list[tuple[str, str]] = [(column.name, column.type) for column in table.columns]
            known = self._manifest.tables.setdefault(name, ExportedTable(table.wire_name, schema_digest(table.kind.cls).hex(), columns))
            if known.columns != columns:
                reason = (
                    f"{table.wire_name} has other columns there; a stored version of a kind does not change, or export to another folder"
                )
                raise ExportRefused(url=place.url, reason=reason)

    def run(self, told: Told = lambda _done, _all: None) -> ExportReport:
        """Write what is new up to the log's end as it is now.

        Raises ExportRefused, ExportUnwritable, MissingExtra, and what an unreadable event raises: then nothing after it is written.
        """
        head = self._store.head()
        self._check_continued(head)
        start = min(self._at(name) for name in self._tables)
        while (pending := self._next(head)) is not None:
            self._manifest.pending = pending
            self._save()
            files = self._written(pending, lambda position: told(position - start, head - start))
            for name in pending.tables:
                self._manifest.tables[name].position = pending.upto
            for name, file in files:
                self._manifest.tables[name].files.append(file)
                self._files.append(file)
            self._manifest.pending = None
        self._manifest.tree_size = self._size(head)
        self._manifest.tree_root = tree_of(self._store, self._tenant).root(self._manifest.tree_size).hex()
        self._save()
        return ExportReport(self._place.url, head, sum(file.rows for file in self._files), tuple(file.name for file in self._files))

    def _check_continued(self, head: int) -> None:
        """An export of a log that was restored from a backup, or rewritten, holds what that log does not."""
        size, root = self._manifest.tree_size, self._manifest.tree_root
        lost = self._manifest.position > head or size > self._size(head)
        if lost or (root and tree_of(self._store, self._tenant).root(size).hex() != root):
            reason = f"it holds {size} events up to position {self._manifest.position}, and the log is not a continuation of these"
            raise ExportRefused(url=self._place.url, reason=reason)

    def _size(self, upto: int) -> int:
        """How many events the tenant's tree has up to a position."""
        with closing(self._store.read(Query(tenant=self._tenant, upto=upto, backward=True, limit=1))) as newest:
            last = next(newest, None)
        return 0 if last is None else last.leaf_index + 1

    def _at(self, name: str) -> int:
        return self._manifest.tables[name].position

    def _next(self, head: int) -> Pending | None:
        """The window to write now: what a killed run set out to write, else from where the tables that are furthest behind are."""
        pending = self._manifest.pending
        if pending is not None and (names := tuple(name for name in pending.tables if name in self._tables)):
            return Pending(pending.after, pending.upto, names)
        places = sorted({self._at(name) for name in self._tables})
        after = places[0]
        upto = min(after + self._window, places[1] if len(places) > 1 else head)
        if upto <= after and all(self._manifest.tables[name].files for name in self._tables):
            return None
        return Pending(after, upto, tuple(sorted(name for name in self._tables if self._at(name) == after)))

    def _written(self, pending: Pending, told: Callable[[int], None]) -> list[tuple[str, ExportedFile]]:
        """The files of a window. A table that has none yet gets one without rows, so that it can be read."""
        writers: dict[str, _Writer] = {}
        with ExitStack() as files:

            def writer(name: str) -> _Writer:
                if name not in writers:
                    file = f"log/{name}/{pending.after + 1:012d}-{pending.upto:012d}.parquet"
                    sink = files.enter_context(self._place.writing(file))
                    writers[name] = _Writer(sink, file, Rows(self._tables[name], self._keys.blind), pending)
                return writers[name]

            for name in pending.tables:
                if not self._manifest.tables[name].files:
                    writer(name)
            self._fill(pending, writer, writers, told)
            for found in writers.values():
                found.finish()
        return [(name, writers[name].file()) for name in sorted(writers)]

    def _fill(
        self, pending: Pending, writer: Callable[[str], _Writer], writers: Mapping[str, _Writer], told: Callable[[int], None]
    ) -> None:
        mine = {self._tables[name].wire_name.partition("@")[0]: name for name in pending.tables}
        everything = len(mine) == len(self._tables)  # then a kind that is not known here is an error, and not passed over
        kinds = frozenset() if everything else frozenset(mine)
        held = 0
        query = Query(tenant=self._tenant, after=pending.after, upto=pending.upto, kinds=kinds)
        with closing(self._store.read(query)) as events:
            for stored in events:
                recorded = decode(stored)
                writer(mine[stored.kind]).rows.add(recorded)
                held += 1
                if held >= _TOGETHER:
                    for each in writers.values():
                        each.flush()
                    held = 0
                    self._keep()
                    told(stored.position)
        told(pending.upto)

    def _save(self) -> None:
        self._keep()
        self._place.write(MANIFEST, self._manifest.to_json())


class _Writer:
    """The file of one table in one window."""

    def __init__(self, sink: Sink, name: str, rows: Rows, pending: Pending) -> None:
        self._sink = sink
        self._name = name
        self._pending = pending
        self._parquet = parquet_writer(sink, rows.schema)
        self._count = 0
        self.rows = rows

    def flush(self) -> None:
        if count := len(self.rows):
            self._count += count
            self._parquet.write_table(self.rows.take())

    def finish(self) -> None:
        self.flush()
        self._parquet.close()

    def file(self) -> ExportedFile:
        return ExportedFile(self._name, self._pending.after + 1, self._pending.upto, self._count, self._sink.size, self._sink.sha256)


def parquet_writer(sink: Any, schema: Any) -> Any:
    """A writer of Parquet as every exported file is written."""
    return parquet_library().parquet.ParquetWriter(sink, schema, version="2.6", compression="zstd")


# ---------------------------------------------------------------- features


def export_features(
    place: Place, manifest: ExportManifest, features: type[Features], as_of: datetime, made: Callable[[], tuple[Any, int]]
) -> ExportReport:
    """Write a snapshot: the features of every customer at a time, as they are known now. One that is there already stays as it is.

    `made` gives the Arrow table and the position of the log that it knows. Raises ExportRefused, ExportUnwritable.
    """
    name = f"{features.__name__}/v{features.version}"
    known = manifest.features.get(name)
    if known is not None and known.schema != features.digest:
        reason = f"{features.__name__} was changed and is still version {features.version}; give it the next version"
        raise ExportRefused(url=place.url, reason=reason)
    file = f"features/{name}/{as_of:%Y%m%dT%H%M%S%f}Z.parquet"
    if known is not None and any(other.name == file for other in known.files):
        return ExportReport(place.url, known.position, 0, ())
    table, position = made()
    with place.writing(file) as sink:
        writer = parquet_writer(sink, table.schema)
        writer.write_table(table)
        writer.close()
    if known is None:
        columns = [(field.name, str(field.type)) for field in table.schema]
        known = manifest.features[name] = ExportedTable(features.__name__, features.digest, columns)
    known.files.append(ExportedFile(file, 1, position, table.num_rows, sink.size, sink.sha256))
    known.position = max(known.position, position)
    place.write(MANIFEST, manifest.to_json())
    return ExportReport(place.url, position, table.num_rows, (file,))
