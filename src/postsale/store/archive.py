"""Archived chapters of a log: moving facts into segments, and reading them back in order of position.

A chapter is detached only after its segment was read again and found equal. What a store must offer for that is `Chapters`: a seam of
its own, so that a store as everybody opens it cannot detach anything. No SQL here; imports the contract, leaves and segments.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from postsale.errors import ChapterOpen, LogDamaged, SegmentUnreadable
from postsale.events import Clock, Lane, StoredEvent
from postsale.store.contract import Query
from postsale.store.leaves import StreamNames, kind_names, leaf_hash
from postsale.store.segments import Group, Listing, Segment, SegmentFile, describe, events, keep, partial_file, pyarrow, write

_PROGRESS_EVERY: Final = 2_048
_FOOTERS_HELD: Final = 32

Part = tuple[Segment, Sequence[int] | None]
"""A segment, and the numbers of the groups that can hold what is wanted, ascending; None for any."""


class Chapters(Protocol):
    """What a store offers to whoever archives. On a database with roles this is the migrator's."""

    @property
    def log_id(self) -> str: ...

    @property
    def chapter(self) -> int:
        """Positions per chapter."""
        ...

    def head(self) -> int:
        """Position of the newest event."""
        ...

    def segments(self) -> list[Segment]:
        """The archived chapters, ascending."""
        ...

    def facts(self, first: int, last: int) -> Generator[StoredEvent, None, None]:
        """The facts with first <= position <= last that are not archived, by position, in one snapshot."""
        ...

    def detach(self, segment: Segment, listing: Listing) -> bool:
        """Keep the segment's description and listing in one transaction, in that one or later ones take its facts out of the live table.

        Readers find each event once at any moment. Ids and decisions stay. False when a segment of the chapter is kept already;
        nothing is changed then. LogDamaged when the live facts are not as many as the segment's.
        """
        ...

    def finish(self, segment: Segment) -> None:
        """Take out what facts of a kept segment are still in the live table, after a process was killed in the middle of that."""
        ...


@runtime_checkable
class Archivable(Protocol):
    """A store whose chapters can be archived."""

    def chapters(self) -> Chapters: ...


def archive_chapter(
    chapters: Chapters, chapter: int, directory: str | os.PathLike[str], *, clock: Clock, on_progress: Callable[[int], None] | None = None
) -> Segment:
    """Move the facts of a complete chapter to a segment in `directory`: write it, verify it against the log, then detach.

    Killed at any moment it leaves a log that verifies and reads the same; called again it finishes. A chapter that is archived
    already is left as it is. `on_progress` is told of every further run of events; twice the chapter in all. Memory: one row group.

    Raises ChapterOpen, ArchiveBusy, ArchiveUnwritable, MissingExtra; LogDamaged for an event that does not match its leaf, which is
    never archived; SegmentUnreadable when what the disk gives back is not what was written.
    """
    pyarrow()
    for segment in chapters.segments():
        if segment.chapter == chapter:
            chapters.finish(segment)
            return segment
    first, last = chapter * chapters.chapter + 1, (chapter + 1) * chapters.chapter
    if chapter < 0 or (head := chapters.head()) < last:
        raise ChapterOpen(chapter=chapter, last_position=last, head=head if chapter >= 0 else 0)
    bounds = {"log_id": chapters.log_id, "chapter": chapter, "first": first, "last": last}
    advance = on_progress or (lambda _: None)
    target = Path(directory).absolute()
    with partial_file(target, chapter) as partial:
        with closing(chapters.facts(first, last)) as facts:
            write(partial, _counted(facts, advance), **bounds)  # type: ignore[arg-type]
        segment = replace(describe(partial, **bounds), archived_at_us=clock.now_us(), directory=str(target))  # type: ignore[arg-type]
        with closing(SegmentFile(partial, segment, chapters.log_id)) as file, closing(chapters.facts(first, last)) as facts:
            listing = _compared(file, segment, facts, advance)
        path = keep(partial, segment)
        if not chapters.detach(segment, listing):  # another process was quicker
            kept = next(other for other in chapters.segments() if other.chapter == chapter)
            if kept.name != segment.name:
                path.unlink()
            return kept
    return segment


