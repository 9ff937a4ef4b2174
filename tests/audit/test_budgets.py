"""The audit of budgets: every entry has its reason and its counterpart, or is named; over any log, with no key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from postsale.agents.budget import budget_stream, slice_stream
from postsale.agents.escrow import Escrow, close, read
from postsale.agents.undo import Scope
from postsale.aggregates import budgets as b
from postsale.aggregates import decisions as d
from postsale.audit import check_budgets
from postsale.events import Event, StreamId, derive_id
from postsale.store.log import Cause, Draft, Log
from tests.agents.budgeted import ASKING, CONTACTS, EUR, acting, smb
from tests.agents.test_undo import approved, undos
from tests.agents.world import BEN, World
from tests.audit.test_replay_run import stored_anew


@pytest.fixture(scope="module")
def lived() -> World:
    """One credit approved and taken back, one rejected, one that waits; an e-mail; half of it from slices."""
    w = acting(ASKING)
    ids = [w.one_decision("c0")]
    w.engine.desk.escrow = escrow = Escrow(share=2)
    ids.append(w.one_decision("c1"))
    w.engine.approvals.approve("acme", ids[0], BEN)
    w.attend(ref="c0")
    u = undos(w)
    u.run(w.tenant, approved(u, w, Scope("decision", str(ids[0]))).id)
    smb(w, "c2")
    escrow.give_back(w.log)
    w.engine.approvals.reject("acme", ids[1], BEN, reason="no")
    w.one_decision("c3")
    return w


def test_a_log_that_was_lived_in_adds_up_and_what_waits_is_counted(lived: World) -> None:
    report = check_budgets(lived.store)
    assert (report.problems, report.budgets, report.open) == ([], 3, 3)
    assert report.entries > 20
    assert report.to_dict()["ok"] is True


def _first(kind: type[Event], **changes: Any) -> Callable[[], Callable[[Any], Event | None]]:
    """The first event of a kind, with something else in it."""

    def make() -> Callable[[Any], Event | None]:
        seen: list[Any] = []

        def change(event: Any) -> Event | None:
            if not isinstance(event, kind) or seen:
                return None
            seen.append(event)
            return event.model_copy(update={n: v(event) if callable(v) else v for n, v in changes.items()})

        return change

    return make


def _cut(event: Any) -> tuple[b.Reservation, ...]:
    return event.reservations[1:]  # type: ignore[no-any-return]


ALTERED: dict[str, tuple[Any, set[str]]] = {
    "more was reserved than the decision says": (_first(b.BudgetReserved, amount=lambda e: e.amount + 1), {"mismatch"}),
    "more was committed than was reserved": (_first(b.BudgetCommitted, amount=lambda e: e.amount + 1), {"mismatch", "balance"}),
    "less was released than was reserved": (_first(b.BudgetReleased, amount=lambda e: e.amount - 1), {"mismatch", "balance"}),
    "it was committed in another period": (_first(b.BudgetCommitted, period="2026-10"), {"mismatch", "balance"}),
    "it was committed in another unit": (_first(b.BudgetCommitted, unit="USD"), {"mismatch", "balance"}),
    "it was reserved for nobody": (_first(b.BudgetReserved, decision_id=UUID(int=1)), {"orphan", "missing"}),
    "another effect was committed": (_first(b.BudgetCommitted, intent_id=UUID(int=1)), {"orphan", "missing"}),
    "a decision hides what it reserved": (_first(d.DecisionRecorded, reservations=_cut), {"orphan"}),
    "the effect did not happen": (_first(d.EffectSucceeded, intent_id=UUID(int=1)), {"mismatch", "orphan"}),
    "more came back than was used up": (_first(b.BudgetCompensated, amount=lambda e: e.amount + 1), {"mismatch", "balance"}),
    "a contact came back": (_first(b.BudgetCompensated, unit="contacts/email"), {"mismatch", "balance"}),
    "what came back was never taken back": (_first(d.UndoOrdered, undoes=UUID(int=1)), {"orphan"}),
    "a slice was larger than it says": (_first(b.BudgetSliceGranted, amount=lambda e: e.amount + 1), {"balance"}),
    "a slice gave back more": (_first(b.BudgetSliceReturned, amount=lambda e: e.amount + 1), {"balance"}),
    "a slice of nobody was returned": (_first(b.BudgetSliceReturned, slice="other"), {"orphan", "balance"}),
}


def _said(**changes: Any) -> Callable[[], Callable[[Any], Event | None]]:
    """As if a decision, and the entries that follow from it, all said something else of its first reservation."""

    def make() -> Callable[[Any], Event | None]:
        of: list[b.Reservation] = []

        def change(event: Any) -> Event | None:
            match event:
                case d.DecisionRecorded() if event.reservations and not of:
                    of.append(event.reservations[0])
                    return event.model_copy(update={"reservations": (of[0].model_copy(update=changes), *event.reservations[1:])})
                case b.BudgetReserved() | b.BudgetCommitted() | b.BudgetReleased() | b.BudgetCompensated() if of:
                    same = (event.intent_id, event.unit) == (of[0].intent_id, of[0].unit)
                    return event.model_copy(update=changes) if same else None
            return None

        return change

    return make


FORGED: dict[str, tuple[Any, str]] = {
    "another unit than its policy has": (_said(unit="USD", amount=10**12), "by its policy"),
    "another period than its time": (_said(period="2031-01", amount=10**12), "by its policy"),
    "for an effect that it has not": (_said(intent_id=UUID(int=7)), "none of its own"),
    "under a policy that nobody published": (_first(d.DecisionRecorded, policy="0" * 64), "not in the log"),
}


@pytest.mark.parametrize("what", sorted(FORGED))
def test_a_decision_that_reserved_what_its_policy_does_not_have_is_named_although_every_entry_agrees_with_it(what: str) -> None:
    w = acting()
    w.one_decision("c0")
    change, why = FORGED[what]
    found = check_budgets(stored_anew(w.log, change()).store).problems
    assert any(why in p.reason and p.stream == "acme/customers/c0" for p in found), found


def test_a_decision_from_a_slice_that_was_granted_above_its_policys_limit_is_named() -> None:
    w = acting()
    w.engine.desk.escrow = Escrow(share=1)
    w.one_decision("c0")
    assert check_budgets(w.store).problems == []
    found = check_budgets(stored_anew(w.log, _smaller()).store).problems
    assert {(p.what, p.stream.rpartition("/")[0]) for p in found} >= {("limit", "acme/slices")}


@pytest.mark.parametrize("what", sorted(ALTERED))
def test_an_entry_that_was_altered_is_named(what: str, lived: World) -> None:
    change, kinds = ALTERED[what]
    found = check_budgets(stored_anew(lived.log, change()).store).problems
    assert found, what
    assert {p.what for p in found} <= kinds, found
    assert [p.position for p in found] == sorted(p.position for p in found)


def _append(log: Log, stream: StreamId, event: Event) -> None:
    (version,) = log.store.versions([stream])
    log.append([log.decision(stream, version, Draft(event, derive_id("extra", stream, version), log.clock.now_us(), Cause()))])


def test_entries_that_nobody_had_a_reason_for_are_named(lived: World) -> None:
    held = next(e.data for e in lived.events("c3") if isinstance(e.data, d.DecisionRecorded)).reservations[0]
    entry = {"decision_id": derive_id("nobody"), "intent_id": held.intent_id, **EUR._asdict(), "amount": 1}
    again = {"decision_id": lived.log.customer(lived.stream("c3")).decisions and next(iter(lived.customer("c3").decisions)), **_of(held)}
    for stream, event, what in (
        (budget_stream("acme", "retention"), b.BudgetReserved(**entry), "orphan"),
        (budget_stream("acme", "retention"), b.BudgetCommitted(**entry), "orphan"),
        (budget_stream("acme", "retention"), b.BudgetReserved(**again), "doubled"),
        (budget_stream("acme", "retention"), b.BudgetCommitted(**again), "mismatch"),  # the effect has not happened
        (budget_stream("acme", "mail"), b.BudgetSliceReturned(slice="s", **CONTACTS._asdict(), amount=1), "orphan"),
        (slice_stream("acme", "s"), b.BudgetSliceClosed(why="expired"), "orphan"),
    ):
        log = stored_anew(lived.log, lambda _: None, more=lambda log, s=stream, e=event: _append(log, s, e))  # type: ignore[misc]
        found = check_budgets(log.store).problems
        assert what in {p.what for p in found if p.position == log.store.head()}, (event, found)


def _of(held: b.Reservation) -> dict[str, Any]:
    return {"intent_id": held.intent_id, "unit": held.unit, "period": held.period, "amount": held.amount}


def test_a_limit_that_was_passed_is_named_where_it_was_passed() -> None:
    w = acting()
    w.one_decision("c0")
    w.one_decision("c1")
    found = check_budgets(stored_anew(w.log, _smaller()).store).problems
    assert {(p.what, p.stream) for p in found} == {("limit", "acme/budgets/retention")}
    assert len(found) == 1, "the first offer was within it"


def _smaller() -> Callable[[Any], Event | None]:
    """As if the policy had said 50.00 all the time."""
    from postsale.agents import Policy
    from postsale.aggregates.artifacts import ArtifactActivated, ArtifactPublished
    from tests.agents.budgeted import THREE

    digest = Policy.from_toml(THREE.replace("limit = 10000\n", "limit = 5000\n")).digest
    content = Policy.from_toml(THREE.replace("limit = 10000\n", "limit = 5000\n")).content

    def change(event: Any) -> Event | None:
        match event:
            case ArtifactPublished():
                return event.model_copy(update={"digest": digest, "content": content})
            case ArtifactActivated():
                return event.model_copy(update={"digest": digest})
            case d.DecisionRecorded():
                return event.model_copy(update={"policy": digest})
        return None

    return change


def test_more_reserved_from_a_slice_than_it_was_granted_is_named() -> None:
    w = acting()
    w.engine.desk.escrow = Escrow(share=2)
    w.one_decision("c0")
    shrunk = stored_anew(w.log, _first(b.BudgetSliceGranted, amount=1)())
    assert {p.what for p in check_budgets(shrunk.store).problems} == {"limit"}
    (name,) = read(w.log, budget_stream("acme", "retention")).slices
    assert close(w.log, budget_stream("acme", "retention"), name, "expired")
    assert check_budgets(w.store).problems == []
