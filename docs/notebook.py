"""Writes examples/health_and_training.ipynb, executed: `python -m docs.notebook`, or `--check` to fail when it would come out another way.

The vendor of the simulator plays, so that there is something to look at; the same seed gives the same texts and tables. Pictures
are not compared: their bytes are matplotlib's. Needs the dependency group `dev`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "health_and_training.ipynb"

CELLS: tuple[tuple[str, str], ...] = (
    (
        "markdown",
        """\
# Health, features and training rows

A vendor's half year, played by the simulator, in a log in memory: who is healthy and why, features declared once, and rows that a model can be
trained on without looking into the future. With your own log, open it with `PostSale.open("sqlite:///postsale.db")` instead.

`pip install 'postsale[batch]' pandas matplotlib`""",
    ),
    (
        "code",
        """\
from datetime import UTC, datetime, timedelta

import matplotlib.pyplot as plt
import pandas as pd

from postsale import PostSale
from postsale.events import ManualClock
from postsale.simulator import Delivery, Vendor

start = datetime(2026, 1, 5, tzinfo=UTC)
clock = ManualClock(start)
ps = PostSale.open("memory:", clock=clock)
acme = ps.tenant("acme")

for arrival in Vendor(11, customers=40, start=start, days=180).arrivals():
    clock.move_to(arrival.at)  # a signal is recorded when it arrives, which may be long after it occurred
    if isinstance(arrival, Delivery):
        acme.record(arrival.customer, arrival.signal)
clock.move_to(start + timedelta(days=180))
ps.log.store.head()""",
    ),
    (
        "markdown",
        """\
## Who is healthy

