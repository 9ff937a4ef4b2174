"""Churn of 7,043 telephone customers: a calibrated logistic model, cross-validated, through a log and its training rows.

`python examples/telco_churn.py Telco-Customer-Churn.csv` (the data is not part of this repository). Needs the extras `models` and `table`.
"""

import csv
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

from postsale import PostSale
from postsale.aggregates.signals import AccountChurned, Signal
from postsale.events import ManualClock
from postsale.projections import Features, count, latest
from postsale.projections.fitting import Recipe


class ContractSeen(Signal):
    """A line of the table, but for whether the customer left."""

    wire_name: ClassVar[str] = "examples.telco/contract-seen@1"
    tenure_months: int
    monthly_cents: int
    total_cents: int
    senior: bool
    partner: bool
    dependents: bool
    paperless: bool
    contract: str
    payment: str
    lines: str
    internet: str
    security: str
    backup: str
    protection: str
    support: str
    tv: str
    movies: str


class Contract(Features, version=1, owner="data-team"):
    """What is known of the contract; short and long tenures are told apart, because risk does not fall evenly."""

    tenure = latest(ContractSeen, lambda e: e.tenure_months)
    new = latest(ContractSeen, lambda e: e.tenure_months <= 1)
    first_half_year = latest(ContractSeen, lambda e: e.tenure_months <= 6)
    first_year = latest(ContractSeen, lambda e: e.tenure_months <= 12)
    long_standing = latest(ContractSeen, lambda e: e.tenure_months > 48)
    monthly = latest(ContractSeen, lambda e: e.monthly_cents)
    total = latest(ContractSeen, lambda e: e.total_cents)
    senior = latest(ContractSeen, lambda e: e.senior)
    partner = latest(ContractSeen, lambda e: e.partner)
    dependents = latest(ContractSeen, lambda e: e.dependents)
    paperless = latest(ContractSeen, lambda e: e.paperless)
    contract = latest(ContractSeen, lambda e: e.contract)
    payment = latest(ContractSeen, lambda e: e.payment)
    lines = latest(ContractSeen, lambda e: e.lines)
    internet = latest(ContractSeen, lambda e: e.internet)
    security = latest(ContractSeen, lambda e: e.security)
    backup = latest(ContractSeen, lambda e: e.backup)
    protection = latest(ContractSeen, lambda e: e.protection)
    support = latest(ContractSeen, lambda e: e.support)
    tv = latest(ContractSeen, lambda e: e.tv)
    movies = latest(ContractSeen, lambda e: e.movies)


class Left(Features, version=1, owner="data-team"):
    left = count(AccountChurned)


SEEN = datetime(2026, 1, 1, tzinfo=UTC)  # the table has no dates: one month, and who left in it
MONTH = timedelta(days=31)


def seen(line: dict[str, str]) -> ContractSeen:
    def yes(column: str) -> bool:
        return line[column] in ("Yes", "1")

    def cents(column: str) -> int:
        return round(float(line[column].strip() or 0) * 100)  # the total is blank in the first month

    return ContractSeen(
        source="telco",
        id=line["customerID"],
        occurred_at=SEEN,
        tenure_months=int(line["tenure"]),
        monthly_cents=cents("MonthlyCharges"),
        total_cents=cents("TotalCharges"),
        senior=yes("SeniorCitizen"),
        partner=yes("Partner"),
        dependents=yes("Dependents"),
        paperless=yes("PaperlessBilling"),
        contract=line["Contract"],
        payment=line["PaymentMethod"],
        lines=line["MultipleLines"],
        internet=line["InternetService"],
        security=line["OnlineSecurity"],
        backup=line["OnlineBackup"],
        protection=line["DeviceProtection"],
        support=line["TechSupport"],
        tv=line["StreamingTV"],
        movies=line["StreamingMovies"],
    )


def left(line: dict[str, str]) -> AccountChurned:
    return AccountChurned(source="telco", id=f"{line['customerID']}-left", occurred_at=SEEN + MONTH / 2)


if len(sys.argv) != 2:
    sys.exit(__doc__)
with Path(sys.argv[1]).open(newline="") as file:
    lines = list(csv.DictReader(file))
clock = ManualClock(SEEN)


def tell(what: str) -> None:
    print(f"{what} …", file=sys.stderr)


with PostSale.open("memory:", clock=clock) as ps:
    telco = ps.tenant("telco")
    tell(f"recording {len(lines)} customers")
    telco.record_many((line["customerID"], seen(line)) for line in lines)
    clock.move_to(SEEN + MONTH)
    telco.record_many((line["customerID"], left(line)) for line in lines if line["Churn"] == "Yes")
    tell("making training rows")
    rows = telco.training_rows(Contract, name="telco", at=[SEEN + timedelta(days=1)], outcome=Left, within=timedelta(days=30))
    recipe = Recipe(features=Contract, label="left", name="churn", outcome="leaves within 30 days", owner="data-team")
    tell(f"fitting {rows}, each part by the others")
    report = recipe.cross_validated(rows.table)
    model = recipe.fit(rows.table, data_set=rows.manifest.id)
    print(f"customers {report.rows}, left {report.positives}; model {model.digest[:12]} of rows {rows.manifest.id[:12]}")
    print(f"AUC {report.auc:.4f}, Brier {report.brier:.4f}; one number for all {report.brier_of_base_rate:.4f}")
    for part in report.calibration:
        print(f"said {part.said:6.1%}  happened {part.happened:6.1%}  customers {part.rows}")
