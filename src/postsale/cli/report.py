"""`postsale report`: a period of a tenant as one HTML file, or as JSON. Prints; computes nothing. May import `app` and everything below it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from postsale.cli.common import DEFAULT_DB, AsOf, Db, Json, KnownAt, TenantName, emit, opened, out, parse_time, tenant_of
from postsale.errors import InvalidInput
from postsale.events import from_us
from postsale.report import page, summary

_DAYS = 365


def report(
    to: Annotated[Path, typer.Option("--out", help="The file to write; one that is there is replaced.")] = Path("report.html"),
    begin: Annotated[
        str | None, typer.Option("--from", help="The first day (UTC), or a time; by default 365 days before the end.", show_default=False)
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="The last day (UTC), or a time; by default --as-of, else now.", show_default=False)
    ] = None,
    names: Annotated[
        bool, typer.Option("--names", help="Name customers, where you may see it; else parts of references stand for them.")
    ] = False,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    json: Json = False,
) -> None:
    """A period for people to read: health, revenue, what agents decided, what people said; one HTML file that needs nothing else."""
    with opened(db) as ps:
        t, at = tenant_of(ps, tenant), parse_time(as_of)
        last = _after(end) or at or from_us(ps.clock.now_us())
        first = parse_time(f"{begin}T00:00:00Z" if begin is not None and len(begin) == 10 else begin) or last - timedelta(days=_DAYS)
        made = t.report(first, last, as_of=at, known_at=parse_time(known_at), names=names)
    if json:
        emit(made.to_dict())
        return
    write(to, page(made))
    out.print(escape(summary(made)))
    out.print(f"\n[dim]→[/] {escape(str(to))}", soft_wrap=True)


def write(to: Path, content: str) -> None:
    """Put a file in its place, whole or not at all. InvalidInput where that cannot be."""
    part = to.with_name(f".{to.name}.part")
    try:
        part.write_text(content, encoding="utf-8")
        part.replace(to)
    except OSError as error:
        part.unlink(missing_ok=True) if part.parent.is_dir() else None
        raise InvalidInput(what="option", field="--out", reason=f"cannot be written: {error.strerror}") from None


def _after(text: str | None) -> datetime | None:
    """The end of a period: after the day that is named, or the time itself."""
    at = parse_time(text)
    return at + timedelta(microseconds=1) if at is not None and text is not None and len(text) == 10 else at
