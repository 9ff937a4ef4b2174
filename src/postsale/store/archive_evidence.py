"""Archived chapters laid open for verification, beside the live rows of any store. Decides nothing about events."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

from postsale.errors import PostSaleError, SegmentUnreadable
from postsale.events import StreamId
from postsale.store.archive import Archive
from postsale.store.contract import Row, Unreadable
from postsale.store.segments import Listing, Segment, SegmentFile, events


class ArchivedEvidence:
    """The rows of segments with the references that the live table would have, and `doubts` about files and what a log keeps of them.

    `stream` and `kind` give the store's references for names, None for names that it does not know; `listed` says whether its
    listing of a segment is this one.
    """

    def __init__(
        self,
        archive: Archive,
        *,
        stream: Callable[[StreamId], tuple[Any, Any]],
        kind: Callable[[str, bytes], Any],
        listed: Callable[[Segment, Listing], bool],
    ) -> None:
        self.doubts: list[str] = []
        self._archive = archive
        self._stream = stream
        self._kind = kind
        self._listed = listed

    def beside(self, live: Iterator[Row | Unreadable], segments: Iterable[Segment]) -> Iterator[Row | Unreadable]:
        """Live rows and those of segments, by position. A fact that is just being detached is in both, and given once."""
        before: object = None
        for found in heapq.merge(live, self._rows(segments), key=lambda found: found[0] if isinstance(found, tuple) else found.first):
            if found != before or isinstance(found, Unreadable):
                yield found
            before = found

    def _rows(self, segments: Iterable[Segment]) -> Iterator[Row | Unreadable]:
        for segment in segments:
            try:
                file = self._archive.open(segment)
            except PostSaleError as error:
                self.doubts.append(str(error))
                yield Unreadable(segment.first, segment.last, f"archived in {segment.name}, which cannot be read")
                continue
            with closing(file):
                yield from self._rows_of(segment, file)

    def _rows_of(self, segment: Segment, file: SegmentFile) -> Iterator[Row | Unreadable]:
        listing, count = Listing(), 0
        for number, group in enumerate(segment.groups):
            try:
                found = list(events(file.table(number)))
            except SegmentUnreadable as error:
                self.doubts.append(str(error))
                try:
                    found = file.doubtful_rows(number)
                except SegmentUnreadable:
                    yield Unreadable(group.first, group.last, f"archived in {segment.name}, row group {number}, which cannot be read")
                    continue
            listing.add(number, found)
            count += len(found)
            for event in found:
                stream, tenant = self._stream(event.stream)
                ids = (tenant, stream, int(event.lane), event.version, event.event_id.bytes, self._kind(event.wire_name, event.schema))
                yield (event.position, *ids, *event[7:])
        self.doubts += self._doubts_about(segment, file, listing, count)

    def _doubts_about(self, segment: Segment, file: SegmentFile, listing: Listing, count: int) -> Iterator[str]:
        """Whether the log's description and listing are those of the file."""
        if count != segment.rows:
            yield f"{segment.name} has {count:,} facts, not the {segment.rows:,} that the log says"
        if not self._listed(segment, listing):
            yield f"the listing kept in the log does not say where in {segment.name} its facts are"
        try:
            if file.sha256() != segment.sha256:
                yield f"the SHA-256 of {segment.name} is not the one kept in the log"
        except SegmentUnreadable as error:
            yield str(error)
