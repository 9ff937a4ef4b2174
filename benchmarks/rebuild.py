"""The health projection over all history: DuckDB beside hand-written DuckDB SQL and beside the live fold, in the same process.

`python -m benchmarks.rebuild --json --size 1000000`. The same facts stand in archive segments and in a SQLite and a PostgreSQL log.
Before anything is timed, ours, the SQL written by hand and the live fold must give the same values, customer by customer. The SQL by
hand trusts its files: no digests, one version of each kind. Ours checks the digest of every file, and would upcast. The limit is DuckDB
reading the payloads of those files and nothing else.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import types
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

from tests.postgres import new_log

from benchmarks._common import batches, fastest, measure, report
from postsale.aggregates.identity import customer_stream
from postsale.events import DAY_US, Actor, Header, Lane, NewEvent, StoredEvent, canonical, iso, registry, schema_digest
from postsale.projections import CustomerHealth, Features, Fold, fact_of
from postsale.projections.columnar import finished_rows, value_table
from postsale.projections.columnar_duckdb import duckdb_connection, read, table
from postsale.projections.feeding import load_facts
from postsale.projections.handover import duckdb_states
from postsale.store import Query, SQLiteStore, Store, Submission, segments
from postsale.store.archive import Archive, Part
from postsale.store.columns import Source
from postsale.store.postgres import PostgresStore
from postsale.store.segments import Segment

GOAL_LIVE: Final = 15.0  # times the live fold of the same segments
GOAL_SQL: Final = 0.8  # of the rate of the SQL written by hand
GOAL_SQLITE, GOAL_POSTGRES = 1_000_000, 500_000  # events/s
CHAPTER: Final = 262_144
START_US: Final = 20_000 * DAY_US
SPAN_DAYS: Final = 400
AS_OF_US: Final = START_US + (SPAN_DAYS + 1) * DAY_US
FEATURES: Final = (
    "failed_90d paid_90d last_charge purchases first_purchase last_purchase usage_30d usage_60d last_usage active_users last_active_users"
    " tickets_30d escalations_90d last_ticket survey_micro survey_higher_is_better last_survey seats_profiled churned_at renews_at"
    " seats_by mrr_by currency_by terms_at trial_started_at trial_changed_at cancelled_at ends_at ended_at"
)


def _health() -> type[Features]:
    """Those features of the shipped health that the SQL by hand has too, whatever else health may come to read."""
    leaves = {name: replace(CustomerHealth.leaves[name], name="") for name in FEATURES.split()}
    return cast(
        type[Features], types.new_class("Health", (Features,), {"version": 1, "owner": "benchmarks"}, lambda space: space.update(leaves))
    )


HEALTH: Final = _health()
FOLD: Final = Fold(HEALTH)

HEADER: Final = Header(actor=Actor("source", "benchmark"), source="billing", source_id="evt_000000001").to_bytes()
_TERMS: Final = {"mrr_minor": 4_900, "interval": "month", "currency": "EUR"}


# ---------------------------------------------------------------- the facts


def each_event(size: int) -> Iterator[NewEvent]:
    """Facts of every kind that health reads, a hundred a customer, a tenth of them late; always the same ones."""
    rng = random.Random(7)
    customers = [customer_stream("acme", f"{rng.getrandbits(64):016x}") for _ in range(max(1, size // 100))]
    shapes = {kind: (registry.versions(kind)[-1], schema_digest(registry.get(registry.versions(kind)[-1]))) for kind in FOLD.kinds}
    for number in range(size):
        now = START_US + number * SPAN_DAYS * DAY_US // size
        at = now - rng.randrange(20 * DAY_US) if rng.random() < 0.1 else now
        kind, fields = a_fact(rng, at)
        name, schema = shapes[kind]
        yield NewEvent(
            rng.choice(customers), Lane.FACT, None, UUID(int=rng.getrandbits(128)), name, schema, at, rng.randbytes(16), HEADER, canonical(fields)
        )  # fmt: skip


def a_fact(rng: random.Random, at: int) -> tuple[str, dict[str, Any]]:
    draw = rng.random()
    subscription = {"subscription_id": f"s{rng.randrange(3)}"}
    if draw < 0.55:
        return "product/usage-observed", {"feature": f"f{rng.randrange(12)}", "count": rng.randrange(50), "active_users": rng.randrange(40)}
    if draw < 0.75:
        return "billing/invoice-paid", {"amount_minor": rng.randrange(90_000), "currency": "EUR", "invoice_id": f"in_{at}"}
    if draw < 0.80:
        return "billing/invoice-payment-failed", {"amount_minor": 4_900, "currency": "EUR", "attempt": 1}
    if draw < 0.90:
        kind = rng.choice(("ticketing/ticket-opened", "ticketing/ticket-escalated", "ticketing/ticket-solved"))
        return kind, {"ticket_id": f"t{at}", "priority": "normal"}
    if draw < 0.92:
        return "survey/answered", {"survey": "nps", "score": rng.randrange(11), "scale_min": 0, "scale_max": 10, "higher_is_better": True}
    if draw < 0.97:
        kind = rng.choice(("billing/subscription-started", "billing/subscription-changed", "billing/subscription-changed"))
        return kind, {**_TERMS, **subscription, "seats": rng.randrange(5, 50), "trial": rng.random() < 0.1}
    if draw < 0.98:
        return "billing/cancellation-scheduled", {**_TERMS, **subscription, "effective_at": iso(at + 30 * DAY_US)}
    if draw < 0.985:
        return "billing/subscription-ended", {**_TERMS, **subscription}
    if draw < 0.99:
        return "crm/account-profiled", {"seats": rng.randrange(5, 50), "segment": "smb"}
    return "crm/renewal-due", {"renews_at": iso(at + 90 * DAY_US), "auto_renews": False}


class Segments:
    """Chapters in segments, as a log has archived them, without the log: what is rebuilt from."""

    log_id = "benchmark"

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._archive = Archive(self.log_id)

    def head(self) -> int:
        return self._parts[-1][0].last

    def read(self, query: Query) -> Generator[StoredEvent, None, None]:
        parts = [part for part in self._parts if part[0].last > query.after and (query.upto is None or part[0].first <= query.upto)]
        return self._archive.read(parts, query)

    @contextmanager
    def fact_source(self, query: Query, *, header: bool) -> Iterator[Source]:  # noqa: ARG002
        live: list[Any] = []
        yield Source((batch for batch in live), self._parts, self._archive)


class Archived(Segments):
    """The events of this benchmark so."""

    def __init__(self, folder: Path, size: int) -> None:
        rng = random.Random(8)
        new, parts = each_event(size), list[Part]()
        for chapter in range((size + CHAPTER - 1) // CHAPTER):
            first, last = chapter * CHAPTER + 1, min((chapter + 1) * CHAPTER, size)
            parts.append((self._write(folder, new, rng, chapter, first, last), None))
        super().__init__(parts)

    def _write(self, folder: Path, new: Iterator[NewEvent], rng: random.Random, chapter: int, first: int, last: int) -> Segment:
        facts = (
            StoredEvent(
                position, e.stream, e.lane, position, e.event_id, e.wire_name, e.schema, e.occurred_at_us, START_US + position, e.content_mac,
                e.header, e.data, rng.randbytes(16), position - 1, rng.randbytes(32),
            )
            for position, e in enumerate(islice(new, last - first + 1), first)
        )  # fmt: skip
        bounds: dict[str, Any] = {"log_id": "benchmark", "chapter": chapter, "first": first, "last": last}
        path = folder / f"{chapter}.partial"
        segments.write(path, facts, **bounds)
        segment = segments.describe(path, **bounds)
        segments.keep(path, segment)
        return replace(segment, directory=str(folder))


# ---------------------------------------------------------------- the ways


def by_fold(store: Any) -> dict[str, Any]:
    """Read, decode, fold: what the runner does, without its view."""
    states: dict[str, Any] = {}
    for event in store.read(Query(kinds=FOLD.kinds)):
        key = str(event.stream)
        if (state := states.get(key)) is None:
            state = states[key] = FOLD.empty()
        FOLD.add(state, fact_of(event))
    return states


def by_duckdb(store: Any) -> list[Any]:
    """Every leaf of every customer at one time, as Arrow batches."""
    with duckdb_connection() as connection:
        load_facts(connection, HEALTH, store)
        return list(read(connection, value_table(HEALTH, table(connection, "facts"), keys=["key"], as_of=AS_OF_US)))


def rows_of_view(store: Any, size: int) -> None:
    """What a view would be filled with."""
    with duckdb_states(cast(Store, store), FOLD, size) as built:
        for _ in built.rows:
            pass


_FIELDS: Final = """{"count":"BIGINT","active_users":"BIGINT","score":"BIGINT","scale_min":"BIGINT","scale_max":"BIGINT",
"higher_is_better":"BOOLEAN","seats":"BIGINT","subscription_id":"VARCHAR","mrr_minor":"BIGINT","currency":"VARCHAR","trial":"BOOLEAN",
"effective_at":"VARCHAR","renews_at":"VARCHAR"}"""
BY_HAND: Final = f"""
WITH facts AS (
    SELECT tenant || '/' || category || '/' || id AS key, split_part(wire_name, '@', 1) AS kind, position AS pos, occurred_at_us AS us,
        {AS_OF_US // DAY_US} - occurred_at_us // {DAY_US} AS age, json_transform(decode(data), '{_FIELDS}') AS j
    FROM read_parquet('FOLDER/*.parquet') WHERE occurred_at_us <= {AS_OF_US}
), plain AS (
    SELECT key, max(us) AS newest_us, max(pos) AS position,
        count(*) FILTER (kind = 'billing/invoice-payment-failed' AND age < 90) AS failed_90d,
        count(*) FILTER (kind = 'billing/invoice-paid' AND age < 90) AS paid_90d,
        max(us) FILTER (kind IN ('billing/invoice-paid', 'billing/invoice-payment-failed')) AS last_charge,
        count(*) FILTER (kind = 'billing/invoice-paid') AS purchases,
        min(us) FILTER (kind = 'billing/invoice-paid') AS first_purchase,
        max(us) FILTER (kind = 'billing/invoice-paid') AS last_purchase,
        coalesce(sum(j.count) FILTER (kind = 'product/usage-observed' AND age < 30), 0)::BIGINT AS usage_30d,
        coalesce(sum(j.count) FILTER (kind = 'product/usage-observed' AND age < 60), 0)::BIGINT AS usage_60d,
        max(us) FILTER (kind = 'product/usage-observed') AS last_usage,
        max(j.active_users) FILTER (kind = 'product/usage-observed' AND age < 30) AS active_users,
        max(us) FILTER (kind = 'product/usage-observed' AND j.active_users >= 0) AS last_active_users,
        count(*) FILTER (kind = 'ticketing/ticket-opened' AND age < 30) AS tickets_30d,
        count(*) FILTER (kind = 'ticketing/ticket-escalated' AND age < 90) AS escalations_90d,
        max(us) FILTER (kind IN ('ticketing/ticket-opened', 'ticketing/ticket-escalated', 'ticketing/ticket-solved')) AS last_ticket,
        arg_max((j.score - j.scale_min) * 100000000 // (j.scale_max - j.scale_min), (us, pos))
            FILTER (kind = 'survey/answered' AND j.scale_max > j.scale_min) AS survey_micro,
        arg_max(j.higher_is_better, (us, pos))
            FILTER (kind = 'survey/answered' AND j.scale_max > j.scale_min) AS survey_higher_is_better,
        max(us) FILTER (kind = 'survey/answered' AND j.scale_max > j.scale_min) AS last_survey,
        arg_max(j.seats, (us, pos)) FILTER (kind = 'crm/account-profiled' AND j.seats IS NOT NULL) AS seats_profiled,
        max(us) FILTER (kind = 'crm/account-churned') AS churned_at,
        arg_max(epoch_us(j.renews_at::TIMESTAMPTZ), (us, pos)) FILTER (kind = 'crm/renewal-due') AS renews_at
    FROM facts GROUP BY key
), subscriptions AS (
    SELECT key, j.subscription_id AS s,
        arg_max(j.seats, (us, pos)) FILTER (kind IN TERMS AND j.seats IS NOT NULL) AS seats_by,
        arg_max(j.mrr_minor, (us, pos)) FILTER (kind IN TERMS) AS mrr_by,
        arg_max(j.currency, (us, pos)) FILTER (kind IN TERMS) AS currency_by,
        max(us) FILTER (kind IN TERMS) AS terms_at,
        max(us) FILTER (kind = 'billing/subscription-started' AND j.trial) AS trial_started_at,
        max(us) FILTER (kind = 'billing/subscription-changed' AND j.trial) AS trial_changed_at,
        max(us) FILTER (kind = 'billing/cancellation-scheduled') AS cancelled_at,
        arg_max(epoch_us(j.effective_at::TIMESTAMPTZ), (us, pos)) FILTER (kind = 'billing/cancellation-scheduled') AS ends_at,
        max(us) FILTER (kind = 'billing/subscription-ended') AS ended_at
    FROM facts WHERE j.subscription_id IS NOT NULL GROUP BY key, s
), maps AS (SELECT key, MAPS FROM subscriptions GROUP BY key)
SELECT * FROM plain LEFT JOIN maps USING (key)
"""
_BY_SUBSCRIPTION: Final = [leaf.name for leaf in HEALTH.leaves.values() if leaf.by is not None]
_MAPS: Final = ", ".join(f"list({{'key': s, 'cell': {name}}}) FILTER ({name} IS NOT NULL) AS {name}" for name in _BY_SUBSCRIPTION)


def by_hand(folder: Path) -> list[Any]:
    with duckdb_connection() as connection:
        sql = BY_HAND.replace("FOLDER", str(folder)).replace("TERMS", "('billing/subscription-started', 'billing/subscription-changed')")
        return list(connection.sql(sql.replace("MAPS", _MAPS)).to_arrow_reader())


def only_read(folder: Path) -> None:
    with duckdb_connection() as connection:
        connection.execute(f"SELECT sum(octet_length(data)) FROM read_parquet('{folder}/*.parquet')").fetchall()


def check_equal(store: Any, folder: Path) -> None:
    """Stop unless all ways give the same value for every leaf of every customer."""
    expected = {key: dict(FOLD.finish(state, AS_OF_US)) for key, state in by_fold(store).items()}
    for name, found in {"ours": by_duckdb(store), "by hand": by_hand(folder)}.items():
        rows = {row["key"]: row for row in finished_rows(HEALTH, (row for batch in found for row in batch.to_pylist()))}
        if rows.keys() != expected.keys():
            raise SystemExit(f"{name}: {len(rows)} customers are not {len(expected)}")
        for key, values in expected.items():
            wrong = {leaf: (rows[key][leaf], value) for leaf, value in values.items() if rows[key][leaf] != value}
            if wrong:
                raise SystemExit(f"{name}: {key}: {wrong}")


# ---------------------------------------------------------------- timing


def timed(run: Callable[[], object]) -> Callable[[Path], float]:
    def seconds(_: Path) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return seconds


def from_segments(size: int, rounds: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Archived(folder, size)
        check_equal(store, folder)
        best = fastest(
            rounds,
            ours=timed(partial(by_duckdb, store)),
            hand=timed(partial(by_hand, folder)),
            limit=timed(partial(only_read, folder)),
            views=timed(partial(rows_of_view, store, size)),
        )
        best |= fastest(1, fold=timed(partial(by_fold, store)))
    rate = {way: size / seconds for way, seconds in best.items()}
    return [
        measure("rebuild of health from segments", rate["ours"], "events/s", peer=rate["hand"], limit=rate["limit"]),
        measure("rebuild / live fold of the same segments", rate["ours"] / rate["fold"], "ratio", goal=GOAL_LIVE, peer=1.0),
        measure("rebuild / hand-written DuckDB SQL", rate["ours"] / rate["hand"], "ratio", goal=GOAL_SQL, peer=1.0),
        measure("rows of the view of health, from segments", rate["views"], "events/s", peer=rate["fold"], limit=rate["limit"]),
        measure("rows of the view / live fold", rate["views"] / rate["fold"], "ratio", peer=1.0),
    ]


def from_log(name: str, store: Store, size: int, rounds: int, goal: int) -> dict[str, Any]:
    with closing(store):
        for work in batches(list(each_event(size)), 5_000):
            store.append([Submission(tuple(work))])
        best = fastest(rounds, ours=timed(partial(by_duckdb, store)))
        best |= fastest(1, fold=timed(partial(by_fold, store)))
    return measure(f"rebuild of health from the {name} log", size / best["ours"], "events/s", goal=goal, peer=size / best["fold"])


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--size", type=int, default=1_000_000, help="events")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    measures = from_segments(options.size, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        measures.append(from_log("SQLite", SQLiteStore(Path(folder) / "log.db"), options.size, options.rounds, GOAL_SQLITE))
    with new_log() as (url, schema):
        measures.append(from_log("PostgreSQL", PostgresStore(url, schema=schema), options.size, options.rounds, GOAL_POSTGRES))
    return report("rebuild", measures, only_json=options.json)


if __name__ == "__main__":
    main()
