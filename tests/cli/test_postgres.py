"""The command line on PostgreSQL: the same commands, given --db, --keys and --schema; nothing ever prints the password."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from postsale import PostSale
from postsale.aggregates.signals import InvoicePaid, InvoicePaymentFailed, Signal, SubscriptionStarted
from postsale.events import Origin
from tests.nursery import Fork
from tests.postgres import new_log

from .support import Done, run

SECRET = "correct-horse"
NOW = datetime.now(UTC)


class Log(NamedTuple):
    url: str  # with a password
    schema: str
    keys: Path

    @property
    def options(self) -> list[str]:
        return ["--db", self.url, "--keys", str(self.keys), "--schema", self.schema]

    @property
    def env(self) -> dict[str, str]:
        return {"POSTSALE_DB": self.url, "POSTSALE_KEYS": str(self.keys), "POSTSALE_SCHEMA": self.schema}

    def open(self) -> PostSale:
        return PostSale.open(self.url, keys=self.keys, schema=self.schema)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """Twelve customers of acme, half of them with a failing payment."""
    with new_log() as (url, schema):
        made = Log(url.replace("@", f":{SECRET}@", 1), schema, tmp_path / "postsale.keys")
        items: list[tuple[str, Signal]] = []
        for n in range(12):
            terms = {"subscription_id": "s", "mrr_minor": 60_000, "interval": "month", "currency": "EUR"}
            at = NOW - timedelta(days=50 + n)
            items.append((f"cus_{n}", SubscriptionStarted(source="stripe", id=f"s{n}", occurred_at=at, effective_at=at, **terms)))
            if n % 2:
                money = {"amount_minor": 9_900, "currency": "EUR"}
                items.append((f"cus_{n}", InvoicePaymentFailed(source="stripe", id=f"f{n}", occurred_at=NOW, attempt=2, **money)))
        with made.open() as ps:
            assert ps.tenant("acme").record_many(items).rejects == []
        yield made


def quiet(done: Done, code: int = 0) -> Done:
    """How it ended, and that it gave the password to nobody."""
    assert done.code == code, (done.out, done.err)
    assert SECRET not in done.out + done.err
    return done


def test_every_step_from_a_list_to_a_proof_works_on_a_server(log: Log) -> None:
    at_risk = [row["customer"] for row in quiet(run("customer", "list", "--at-risk", "--json", *log.options)).json()]
    assert sorted(at_risk) == sorted(f"cus_{n}" for n in range(1, 12, 2))
    assert "payments" in quiet(run("customer", "why", "cus_1", *log.options)).out
    done = quiet(run("run", "--agent", "renewal-rescue", "--json", env=log.env)).json()
    assert done["counts"]["decided"] == done["counts"]["raised"] > 0
    assert done["db"].startswith("postgresql://")
    decisions = quiet(run("decision", "list", "--json", *log.options)).json()
    assert len(decisions) == done["counts"]["decided"]
    quiet(run("decision", "explain", decisions[0]["id"], *log.options))
    quiet(run("decision", "replay", decisions[0]["id"], *log.options))
    status = quiet(run("projection", "status", "--json", *log.options)).json()
    assert {row["projection"].partition(".")[0] for row in status} == {"CustomerHealth", "rounds/acme"}
    assert quiet(run("log", "verify", "--json", "--db", log.url, "--schema", log.schema)).json()["problems"] == []  # needs no keys


def test_what_to_type_next_repeats_the_options_but_not_the_password(log: Log) -> None:
    hint = quiet(run("customer", "list", *log.options)).out.splitlines()[-1]
    for said in (f"--keys {log.keys}", f"--schema {log.schema}", ":•••@"):
        assert said in hint
    assert "--db" not in quiet(run("customer", "list", env=log.env)).out


@pytest.mark.parametrize(
    ("without", "code", "says"),
    [
        ("keys", 2, ("--keys", "POSTSALE_KEYS")),
        ("schema", 5, ("postgresql://",)),
        ("server", 5, ("postgresql://",)),
    ],
)
def test_what_is_missing_is_said_with_its_exit_status_and_without_the_password(
    log: Log, without: str, code: int, says: tuple[str, ...]
) -> None:
    env = {**log.env, **({"POSTSALE_DB": f"postgresql://who:{SECRET}@127.0.0.1:1/none?connect_timeout=1"} if without == "server" else {})}
    if without in {"keys", "schema"}:
        del env[f"POSTSALE_{without.upper()}"]
    done = quiet(run("customer", "list", env=env), code)
    assert all(text in done.err for text in says), done.err
    assert "Traceback" not in done.err


def test_keys_of_another_log_open_nothing(log: Log, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with PostSale.open(f"sqlite:///{other}") as ps:
        ps.tenant("acme").record("cus_1", InvoicePaid(source="s", id="1", occurred_at=NOW, amount_minor=1, currency="EUR"))
    done = quiet(run("customer", "show", "cus_1", env={**log.env, "POSTSALE_KEYS": str(other.with_suffix(".keys"))}), 5)
    assert "other keys" in done.err


def test_keys_beside_a_file_are_not_named(tmp_path: Path) -> None:
    """POSTSALE_KEYS is of the log on the server; a SQLite log goes on with its own, and --keys is refused."""
    url = f"sqlite:///{tmp_path / 'own.db'}"
    PostSale.open(url).close()
    assert run("customer", "list", "--tenant", "acme", "--db", url, env={"POSTSALE_KEYS": "/nowhere"}).code == 2  # no such tenant
    done = run("customer", "list", "--db", url, "--keys", "/nowhere")
    assert (done.code, "NAME.keys" in done.err) == (2, True)


def test_two_runs_at_the_same_time_decide_each_trigger_once_and_send_each_effect_once(log: Log) -> None:
    """Two processes of `postsale run` on one database, several times, while the agent may act."""
    quiet(run("agent", "act", "renewal-rescue", "--reason", "test", *log.options))
    command = ("postsale", "run", "--agent", "renewal-rescue", "--json")
    for _ in range(2):
        env = {k: v for k, v in os.environ.items() if not k.startswith("POSTSALE_")} | log.env
        both = [Fork(*command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        for process in both:
            out, err = process.communicate()
            if process.returncode == 5:
                assert "LeaseHeld" in err  # it did not get its turn in the time that it waits
            else:
                quiet(Done(process.returncode, out, err))
        quiet(run("run", "--agent", "renewal-rescue", *log.options))
    with log.open() as ps:
        decisions = ps.tenant("acme").decisions()
        assert len(decisions) == len({(e.stream, e.recorded.condition) for e in decisions}) >= 6
        for name in (f"cus_{n}" for n in range(12)):
            started = [e.data.intent_id for e in ps.tenant("acme").timeline(name) if e.stored.kind == "effect/started"]  # type: ignore[attr-defined]
            assert len(started) == len(set(started))
        assert sum(status == "succeeded" for e in decisions for status in e.effects.values()) >= 1
        assert ps.verify().problems == []


def test_a_simulation_of_a_log_on_a_server_is_a_file_here(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with log.open() as ps:
        paid = [
            InvoicePaid(source="s", id=f"p{n}", occurred_at=NOW - timedelta(days=200 - n), amount_minor=1, currency="EUR") for n in range(9)
        ]
        ps.tenant("acme").record_many([("shopper", signal) for signal in paid], origin=Origin.IMPORT)
    day = f"{NOW - timedelta(days=30):%Y-%m-%d}"
    simulate = ["run", "--simulate", "--as-of", day, "--agent", "churn-outreach", "--tenant", "acme"]
    done = quiet(run(*simulate, "--json", *log.options)).json()
    assert done["counts"]["visited"]
    file = Path(done["db"].removeprefix("sqlite:///"))
    assert (file.parent, file.with_suffix(".keys").exists()) == (here, True)
    said = quiet(run(*simulate, *log.options)).out
    assert f"--db {done['db']}" in said.splitlines()[-1].replace("'", "")
    assert "--keys" not in said
    assert run("decision", "list", "--json", "--db", done["db"]).json()
