"""`postsale model …`: from a history to a model that scores, and back, through files, tables, JSON and exit statuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from postsale import PostSale
from tests.app.modelled import signals

from .support import Done, run

TRAIN = ("--target", "churn", "--horizon", "60d", "--split-at", "2025-04-24", "--knowledge", "claimed", "--every", "60d")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a past, which the tests read and activate models in."""
    folder = tmp_path_factory.mktemp("models")
    with PostSale.open(f"sqlite:///{folder / 'log.db'}") as ps:
        ps.tenant("acme").record_many(signals(180))
    return folder


def model(history: Path, *argv: str, **env: str) -> Done:
    return run("model", *argv, env={"POSTSALE_DB": f"sqlite:///{history / 'log.db'}", **env})


def test_a_model_is_trained_published_activated_shown_compared_and_retired(history: Path, tmp_path: Path) -> None:
    file = tmp_path / "churn.json"
    done = model(history, "train", *TRAIN, "--out", str(file))
    assert done.code == 0, done.err
    for said in (
        "the customer leaves within 60 days",
        "AUC",
        "95 %, by customers",
        "Brier skill",
        "Calibration",
        "By time",
        "lift, top tenth",
    ):
        assert said in done.out
    first = model(history, "publish", str(file), "--reason", "trained", "--json").json()
    prior = model(history, "publish", "prior:churn", "--reason", "a start", "--json").json()
    assert model(history, "publish", str(file), "--reason", "again", "--json").json()["published"] is False
    listed = model(history, "list", "--json").json()
    assert [v["digest"] for v in listed[0]["versions"]] == [first["digest"], prior["digest"]]
    assert listed[0]["active"] is None
    for digest in (prior["digest"], first["digest"][:12]):
        assert model(history, "activate", "churn", digest, "--reason", "looks right").code == 0
    assert model(history, "list", "--json").json()[0]["active"] == first["digest"]
    assert "active" in model(history, "list").out
    shown = model(history, "show", "churn")
    assert "Who activated what" in shown.out
    assert "looks right" in shown.out
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d ", shown.out.partition("Who activated what")[2], re.MULTILINE)
    differs = model(history, "diff", "churn", prior["digest"], first["digest"], "--json").json()["differs"]
    assert {d["what"] for d in differs} >= {"intercept", "rows", "good for"}
    assert "intercept" in model(history, "diff", "churn", prior["digest"], first["digest"]).out
    (score,) = model(history, "score", "cus_3", "--as-of", "2025-06-01", "--json").json()
    assert score["digest"] == first["digest"]
    assert sum(part["log_odds_micro"] for part in score["parts"]) == score["log_odds_micro"]
    customer = run("customer", "show", "cus_3", "--db", f"sqlite:///{history / 'log.db'}", "--json").json()
    assert customer["scores"][0]["model"] == "churn"
    checked = model(history, "check", "churn", "--knowledge", "claimed", "--json")
    assert checked.code == (0 if checked.json()["says"] in ("ok", "too early") else 1)
    assert model(history, "retire", "churn", "--reason", "done").code == 0
    assert model(history, "list", "--json").json()[0]["active"] is None
    assert "No model is active" in model(history, "score", "cus_3").out


def test_what_cannot_be_done_ends_with_its_own_exit_status(history: Path, tmp_path: Path) -> None:
    few = model(history, "train", "--target", "churn", "--split-at", "2024-02-15", "--knowledge", "claimed", "--horizon", "14d")
    assert (few.code, "TooFewOutcomes" in few.err) == (2, True)
    assert model(history, "train", "--target", "luck", "--split-at", "2025-01-01").code == 2
    assert model(history, "train", "--target", "churn", "--split-at", "2025-01-01", "--horizon", "soon").code == 2
    assert model(history, "train", "--target", "churn", "--split-at", "2025-01-01", "--knowledge", "guessed").code == 2
    assert model(history, "publish", str(tmp_path / "nothing.json"), "--reason", "r").code == 2
    (tmp_path / "text.json").write_text("{}")
    assert model(history, "publish", str(tmp_path / "text.json"), "--reason", "r").code == 2
    assert model(history, "show", "expansion").code == 4
    assert model(history, "check", "expansion").code == 4
    assert model(history, "activate", "churn", "0" * 12, "--reason", "r").code == 4
    assert model(history, "list", POSTSALE_TARGETS="postsale.projections.targets:CHURN").code == 2


def test_targets_of_ones_own_are_named_by_the_environment(history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_of_tests.py").write_text(
        "from dataclasses import replace\n"
        "from postsale.projections.targets import CHURN, TARGETS\n"
        "MINE = [*TARGETS, replace(CHURN, name='silence', prior=None)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    done = model(history, "publish", "prior:silence", "--reason", "r", POSTSALE_TARGETS="mine_of_tests:MINE")
    assert (done.code, "train a model" in done.err) == (2, True)
