"""Training rows with ten features and a label: points joined with facts in DuckDB, beside SQL written by hand for the same columns.

`python -m benchmarks.training_rows --json --size 500000`. `size` is rows: a tenth as many customers at ten points each, with twenty facts
a customer, a tenth of them late. Before anything is timed, the rows of sampled customers must be those of the live fold over what was
known at each point. The peer is a hand-written query without labels, types or order; the limit is the bare join of points with
facts. `from a log` is the whole way of a tenth of the rows: from a SQLite file, with pseudonyms, manifest and digest.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from benchmarks._common import measure, options, report
from postsale import PostSale
from postsale.aggregates.signals import AccountChurned, InvoicePaid, InvoicePaymentFailed, Signal, TicketOpened, UsageObserved
from postsale.events import DAY_US, ManualClock, from_us
from postsale.projections import Fact, Features, Fold, count, days, distinct, first_seen, last_seen, latest, maximum, total
from postsale.projections.columnar_duckdb import duckdb_connection
from postsale.projections.feeding import facts_table
from postsale.projections.training import Known, Subject, enters_us, feature_rows, rows_later
from postsale.projections.training_columns import known_facts, training_columns

GOAL: Final = 80_000
_START_US: Final = 20_000 * DAY_US
_SPAN_DAYS: Final = 400
_POINTS: Final = 10
_FACTS: Final = 20  # of a customer
_SAMPLE: Final = 100  # customers
_HORIZON_US: Final = 30 * DAY_US


class Measured(Features, version=1, owner="benchmarks"):
    """Ten features: windows, sums, latest, first, last, a greatest, a distinct count, conditions."""

    paid = count(InvoicePaid, window=days(90))
    failed = count(InvoicePaymentFailed, window=days(90))
    revenue = total(InvoicePaid, lambda e: e.amount_minor)
    large = count(InvoicePaid, where=lambda e: e.amount_minor >= 50_000)
    first_purchase = first_seen(InvoicePaid)
    last_purchase = last_seen(InvoicePaid)
    usage = total(UsageObserved, lambda e: e.count, window=days(30))
    most_used = maximum(UsageObserved, lambda e: e.count)
    used = distinct(UsageObserved, lambda e: e.feature)
    priority = latest(TicketOpened, lambda e: e.priority)


class Left(Features, version=1, owner="benchmarks"):
    left = count(AccountChurned)


def make_facts(size: int) -> list[tuple[str, Fact]]:
    """Facts in the order of their positions, over a tenth of `size` customers."""
    rng = random.Random(7)
    customers, facts = max(1, size // _POINTS), max(1, size // _POINTS) * _FACTS
    out = []
    for position in range(1, facts + 1):
        now = _START_US + position * _SPAN_DAYS * DAY_US // facts
        at = now - rng.randrange(20 * DAY_US) if rng.random() < 0.1 else now
        draw, fields = rng.random(), {}
        if draw < 0.6:
            kind, fields = "product/usage-observed", {"feature": f"f{rng.randrange(12)}", "count": rng.randrange(1, 50)}
        elif draw < 0.8:
            kind, fields = "billing/invoice-paid", {"amount_minor": rng.randrange(100, 90_000), "currency": "EUR"}
        elif draw < 0.87:
            kind, fields = "billing/invoice-payment-failed", {"amount_minor": rng.randrange(100, 90_000), "currency": "EUR"}
        elif draw < 0.98:
            kind, fields = "ticketing/ticket-opened", {"ticket_id": f"t{position}", "priority": rng.choice(("low", "high"))}
        else:
            kind = "crm/account-churned"
        out.append((f"c{rng.randrange(customers):07d}", Fact(kind, position, at, now, fields)))
    return out


def points_us() -> list[int]:
    return [_START_US + (n + 1) * _SPAN_DAYS * DAY_US // (_POINTS + 1) for n in range(_POINTS)]


def load(connection: Any, facts: list[tuple[str, Fact]]) -> None:
    """The tables that `training_columns` reads; every customer at every point."""
    connection.register("arrow_facts", facts_table(Measured, ((k, f) for k, f in facts if f.kind != "crm/account-churned")))
    connection.register("arrow_later", facts_table(Left, ((k, f) for k, f in facts if f.kind == "crm/account-churned")))
    connection.execute("CREATE TABLE facts_read AS FROM arrow_facts")
    connection.execute("CREATE TABLE later AS FROM arrow_later")
    known_facts(connection, "facts", claimed=False)
    customers = sorted({key for key, _ in facts})
    names = pa.table([customers, customers], schema=pa.schema({"ref": "string", "customer": "string"}))
    connection.register("arrow_names", names)
    connection.register("times", pa.table([points_us()], schema=pa.schema({"as_of_us": "int64"})))
    connection.execute("CREATE TABLE names AS FROM arrow_names")
    connection.execute(f"CREATE TABLE owners AS SELECT ref AS stream, ref, {-(2**62)} AS since_us, NULL::BIGINT AS until_us FROM names")
    connection.execute("CREATE TABLE later_owners AS SELECT stream, ref FROM owners")
    connection.execute("CREATE TABLE points AS SELECT ref, as_of_us FROM names CROSS JOIN times")


def ours(connection: Any) -> Any:
    until_us = _START_US + (_SPAN_DAYS - 20) * DAY_US
    return training_columns(connection, Measured, outcome=Left, horizon_us=_HORIZON_US, until_us=until_us)


_BY_HAND: Final = f"""
CREATE OR REPLACE TABLE by_hand AS SELECT p.ref, p.as_of_us,
  count(*) FILTER (kind = 'billing/invoice-paid' AND as_of_us // {DAY_US} - occurred_at_us // {DAY_US} < 90) AS paid,
  count(*) FILTER (kind = 'billing/invoice-payment-failed' AND as_of_us // {DAY_US} - occurred_at_us // {DAY_US} < 90) AS failed,
  sum(amount_minor__int) FILTER (kind = 'billing/invoice-paid') AS revenue,
  count(*) FILTER (kind = 'billing/invoice-paid' AND amount_minor__int >= 50000) AS large,
  min(occurred_at_us) FILTER (kind = 'billing/invoice-paid') AS first_purchase,
  max(occurred_at_us) FILTER (kind = 'billing/invoice-paid') AS last_purchase,
  sum(count__int) FILTER (as_of_us // {DAY_US} - occurred_at_us // {DAY_US} < 30) AS usage,
  max(count__int) AS most_used,
  count(DISTINCT feature__str) AS used,
  arg_max(priority__str, (occurred_at_us, position)) FILTER (kind = 'ticketing/ticket-opened') AS priority
FROM points p LEFT JOIN facts f ON f.key = p.ref AND f.occurred_at_us <= p.as_of_us AND f.recorded_at_us <= p.as_of_us
GROUP BY ALL
"""
_BARE: Final = """
SELECT count(f.position) FROM points p JOIN facts f ON f.key = p.ref AND f.occurred_at_us <= p.as_of_us AND f.recorded_at_us <= p.as_of_us
"""


def check_equal(table: Any, facts: list[tuple[str, Fact]]) -> None:
    """Stop unless sampled customers have the rows that the live fold gives, point by point, and the labels."""
    sampled = set(random.Random(3).sample(sorted({key for key, _ in facts}), min(_SAMPLE, len({key for key, _ in facts}))))
    mine: dict[str, list[Fact]] = {key: [] for key in sampled}
    for key, fact in facts:
        if key in sampled:
            mine[key].append(fact)
    part = table.filter(pa.compute.is_in(table["customer"], pa.array(sorted(sampled))))
    found = {
        (key, values.as_of_us): (dict(values), label)
        for key, values, label in zip(
            part["customer"].to_pylist(), feature_rows(part, Measured), part["label_left"].to_pylist(), strict=True
        )
    }
    fold, later, expected = Fold(Measured), Fold(Left), {}
    for key, its in mine.items():
        subject = Subject(key, points_us(), [Known(enters_us(f, f.recorded_at_us, 0), None, f) for f in its], its)
        labels = rows_later(later, subject, _HORIZON_US, _START_US + (_SPAN_DAYS - 20) * DAY_US)
        for at, label in zip(points_us(), labels, strict=True):
            known = fold.fold(f for f in its if f.occurred_at_us <= at and f.recorded_at_us <= at)
            expected[key, at] = (dict(fold.finish(known, at)), None if label is None else label["left"])
    if found != expected:
        raise SystemExit("the rows of sampled customers are not those of the live fold")


def best(rounds: int, run: Callable[[], object]) -> float:
    """Seconds of the fastest round."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def from_a_log(size: int) -> tuple[float, int]:
    """Seconds and rows of the public door over a SQLite file."""
    clock = ManualClock(_START_US)
    kinds: dict[str, type[Signal]] = {
        cls.wire_name.partition("@")[0]: cls for cls in (InvoicePaid, InvoicePaymentFailed, UsageObserved, TicketOpened, AccountChurned)
    }
    with tempfile.TemporaryDirectory() as folder, PostSale.open(f"sqlite:///{Path(folder) / 'log.db'}", clock=clock) as ps:
        tenant = ps.tenant("acme")
        facts = make_facts(size)
        step = max(1, len(facts) // _SPAN_DAYS)  # what is recorded together is known together
        for start in range(0, len(facts), step):
            part = facts[start : start + step]
            clock.move_to(part[-1][1].recorded_at_us)
            tenant.record_many(
                (key, kinds[f.kind](source="b", id=f"{f.position}", occurred_at=from_us(f.occurred_at_us), **f.fields)) for key, f in part
            )
        clock.advance(timedelta(days=1))
        started = time.perf_counter()
        at = [datetime.fromtimestamp(us / 1e6, tz=UTC) for us in points_us()]
        rows = tenant.training_rows(Measured, name="bench", at=at, outcome=Left, within=timedelta(microseconds=_HORIZON_US))
        return time.perf_counter() - started, rows.table.num_rows


def main(argv: list[str] | None = None) -> dict[str, Any]:
    asked = options(__doc__, argv, size=500_000, rounds=3)
    facts = make_facts(asked.size)
    with duckdb_connection() as connection:
        load(connection, facts)
        table = ours(connection)
        check_equal(table, facts)
        rows = table.num_rows
        rate = rows / best(asked.rounds, lambda: ours(connection))
        peer = rows / best(asked.rounds, lambda: connection.execute(_BY_HAND))
        limit = rows / best(asked.rounds, lambda: connection.execute(_BARE).fetchall())
    del facts, table
    from_a_log(20)  # what is imported and compiled once
    seconds, log_rows = from_a_log(max(20, asked.size // 10))
    measures = [
        measure(f"{rows:,} rows x {len(Measured.leaves)} features, with a label", rate, "rows/s", goal=GOAL, peer=peer, limit=limit),
        measure("from a log, with pseudonyms, manifest and digest", log_rows / seconds, "rows/s"),
    ]
    return report("training_rows", measures, only_json=asked.json)


if __name__ == "__main__":
    main()
