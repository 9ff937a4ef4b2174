"""Checkpoints and proofs through the application: what an operator signs, what leaves the building, what an auditor can tell."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from postsale import contact
from postsale.aggregates.signals import SurveyAnswered
from postsale.app.aio import AsyncPostSale
from postsale.errors import CheckpointRefused, InvalidInput
from postsale.events import ManualClock
from postsale.store import FileAnchor, check_proof

from .support import CANARY, NOON, execute, opened, paid, url_of, used
from .test_promises import triggers_of


def test_an_operator_signs_and_a_third_party_checks(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "elsewhere")
    with opened(tmp_path) as ps:
        acme = ps.tenant("acme")
        receipt = acme.record("cus_42", paid("evt_1"))
        signed = ps.checkpoint("acme", anchor)
        assert (signed.size, signed.at_us) == (ps.log.store.tree_head("acme").size, ps.clock.now_us())
        key = ps.verifier_key("acme")
        proof = ps.prove("acme", receipt.position)
        assert proof == ps.prove("acme", receipt.event_id, signed)
        assert check_proof(proof.to_json(), [key]).to_dict()["kind"] == "billing/invoice-paid@1"
        assert not check_proof(proof.to_json(), [ps.verifier_key("globex")]).ok
        report = ps.verify(against=anchor.notes())
        assert (report.problems, report.warnings, report.signed) == ([], [], {"acme": signed.size})


def test_an_auditor_without_keys_verifies_against_the_anchor(tmp_path: Path) -> None:
    """Where its key is gone a log can still be compared; what could not be checked is said."""
    anchor = FileAnchor(tmp_path / "elsewhere")
    with opened(tmp_path) as ps:
        ps.tenant("acme").record("cus_42", paid("evt_1"))
        ps.checkpoint("acme", anchor)
        ps.log.vault.close()
        report = ps.verify(against=anchor.notes())
        assert (report.ok, len(report.warnings)) == (True, 1)
        assert "its key was not given" in report.warnings[0]


def test_verifying_makes_no_key(tmp_path: Path) -> None:
    with opened(tmp_path) as ps:
        ps.tenant("acme").record("cus_42", paid("evt_1"))
        assert ps.verify().ok
        assert ps.log.vault.verifier("acme", create=False) is None


def test_a_recorded_event_that_disappears_with_all_its_traces_is_missed(tmp_path: Path) -> None:
    """The tail of the log is deleted and every head set back: the anchor says what is missing, and nothing more is signed."""
    anchor = FileAnchor(tmp_path / "elsewhere")
    path = tmp_path / "log.db"
    with opened(tmp_path) as ps:
        for number in range(5):
            ps.tenant("acme").record("cus_42", used(f"u{number}"))
        before = ps.log.store.head()
        (size, frontier), root = _head(path), ps.log.store.tree_head("acme").root
        for number in range(3):
            ps.tenant("acme").record("cus_42", used(f"later{number}"))
        ps.checkpoint("acme", anchor)
    execute(
        path,
        *(f"DROP TRIGGER {name}" for name in triggers_of(path)),
        f"DELETE FROM events WHERE position > {before}",
        f"UPDATE tenants SET size = {size}, frontier = x'{frontier.hex()}'",
        f"UPDATE log SET (position, recorded_at) = (SELECT position, recorded_at FROM events WHERE position = {before})",
        "DELETE FROM kv",
    )
    with opened(tmp_path) as ps:
        assert ps.log.store.tree_head("acme").root == root
        report = ps.verify(against=anchor.notes())
        assert report.first_problem is not None
        assert report.first_problem[0] == before + 1
        assert "3 events are missing at the end" in report.first_problem[1]
        with pytest.raises(CheckpointRefused):
            ps.checkpoint("acme", anchor)


def _head(path: Path) -> tuple[int, bytes]:
    with closing(sqlite3.connect(path)) as log:
        found: tuple[int, bytes] = log.execute("SELECT size, frontier FROM tenants WHERE name = 'acme'").fetchone()
        return found


def test_nothing_personal_is_in_a_checkpoint_a_proof_or_an_anchor(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "elsewhere")
    with opened(tmp_path) as ps:
        acme = ps.tenant("acme")
        answer = {"survey": "nps", "score": 8, "comment": f"write to {CANARY}", "contact": CANARY}
        acme.record("cus_42", SurveyAnswered(source="delighted", id="r_1", occurred_at=NOON, **answer))
        acme.record(contact(CANARY), used("u1"))
        acme.link(contact(CANARY), "cus_42")
        ps.checkpoint("acme", anchor)
        documents = [ps.prove("acme", position).to_json() for position in range(1, ps.log.store.head() + 1)]
    left = b"".join(documents) + anchor.path.read_bytes()
    for personal in (CANARY, "cus_42", "canary.bird", "r_1"):
        assert personal.encode() not in left
        assert personal.encode().hex().encode() not in left
    assert len(documents) > 3


def test_what_is_not_a_tenant_is_invalid_input(tmp_path: Path) -> None:
    with opened(tmp_path) as ps:
        for use in (ps.checkpoint, ps.verifier_key, lambda tenant: ps.prove(tenant, 1)):
            with pytest.raises(InvalidInput):
                use("Not A Tenant")


def test_the_twin_signs_proves_and_verifies(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "elsewhere")

    async def main() -> None:
        clock = ManualClock(NOON)
        async with await AsyncPostSale.open(url_of(tmp_path), clock=clock) as ps:
            receipt = await ps.tenant("acme").record("cus_42", paid("evt_1"))
            signed = await ps.checkpoint("acme", anchor)
            clock.advance(timedelta(days=1))
            assert await ps.checkpoint("acme") == signed
            assert isinstance(receipt.event_id, UUID)
            proof = await ps.prove("acme", receipt.event_id)
            assert check_proof(proof.to_json(), [await ps.verifier_key("acme")]).ok
            assert (await ps.verify(against=anchor.notes())).signed == {"acme": signed.size}

    asyncio.run(main())
