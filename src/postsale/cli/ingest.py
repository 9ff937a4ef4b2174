"""`postsale ingest` and `postsale quarantine`: files in, and what was refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from postsale.app.importing import ImportReport
from postsale.cli.common import (
    DEFAULT_DB,
    EXIT_CODES,
    Commands,
    Db,
    Json,
    TenantName,
    counts,
    emit,
    hint,
    opened,
    out,
    progress,
    table,
    tenant_of,
)
from postsale.ingest import Mapping
from postsale.ingest.sources import Kind, count_hint

ingest_app = Commands(
    no_args_is_help=True,
    help="Read recorded events and tables into the log, as imports: they raise no trigger. Safe to repeat.",
    epilog=EXIT_CODES,
)
quarantine_app = Commands(no_args_is_help=True, help="Input that was refused, and what can still be done with it.", epilog=EXIT_CODES)

File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The file to read.")]


@ingest_app.command("stripe")
def ingest_stripe(file: File, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Stripe event envelopes: one JSON object, an array, or one per line. Bodies are taken as verified."""
    _ingest("stripe", file, None, db, tenant, json)


@ingest_app.command("cloudevents")
def ingest_cloudevents(file: File, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """CloudEvents 1.0 in JSON: one, a batch, or one per line. `type` is a wire name, `subject` the customer's id."""
    _ingest("cloudevents", file, None, db, tenant, json)


@ingest_app.command("table")
def ingest_table(
    file: File,
    mapping: Annotated[Path, typer.Option("--mapping", exists=True, dir_okay=False, help="TOML file that says what the columns mean.")],
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """A CSV, whitespace-separated or Parquet table, by a mapping file (see examples/*.toml)."""
    _ingest("table", file, mapping, db, tenant, json)


def _ingest(kind: Kind, file: Path, mapping: Path | None, db: str, tenant: str | None, json: bool) -> None:
    with opened(db, create=True) as ps:
        known = ps.tenants()
        name = tenant or (known[0] if len(known) == 1 else "main")
        total = count_hint(kind, file, Mapping.load(mapping) if mapping else None)
        with progress(f"reading {file.name}", total, quiet=json) as advance:
            report = ps.tenant(name).ingest(kind, file, mapping, on_progress=advance)
        if json:
            emit(report.to_dict())
        else:
            _show(report, file.name, name)
        raise typer.Exit(1 if report.items and report.quarantined == report.items else 0)


def _show(report: ImportReport, file: str, tenant: str) -> None:
    counts(
        f"{escape(file)} → {tenant}",
        {
            "items": report.items,
            "recorded": report.recorded,
            "duplicates": report.duplicates,
            "quarantined": report.quarantined,
            "ignored": report.ignored,
        },
    )
    out.print(f"[dim]{report.signals:,} signals recorded in {report.seconds:.1f} s[/]")
    table(
        "Ignored", ("reason", "items"), [(escape(r), f"{n:,}") for r, n in report.ignored_reasons.most_common(8)], right=("items",)
    ) if report.ignored else None
    if report.flags:
        table("Flagged", ("check", "items"), [(escape(r), f"{n:,}") for r, n in report.flags.most_common(8)], right=("items",))
    if report.quarantined:
        table(
            "Quarantined",
            ("reason", "items"),
            [(escape(r), f"{n:,}") for r, n in report.quarantine_reasons.most_common(8)],
            right=("items",),
        )
        hint("postsale quarantine list")
    newest = report.newest
    hint("postsale customer list --at-risk", as_of=f"{newest:%Y-%m-%d}" if newest else None)


@quarantine_app.command("list")
def quarantine_list(db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """What waits, with the reason it was refused; bodies stay sealed."""
    with opened(db) as ps:
        items = tenant_of(ps, tenant).quarantine()
        if json:
            emit([item.to_dict() for item in items])
            return
        table(
            "Quarantine",
            ("id", "received", "source", "reason"),
            [(i.id[:12], f"{i.received_at:%Y-%m-%d %H:%M}", escape(i.source), escape(i.reason)) for i in items],
        )
        if items:
            hint("postsale quarantine retry --all")


@quarantine_app.command("retry")
def quarantine_retry(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids, or their first characters.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Try every item that waits.")] = False,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", exists=True, dir_okay=False, help="A corrected mapping for table rows.")
    ] = None,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Try again, after a fix; what is still refused keeps waiting."""
    with opened(db) as ps:
        result = tenant_of(ps, tenant).retry_quarantine(None if everything else ids or [], mapping=mapping)
        if json:
            emit(result)
        else:
            counts("Quarantine", result)
