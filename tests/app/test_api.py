"""The Python API as the README shows it: receipts, duplicates, batches, reads, bad input. On memory and SQLite."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from postsale import PostSale
from postsale.agents import RenewalRescue
from postsale.aggregates.identity import ExternalId, contact, foreign
from postsale.aggregates.signals import InvoicePaid, InvoicePaymentFailed, OpportunityStageChanged, Signal
from postsale.errors import ContentConflict, InvalidInput, PostSaleError, StoreUnavailable, UnknownCustomer, UnknownDecision, Unsupported
from postsale.events import ManualClock

from .support import NOON, Where, failed, head, opened, paid, subscribed, url_of, used


@pytest.mark.parametrize("url", ["sqlite:///postsale.db", "memory:"])
def test_the_lines_that_a_backend_developer_sees_first_work_as_written(url: str, tmp_path: Path) -> None:
    """The block is run by a process of its own, with the system clock, in an empty folder."""
    block = f"""
        from datetime import UTC, datetime, timedelta
        from postsale import PostSale
        from postsale.agents import RenewalRescue
        from postsale.aggregates.signals import InvoicePaymentFailed

        at = t1 = t2 = datetime.now(UTC)
        signal = InvoicePaymentFailed(source="stripe", id="evt_2", occurred_at=at, amount_minor=4900, currency="EUR", attempt=2)
        with PostSale.open({url!r}, agents=[RenewalRescue()]) as ps:
            acme = ps.tenant("acme")
            receipt = acme.record("cus_42", InvoicePaymentFailed(source="stripe", id="evt_1", occurred_at=at, amount_minor=4900, currency="EUR"))
            assert (receipt.stored, receipt.position) == (True, 2)
            report = acme.record_many([("cus_42", signal)])
            assert (report.recorded, report.duplicates, report.rejects) == (1, 0, [])
            health = acme.health("cus_42")
            assert health.score == 0.0
            assert str(health.why())
            assert acme.customer("cus_42", as_of=t1, known_at=datetime.now(UTC)).facts["billing/invoice-payment-failed"].count == 2
            assert not acme.customer("cus_42", as_of=t1, known_at=t2).facts
            ps.run_once()
            print(acme.explain(acme.decisions("cus_42")[-1].id))
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(block)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "renewal-rescue on payment-failing" in done.stdout


def test_a_receipt_tells_new_from_known_and_gives_the_first_place(where: Where) -> None:
    """The same signal again changes nothing: `stored` is False; position, time and id are those of the first."""
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        first = acme.record("cus_42", failed("evt_1"))
        assert first.stored
        assert first.recorded_at >= NOON
        acme.record("cus_42", failed("evt_2"))
        before = head(ps)
        clock.advance(timedelta(days=1))
        again = acme.record("cus_42", failed("evt_1"))
        assert again == type(first)(False, first.position, first.recorded_at, first.event_id)
        assert head(ps) == before


def test_the_same_time_in_another_zone_is_the_same_signal(where: Where) -> None:
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_42", failed("evt_1", NOON))
        elsewhere = NOON.astimezone(datetime.strptime("+0530", "%z").tzinfo)
        assert not acme.record("cus_42", failed("evt_1", elsewhere)).stored


