"""Expected purchases of 2,357 customers: BG/NBD fitted on 39 weeks of CDNOW through training rows, held against the next 39.

`python examples/cdnow_purchases.py CDNOW_sample.txt` (the data is not part of this repository). Needs the extras `models` and `table`.
"""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from postsale import PostSale
from postsale.aggregates.signals import InvoicePaid
from postsale.projections import Features, distinct, first_seen, last_seen
from postsale.projections.fitting import fit_purchases
from postsale.projections.metrics import mean_absolute_error, root_mean_squared_error
from postsale.projections.scoring import Expected
from postsale.projections.training import feature_rows


class Visits(Features, version=1, owner="data-team"):
    """Days with a purchase: the literature counts what is bought on one day as one purchase."""

    visits = distinct(InvoicePaid, lambda e: e.invoice_id)
    first = first_seen(InvoicePaid)
    last = last_seen(InvoicePaid)


HALF = timedelta(weeks=39)
MIDNIGHT = datetime(1997, 10, 1, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)

if len(sys.argv) != 2:
    sys.exit(__doc__)
with PostSale.open("memory:") as ps:
    shop = ps.tenant("shop")
    shop.ingest("table", Path(sys.argv[1]), Path(__file__).parent / "cdnow_sample.toml")
    # Everything was recorded today. What the file claims to have been knowable (a day's purchases when the day is over) decides
    # instead: rows are about the last moment of 30 September 1997, and are scored at midnight.
    rows = shop.training_rows(Visits, name="cdnow", at=[MIDNIGHT - MOMENT], lag=MOMENT, knowledge="claimed", outcome=Visits, within=HALF)
    model = fit_purchases(
        rows.table,
        Visits,
        purchases="visits",
        first="first",
        last="last",
        horizon=HALF,
        name="purchases",
        owner="data-team",
        data_set=rows.manifest.id,
    )
    scores = [model.score(values) for values in feature_rows(rows.table, Visits)]
    expected = [score.expected_micro / 1e6 if isinstance(score, Expected) else 0.0 for score in scores]
    bought = rows.table.column("label_visits").to_pylist()
    print(f"customers {len(bought)}, purchases in the holdout {sum(bought)}, expected {sum(expected):.0f}")
    print(f"r {model.r:.3f}, alpha {model.alpha / 7:.3f} weeks, a {model.a:.3f}, b {model.b:.3f}; model {model.digest[:12]}")
    print(f"MAE {mean_absolute_error(bought, expected):.3f}, RMSE {root_mean_squared_error(bought, expected):.3f}")
