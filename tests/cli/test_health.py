"""`postsale health` and `customer why`: weights as a table and a file, what differs, and why a score is what it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from postsale import PostSale
from postsale.aggregates.signals import AccountProfiled, InvoicePaid, InvoicePaymentFailed, SubscriptionStarted
from postsale.projections import CUSTOMER_HEALTH, read_weights

from .support import run

AT = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "health.toml"
    path.write_text(run("health", "show", "--toml").out + '\n[[rows]]\nsegment = "enterprise"\nweights = { payments = 90 }\n')
    return path


def test_what_show_writes_is_a_file_that_check_accepts_and_diff_finds_the_same(tmp_path: Path) -> None:
    path = tmp_path / "health.toml"
    path.write_text(run("health", "show", "--toml").out)
    checked = run("health", "check", str(path), "--json")
    assert checked.code == 0
    assert checked.json()["digest"] == read_weights(path.read_text(), CUSTOMER_HEALTH).digest
    assert run("health", "diff", str(path), str(path)).out == "no difference\n"


def test_the_table_shows_a_column_for_each_row(weights: Path) -> None:
    done = run("health", "show", str(weights), env={"COLUMNS": "120"})
    assert done.code == 0
    (head,) = (line for line in done.out.splitlines() if "default" in line)
    assert head.split() == ["default", "enterprise/*"]
    (line,) = (line for line in done.out.splitlines() if line.startswith("payments"))
    assert line.split() == ["payments", "25", "90"]


def test_a_difference_names_row_and_component(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(weights.read_text().replace("payments = 90", "payments = 80"))
    found = run("health", "diff", str(weights), str(other), "--json").json()
    assert found["differences"] == [{"row": "enterprise/*", "what": "weight of payments", "before": "90", "after": "80"}]
    assert found["before"] != found["after"]
    in_use = run("health", "diff", str(weights), env={"POSTSALE_HEALTH": str(other), "COLUMNS": "120"}).out
    assert "weight of payments" in in_use


def test_a_wrong_file_ends_with_status_2_and_the_place(weights: Path) -> None:
    weights.write_text(weights.read_text().replace("payments = 90", "paymnts = 90"))
    done = run("health", "check", str(weights))
    assert done.code == 2
    assert "row 1, enterprise/*, weighs 'paymnts'" in " ".join(done.err.split())
    assert run("health", "check", str(weights.with_name("none.toml"))).code == 2


@pytest.fixture
def db(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with PostSale.open(url) as ps:
        acme = ps.tenant("acme")
        money = {"source": "billing", "amount_minor": 100, "currency": "EUR"}
        terms = {"subscription_id": "s", "mrr_minor": 100, "interval": "month", "currency": "EUR", "effective_at": AT}
        acme.record("cus_1", AccountProfiled(source="crm", id="a", occurred_at=AT - timedelta(days=9), segment="enterprise"))
        acme.record("cus_1", SubscriptionStarted(source="billing", id="s", occurred_at=AT - timedelta(days=8), **terms))
        acme.record("cus_1", InvoicePaid(id="p", occurred_at=AT - timedelta(days=7), **money))
        acme.record("cus_1", InvoicePaymentFailed(id="f", occurred_at=AT, **money))
    return url


def test_the_file_that_the_environment_names_weighs_every_read(db: str, weights: Path) -> None:
    why = ("customer", "why", "cus_1", "--db", db, "--as-of", "2026-03-02", "--json")
    told = run(*why, env={"POSTSALE_HEALTH": str(weights)}).json()
    assert told["row"]["name"] == "enterprise/*"
    assert told["model"] == read_weights(weights.read_text(), CUSTOMER_HEALTH).digest
    assert run(*why).json()["row"]["name"] == "default"
    listed = run("customer", "list", "--db", db, "--json", env={"POSTSALE_HEALTH": str(weights)}).json()
    assert [(row["customer"], row["segment"], row["row"]) for row in listed] == [("cus_1", "enterprise", "enterprise/*")]


def test_why_says_what_it_was_since_when_and_what_would_change_it(db: str) -> None:
    why = ("customer", "why", "cus_1", "--db", db, "--as-of", "2026-03-02")
    people = " ".join(run(*why, "--since", "2026-02-28", env={"COLUMNS": "200"}).out.split())
    assert "at 2026-02-28T23:59:59.999999Z: 100.00 good (-50.000000 since: payments -50.000000)" in people
    assert "poor since 2026-03-02T12:00:00.000000Z, good before: event 5, billing/invoice-payment-failed" in people
    assert "weighed as default: segment enterprise; stage onboarding: began on 2026-02-22, 8 days before" in people
    assert "up to fair: 1 more × paid invoice → 66.67" in people
    told = run(*why, "--since", "2026-02-28", "--json").json()
    assert (told["before"]["score"], told["before"]["components"]["payments"]) == (100.0, -50_000_000)
    assert (told["last_change"]["position"], told["last_change"]["before"], told["last_change"]["after"]) == (5, "good", "poor")
    (up,) = told["crossings"]
    assert (up["band"], up["facts"], up["moves"][0]["lever"]) == ("fair", 1, "paid invoice")
    assert run(*why, "--since", "2026-03-03").code == 2


def test_show_tells_the_stage(db: str) -> None:
    shown = run("customer", "show", "cus_1", "--db", db, "--as-of", "2026-03-02", env={"COLUMNS": "200"}).out
    assert "onboarding since 2026-02-22: began on 2026-02-22, 8 days before" in shown
    assert run("customer", "show", "cus_1", "--db", db, "--as-of", "2026-03-02", "--json").json()["lifecycle"]["stage"] == "onboarding"


def test_a_name_that_is_no_model_is_refused(db: str) -> None:
    done = run("customer", "list", "--db", db, env={"POSTSALE_HEALTH": "postsale.projections:Fold"})
    assert done.code == 2
    assert "or a file of weights" in " ".join(done.err.split())