def test_a_batch_counts_new_known_and_refused_and_gives_each_refusal_its_reason(where: Where) -> None:
    """recorded + duplicates + rejects = given; one bad item stops no other; indexes are those of the order given."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("evt_1"))
        items: list[tuple[Any, Any]] = [
            ("cus_1", paid("evt_1")),  # known
            ("cus_1", paid("evt_1", amount_minor=1)),  # other content
            ("cus_1", paid("evt_2")),
            ("cus_2", paid("evt_3", NOON + timedelta(hours=1))),  # not yet
            ("bad\x00id", paid("evt_4")),
            ("cus_2", "no signal"),
            ("cus_2", paid("evt_5")),
            ("cus_2", paid("evt_5")),  # known within the batch
        ]
        steps: list[int] = []
        report = acme.record_many(iter(items), on_progress=steps.append)
        assert (report.recorded, report.duplicates) == (2, 2)
        assert [(r.index, type(r.error)) for r in report.rejects] == [
            (1, ContentConflict),
            (3, InvalidInput),
            (4, InvalidInput),
            (5, InvalidInput),
        ]
        assert [r.error.fields().get("field") for r in report.rejects] == [None, "occurred_at", "id", "signal"]
        assert report.rejects[0].quarantine_id == acme.quarantine()[0].id
        assert sum(steps) == len(items)
        assert report.last_position == head(ps)
        assert {r.name for r in acme.customers()} == {"cus_1", "cus_2"}


def test_a_batch_longer_than_a_chunk_keeps_indexes_and_counts(tmp_path: Path) -> None:
    """Chunks of 2,000 do not show: neither in counts nor in the index of a refusal."""
    with opened(tmp_path) as ps:
        items: list[tuple[str, Signal]] = [(f"cus_{n % 7}", used(f"u{n}")) for n in range(4_100)]
        items[3_333] = ("", used("bad"))
        report = ps.tenant("acme").record_many(items)
        assert (report.recorded, [r.index for r in report.rejects]) == (4_099, [3_333])
        again = ps.tenant("acme").record_many(items)
        assert (again.recorded, again.duplicates) == (0, 4_099)


def test_every_read_sees_what_was_acknowledged_before_it(where: Where) -> None:
    """Without any run_once: health, state, list and timeline hold a write as soon as it returns."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        for n in range(1, 6):
            receipt = acme.record("cus_42", paid(f"evt_{n}") if n % 2 else failed(f"evt_{n}"))
            assert sum(s.count for s in acme.customer("cus_42").facts.values()) == n
            assert acme.health("cus_42").position == receipt.position
            assert acme.timeline("cus_42")[-1].position == receipt.position
            assert acme.customers()[0].position == receipt.position


def test_the_list_shows_the_score_that_health_explains(where: Where) -> None:
    """Also five minutes before midnight, and with a fact that a source's clock put a little ahead of ours."""
    late = NOON.replace(hour=23, minute=58)
    with opened(where, clock=ManualClock(late)) as ps:
        acme = ps.tenant("acme")
        acme.record("shopper", paid("p0", late - timedelta(days=400)))
        acme.record("shopper", paid("p1", late - timedelta(days=130)))
        for n in range(5):
            acme.record("user", used(f"u{n}", late - timedelta(days=30, hours=-n)))
        acme.record("ahead", failed("f1", late + timedelta(minutes=3)))
        acme.record("ahead", subscribed("s1", late))
        for row in acme.customers():
            health = acme.health(row.name)
            assert (row.value_micro, row.score, row.band) == (health.value_micro, health.score, health.band), row.name


def test_a_conflict_names_both_copies_and_keeps_the_second_in_quarantine(where: Where) -> None:
    """The log is unchanged, the first copy stays, the second waits sealed; sent again it is kept once."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        first = acme.record("cus_42", failed("evt_1"))
        before = head(ps)
        for _ in range(2):
            with pytest.raises(ContentConflict) as caught:
                acme.record("cus_42", failed("evt_1", amount_minor=5000))
            error = caught.value
            assert (error.source, error.source_id, error.stored_position) == ("stripe", "evt_1", first.position)
            assert error.stored_digest != error.offered_digest
            assert error.quarantine_id
            for said in (error.stored_digest, error.offered_digest, error.quarantine_id, "evt_1", str(first.position)):
                assert said in str(error)
        assert [item.id for item in acme.quarantine()] == [error.quarantine_id]
        assert head(ps) == before
        assert acme.retry_quarantine() == {"tried": 1, "recorded": 0, "still waiting": 1}


def test_the_same_id_said_of_another_customer_is_a_conflict_that_names_the_signal(where: Where) -> None:
    """Whether that customer is known or new: the error names the source's item, and no customer appears."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("evt_1"))
        acme.record("cus_2", paid("evt_2"))
        for other in ("cus_2", "cus_new"):
            with pytest.raises(ContentConflict) as caught:
                acme.record(other, paid("evt_1"))
            assert (caught.value.source, caught.value.source_id) == ("stripe", "evt_1")
        with pytest.raises(UnknownCustomer):
            acme.customer("cus_new")
        assert len(acme.quarantine()) == 2


NAIVE = NOON.replace(tzinfo=None)


class _Unregistered:
    wire_name = "nobody/knows@1"


