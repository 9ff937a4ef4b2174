"""Importing files: items of a connector become recorded facts, duplicates, ignored or quarantined; and trying again what was refused.

Part of the wiring: may import everything below `app`. Imports have origin `import` and raise no trigger in the live world.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from postsale.access import open_blob, seal_blob
from postsale.app.recorder import VIA_RECORD, Entry, Receipt, Recorder, Reject
from postsale.errors import ContentConflict, InvalidInput, MappingInvalid, PostSaleError, UnknownWireName, UpcastFailed
from postsale.events import Actor, Origin, from_us
from postsale.ingest import Item, Mapping, keyed_digest, open_items, to_quarantine
from postsale.ingest.sources import Kind
from postsale.store.contract import QuarantineItem
from postsale.store.log import Cause, Log

_CHUNK = 1_000


@dataclass(slots=True)
class ImportReport:
    """What became of a file: recorded + duplicates + quarantined + ignored = items. An item may hold several signals."""

    items: int = 0
    recorded: int = 0
    duplicates: int = 0
    quarantined: int = 0
    ignored: int = 0
    signals: int = 0  # newly recorded
    seconds: float = 0.0
    newest: datetime | None = None  # the latest time at which anything in it occurred
    ignored_reasons: Counter[str] = field(default_factory=Counter)
    quarantine_reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        return {
            "items": self.items,
            "recorded": self.recorded,
            "duplicates": self.duplicates,
            "quarantined": self.quarantined,
            "ignored": self.ignored,
            "signals": self.signals,
            "seconds": round(self.seconds, 3),
            "newest": self.newest.isoformat() if self.newest else None,
            "ignored_reasons": dict(self.ignored_reasons),
            "quarantine_reasons": dict(self.quarantine_reasons),
            "flags": dict(self.flags),
        }


@dataclass(frozen=True, slots=True)
class Refused:
    """An item of the quarantine as a person sees it; its body stays sealed."""

    id: str
    received_at: datetime
    source: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "received_at": self.received_at.isoformat(), "source": self.source, "reason": self.reason}


class Importer:
    """Files into one tenant."""

    def __init__(self, log: Log, recorder: Recorder, tenant: str) -> None:
        self._log = log
        self._recorder = recorder
        self._tenant = tenant
        self._digest = keyed_digest(log.vault.tenant(tenant).dedup)

    def file(self, kind: Kind, path: Path, mapping: Mapping | None, on_progress: Callable[[int], None] | None = None) -> ImportReport:
        """Read a whole file. Raises InvalidInput or MappingInvalid for the file itself; bad items go to quarantine."""
        report, started = ImportReport(), time.perf_counter()
        items = open_items(kind, path, mapping, digest=self._digest)
        while chunk := list(islice(items, _CHUNK)):
            self._chunk(kind, chunk, report)
            if on_progress is not None:
                on_progress(len(chunk))
        report.seconds = time.perf_counter() - started
        return report

    def live(self, item: Item) -> ImportReport:
        """One item that arrives now: its facts may raise triggers."""
        report, started = ImportReport(), time.perf_counter()
        self._chunk("stripe" if item.source.startswith("stripe") else "cloudevents", [item], report, Origin.LIVE)
        report.seconds = time.perf_counter() - started
        return report

    def _chunk(self, via: str, items: Sequence[Item], report: ImportReport, origin: Origin = Origin.IMPORT) -> None:
        refused: list[QuarantineItem] = []
        batches: list[tuple[Item, list[Entry]]] = []
        for item in items:
            report.items += 1
            report.flags.update(item.flags)
            if item.ignored is not None:
                report.ignored += 1
                report.ignored_reasons[item.ignored] += 1
            elif item.error is not None:
                report.quarantined += 1
                report.quarantine_reasons[str(item.error)] += 1
                refused.append(to_quarantine(self._tenant, item, self._log.clock.now_us(), bytes, digest=self._digest))
            else:
                batches.append((item, list(_entries(item))))
                times = [signal.occurred_at for signal in item.signals]
                report.newest = max([*times, report.newest] if report.newest else times)
        cause = Cause(actor=Actor("source", via), origin=origin)
        outcomes = iter(self._recorder.record_each(self._tenant, [entry for _, batch in batches for entry in batch], cause))
        for item, batch in batches:
            rejects = self._count([next(outcomes) for _ in batch], report)
            if rejects and not any(r.quarantine_id for r in rejects):  # the recorder keeps conflicts itself
                reason, now_us = str(rejects[0].error), self._log.clock.now_us()
                refused.append(to_quarantine(self._tenant, item, now_us, bytes, digest=self._digest, reason=reason))
        self._quarantine(via, refused)

    @staticmethod
    def _count(outcomes: list[Receipt | Reject], report: ImportReport) -> list[Reject]:
        """An item counts once: as quarantined when any of its signals was refused, else as recorded when any was new.

        Returns what was refused.
        """
        rejects = [o for o in outcomes if isinstance(o, Reject)]
        new = sum(1 for o in outcomes if isinstance(o, Receipt) and o.stored)
        report.signals += new
        if rejects:
            report.quarantined += 1
            report.quarantine_reasons[_reason(rejects[0].error)] += 1
        elif new:
            report.recorded += 1
        else:
            report.duplicates += 1
        return rejects

    def _quarantine(self, via: str, items: list[QuarantineItem]) -> None:
        head = orjson.dumps({"via": via}) + b"\n"
        self._log.vault.subjects(self._tenant, [_subject(i.id) for i in items], create=True)  # one durable write for all
        sealed = [replace(i, body=seal_blob(self._log.vault, self._tenant, _subject(i.id), head + i.body)) for i in items]
        self._log.store.quarantine.put(sealed)

    # ------------------------------------------------------------ again

    def waiting(self) -> list[Refused]:
        """What was refused and not settled, oldest first."""
        items = self._log.store.quarantine.items(self._tenant)
        return [Refused(i.id, from_us(i.received_at_us), i.source, i.reason) for i in items]

    def retry(self, ids: Sequence[str] | None, mapping: Mapping | None) -> dict[str, int]:
        """Try items again (None: all that wait; else those whose id begins so). What is refused again keeps waiting.

        A table's row needs `mapping`. InvalidInput for an id that nothing begins with.
        """
        waiting = list(self._log.store.quarantine.items(self._tenant))
        for prefix in ids or ():
            if not any(item.id.startswith(prefix) for item in waiting):
                raise InvalidInput(what="quarantine", field="id", reason="no waiting item begins so")
        counts = {"tried": 0, "recorded": 0, "still waiting": 0}
        for item in waiting:
            if ids is not None and not any(item.id.startswith(prefix) for prefix in ids):
                continue
            counts["tried"] += 1
            if self._again(item, mapping):
                self._log.store.quarantine.settle(self._tenant, item.id, "recorded")
                counts["recorded"] += 1
            else:
                counts["still waiting"] += 1
        return counts

    def _again(self, item: QuarantineItem, mapping: Mapping | None) -> bool:
        body = open_blob(self._log.vault, self._tenant, _subject(item.id), item.body)
        if body is None:
            return False
        head, _, raw = body.partition(b"\n")
        via = orjson.loads(head)["via"]
        try:
            entries = [Entry.from_bytes(raw)] if via == VIA_RECORD else self._reread(via, raw, mapping)
        except (InvalidInput, MappingInvalid, UnknownWireName, UpcastFailed):
            return False
        cause = Cause(actor=Actor("source", via), origin=Origin.IMPORT if via != VIA_RECORD else Origin.LIVE)
        return bool(entries) and not any(
            isinstance(o, Reject) for o in self._recorder.record_each(self._tenant, entries, cause, quarantine=False)
        )

    def _reread(self, kind: Kind, raw: bytes, mapping: Mapping | None) -> list[Entry]:
        """The one item of a body, read as the connector would read a file with nothing else in it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "item"
            path.touch(mode=0o600)
            path.write_bytes(raw)
            return [entry for item in open_items(kind, path, mapping, digest=self._digest) for entry in _entries(item)]


def _entries(item: Item) -> Iterator[Entry]:
    if item.customer is None:
        return
    for index, signal in item.indexed():
        yield Entry(item.customer, signal, index, item.source_item, item.raw)


def _subject(id: str) -> str:
    return f"quarantine-{id}"


def _reason(error: PostSaleError) -> str:
    return "the same id with other content" if isinstance(error, ContentConflict) else str(error)
