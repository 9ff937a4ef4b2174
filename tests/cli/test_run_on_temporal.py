"""`postsale run --engine temporal` as the process it is: it calls, visits, says so, and ends when it is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from postsale.agents import ChurnOutreach
from postsale.aggregates.signals import InvoicePaid
from postsale.app import PostSale
from tests.nursery import Fork
from tests.temporal import Server, server


def command(url: str, address: str, *more: str) -> subprocess.Popen[str]:
    words = ("postsale", "run", "--db", url, "--engine", "temporal", "--address", address, "--json", *more)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return Fork(*words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_it_visits_whoever_is_news_until_sigterm_and_says_what_it_did(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    with PostSale.open(url, agents=[ChurnOutreach()]) as ps:
        acme = ps.tenant("acme")
        for day in (1, 11, 21):
            acme.record(
                "cus_1",
                InvoicePaid(source="t", id=str(day), occurred_at=datetime(2026, 1, day, tzinfo=UTC), amount_minor=1, currency="EUR"),
            )
        acme.ask("cus_1", "churn-outreach", "look", reason="try")
        with command(url, server().address, "--agent", "churn-outreach") as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["event"] == "ready"
            while not acme.decisions():
                ps.log.store.wait(ps.log.store.head(), 0.2)
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            told = json.loads(process.stdout.readlines()[-1])
        assert process.returncode == 0
        assert told["event"] == "stopped"
        assert told["called"] >= 1
        assert acme.decisions()[0].recorded.condition == "look"


def test_a_server_that_is_not_there_is_named_with_the_status_of_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    PostSale.open(url).close()
    nobody = Server()
    with command(url, nobody.address, "--agent", "churn-outreach") as process:
        _, said = process.communicate()
    assert process.returncode == 5
    assert nobody.address in said
