"""`postsale log chapters` and `postsale log archive`: what is still in the log, and moving old chapters out of it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from postsale.app.files import beside
from postsale.cli.common import DEFAULT_DB, Db, Json, emit, existing_file, hint, opened_store, out, parse_time, progress, table
from postsale.errors import InvalidInput
from postsale.events import SystemClock, iso, to_us
from postsale.store import Query, Segment, Store, archive_chapter, chapters_of


def log_chapters(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """The chapters of the log: which are complete, which are archived, and where."""
    with opened_store(db) as store:
        rows = _chapters(store, chapters_of(store).segments())
    if json:
        emit(rows)
        return
    table(
        "Chapters",
        ("chapter", "positions", "recorded until", "where", "facts", "MB"),
        [
            (
                row["chapter"],
                f"{row['first']:,} – {row['last']:,}",
                (row["recorded_until"] or "")[:16].replace("T", " "),
                escape(row["file"] or ("in the log" if row["complete"] else "in the log, still growing")),
                "" if row["facts"] is None else f"{row['facts']:,}",
                "" if row["bytes"] is None else f"{row['bytes'] / 1e6:,.1f}",
            )
            for row in rows
        ],
        right=("chapter", "facts", "MB"),
    )
    if any(row["complete"] and row["file"] is None for row in rows):
        hint("postsale log archive")


def log_archive(
    db: Db = DEFAULT_DB,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where the segments go. [default: where the last ones went, else NAME.archive]")
    ] = None,
    upto: Annotated[
        str | None,
        typer.Option("--upto", help="Only chapters recorded to their end by then: a date (its end, UTC) or an RFC 3339 time."),
    ] = None,
    json: Json = False,
) -> None:
    """Move the facts of complete chapters to Parquet segments, which are read through the same commands. Each is verified before it leaves the log."""
    at = parse_time(upto)
    with opened_store(db) as store:
        chapters = chapters_of(store)
        before = chapters.segments()
        where = directory or (Path(before[-1].directory) if before else _beside(db))
        old = {segment.chapter for segment in before}
        wanted = [
            row["chapter"]
            for row in _chapters(store, before)
            if row["complete"] and row["chapter"] not in old and (at is None or row["recorded_until_us"] <= to_us(at))
        ]
        for segment in before:
            chapters.finish(segment)  # what a process that was killed left to do
        done: list[Segment] = []
        for chapter in wanted:
            with progress(f"archiving chapter {chapter}", 2 * chapters.chapter, quiet=json) as advance:
                done.append(archive_chapter(chapters, chapter, where, clock=SystemClock(), on_progress=advance))
    if json:
        emit([_told(segment) for segment in done])
        return
    table(
        "Archived",
        ("chapter", "facts", "MB", "file"),
        [(segment.chapter, f"{segment.rows:,}", f"{segment.size_bytes / 1e6:,.1f}", escape(segment.name)) for segment in done],
        right=("chapter", "facts", "MB"),
    )
    if done:
        out.print(f"Back up {escape(str(where))} with the log from now on: reads of these chapters need it.", soft_wrap=True)
        hint("postsale log verify")
    else:
        hint("postsale log chapters")


def _beside(db: str) -> Path:
    if not db.startswith("sqlite:///"):
        raise InvalidInput(what="option", field="--dir", reason="name the directory that the first chapters go to")
    return beside(existing_file(db), ".archive")


def _told(segment: Segment) -> dict[str, Any]:
    return {
        "chapter": segment.chapter,
        "facts": segment.rows,
        "bytes": segment.size_bytes,
        "sha256": segment.sha256.hex(),
        "file": str(Path(segment.directory) / segment.name),
    }


def _chapters(store: Store, segments: list[Segment]) -> list[dict[str, Any]]:
    """Every chapter that has events, ascending."""
    head, size = store.head(), store.chapter
    archived = {segment.chapter: segment for segment in segments}
    rows: list[dict[str, Any]] = []
    for chapter in range((head + size - 1) // size):
        segment, last = archived.get(chapter), min((chapter + 1) * size, head)
        until = segment.groups[-1].last_recorded_at_us if segment and segment.groups else None
        if until is None:
            with closing(store.read(Query(after=last - 1, limit=1))) as found:
                until = next(found).recorded_at_us
        rows.append(
            {
                "chapter": chapter,
                "first": chapter * size + 1,
                "last": last,
                "complete": last == (chapter + 1) * size,
                "recorded_until": iso(until),
                "recorded_until_us": until,
                "file": segment and str(Path(segment.directory) / segment.name),
                "facts": segment and segment.rows,
                "bytes": segment and segment.size_bytes,
            }
        )
    return rows