BAD: dict[str, tuple[Any, str]] = {
    "NaN": (lambda t: t.record("cus_42", failed("x", amount_minor=float("nan"))), "amount_minor"),
    "infinity": (lambda t: t.record("cus_42", failed("x", amount_minor=float("inf"))), "amount_minor"),
    "2^60": (lambda t: t.record("cus_42", failed("x", amount_minor=2**60)), "amount_minor"),
    "negative": (lambda t: t.record("cus_42", failed("x", amount_minor=-1)), "amount_minor"),
    "text for number": (lambda t: t.record("cus_42", failed("x", amount_minor="4900")), "amount_minor"),
    "float for integer": (lambda t: t.record("cus_42", failed("x", amount_minor=49.0)), "amount_minor"),
    "naive": (lambda t: t.record("cus_42", failed("x", NAIVE)), "occurred_at"),
    "future": (lambda t: t.record("cus_42", failed("x", NOON + timedelta(minutes=6))), "occurred_at"),
    "year 9999": (lambda t: t.record("cus_42", failed("x", datetime(9999, 12, 31, tzinfo=UTC))), "occurred_at"),
    "currency": (lambda t: t.record("cus_42", failed("x", currency="EUX")), "currency"),
    "small letters": (lambda t: t.record("cus_42", failed("x", currency="eur")), "currency"),
    "unknown field": (lambda t: t.record("cus_42", failed("x", colour="red")), "colour"),
    "missing field": (lambda t: t.record("cus_42", InvoicePaid(source="stripe", id="x", occurred_at=NOON, currency="EUR")), "amount_minor"),
    "signal id control": (lambda t: t.record("cus_42", failed("x\n")), "id"),
    "signal id long": (lambda t: t.record("cus_42", failed("x" * 201)), "id"),
    "signal id empty": (lambda t: t.record("cus_42", failed("")), "id"),
    "surrogate": (lambda t: t.record("cus_42", failed("x\ud800")), "id"),
    "look-alike": (lambda t: t.record("cus_42", failed("ﬁ")), "id"),
    "source long": (lambda t: t.record("cus_42", failed("x", source="s" * 201)), "source"),
    "contact control": (lambda t: t.record("cus_42", failed("x", contact="\x07")), "contact"),
    "customer empty": (lambda t: t.record("", failed("x")), "id"),
    "customer long": (lambda t: t.record("c" * 201, failed("x")), "id"),
    "customer NUL": (lambda t: t.record("a\x00b", failed("x")), "id"),
    "customer invisible": (lambda t: t.record("cus_\u200b42", failed("x")), "id"),
    "customer number": (lambda t: t.record(42, failed("x")), "id"),
    "customer bytes": (lambda t: t.record(b"cus_42", failed("x")), "id"),
    "customer none": (lambda t: t.record(None, failed("x")), "id"),
    "foreign source control": (lambda t: t.record(foreign("hub\x00spot", "7"), failed("x")), "source"),
    "foreign source long": (lambda t: t.record(foreign("h" * 201, "7"), failed("x")), "source"),
    "unknown kind of id": (lambda t: t.record(ExternalId("person", "", "7"), failed("x")), "kind"),
    "no signal": (lambda t: t.record("cus_42", _Unregistered()), "signal"),
    "naive as_of": (lambda t: t.health("cus_1", as_of=NAIVE), "tzinfo"),
    "naive known_at": (lambda t: t.customer("cus_1", known_at=NAIVE), "tzinfo"),
    "decision id": (lambda t: t.explain("not-a-uuid"), "id"),
    "agent name": (lambda t: t.ask("cus_1", "nobody", "look", reason="why"), "name"),
}


@pytest.mark.parametrize("where", ["memory", "sqlite"], indirect=True)  # refused before there is a question of where
@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_input_raises_a_typed_error_that_names_the_field_and_changes_nothing(case: str, where: Where) -> None:
    call, field = BAD[case]
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("first"))
        before = head(ps)
        with pytest.raises(InvalidInput) as caught:
            call(acme)
        assert caught.value.field == field
        assert field in str(caught.value)
        assert head(ps) == before
        assert [r.name for r in acme.customers()] == ["cus_1"]


def test_a_class_without_a_registered_wire_name_cannot_be_recorded(where: Where) -> None:
    """A signal's kind is refused before anything is stored."""

    class Nameless(Signal):
        pass

    with opened(where) as ps:
        with pytest.raises(PostSaleError, match="wire name"):
            ps.tenant("acme").record("cus_1", Nameless(source="s", id="1", occurred_at=NOON))
        assert head(ps) == 0