def _counted(facts: Iterable[StoredEvent], advance: Callable[[int], None]) -> Iterator[StoredEvent]:
    done = 0
    for done, fact in enumerate(facts, 1):
        yield fact
        if not done % _PROGRESS_EVERY:
            advance(_PROGRESS_EVERY)
    advance(done % _PROGRESS_EVERY)


def _compared(file: SegmentFile, segment: Segment, live: Iterator[StoredEvent], advance: Callable[[int], None]) -> Listing:
    """The listing of a segment that holds exactly the live facts, each of which matches its leaf."""
    listing, leaf_of = Listing(), _Leaves()
    for number in range(len(segment.groups)):
        rows = list(events(file.table(number)))
        for row in rows:
            mine = next(live, None)
            if mine is not None and leaf_of(mine) != mine.leaf:
                raise LogDamaged(position=mine.position, reason="the stored bytes do not match their leaf; its chapter is not archived")
            if row != mine:
                raise SegmentUnreadable(chapter=segment.chapter, path=segment.name, reason=f"position {row.position} differs from the log")
        listing.add(number, rows)
        advance(len(rows))
    if next(live, None) is not None:
        raise SegmentUnreadable(chapter=segment.chapter, path=segment.name, reason="events of the chapter are missing in it")
    return listing


class _Leaves:
    """The leaves that stored events ought to have; names are encoded once."""

    def __init__(self) -> None:
        self._streams: dict[Any, StreamNames] = {}
        self._kinds: dict[Any, bytes] = {}

    def __call__(self, row: StoredEvent) -> bytes:
        names = self._streams.get(row.stream)
        if names is None:
            names = self._streams[row.stream] = StreamNames.of(row.stream)
        named = (row.wire_name, row.schema)
        kind = self._kinds.get(named)
        if kind is None:
            kind = self._kinds[named] = kind_names(row.wire_name.encode(), row.schema)
        times = (row.occurred_at_us, row.recorded_at_us)
        return leaf_hash(
            names, kind, row.leaf_index, row.lane, row.version, row.salt, row.position, row.event_id.bytes, *times, row.header,
            row.content_mac, row.data,
        )  # fmt: skip


# ---------------------------------------------------------------- reading


