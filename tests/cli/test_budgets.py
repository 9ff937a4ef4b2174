"""`postsale budget`, `log verify --budgets` and the reads behind them: figures are those of the log, limits are set by a person."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from postsale import AsyncPostSale, PostSale
from postsale.agents import Agent, Policy
from postsale.agents.escrow import Escrow
from postsale.aggregates.conversations import ContactLimit
from postsale.aggregates.signals import AccountProfiled, SubscriptionStarted
from postsale.events import ManualClock
from tests.agents.budgeted import THREE
from tests.agents.world import ANNA, NOON
from tests.app.support import failed
from tests.cli.support import run

_TERMS = {"subscription_id": "s", "mrr_minor": 4900, "interval": "month", "currency": "EUR", "effective_at": NOON}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Two credits and two e-mails of the first day, of a process with slices that is still there; one e-mail of the second day."""
    folder = tmp_path_factory.mktemp("budgets")
    url, clock = f"sqlite:///{folder}/log.db", ManualClock(NOON)
    agent = Agent(Policy.from_toml(THREE))
    with PostSale.open(url, agents=[agent], clock=clock, escrow=Escrow(share=2)) as ps:
        acme = ps.tenant("acme")
        acme.agent(agent).act(reason="go", by=ANNA)
        for n, segment in enumerate(["vip", "smb", "vip", "smb", "smb"]):
            clock.advance(timedelta(days=int(n == 4)))
            acme.record(f"c{n}", AccountProfiled(source="crm", id=f"p{n}", occurred_at=NOON, segment=segment))
            acme.record(f"c{n}", SubscriptionStarted(source="b", id=f"s{n}", occurred_at=NOON, **_TERMS))
            acme.consent(f"c{n}", "email", "service", evidence="form")
            acme.record(f"c{n}", failed(f"f{n}", attempt=2))
            ps.run_once()
    return url, folder


def test_every_period_is_listed_with_its_slices_taken_in(lived: tuple[str, Path]) -> None:
    url, _ = lived
    rows = {(r["name"], r["period"]): r for r in run("budget", "list", "--all", "--json", "--db", url).json()}
    spent = {key: row["committed"] for key, row in rows.items() if row["committed"]}
    assert spent == {
        ("retention", "2026-11"): 9800,
        ("mail", "2026-11-16"): 3,  # the fourth of that day was refused
        ("mail", "2026-11-17"): 1,
        ("risk:dunning", "2026-11-16"): 45,
        ("risk:dunning", "2026-11-17"): 5,
    }
    row = rows["retention", "2026-11"]
    assert (row["unit"], row["limits"], row["left"], row["in_slices"], row["reserved"]) == ("EUR", {"dunning": 10_000}, 200, 0, 0)
    shown = run("budget", "show", "mail", "--db", url).out
    assert "contacts/email" in shown
    assert "2026-11-17" in shown
    assert {r["name"] for r in run("budget", "show", "risk", "--json", "--db", url).json()} == {"risk:dunning"}
    assert "98.00" in run("budget", "show", "retention", "--db", url).out


def test_only_current_periods_of_active_policies_are_listed_unless_all_are_asked_for(lived: tuple[str, Path]) -> None:
    url, _ = lived
    now = run("budget", "list", "--json", "--db", url).json()
    assert [r["name"] for r in now] == ["mail", "retention", "risk:dunning"]
    assert all(r["current"] for r in now)
    with PostSale.open(url, clock=ManualClock(NOON + timedelta(days=400))) as ps:
        rows = [r for r in ps.tenant("acme").budgets() if r.current]
        assert {(r.name, r.period, r.committed, r.left) for r in rows} == {
            ("mail", "2027-12-21", 0, 3),
            ("retention", "2027-12", 0, 10_000),
            ("risk:dunning", "2027-12-21", 0, 60),
        }


def test_a_budget_that_nobody_knows_is_an_error_that_says_so(lived: tuple[str, Path]) -> None:
    done = run("budget", "show", "nothing", "--db", lived[0])
    assert (done.code, "no active policy names it" in done.err) == (2, True)


