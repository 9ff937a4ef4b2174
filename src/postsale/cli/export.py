"""`postsale export …`: Parquet of the log and of features, and the dbt package that reads it. Prints; decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from postsale.cli.common import (
    DEFAULT_DB,
    EXIT_CODES,
    AsOf,
    Commands,
    Db,
    Json,
    TenantName,
    counts,
    emit,
    hint,
    imported,
    opened,
    out,
    parse_time,
    steps,
    tenant_of,
)
from postsale.errors import InvalidInput
from postsale.projections import Features
from postsale.projections.dbt_package import check_package, write_package
from postsale.projections.export import ExportReport

export_app = Commands(no_args_is_help=True, help="For the data stack: Parquet files and a dbt package.", epilog=EXIT_CODES)

To = Annotated[str, typer.Option("--to", metavar="URL", help="A folder, or file://…, s3://…, gs://…, hdfs://….")]
Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait while another run writes there.")]


@export_app.command("log")
def export_log(to: To, db: Db = DEFAULT_DB, tenant: TenantName = None, wait: Wait = 0.0, json: Json = False) -> None:
    """Write a tenant's events as Parquet, one table per kind. A second run writes only what is new; a run that was killed is finished.

    Personal fields are masks, customers and people pseudonyms. manifest.json says what is there.
    """
    with opened(db) as ps:
        chosen = tenant_of(ps, tenant)
        with steps(quiet=json) as step:
            report = chosen.export.log(to, on_progress=lambda done, whole: step("exporting", done, whole), wait_s=wait)
    _show(report, json=json)
    if not json:
        hint("postsale export dbt --to DIR")


@export_app.command("features")
def export_features(
    features: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="Your declaration, such as mypackage.features:Orders.")],
    to: To,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    as_of: AsOf = None,
    wait: Wait = 0.0,
    json: Json = False,
) -> None:
    """Write every customer's features at a time, now by default, as they were known then. A snapshot that is there is not made again."""
    module, _, name = features.partition(":")
    found = getattr(imported(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Features)) or found is Features:
        raise InvalidInput(what="argument", field="MODULE:NAME", reason="expected the module and name of a class of Features")
    with opened(db) as ps:
        report = tenant_of(ps, tenant).export.features(found, to, as_of=parse_time(as_of), wait_s=wait)
    _show(report, json=json)


@export_app.command("dbt")
def export_dbt(
    folder: Annotated[Path, typer.Option("--to", file_okay=False, metavar="DIR", help="The folder of the package.")],
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit status 1 when a file is not as it would be written.")] = False,
    json: Json = False,
) -> None:
    """Write a dbt package over an export: sources, staging models and tests, generated from the kinds of event (your own: POSTSALE_IMPORT).

    Only files that this command wrote are replaced or removed; keep it under version control, and your own models beside it.
    """
    changed = check_package(folder) if check else write_package(folder)
    if json:
        emit([str(path) for path in changed])
    else:
        counts("dbt package", {"stale" if check else "written": len(changed)})
        for path in changed:
            out.print(f"  {escape(str(path))}")
    if check and changed:
        raise typer.Exit(1)


def _show(report: ExportReport, *, json: bool) -> None:
    if json:
        emit(report.to_dict())
        return
    counts("Exported", {"rows": report.rows, "files": len(report.files)})
    out.print(f"{escape(report.url)} is complete up to position {report.position:,}", soft_wrap=True)
