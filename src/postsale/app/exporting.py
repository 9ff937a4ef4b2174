"""What leaves for the data stack: Parquet exports of the log and of features, and Arrow frames. One tenant's, masked and pseudonymous.

Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from postsale.agents.agent import package_version
from postsale.app.files import shown
from postsale.errors import InvalidInput
from postsale.events import Event, from_us, to_us
from postsale.projections.event_tables import event_frame, table_of
from postsale.projections.export import ExportReport, LogExport, Told, export_features, manifest_at
from postsale.projections.export_place import Place
from postsale.projections.features import Features
from postsale.store import Lease, LeaseName
from postsale.store.contract import Query

if TYPE_CHECKING:
    from postsale.app.tenant import Tenant

_TTL_S: Final = 60.0


class Exports:
    """Exports of one tenant. Get it from `Tenant.export`. No key of a person is used: personal fields are masks whoever asks."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._ps = tenant._ps

    def log(self, to: str, *, on_progress: Told = lambda _done, _all: None, wait_s: float = 0.0) -> ExportReport:
        """Write the events as Parquet, one table per kind, to a folder: a path or a URL (`file://`, `s3://`, `gs://`, `hdfs://`).

        The first run writes everything, a later one what is new since. Safe to kill: the next run goes on. Columns are those of
        the kind's newest version beside the envelope's, which begin with an underscore; `_key` is the pseudonym of training rows.
        One run at a time: waits at most `wait_s` seconds for another, then raises LeaseHeld. Raises ExportRefused, ExportUnwritable,
        Unsupported, MissingExtra, and what an unreadable event raises.
        """
        log, keys = self._ps.log, self._ps.log.vault.tenant(self._tenant.name)
        with self._alone(to, wait_s) as (place, lease):
            export = LogExport(log.store, self._tenant.name, keys, place, written_by=f"postsale {package_version()}", keep=lease.keep)
            return export.run(on_progress)

    def features(self, features: type[Features], to: str, *, as_of: datetime | None = None, wait_s: float = 0.0) -> ExportReport:
        """Write a snapshot of a declaration: every customer's features at `as_of` (default now), as they were known then, to such a folder.

        The rows are those of `training_rows(features, at=[as_of])`, and are remembered as a data set. A snapshot that is there is not
        made again. Raises as `log`, and InvalidInput for a time to come.
        """
        now_us = self._ps.clock.now_us()
        at = from_us(now_us) if as_of is None else from_us(to_us(as_of))
        if to_us(at) > now_us:
            raise InvalidInput(what="export", field="as_of", reason="is still to come")
        log, keys = self._ps.log, self._ps.log.vault.tenant(self._tenant.name)

        def made() -> tuple[Any, int]:
            rows = self._tenant.training_rows(features, name=f"export/{features.__name__}", at=[at])
            return rows.table, rows.manifest.position

        with self._alone(to, wait_s) as (place, _):
            manifest = manifest_at(place, tenant=self._tenant.name, log_id=log.store.log_id, key_id=keys.id)
            return export_features(place, manifest, features, at.astimezone(UTC), made)

    @contextmanager
    def _alone(self, to: str, wait_s: float) -> Iterator[tuple[Place, Lease]]:
        place = Place(to, shown(to))
        name = LeaseName(self._tenant.name, "export/" + hashlib.sha256(to.encode()).hexdigest()[:32])
        with self._ps.leases.held(name, ttl_s=_TTL_S, wait_s=wait_s) as lease:
            yield place, lease

    def frame(self, kind: type[Event], *, as_of: datetime | None = None, known_at: datetime | None = None) -> Any:
        """The events of one kind as a pyarrow.Table, with the columns and masks of the export. Memory: the table.

        `table.to_pandas()`, `polars.from_arrow(table)` and DuckDB (`FROM table`) take it from there.
        """
        table, log = table_of(kind), self._ps.log
        query = Query(
            tenant=self._tenant.name,
            kinds=frozenset({table.wire_name.partition("@")[0]}),
            as_of_us=None if as_of is None else to_us(as_of),
            known_at_us=None if known_at is None else to_us(known_at),
        )
        return event_frame(table, log.events(query), log.vault.tenant(self._tenant.name).blind)
