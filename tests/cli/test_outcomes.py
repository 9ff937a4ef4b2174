"""`outcome list` and `outcome show`, and the lines of use in `customer show`."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from postsale.cli.outcomes import parse_period, spark
from postsale.errors import InvalidInput

from .support import run

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PERIOD = ("--period", "2026-08-01..2026-09-30")


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026", (2026, 1, 1), (2027, 1, 1)),
        ("2026-Q4", (2026, 10, 1), (2027, 1, 1)),
        ("2026-12", (2026, 12, 1), (2027, 1, 1)),
        ("2026-01-15..2026-02-14", (2026, 1, 15), (2026, 2, 15)),
    ],
)
def test_a_period_is_whole_days_in_utc(text: str, start: tuple[int, int, int], end: tuple[int, int, int]) -> None:
    assert parse_period(text, NOW) == (datetime(*start, tzinfo=UTC), datetime(*end, tzinfo=UTC))


@pytest.mark.parametrize("text", ["", "26", "2026-Q5", "2026-13", "2026-02-30..2026-03-01", "yesterday", "9999-12-31..9999-12-31"])
def test_another_period_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(InvalidInput, match="2026-Q1"):
        parse_period(text, NOW)


def test_bars_begin_at_zero() -> None:
    assert spark([0, 1, 4, 8, 8]) == "▁▂▅██"
    assert spark([0, 0]) == "▁▁"
    assert spark([]) == ""


def test_the_list_is_that_of_the_json_and_says_who_was_left_out(db: str) -> None:
    shown, told = run("outcome", "list", *PERIOD, "--db", db), run("outcome", "list", *PERIOD, "--db", db, "--json").json()
    assert shown.code == 0
    names = [m["name"] for m in told["measures"]]
    assert [line.split()[0] for line in shown.out.splitlines()[2 : 2 + len(names)]] == names
    assert "Outcomes 2026-08-01 to 2026-09-30" in shown.out
    grr = next(m for m in told["measures"] if m["name"] == "grr")
    assert grr["n"] > 0
    assert grr["numerator"] <= grr["denominator"] == told["movements"][0]["opening"]
    due = next(m for m in told["measures"] if m["name"] == "grr-due")
    assert due["n"] + due["excluded"]["contract does not end in the period"] == grr["n"]


def test_show_gives_the_parts_the_movements_and_the_contract_ends(db: str) -> None:
    told = run("outcome", "show", "nrr", *PERIOD, "--db", db, "--json").json()
    shown = run("outcome", "show", "nrr", *PERIOD, "--db", db).out
    (measure,) = told["measures"]
    assert f"= {measure['numerator']:,} / {measure['denominator']:,} minor units" in shown
    assert "Movements 2026-08-01 to 2026-09-30" in shown
    ends = run("outcome", "show", "renewal-rate", *PERIOD, "--db", db, "--json").json()["renewals"]
    said = run("outcome", "show", "renewal-rate", *PERIOD, "--db", db).out.count("billing")
    assert said == (len(ends) + 1 if ends else 0)  # and once in the note


def test_an_outcome_that_there_is_not_ends_with_status_2_and_the_names(db: str) -> None:
    done = run("outcome", "show", "gmv", *PERIOD, "--db", db)
    assert done.code == 2
    assert "logo-churn" in done.err


def test_customer_show_tells_how_it_is_used(db: str) -> None:
    shown = run("customer", "show", "cus_001", "--db", db, "--as-of", "2026-09-30")
    told = run("customer", "show", "cus_001", "--db", db, "--as-of", "2026-09-30", "--json").json()
    assert f"adoption, 30 days: {told['adoption']['breadth']} features" in shown.out
    assert told["adoption"]["uses"] > 0
    assert told["advocacy"]["invited"] > 0
    assert f"{told['advocacy']['invited']} invited, {told['advocacy']['converted']} of them converted" in shown.out