class Archive:
    """The segment files of one log. Thread-safe; opens files when they are read, holds none open.

    `directory`, if given, is where the files are now; else each is where its chapter was archived to.
    """

    def __init__(self, log_id: str, directory: str | os.PathLike[str] | None = None) -> None:
        self._log_id = log_id
        self._directory = None if directory is None else Path(directory).absolute()
        self._footers: dict[tuple[object, ...], Any] = {}  # of files as they were when they were found right
        self._lock = threading.Lock()

    def path(self, segment: Segment) -> Path:
        """Where its file is looked for."""
        return (self._directory or Path(segment.directory)) / segment.name

    def open(self, segment: Segment) -> SegmentFile:
        """The file of a segment; close it. SegmentUnreadable when it is not the one that was archived."""
        path = self.path(segment)
        key: tuple[object, ...] = ()
        with suppress(OSError):  # opening it says what is wrong
            found = path.stat()
            key = (path, segment.sha256, found.st_ino, found.st_size, found.st_mtime_ns)
        known = self._footers.get(key)
        file = SegmentFile(path, segment, self._log_id, known)
        if known is None:
            with self._lock:
                if len(self._footers) >= _FOOTERS_HELD:
                    self._footers.clear()
                self._footers[key] = file.metadata
        return file

    def read(self, parts: Sequence[Part], query: Query) -> Generator[StoredEvent, None, None]:
        """The archived facts of a query, by position; `query.limit` is not heeded. `parts` are in ascending order of chapter."""
        want = _Want(query)
        turned: Callable[[Sequence[Any]], Iterator[Any]] = reversed if query.backward else iter
        for segment, among in turned(parts):
            numbers = range(len(segment.groups)) if among is None else among
            wanted = [number for number in numbers if want.may_hold(segment.groups[number])]
            if not wanted:
                continue
            with closing(self.open(segment)) as file:
                for number in turned(wanted):
                    yield from turned(list(want.among(file.table(number))))

    def tables(self, parts: Sequence[Part], query: Query, columns: Sequence[str] | None = None) -> Generator[Any, None, None]:
        """The archived facts of a query without streams, as Arrow tables with the columns of a segment, or those named, by position."""
        want = _Want(query)
        for segment, among in parts:
            numbers = range(len(segment.groups)) if among is None else among
            wanted = [number for number in numbers if want.may_hold(segment.groups[number])]
            if wanted:
                with closing(self.open(segment)) as file:
                    for number in wanted:
                        yield want.filtered(file.table(number)).select(columns or file.names)

    def verified(self, segment: Segment) -> Path:
        """The file of a segment, for another program to read, after the digest of the whole was found right."""
        with closing(self.open(segment)) as file:
            file.check_whole()
        return self.path(segment)

    def at(self, segment: Segment, position: int) -> StoredEvent | None:
        """The fact at a position of this segment, if it is one."""
        query = Query(after=position - 1, upto=position)  # group bounds leave one group
        with closing(self.read([(segment, None)], query)) as found:
            return next(found, None)

    def leaves(self, parts: Sequence[Part], tenant: str, start: int, stop: int) -> list[tuple[int, bytes]]:
        """(leaf index, leaf) of the archived facts of a tenant with start <= leaf index < stop."""
        found: list[tuple[int, bytes]] = []
        for segment, among in parts:
            with closing(self.open(segment)) as file:
                for number in range(len(segment.groups)) if among is None else among:
                    rows = file.table(number).select(["tenant", "leaf_index", "leaf"]).to_pydict()
                    found += [
                        (index, leaf)
                        for name, index, leaf in zip(rows["tenant"], rows["leaf_index"], rows["leaf"], strict=True)
                        if name == tenant and start <= index < stop
                    ]
        return found


def merged(live: Iterator[StoredEvent], archived: Generator[StoredEvent, None, None], query: Query) -> Iterator[StoredEvent]:
    """Two readings of a log as one, in the query's order and within its limit. A fact that is just being detached may be in both."""
    with closing(archived):
        both = heapq.merge(live, archived, key=_position, reverse=query.backward)
        yield from islice((next(same) for _, same in groupby(both, key=_position)), query.limit)


_position = attrgetter("position")


class _Want:
    """A query against the facts of a segment."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._streams = frozenset(query.streams)

    def may_hold(self, group: Group) -> bool:
        query = self._query
        return (
            query.lane != Lane.DECISION
            and group.last > query.after
            and (query.upto is None or group.first <= query.upto)
            and (query.known_at_us is None or group.first_recorded_at_us <= query.known_at_us)
        )

    def among(self, table: Any) -> Iterator[StoredEvent]:
        for event in events(self.filtered(table)):
            if not self._streams or event.stream in self._streams:
                yield event

    def filtered(self, table: Any) -> Any:
        """The rows that are wanted, but for streams of other tenants with the same id."""
        pa, query = pyarrow(), self._query
        compute = pa.compute
        masks = [compute.greater(table["position"], query.after)]
        for column, bound in (("position", query.upto), ("recorded_at_us", query.known_at_us), ("occurred_at_us", query.as_of_us)):
            if bound is not None:
                masks.append(compute.less_equal(table[column], bound))
        for column, name in (("tenant", query.tenant), ("category", query.category)):
            if name is not None:
                masks.append(compute.equal(table[column], name))
        if self._streams:
            masks.append(compute.is_in(table["id"], pa.array(sorted({stream.id for stream in self._streams}), pa.string())))
        if query.kinds:
            kinds = [name for name in compute.unique(table["wire_name"]).to_pylist() if name.partition("@")[0] in query.kinds]
            masks.append(compute.is_in(table["wire_name"], pa.array(kinds, pa.string())))
        mask = masks[0]
        for other in masks[1:]:
            mask = compute.and_(mask, other)
        return table.filter(mask)
