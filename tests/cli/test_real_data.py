"""Real input through the command line: CDNOW, RavenStack, bodies that Stripe's API gave. Read in place; skipped where it is absent.

All of CDNOW is recorded once; what is claimed of it beyond that is claimed of its sample, a tenth of the customers.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.support import EXAMPLES, envelope, third_party

from .support import run


def ingest(db: str, *argv: str) -> dict[str, Any]:
    done = run("ingest", *argv, "--json", "--db", db)
    assert done.code == 0, done.err
    report: dict[str, Any] = done.json()
    assert report["recorded"] + report["duplicates"] + report["quarantined"] + report["ignored"] == report["items"]
    return report


def table(db: str, path: Path, mapping: str) -> dict[str, Any]:
    return ingest(db, "table", str(path), "--mapping", str(EXAMPLES / f"{mapping}.toml"))


def test_every_purchase_of_cdnow_is_recorded(tmp_path: Path) -> None:
    """69,659 of 23,570 customers, each of whom is listed."""
    path, db = third_party("cdnow/CDNOW_master.txt"), f"sqlite:///{tmp_path / 'cdnow.db'}"
    report = table(db, path, "cdnow")
    assert (report["items"], report["recorded"]) == (69_659, 69_659)
    assert len(run("customer", "list", "--as-of", "1998-07-01", "--json", "--db", db).json()) == 23_570


def test_cdnow_is_recorded_once_in_any_order_and_its_customers_at_risk_are_explained(tmp_path: Path) -> None:
    """The sample: 6,919 purchases of 2,357 customers; again and re-sorted nothing; a list as of September 1997, with reasons."""
    path, db = third_party("cdnow/CDNOW_sample.txt"), f"sqlite:///{tmp_path / 'cdnow.db'}"
    report = table(db, path, "cdnow_sample")
    assert (report["items"], report["recorded"]) == (6_919, 6_919)
    assert (table(db, path, "cdnow_sample")["recorded"], run("quarantine", "list", "--json", "--db", db).json()) == (0, [])
    lines = path.read_bytes().splitlines(keepends=True)
    random.Random(5).shuffle(lines)
    shuffled = tmp_path / "shuffled.txt"
    shuffled.write_bytes(b"".join(lines))
    assert table(db, shuffled, "cdnow_sample")["recorded"] == 0

    everybody = run("customer", "list", "--as-of", "1998-07-01", "--json", "--db", db).json()
    assert len(everybody) == 2_357
    at_risk = run("customer", "list", "--at-risk", "--as-of", "1997-09-30", "--json", "--db", db).json()
    assert 0 < len(at_risk) < 2_357
    assert all(row["band"] == "poor" and row["at_risk"] for row in at_risk)
    for row in random.Random(5).sample(at_risk, 3):
        why = run("customer", "why", row["customer"], "--as-of", "1997-09-30", "--json", "--db", db).json()
        assert why["score"] == row["score"]
        assert sum(e["contribution_micro"] for e in why["events"]) + why["others"]["contribution_micro"] == why["value_micro"]
        assert all(e["occurred_at"] < "1997-10-01" for e in why["events"])


def test_a_simulation_on_cdnow_decides_and_every_decision_can_be_explained(tmp_path: Path) -> None:
    """On the sample: churn outreach as of September 1997, in a database of its own; the imported one is unchanged."""
    path, source = third_party("cdnow/CDNOW_sample.txt"), tmp_path / "cdnow.db"
    db = f"sqlite:///{source}"
    assert table(db, path, "cdnow_sample")["recorded"] == 6_919
    before = source.read_bytes()
    done = run("run", "--simulate", "--as-of", "1997-09-30", "--agent", "churn-outreach", "--json", "--db", db)
    assert done.code == 0, done.err
    report = done.json()
    assert source.read_bytes() == before
    assert report["counts"]["raised"] == report["counts"]["decided"] > 500
    assert sum(report["dispositions"].values()) == report["counts"]["decided"]
    decisions = run("decision", "list", "--json", "--db", report["db"]).json()
    assert len(decisions) == report["counts"]["decided"]
    acted = [d for d in decisions if d["disposition"] == "acted"]
    assert len(acted) == report["counts"]["called"] > 0
    for decision in (acted[0], next(d for d in decisions if d["disposition"] == "suppressed")):
        explained = run("decision", "explain", decision["id"], "--json", "--db", report["db"]).json()
        assert explained["known"]["evidence"]["payments"] >= 1
        assert explained["decided_at"].startswith("1997-09-30")
        assert explained["trigger"]["cause"] is None or explained["trigger"]["cause"]["source"] == "cdnow"
        replayed = run("decision", "replay", decision["id"], "--json", "--db", report["db"]).json()
        assert replayed["ok"], replayed
        assert replayed["counts"][replayed["word"]] == 1, replayed
    assert run("log", "verify", "--db", report["db"]).code == 0
    assert run("decision", "list", "--json", "--db", db).json() == []


@pytest.mark.parametrize(
    ("file", "mapping", "rows", "quarantined"),
    [
        ("accounts", "accounts", 500, 0),
        ("subscriptions", "subscriptions", 5_000, 0),
        ("feature_usage", "usage", 25_000, 21),
        ("support_tickets", "tickets", 2_000, 0),
        ("churn_events", "churn", 600, 0),
    ],
)
def test_every_ravenstack_row_is_accounted_for(file: str, mapping: str, rows: int, quarantined: int, tmp_path: Path) -> None:
    """recorded + quarantined + duplicates + ignored = rows, and what counts as quarantined is in the quarantine; twice."""
    path, db = third_party(f"ravenstack/ravenstack_{file}.csv"), f"sqlite:///{tmp_path / 'raven.db'}"
    first = table(db, path, f"ravenstack_{mapping}")
    assert (first["items"], first["recorded"], first["quarantined"]) == (rows, rows - quarantined, quarantined)
    second = table(db, path, f"ravenstack_{mapping}")
    assert (second["recorded"], second["duplicates"], second["quarantined"]) == (0, rows - quarantined, quarantined)
    assert len(run("quarantine", "list", "--json", "--db", db).json()) == quarantined


def test_stripes_recorded_bodies_in_envelopes_become_customers_with_payments(tmp_path: Path) -> None:
    """Invoices, subscriptions and a charge as the API gave them; the recorded envelopes are about accounts and are ignored."""
    folder, db = third_party("stripe/djstripe"), f"sqlite:///{tmp_path / 'stripe.db'}"
    kinds = {"invoice": "invoice.paid", "subscription": "customer.subscription.created", "charge": "charge.succeeded"}
    events = []
    for path in sorted(folder.glob("*.json")):
        body = json.loads(path.read_bytes())
        if isinstance(body, dict) and body.get("object") in kinds:
            events.append(envelope(kinds[body["object"]], body, id=f"evt_{path.stem}"))
    recorded = [json.loads(path.read_bytes()) for path in sorted(folder.glob("event_*.json"))]
    file = tmp_path / "events.ndjson"
    file.write_text("".join(json.dumps(event) + "\n" for event in (*events, *recorded)))
    report = ingest(db, "stripe", str(file))
    assert report["items"] == len(events) + len(recorded)
    assert report["recorded"] >= 6
    assert report["ignored"] >= len(recorded)
    again = ingest(db, "stripe", str(file))
    assert (again["recorded"], again["duplicates"]) == (0, report["recorded"])
    (customer, *_) = run("customer", "list", "--json", "--db", db).json()
    assert customer["customer"].startswith("cus_")
    state = run("customer", "show", customer["customer"], "--json", "--db", db).json()["state"]
    assert state["facts"]
    assert run("log", "verify", "--db", db).code == 0
