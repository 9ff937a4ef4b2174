"""Where an export is: a folder at a filesystem URL, files that appear whole or not at all, and the manifest that lists them.

    manifest.json                                        what is here, up to which position; written last
    log/billing__invoice_paid/v1/000000000001-000000004711.parquet
    features/Orders/v1/20260401T000000000000Z.parquet

A file is written beside its place as NAME.partial and moved: readers of `*.parquet` never see half a file. Local paths, `file://`, and
whatever else pyarrow opens by URL: `s3://`, `gs://`, `hdfs://`. Needs the extra `table`; imports events and errors only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

from postsale.errors import ExportRefused, ExportUnwritable, MissingExtra, PostSaleError, Unsupported
from postsale.events import canonical

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_CODE: Final = re.compile(r"AWS Error ([A-Z_]{1,40})")
_STATUS: Final = re.compile(r"HTTP status ([0-9]{3})")


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file of an export. A file of events holds those with first <= position <= last that are of its kind."""

    name: str  # below the URL
    first: int
    last: int
    rows: int
    size_bytes: int
    sha256: str


@dataclass(slots=True)
class ExportedTable:
    """A table of an export: its files are all there is of it up to `position`."""

    wire_name: str
    schema: str  # digest of the version's shape, hex
    columns: list[tuple[str, str]]  # name and type
    position: int = 0
    files: list[ExportedFile] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pending:
    """What a run set out to write: the events after `after`, up to `upto`, of these tables. A run that finds it finishes it first."""

    after: int
    upto: int
    tables: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class ExportManifest:
    """What is in an export. No personal data. `tree_size` and `tree_root` say what a checkpoint must sign that covers it."""

    tenant: str
    log_id: str
    key_id: str  # of the tenant's keys that made the pseudonyms
    format: int = FORMAT
    tree_size: int = 0
    tree_root: str = ""  # hex
    written_by: str = ""
    pending: Pending | None = None
    tables: dict[str, ExportedTable] = field(default_factory=dict)  # by name with version, such as billing__invoice_paid/v1
    features: dict[str, ExportedTable] = field(default_factory=dict)  # by name with version; `wire_name` is the name, `schema` the digest

    @property
    def position(self) -> int:
        """Up to here every current table is complete when a run has ended."""
        return max((table.position for table in self.tables.values()), default=0)

    def to_json(self) -> bytes:
        return canonical(asdict(self))

    @classmethod
    def from_json(cls, raw: bytes, url: str) -> ExportManifest:
        """What `to_json` wrote; ExportRefused for anything else."""
        try:
            d: dict[str, Any] = orjson.loads(raw)
            if d["format"] != FORMAT:
                raise ExportRefused(url=url, reason=f"its manifest has format {d['format']!r}; this version writes {FORMAT}")
            for group in ("tables", "features"):
                d[group] = {name: _table(table) for name, table in d[group].items()}
            if d["pending"] is not None:
                d["pending"] = Pending(**{**d["pending"], "tables": tuple(d["pending"]["tables"])})
            return cls(**d)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ExportRefused(url=url, reason="its manifest cannot be read") from None


def _table(d: dict[str, Any]) -> ExportedTable:
    files = [ExportedFile(**file) for file in d["files"]]
    return ExportedTable(d["wire_name"], d["schema"], [(name, type_) for name, type_ in d["columns"]], d["position"], files)


def parquet_library() -> Any:
    """pyarrow with its files. Raises MissingExtra."""
    try:
        import pyarrow
        import pyarrow.fs
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra(feature="an export to Parquet", extra="table") from None
    return pyarrow


class Place:
    """A folder at a filesystem URL. `url` is shown in messages. Raises Unsupported for a URL that no filesystem has, MissingExtra."""

    def __init__(self, url: str, shown: str | None = None) -> None:
        pa = parquet_library()
        self.url = shown or url
        try:
            if "://" in url:
                self._fs, self._base = pa.fs.FileSystem.from_uri(url)
            else:
                self._fs, self._base = pa.fs.LocalFileSystem(), os.path.abspath(url)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise Unsupported(what=f"an export to {self.url}", supported="a folder, file:///…, s3://…, gs://…, hdfs://…") from None
        self._local = isinstance(self._fs, pa.fs.LocalFileSystem)

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None when there is none."""
        with self._refusing():
            try:
                with self._fs.open_input_stream(self._path(name)) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

    def write(self, name: str, raw: bytes) -> None:
        """Put a small file in place of what was there, at once."""
        with self.writing(name) as sink:
            sink.write(raw)

    @contextmanager
    def writing(self, name: str) -> Iterator[Sink]:
        """A new file, seen under its name when the block ends without an error. Raises ExportUnwritable."""
        path, partial = self._path(name), self._path(name) + ".partial"
        with self._refusing():
            if self._local:  # elsewhere a name with slashes is all there is to a folder
                self._fs.create_dir(os.path.dirname(path), recursive=True)
            with self._fs.open_output_stream(partial) as stream:
                sink = Sink(stream)
                try:
                    yield sink
                except BaseException:
                    sink.given_up = True
                    raise
            if self._local:
                _synced(partial)
            self._fs.move(partial, path)
            if self._local:
                _synced(os.path.dirname(path))
            elif (there := self._fs.get_file_info(path).size) != sink.size:  # an object store may say yes and mean no
                raise ExportUnwritable(url=self.url, reason=f"{sink.size} bytes were written to {name}, and {there or 0} are there")

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except PostSaleError:  # some are an OSError, too
            raise
        except OSError as error:
            raise ExportUnwritable(url=self.url, reason=os.strerror(error.errno) if error.errno else _reason(error)) from None


class Sink:
    """What Parquet writes to: it counts and digests what passes."""

    closed = False

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.size = 0
        self.given_up = False
        """Set when the file failed: what is written from then on goes nowhere."""

    def write(self, raw: Any) -> int:
        if self.given_up:  # a writer that was left behind ends its file when it goes
            return len(raw)
        self._digest.update(raw)
        self._stream.write(raw)
        self.size += len(raw)
        return len(raw)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """The stream is closed by whoever opened it."""

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _reason(error: OSError) -> str:
    """An object store's own code and status, such as SLOW_DOWN (503); its text may hold names that are nobody's business here."""
    code, status = _CODE.search(str(error)), _STATUS.search(str(error))
    return " ".join([code[1] if code else type(error).__name__, f"({status[1]})" if status else ""]).strip()


def _synced(path: str) -> None:
    with suppress(PermissionError):  # a folder that may be written and not read
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