def test_a_customer_about_whom_the_model_knows_nothing_is_in_the_list(where: Where) -> None:
    """With no score, at the end; it is there now, and not at times before it was known."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("scored", failed("f1"))
        deal = OpportunityStageChanged(source="crm", id="o1", occurred_at=NOON, opportunity_id="o", stage="won")
        acme.record("unscored", deal)
        assert [(r.name, r.score) for r in acme.customers()] == [("scored", 0.0), ("unscored", None)]
        assert acme.customers(known_at=NOON - timedelta(days=1)) == []


@pytest.mark.parametrize("name", ["", "Acme", "a" * 65, "a/b", "a b", "acme\n", "_acme", "_system"])
def test_a_tenants_name_is_checked(name: str) -> None:
    """Names that begin with an underscore are the system's: nothing would ever run for such a tenant."""
    with opened(None) as ps, pytest.raises(InvalidInput) as caught:
        ps.tenant(name)
    assert caught.value.field == "name"


def test_what_is_not_there_is_an_error_of_its_own(where: Where) -> None:
    """Unknown customers and decisions do not come into being by asking for them."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        for ask in (acme.health, acme.customer, acme.timeline, acme.decisions):
            with pytest.raises(UnknownCustomer):
                ask("cus_unheard_of")
        for ask_id in (acme.explain, acme.replay, acme.approve):
            with pytest.raises(UnknownDecision):
                ask_id("00000000-0000-5000-8000-000000000000")
        assert head(ps) == 0
        assert ps.tenants() == []
        assert acme.customers() == []


@pytest.mark.parametrize(
    "url", ["mongodb://me:secret@host/db", "postsale.db", "sqlite://", "sqlite:///", "sqlite:///:memory:", "mysql:///x"]
)
def test_a_url_of_another_kind_is_unsupported_and_not_repeated(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Unsupported, StoreUnavailable)) as caught:
        PostSale.open(url)
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_log_says_so(lasting: Where) -> None:
    """Using a log after its `with` block is an error of ours, not of the database's."""
    with opened(lasting) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("1"))
    with pytest.raises(StoreUnavailable, match="closed"):
        acme.record("cus_1", paid("2"))


def test_everything_is_there_after_reopening(lasting: Where) -> None:
    with opened(lasting) as ps:
        ps.tenant("acme").record("cus_1", paid("1"))
        before = ps.tenant("acme").health("cus_1").to_dict()
    with opened(lasting) as ps:
        assert ps.tenant("acme").health("cus_1").to_dict() == before
        assert not ps.tenant("acme").record("cus_1", paid("1")).stored


def test_a_log_with_events_is_not_opened_without_its_keys(lasting: Where, tmp_path: Path) -> None:
    """New keys would open nothing and would let every delivery be recorded a second time."""
    with opened(lasting) as ps:
        ps.tenant("acme").record("cus_1", paid("1"))
    (keys,) = tmp_path.glob("*.keys")
    keys.unlink()
    with pytest.raises(PostSaleError, match="key file is missing"):
        opened(lasting)
    assert not keys.exists()


def test_agents_are_none_unless_named(where: Where) -> None:
    """Nothing decides in a log that was opened without agents, whatever happens in it."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", subscribed("s"))
        acme.record("cus_1", failed("f", attempt=3))
        report = ps.run_once()
        assert (report.raised, report.decided, report.called) == (0, 0, 0)
        assert acme.decisions() == []


def test_waiting_persons_signals_are_sealed_under_the_person(where: Where) -> None:
    """Recording for a contact's id, not linked, waits; it makes no customer."""
    with opened(where) as ps:
        acme = ps.tenant("acme")
        acme.record(contact("p-1", "zendesk"), used("u1"))
        assert acme.customers() == []
        with pytest.raises(UnknownCustomer):
            acme.customer(contact("p-1", "zendesk"))


def test_a_failed_open_leaves_no_lock(tmp_path: Path) -> None:
    """After an open that raised, the same files open normally."""
    with pytest.raises(PostSaleError):
        PostSale.open(url_of(tmp_path), agents=[RenewalRescue(), RenewalRescue()])
    with opened(tmp_path) as ps:
        assert ps.tenant("acme").record("cus_1", InvoicePaymentFailed(**failed("1").model_dump())).stored