def test_verify_adds_budgets_up(lived: tuple[str, Path]) -> None:
    url, _ = lived
    done = run("log", "verify", "--budgets", "--db", url)
    assert done.code == 0
    assert "no limit was passed" in done.out
    told = run("log", "verify", "--budgets", "--dispositions", "--json", "--db", url).json()
    assert (told["budgets"]["ok"], told["budgets"]["budgets"], told["dispositions"]["ok"]) == (True, 3, True)
    assert "budgets" not in run("log", "verify", "--json", "--db", url).json()


def test_contacts_are_shown_and_set_by_a_person_with_a_reason(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    PostSale.open(url).close()
    given = ("--at-most", "2", "--days", "7", "--reason", "the spring is loud", "--tenant", "acme", "--db", url)
    done = run("budget", "contacts", "email", *given, "--json")
    assert (done.json()["at_most"], done.json()["changed"]) == (2, True)
    assert "already" in run("budget", "contacts", "email", *given).out
    told = run("budget", "contacts", "--json", "--tenant", "acme", "--db", url).json()
    assert told == {"channels": {"email": {"at_most": 2, "days": 7}}, "otherwise": {"at_most": 4, "days": 30}}
    shown = run("budget", "contacts", "--tenant", "acme", "--db", url).out
    assert "email" in shown
    assert "every other channel" in shown
    for part in (("email",), ("email", "--at-most", "2", "--days", "7"), ("--at-most", "2")):
        assert run("budget", "contacts", *part, "--tenant", "acme", "--db", url).code == 2
    refused = run("budget", "contacts", "email", "--at-most", "51", "--days", "7", "--reason", "x", "--tenant", "acme", "--db", url)
    assert refused.code == 2
    with PostSale.open(url) as ps:
        assert ps.tenant("acme").contact_limits() == {"email": ContactLimit(2, 7)}


def test_the_async_twins_say_the_same(lived: tuple[str, Path]) -> None:
    async def main() -> None:
        async with await AsyncPostSale.open(lived[0]) as ps:
            acme = ps.tenant("acme")
            assert await acme.budgets("mail") == acme.sync.budgets("mail") != []
            assert await acme.contact_budget("sms", at_most=1, days=2, reason="quiet", by=ANNA)
            assert await acme.contact_limits() == {"sms": ContactLimit(1, 2)}

    asyncio.run(main())


def test_a_what_if_says_what_a_smaller_budget_of_contacts_would_have_changed(lived: tuple[str, Path]) -> None:
    url, folder = lived
    (folder / "less.toml").write_text(THREE.replace("limit = 3\n", "limit = 1\n"))
    window = ("--from", "2026-11-01", "--to", "2026-11-30")
    told = run("decision", "whatif", "--db", url, "--policy", str(folder / "less.toml"), *window, "--json").json()
    before, after = told["before"], told["after"]
    assert (before["budget mail contacts/email"], after["budget mail contacts/email"]) == (4, 2)
    assert (before["budget risk:dunning risk"], before["budget retention EUR"]) == (50, 9800)
    assert after["budget risk:dunning risk"] < 50
    assert {c["after"]["suppressed_by"] for c in told["changed"]} == {"budget:mail/2026-11-16"}
    assert told["widens"] == []
    shown = run("decision", "whatif", "--db", url, "--policy", str(folder / "less.toml"), *window).out
    (line,) = [line.split() for line in shown.splitlines() if line.startswith("budget retention")]
    assert line[:4] == ["budget", "retention", "EUR", "98.00"]


def test_decisions_under_budgets_of_all_units_are_made_again_from_the_log(lived: tuple[str, Path]) -> None:
    with PostSale.open(lived[0], agents=[Agent(Policy.from_toml(THREE))]) as ps:
        report = ps.tenant("acme").replay_many()
        assert (report.different, report.strays, report.decisions) == ([], [], 5)
