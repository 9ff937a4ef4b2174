"""Archive segments: the facts of one chapter in one Parquet file, byte for byte. The format, writing it, and reading it with doubt.

A segment is described by a `Segment`, which the log keeps: a SHA-256 of each row group and of what follows the last, so that a read
checks exactly what it reads. Nothing of a file is decoded before its digest is right. Needs the extra `archive`. No database here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn
from uuid import UUID

from postsale.errors import ArchiveBusy, ArchiveUnwritable, MissingExtra, SegmentUnreadable
from postsale.events import Lane, StoredEvent, StreamId

FORMAT: Final = 1
GROUP_ROWS: Final = 2_048  # rows per group: what a read of one event decodes
_METADATA: Final = b"postsale.segment"
_GROUP: Final = struct.Struct(">QQqqQ32s")
_NUMBER: Final = struct.Struct(">I")
_LEAVES: Final = struct.Struct(">IQ")
_CHUNK: Final = 1 << 20
_TEXTS: Final = ("tenant", "category", "id", "wire_name", "schema", "lane")
_RISING: Final = ("position", "version", "recorded_at_us", "leaf_index")
_RANDOM: Final = ("event_id", "content_mac", "salt", "leaf")


class Group(NamedTuple):
    """One row group: the bounds of its rows, where it ends in the file (it begins where the one before ends), and its digest."""

    first: int  # position
    last: int
    first_recorded_at_us: int
    last_recorded_at_us: int
    end: int  # offset in the file
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What a log keeps about the file of an archived chapter. `first` and `last` are the chapter's positions, decisions included."""

    chapter: int
    name: str  # of the file; it ends with the beginning of the digest, so that two files never share a name
    first: int
    last: int
    rows: int
    size_bytes: int
    sha256: bytes  # of the whole file
    tail_sha256: bytes  # of what follows the last group
    groups: tuple[Group, ...]
    archived_at_us: int = 0
    directory: str = ""  # that it was archived to, absolute

    def groups_to_bytes(self) -> bytes:
        """The groups as a log keeps them."""
        return b"".join(_GROUP.pack(*group) for group in self.groups)


def groups_from_bytes(raw: bytes) -> tuple[Group, ...]:
    """Inverse of `Segment.groups_to_bytes`; struct.error for anything else."""
    return tuple(Group(*values) for values in _GROUP.iter_unpack(raw))


@dataclass(slots=True)
class Listing:
    """Where in a segment the facts of a stream and the leaves of a tenant are: what a log keeps so that a read opens few groups."""

    streams: dict[StreamId, list[int]] = field(default_factory=dict)  # numbers of groups, ascending
    tenants: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # number of a group, its first leaf index of the tenant

    def add(self, group: int, rows: Iterable[StoredEvent]) -> None:
        """Take in the rows of the next group."""
        for row in rows:
            groups = self.streams.setdefault(row.stream, [])
            if not groups or groups[-1] != group:
                groups.append(group)
            leaves = self.tenants.setdefault(row.tenant, [])
            if not leaves or leaves[-1][0] != group:
                leaves.append((group, row.leaf_index))


def pack_groups(groups: Iterable[int]) -> bytes:
    """Numbers of groups as a log keeps them for a stream."""
    return b"".join(map(_NUMBER.pack, groups))


def unpack_groups(raw: bytes) -> list[int]:
    """Inverse of `pack_groups`; struct.error for anything else."""
    return [number for (number,) in _NUMBER.iter_unpack(raw)]


def pack_leaves(leaves: Iterable[tuple[int, int]]) -> bytes:
    """Groups and their first leaf indexes as a log keeps them for a tenant."""
    return b"".join(_LEAVES.pack(*leaf) for leaf in leaves)


def unpack_leaves(raw: bytes, start: int = 0, stop: int = 2**63) -> list[int]:
    """The groups that can hold leaves with start <= index < stop. Indexes rise, so a group ends before the next one begins."""
    leaves = list(_LEAVES.iter_unpack(raw))
    return [number for at, (number, first) in enumerate(leaves) if first < stop and (at + 1 == len(leaves) or leaves[at + 1][1] > start)]