`customers()` is one pass over the log. Scores are 0 to 100; the shipped weights are not calibrated on anybody's outcomes.""",
    ),
    (
        "code",
        """\
customers = pd.DataFrame([{"customer": row.name, "score": row.score, "band": row.band} for row in acme.customers()])
customers.head(8)""",
    ),
    (
        "markdown",
        """\
The same question about the past: `as_of` is what had happened by then, `known_at` what the log had heard of.""",
    ),
    (
        "code",
        """\
weeks = [start + timedelta(weeks=n) for n in range(2, 26, 2)]
bands = pd.DataFrame([pd.Series([row.band for row in acme.customers(as_of=at, known_at=at)]).value_counts() for at in weeks], index=weeks)
bands = bands.reindex(columns=["good", "fair", "poor"]).fillna(0).astype(int)

axes = bands.plot.area(color=["#4c956c", "#f4d35e", "#d1495b"], linewidth=0, figsize=(8, 3.2))
axes.set(title="Customers by health, as it was known", ylabel="customers", xlabel="")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
plt.show()
bands.tail(3)""",
    ),
    (
        "markdown",
        """\
## Why

Every score explains itself. *points* are what each component gives; they sum to the score.""",
    ),
    (
        "code",
        """\
worst = customers.dropna().iloc[0].customer
health = acme.health(worst)
pd.DataFrame([{"component": c.name, "weight": c.weight, "points": round(c.contribution_micro / 1e6, 2)} for c in health.components])""",
    ),
    (
        "markdown",
        """\
## Features, declared once

The same declaration is folded live, computed over all history by DuckDB, and gives training rows.""",
    ),
    (
        "code",
        """\
from postsale.aggregates.signals import InvoicePaid, InvoicePaymentFailed, TicketOpened, UsageObserved
from postsale.projections import Features, count, days, derived, last_seen, total


class Behaviour(Features, version=1, owner="data-team"):
    \"\"\"How a customer uses and pays.\"\"\"

    used_14d = total(UsageObserved, lambda e: e.count, window=days(14))
    used_28d = total(UsageObserved, lambda e: e.count, window=days(28))
    failed_90d = count(InvoicePaymentFailed, window=days(90))
    tickets_30d = count(TicketOpened, window=days(30))
    last_used = last_seen(UsageObserved)

    @derived(unit="ratio")
    def pace(used_14d: int, used_28d: int) -> float | None:
        return 2 * used_14d / used_28d if used_28d else None


class Failures(Features, version=1, owner="data-team"):
    \"\"\"What we would like to know before.\"\"\"

    failed = count(InvoicePaymentFailed)
    paid = count(InvoicePaid)""",
    ),
    (
        "markdown",
        """\
## Training rows

One row per customer and month. A row's features use what had occurred *and* was known by `as_of`; its labels what occurred in the 30 days
after. Rows whose 30 days are not over are censored. The table is Arrow; `to_pandas()` makes a frame of it, `polars.from_arrow(rows.table)` another.""",
    ),
    (
        "code",
        """\
months = [start + timedelta(days=30 * n) for n in range(1, 7)]
rows = acme.training_rows(Behaviour, name="failing-next-month", at=months, outcome=Failures, within=timedelta(days=30))
frame = rows.table.to_pandas()
print(rows.manifest.rows, "rows,", rows.manifest.customers, "customers,", rows.manifest.censored, "censored")
frame.dtypes""",
    ),
    (
        "markdown",
        """\
Keys are pseudonyms. Whoever may know brings them back to the customers' own ids:""",
    ),
    (
        "code",
        """\
names = acme.names()
frame["customer"] = frame.customer.map({key: names[ref] for key, ref in acme.pseudonyms().items()})
frame = frame.sort_values(["as_of", "customer"], ignore_index=True)
frame[["customer", "as_of", "used_28d", "pace", "failed_90d", "tickets_30d", "label_failed"]].head(8)""",
    ),
    (
        "code",
        """\
known = frame[~frame.censored].assign(fails=lambda f: f.label_failed > 0)
by_past = known.groupby(known.failed_90d.clip(upper=4)).fails.agg(["mean", "size"]).round(2)

axes = by_past["mean"].plot.bar(color="#30638e", figsize=(6, 3), rot=0)
axes.set(title="A payment fails within 30 days", xlabel="failed payments in the 90 days before (4: or more)", ylabel="share of rows")
plt.show()
by_past""",
    ),
    (
        "markdown",
        """\
## Out, to everything else

The log as Parquet, one table per kind, and a snapshot of the features. A second run writes only what is new. Personal fields are masks.""",
    ),
    (
        "code",
        """\
import tempfile

import duckdb

with tempfile.TemporaryDirectory() as folder:
    report = acme.export.log(folder)
    acme.export.features(Behaviour, folder)
    again = acme.export.log(folder)
    usage = duckdb.sql(f\"\"\"
        SELECT feature, count(*) AS events, sum("count")::BIGINT AS uses
        FROM '{folder}/log/product__usage_observed/v1/*.parquet' GROUP BY feature ORDER BY feature
    \"\"\").df()
print(report.rows, "rows, then", again.rows)
usage""",
    ),
    (
        "code",
        """\
ps.close()""",
    ),
)


def made() -> Any:
    """The notebook, executed in a kernel of this environment."""
    book = nbformat.v4.new_notebook()
    book.metadata = nbformat.from_dict({"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}})
    for number, (kind, source) in enumerate(CELLS):
        cell = nbformat.v4.new_markdown_cell(source) if kind == "markdown" else nbformat.v4.new_code_cell(source)
        cell.id = f"cell-{number:02d}"
        book.cells.append(cell)
    nbclient.NotebookClient(book, timeout=300, record_timing=False).execute()
    book.metadata.pop("language_info", None)
    return book


def said(book: Any) -> list[Any]:
    """What is compared: sources, and outputs less the bytes of pictures."""
    out = []
    for cell in book.cells:
        outputs = [output.copy() for output in cell.get("outputs", ())]
        for output in outputs:
            if "image/png" in output.get("data", {}):
                output["data"] = {"image/png": ""}
        out.append((cell.id, cell.source, outputs))
    return out


def main() -> int:
    book = made()
    if "--check" in sys.argv[1:]:
        if said(nbformat.read(NOTEBOOK, as_version=4)) == said(nbformat.from_dict(book)):
            return 0
        sys.stderr.write(f"{NOTEBOOK.name} would come out another way; run: python -m docs.notebook\n")
        return 1
    nbformat.write(book, NOTEBOOK)
    return 0


if __name__ == "__main__":
    sys.exit(main())
