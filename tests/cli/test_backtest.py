"""`postsale backtest`: what it prints, and what it says where it is asked wrongly."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from postsale import PostSale
from postsale.cli.backtest import spark
from postsale.events import ManualClock
from postsale.simulator import TROUBLED, Vendor
from postsale.simulator.past import fill

from .support import run

START = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Half a year of a small vendor; the log's clock stands at its end, which is before today's: nothing waits to be over."""
    url = f"sqlite:///{tmp_path_factory.mktemp('backtest') / 'log.db'}"
    start = datetime(2025, 1, 6, tzinfo=UTC)
    clock = ManualClock(start)
    with PostSale.open(url, clock=clock) as ps:
        fill(ps.tenant("acme"), clock, Vendor(7, customers=15, start=start, days=180, model=TROUBLED))
    return url


def backtest(db: str, *more: str) -> Any:
    return run("backtest", *more, "--from", "2025-02-01", "--to", "2025-04-01", "--db", db)


def test_a_score_is_told_to_people_and_to_programs(db: str) -> None:
    """The same figures; a line for each cut-off, each line through the score, and each band."""
    found = backtest(db, "health", "--json").json()
    assert [at[:10] for at in found["cutoffs"]] == ["2025-02-01", "2025-03-01", "2025-04-01"]
    assert found["gives"] == "rank"
    assert found["calibration"] is None
    assert "not calibrated" in found["no_calibration_because"]
    assert {b["band"] for b in found["bands"]} == {"poor", "fair", "good"}
    shown = backtest(db, "health", "--threshold", "60")
    assert shown.code == 0, shown.err
    assert f"{found['whole']['rows']:,} rows of {found['whole']['customers']:,} customers" in shown.out
    assert f"AUC {found['whole']['auc']:.3f}" in shown.out
    for said in ("top 10 %", "band poor", "threshold 60", "2025-03-01", "in it at the last cut-off", "Left out: "):
        assert said in shown.out, said


def test_an_agent_is_told_with_what_it_must_not_be_taken_for(db: str, tmp_path: Path) -> None:
    """A shipped one and one of a file; its population in words, and that it is no causal claim."""
    found = backtest(db, "--agent", "renewal-rescue", "--every", "30d", "--json").json()
    assert found["triggers"] == sum(found["dispositions"].values()) > 0
    shown = backtest(db, "--agent", "renewal-rescue", "--every", "30d")
    assert shown.code == 0, shown.err
    flat = " ".join(shown.out.split())
    for said in (found["claim"], found["population"], f"Would have decided {found['triggers']} times", "No estimate of what it changes"):
        assert said in flat, said
    assert "True effect" not in shown.out
    from importlib.resources import files

    policy = tmp_path / "mine.toml"
    policy.write_text((files("postsale.agents.policies") / "renewal-rescue.toml").read_text().replace('"renewal-rescue"', '"mine"', 1))
    mine = backtest(db, "--agent", str(policy), "--every", "30d", "--json").json()
    assert {**mine, "agent": "", "policy": "", "policy_digest": "", "population": ""} == {
        **found, "agent": "", "policy": "", "policy_digest": "", "population": ""
    }  # fmt: skip


def test_over_a_simulated_vendor_the_true_effect_stands_beside() -> None:
    """No database is needed, and the same seed tells the same."""
    first, again = (
        run("backtest", "--agent", "renewal-rescue", "--simulated", "--customers", "5", "--every", "60d", "--json") for _ in "ab"
    )
    assert first.code == 0, first.err
    assert first.json()["true_effect"]["spared"]["churned"] == 0
    assert again.json() == first.json()


def test_a_feature_of_ones_own_is_a_score(db: str) -> None:
    field = backtest(db, "--field", "postsale.projections.customer_health:CustomerHealth.usage_30d", "--falling", "--json").json()
    named = backtest(db, "feature:usage_30d", "--falling", "--json").json()
    assert field == {**named, "score": "usage_30d"}


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("health", "--agent", "renewal-rescue"),
        ("weather",),
        ("health", "--horizon", "soon"),
        ("health", "--knowledge", "all"),
        ("health", "--target", "weather"),
        ("--agent", "nobody"),
        ("--agent", "renewal-rescue", "--mode", "fly"),
        ("--field", "postsale.projections.customer_health:CustomerHealth"),
        ("--field", "postsale.projections.customer_health:Weather.rain"),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_one_line(db: str, argv: tuple[str, ...]) -> None:
    done = backtest(db, *argv)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


def test_without_a_beginning_it_asks_for_one(db: str) -> None:
    done = run("backtest", "health", "--db", db)
    assert done.code == 2
    assert "--from" in done.err


def test_a_spark_line_has_a_bar_for_each_value() -> None:
    assert spark([0.0, 0.5, 1.0, None]) == "▁▅█·"
    assert spark([None, None]) == "··"
    assert spark([0.0, 0.0]) == "▁▁"