def pyarrow() -> Any:
    """The library, with its Parquet part. Raises MissingExtra."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra(feature="an archive of chapters", extra="archive") from None
    return pyarrow


# ---------------------------------------------------------------- writing


@contextmanager
def partial_file(directory: Path, chapter: int) -> Iterator[Path]:
    """The path of a file that only this process writes, gone at the end. A file that a killed process left is written over.

    Raises ArchiveBusy while another process has it, ArchiveUnwritable.
    """
    path = directory / f"chapter-{chapter:08d}.partial"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise ArchiveUnwritable(directory=str(directory), reason=error.strerror or type(error).__name__) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel gives it up with the process, however that ends
        except OSError:
            raise ArchiveBusy(chapter=chapter, directory=str(directory)) from None
        if not path.exists() or os.fstat(file).st_ino != path.stat().st_ino:
            raise ArchiveBusy(chapter=chapter, directory=str(directory))  # its last owner has just finished with it
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ArchiveUnwritable(directory=str(directory), reason=error.strerror or type(error).__name__) from error
    finally:
        os.close(file)


def write(path: Path, facts: Iterable[StoredEvent], *, log_id: str, chapter: int, first: int, last: int) -> None:
    """Write facts, given in order of position, to the file at `path`, and wait until the disk has it. Memory: one group.

    Raises MissingExtra, OSError.
    """
    pa = pyarrow()
    schema = _schema(pa)
    rows, tenants = 0, dict[str, tuple[int, int]]()
    source = iter(facts)
    with pa.OSFile(str(path), "wb") as sink:
        with pa.parquet.ParquetWriter(
            sink,
            schema,
            version="2.6",
            compression={name: "none" if name in _RANDOM else "zstd" for name in schema.names},
            use_dictionary=list(_TEXTS),
            column_encoding=dict.fromkeys(_RISING, "DELTA_BINARY_PACKED"),
            write_statistics=["position", "recorded_at_us", "occurred_at_us"],
            store_schema=False,
        ) as writer:
            while group := list(islice(source, GROUP_ROWS)):
                columns = zip(*map(_columns, group), strict=True)
                arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
                writer.write_table(pa.table(arrays, schema=schema), row_group_size=GROUP_ROWS)
                rows += len(group)
                for row in group:
                    low, _ = tenants.get(row.tenant, (row.leaf_index, 0))
                    tenants[row.tenant] = (low, row.leaf_index)
            about = {"format": FORMAT, "log_id": log_id, "chapter": chapter, "first": first, "last": last, "rows": rows, "leaves": tenants}
            writer.add_key_value_metadata({_METADATA.decode(): json.dumps(about)})
        sink.flush()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _schema(pa: Any) -> Any:
    of = {"text": pa.string(), "int": pa.int64(), "bytes": pa.binary(), "16": pa.binary(16), "32": pa.binary(32), "lane": pa.int8()}
    columns = (
        ("position", "int"),
        ("tenant", "text"),
        ("category", "text"),
        ("id", "text"),
        ("lane", "lane"),
        ("version", "int"),
        ("event_id", "16"),
        ("wire_name", "text"),
        ("schema", "16"),
        ("occurred_at_us", "int"),
        ("recorded_at_us", "int"),
        ("content_mac", "16"),
        ("header", "bytes"),
        ("data", "bytes"),
        ("salt", "16"),
        ("leaf_index", "int"),
        ("leaf", "32"),
    )
    return pa.schema([pa.field(name, of[kind], nullable=False) for name, kind in columns])


def _columns(row: StoredEvent) -> tuple[Any, ...]:
    return (row.position, *row.stream, int(row.lane), row.version, row.event_id.bytes, *row[5:])


def describe(path: Path, *, log_id: str, chapter: int, first: int, last: int) -> Segment:
    """The description of a file that was just written, from what the disk has. Raises SegmentUnreadable when it is not that."""
    pa = pyarrow()
    with _doubting(chapter, path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        metadata = pa.parquet.read_metadata(path)
        _check_about(metadata, path, log_id=log_id, chapter=chapter, first=first, last=last, rows=metadata.num_rows)
        whole, groups = hashlib.sha256(), []
        for low, high, first_at, last_at, end in _bounds(metadata):
            raw = file.read(end - file.tell())
            whole.update(raw)
            groups.append(Group(low, high, first_at, last_at, end, hashlib.sha256(raw).digest()))
        tail = file.read(size - file.tell())
        whole.update(tail)
    return Segment(
        chapter=chapter,
        name=f"chapter-{chapter:08d}-{whole.hexdigest()[:16]}.parquet",
        first=first,
        last=last,
        rows=metadata.num_rows,
        size_bytes=size,
        sha256=whole.digest(),
        tail_sha256=hashlib.sha256(tail).digest(),
        groups=tuple(groups),
    )


def _bounds(metadata: Any) -> Iterator[tuple[int, int, int, int, int]]:
    names = [metadata.schema.column(at).name for at in range(metadata.num_columns)]
    position, recorded_at = names.index("position"), names.index("recorded_at_us")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(at) for at in range(metadata.num_columns)]
        end = max((column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size for column in columns)
        positions, times = columns[position].statistics, columns[recorded_at].statistics
        yield positions.min, positions.max, times.min, times.max, end


def _check_about(metadata: Any, path: Path, **expected: object) -> None:
    about = json.loads((metadata.metadata or {})[_METADATA])
    for name, value in {"format": FORMAT, **expected}.items():
        if about.get(name) != value:
            raise SegmentUnreadable(
                chapter=int(str(expected["chapter"])), path=str(path), reason=f"it says {name} {about.get(name)!r}, not {value!r}"
            )


def keep(partial: Path, segment: Segment) -> Path:
    """Give a finished file its name, and wait until the disk has that too."""
    path = partial.with_name(segment.name)
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path


# ---------------------------------------------------------------- reading


class SegmentFile:
    """The file of an archived chapter, open. Every method raises SegmentUnreadable where the file is not the one that was archived."""

    def __init__(self, path: Path, segment: Segment, log_id: str, known: Any = None) -> None:
        """`known` is the `metadata` of an earlier opening of the very same file: the footer is then not read again."""
        self._path = path
        self._segment = segment
        pa = pyarrow()
        with _doubting(segment.chapter, path):
            self._file = pa.OSFile(str(path), "rb")
            try:
                if (size := self._file.size()) != segment.size_bytes:
                    self._refuse(f"it has {size:,} bytes, not {segment.size_bytes:,}")
                if known is None:
                    self._check(self._start(len(segment.groups)), segment.size_bytes, segment.tail_sha256, "its footer")
                self._parquet = pa.parquet.ParquetFile(self._file, metadata=known)
                if known is None:
                    bounds = {"first": segment.first, "last": segment.last, "rows": segment.rows}
                    _check_about(self.metadata, path, log_id=log_id, chapter=segment.chapter, **bounds)
            except BaseException:
                self._file.close()
                raise

    @property
    def metadata(self) -> Any:
        return self._parquet.metadata

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return list(self._parquet.schema_arrow.names)

    def table(self, number: int) -> Any:
        """The rows of a group as an Arrow table, after its digest was found right."""
        with _doubting(self._segment.chapter, self._path):
            group = self._segment.groups[number]
            self._check(self._start(number), group.end, group.sha256, f"row group {number}")
            return self._parquet.read_row_group(number)

    def doubtful_rows(self, number: int) -> list[StoredEvent]:
        """The events of a group whose digest is wrong, for naming what is: whatever can still be decoded."""
        with _doubting(self._segment.chapter, self._path):
            return list(events(self._parquet.read_row_group(number)))

    def sha256(self) -> bytes:
        """Of the whole file."""
        digest = hashlib.sha256()
        with _doubting(self._segment.chapter, self._path):
            for at in range(0, self._segment.size_bytes, _CHUNK):
                digest.update(self._file.read_at(min(_CHUNK, self._segment.size_bytes - at), at))
        return digest.digest()

    def check_whole(self) -> None:
        """That the digest of the whole file is right."""
        if self.sha256() != self._segment.sha256:
            self._refuse("it is not what was archived (SHA-256)")

    def _start(self, number: int) -> int:
        return self._segment.groups[number - 1].end if number else 0

    def _check(self, start: int, end: int, sha256: bytes, what: str) -> None:
        if hashlib.sha256(self._file.read_at(end - start, start)).digest() != sha256:
            self._refuse(f"{what} is not what was archived (SHA-256)")

    def _refuse(self, reason: str) -> NoReturn:
        raise SegmentUnreadable(chapter=self._segment.chapter, path=str(self._path), reason=reason)

    def close(self) -> None:
        self._file.close()


def events(table: Any) -> Iterator[StoredEvent]:
    """The events of an Arrow table with the columns of a segment."""
    columns = [column.to_pylist() for column in table.columns]
    streams: dict[tuple[str, str, str], StreamId] = {}
    for position, tenant, category, id_, lane, version, event_id, *rest in zip(*columns, strict=True):
        names = (tenant, category, id_)
        stream = streams.get(names)
        if stream is None:
            stream = streams[names] = StreamId(*names)
        yield StoredEvent(position, stream, Lane(lane), version, UUID(bytes=event_id), *rest)


@contextmanager
def _doubting(chapter: int, path: Path) -> Iterator[None]:
    """Whatever a damaged file leads to, as SegmentUnreadable without a word of what is stored."""
    try:
        yield
    except SegmentUnreadable:
        raise
    except FileNotFoundError:
        reason = "it is missing"
    except Exception as error:  # Arrow raises many kinds for bytes that are no Parquet
        strerror = error.strerror if isinstance(error, OSError) and error.errno else None
        reason = strerror or f"it cannot be read ({type(error).__name__})"
    else:
        return
    raise SegmentUnreadable(chapter=chapter, path=str(path), reason=reason)
