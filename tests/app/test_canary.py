"""A canary e-mail address goes in wherever a person may stand, and comes out nowhere but to whoever may see it."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from postsale.access import nothing
from postsale.agents import RenewalRescue
from postsale.aggregates.identity import contact, foreign
from postsale.aggregates.signals import AccountProfiled, SurveyAnswered, TicketOpened
from postsale.app import PostSale
from postsale.errors import PostSaleError
from postsale.events import ManualClock
from tests.cli.support import run

from .support import ANNA, CANARY, NOON, bytes_of, cancelled, failed, opened, paid, subscribed, url_of

FORMS = (CANARY.encode(), CANARY.upper().encode(), b"canary.bird", CANARY.encode("utf-16-le"), CANARY.encode().hex().encode())


def lived(ps: PostSale) -> None:
    """The canary as customer id, foreign id, contact, comment, subject, name; agents decide, act and are approved."""
    acme = ps.tenant("acme")
    acme.agent("renewal-rescue").act(reason="test", by=ANNA)
    acme.record(CANARY, subscribed("s"))
    acme.record(CANARY, AccountProfiled(source="crm", id="a", occurred_at=NOON, name=f"Bird <{CANARY}>", segment="enterprise"))
    acme.record(CANARY, failed("f", attempt=2))
    acme.record(CANARY, SurveyAnswered(source="s", id="1", occurred_at=NOON, survey="nps", score=1, comment=CANARY, contact=CANARY))
    acme.record(CANARY, TicketOpened(source="z", id="t", occurred_at=NOON, ticket_id="7", subject=f"from {CANARY}", contact=CANARY))
    acme.record(foreign("hubspot", CANARY), paid("h"))
    acme.record(contact(CANARY, "zendesk"), paid("z"))
    acme.link(foreign("hubspot", CANARY), CANARY)
    acme.record("other", cancelled("c"))
    acme.merge("other", into=CANARY, reason="same", by=ANNA)
    acme.consent(CANARY, "email", "service", evidence="form")
    with pytest.raises(PostSaleError):
        acme.record(
            CANARY, SurveyAnswered(source="s", id="1", occurred_at=NOON, survey="nps", score=2, comment=f"2 {CANARY}", contact=CANARY)
        )
    ps.run_once()
    for entry in acme.decisions():
        acme.explain(entry.id)
        acme.replay(entry.id)
    ps.simulate("acme", NOON, agents=[RenewalRescue()])


def assert_absent(raw: bytes) -> None:
    for form in FORMS:
        assert form not in raw, form


def test_no_file_holds_the_canary_while_open_or_after_closing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Log with its -wal, views, quarantine, simulation; and nothing was logged."""
    caplog.set_level(logging.DEBUG)
    with opened(tmp_path, agents=[RenewalRescue()]) as ps:
        lived(ps)
        assert any(p.name.endswith("-wal") for p in tmp_path.iterdir())
        assert len(ps.tenant("acme").quarantine()) == 1
        assert_absent(bytes_of(tmp_path))
    assert_absent(bytes_of(tmp_path))
    assert_absent((tmp_path / "log.keys").read_bytes())
    assert_absent(caplog.text.encode())
    with opened(tmp_path) as ps:  # it is there for whoever may see it
        assert ps.tenant("acme").customers()[0].name == CANARY


def test_no_answer_to_an_auditor_without_rights_holds_the_canary(tmp_path: Path) -> None:
    with opened(tmp_path, agents=[RenewalRescue()]) as ps:
        lived(ps)
    with opened(tmp_path, may_see=nothing) as ps:
        acme = ps.tenant("acme")
        said: list[Any] = [repr(acme.customers()), acme.names(), repr(acme.timeline(CANARY)), acme.health(CANARY).why().to_dict()]
        said += [acme.explain(e.id).to_dict() for e in acme.decisions()]
        said += [repr(acme.customer(CANARY)), acme.customer(CANARY).to_dict(), [i.to_dict() for i in acme.quarantine()], ps.projections()]
        assert_absent(json.dumps(said, default=repr).encode())


