"""`outcome list` and `outcome show`, and the lines of use in `customer show`."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from postsale import PostSale
from postsale.aggregates.signals import SubscriptionEnded
from postsale.cli.outcomes import parse_period, spark
from postsale.errors import InvalidInput
from postsale.projections.outcomes import Rates
from tests.app.support import url_of
from tests.app.test_effects import END, happens, story

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
    assert f"expansion: {100 * told['expansion']['utilisation']:.0f} % of {told['expansion']['seats']} seats in use" in shown.out
    assert f"{told['advocacy']['invited']} invited, {told['advocacy']['converted']} of them converted" in shown.out


def test_risk_cases_are_shown_by_who_opened_them_with_their_stages_and_ends(db: str) -> None:
    told, shown = (
        run("outcome", "show", "cases-recovered", *PERIOD, "--db", db, "--json").json(),
        run("outcome", "show", "cases-recovered", *PERIOD, "--db", db).out,
    )
    by = {c["opened_by"] for c in told["cases"]}
    assert by
    assert all(b.startswith("renewal-rescue/") for b in by)
    first = shown[shown.index("Risk cases") :]
    for b in by:
        row = next(line for line in first.splitlines() if b in line)
        assert row.split()[1] == str(sum(c["opened_by"] == b for c in told["cases"]))
    assert told["measures"][0]["n"] == sum(c["result"] is not None for c in told["cases"])


def test_coverage_is_shown_agent_by_agent(db: str) -> None:
    told, shown = (
        run("outcome", "show", "coverage-triggers", *PERIOD, "--db", db, "--json").json(),
        run("outcome", "show", "coverage-triggers", *PERIOD, "--db", db).out,
    )
    assert sum(agent["triggers"] for agent in told["coverage"]) == told["measures"][0]["denominator"] > 0
    table = shown[shown.index("Triggers by agent") :]
    for agent in told["coverage"]:
        assert agent["triggers"] == agent["waiting"] + sum(agent["dispositions"].values())
        row = next(line for line in table.splitlines() if agent["agent"] in line)
        assert row.split()[1] == str(agent["triggers"])
    assert all(rule in table for agent in told["coverage"] for rule in agent["suppressed_by"])


# ---------------------------------------------------------------- what else can be asked


def test_rates_conditions_and_a_term_are_those_of_the_library(db: str) -> None:
    asked = (
        "--to",
        "USD",
        "--rate",
        "EUR=1.10",
        "--rates-on",
        "2026-08-01",
        "--reply-within-h",
        "4",
        "--condition",
        "renewal-rescue/unwell",
    )
    plain = {m["name"]: m for m in run("outcome", "list", *PERIOD, "--db", db, "--json").json()["measures"]}
    told = {m["name"]: m for m in run("outcome", "list", *PERIOD, *asked, "--db", db, "--json").json()["measures"]}
    with PostSale.open(db) as ps:
        found = ps.tenant("acme").outcomes(
            *parse_period(PERIOD[1], NOW),
            rates=Rates("USD", date(2026, 8, 1), {"EUR": Decimal("1.10")}),
            conditions={"renewal-rescue/unwell"},
            reply_within=timedelta(hours=4),
        )
    for name in ("grr", "nrr", "sla-first-reply", "time-to-response", "coverage-at-risk-accounts"):
        expected = found.measure(name).to_dict()
        assert [told[name][k] for k in ("value", "n", "currency", "note")] == [expected[k] for k in ("value", "n", "currency", "note")], (
            name
        )
    assert told["grr"]["denominator"] == pytest.approx(1.1 * plain["grr"]["denominator"], rel=1e-3)
    assert "sla-first-reply" not in plain
    assert told["time-to-response"]["n"] < plain["time-to-response"]["n"]
    shown = run("outcome", "show", "grr", *PERIOD, *asked, "--db", db).out
    assert "converted to USD at rates of 2026-08-01" in shown


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (("--to", "USD"), "--to"),
        (("--to", "USD", "--rate", "EUR", "--rates-on", "2026-08-01"), "--rate"),
        (("--to", "USD", "--rate", "EUR=-1", "--rates-on", "2026-08-01"), "--rate"),
        (("--to", "USD", "--rate", "EUR=nan", "--rates-on", "2026-08-01"), "--rate"),
        (("--to", "dollars", "--rate", "EUR=1", "--rates-on", "2026-08-01"), "--to"),
        (("--to", "USD", "--rate", "EUR=1", "--rates-on", "August"), "--rates-on"),
        (("--reply-within-h", "0"), "--reply-within-h"),
        (("--reply-within-h", "nan"), "--reply-within-h"),
        (("--condition", "unwell"), "--condition"),
    ],
)
def test_an_option_that_cannot_be_read_is_refused_by_name(asked: tuple[str, ...], named: str, db: str) -> None:
    done = run("outcome", "list", *PERIOD, *asked, "--db", db)
    assert done.code == 2
    assert f"{named}:" in done.err


def test_without_a_hold_out_the_effect_is_refused_with_what_to_do(db: str) -> None:
    done = run("outcome", "effect", *PERIOD, "--db", db)
    assert done.code == 2
    assert "put [holdout] into the policy" in done.err.replace("\n", " ")


def test_the_effect_is_shown_with_both_arms_and_its_interval(tmp_path: Path) -> None:
    ps, clock = story(tmp_path)
    with ps:
        clock.move_to(END)
        for name in ("t0", "h0", "h1", "h2"):
            happens(ps, SubscriptionEnded, name, 100, 40)
    argv = ("outcome", "effect", "--period", "2026-Q1", "--db", url_of(tmp_path), "--as-of", "2026-04-30")
    told, shown = run(*argv, "--json").json()["effects"], run(*argv).out
    assert (told[0]["treated"], told[0]["held_out"]) == (12, 12)
    lost = next(e["estimate"] for e in told[0]["effects"] if e["name"] == "lost")
    assert lost["value"] == round(-2 / 12, 6)
    assert "12 acted on, 12 held out (50 % of customers, hold-out mail)" in shown
    row = next(line for line in shown.splitlines() if line.strip().startswith("lost"))
    assert "-16.7 %" in row
    assert f"{100 * lost['low']:.1f} % to {100 * lost['high']:.1f} %" in row
    assert "8.3 % of 12" in row