CASES = {
    "unknown customer": lambda t: t.health(CANARY),
    "unknown foreign": lambda t: t.customer(foreign("x", CANARY)),
    "bad id": lambda t: t.record(CANARY + "\x00", paid("x")),
    "bad contact": lambda t: t.record("cus_1", paid("x", contact=CANARY + "\n")),
    "bad source of an id": lambda t: t.record(foreign(CANARY + "\x00", "1"), paid("x")),
    "bad kind of id": lambda t: t.record(contact(CANARY)._replace(kind=CANARY), paid("x")),
    "value for a number": lambda t: t.record("cus_1", paid("x", amount_minor=CANARY)),
    "unknown field": lambda t: t.record("cus_1", paid("x", **{CANARY: 1})),
    "comment too long": lambda t: t.record("cus_1", _answer(comment=CANARY * 400)),
    "comment not text": lambda t: t.record("cus_1", _answer(comment=[CANARY])),
    "currency": lambda t: t.record("cus_1", paid("x", currency=CANARY)),
    "conflict": lambda t: (t.record(CANARY, _answer(comment=CANARY)), t.record(CANARY, _answer(comment="2" + CANARY))),
    "future": lambda t: t.record(CANARY, _answer(comment=CANARY, occurred_at=NOON + timedelta(days=1))),
    "link to unknown": lambda t: t.link(foreign("x", CANARY), CANARY),
    "merge of unknown": lambda t: t.merge(CANARY, into="x" + CANARY, reason="r", by=ANNA),
    "decision id": lambda t: t.explain(CANARY),
    "not a signal": lambda t: t.record(CANARY, CANARY),
    "destroyed key": lambda t: _after_erasure(t),
    "token": lambda t: t._ps.authenticate(CANARY),
    "too large": lambda t: t.record("cus_1", _answer(comment=CANARY * 100, contact="e" * 200)) and t.record(CANARY * 30, paid("x")),
}


def _answer(**more: Any) -> SurveyAnswered:
    return SurveyAnswered(**{"source": "s", "id": "1", "occurred_at": NOON, "survey": "nps", "score": 1} | more)


def _after_erasure(tenant: Any) -> None:
    tenant.record(CANARY, _answer(comment=CANARY))
    tenant._ps.log.vault.destroy("acme", tenant.customer(CANARY).ref)
    tenant.record(CANARY, _answer(id="2", comment=CANARY))


@pytest.mark.parametrize("case", sorted(CASES))
def test_no_error_says_the_canary(case: str, tmp_path: Path) -> None:
    """Neither its text, its fields, its representation, nor the traceback with everything chained to it."""
    with opened(tmp_path) as ps, pytest.raises(PostSaleError) as caught:
        CASES[case](ps.tenant("acme"))
    error = caught.value
    chain: list[BaseException | None] = [error, error.__cause__, error.__context__]
    said = "".join(traceback.format_exception(error)) + repr(error.fields()) + "".join(f"{e!r} {e}" for e in chain)
    source = Path(__file__).read_text()
    assert CANARY not in source.replace('CANARY = "', "")  # so that the lines a traceback quotes hold only the name
    assert_absent(said.encode())


def test_no_error_of_the_command_line_says_the_canary(tmp_path: Path) -> None:
    """Unknown customers and decisions, a bad file, a bad mapping, a missing database of that name."""
    with opened(tmp_path, clock=ManualClock(NOON)) as ps:
        ps.tenant("acme").record("cus_1", paid("1"))
    bad = tmp_path / "bad.ndjson"
    bad.write_text(
        json.dumps({"specversion": "1.0", "type": "billing/invoice-paid", "subject": CANARY, "data": {CANARY: CANARY}}) + "\n" + CANARY
    )
    commands = [
        ["customer", "show", CANARY],
        ["customer", "why", CANARY],
        ["customer", "timeline", CANARY],
        ["decision", "list", CANARY],
        ["decision", "explain", CANARY],
        ["approval", "approve", CANARY],
        ["ingest", "cloudevents", str(bad)],
        ["quarantine", "list"],
        ["quarantine", "list", "--json"],
        ["quarantine", "retry", CANARY],
        ["agent", "act", CANARY, "--reason", "r"],
        ["run", "--agent", CANARY],
        ["projection", "status"],
    ]
    for command in commands:
        done = run(*command, env={"POSTSALE_DB": url_of(tmp_path)})
        assert_absent((done.out + done.err).encode())
    assert_absent(bytes_of(tmp_path).replace(bad.read_bytes(), b""))
