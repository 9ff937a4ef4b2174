"""Exports of the log: complete, incremental, whole through SIGKILL, without a personal value, refused where they would mix."""

from __future__ import annotations

import gc
import json
import random
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postsale.aggregates.signals import InvoicePaid, UsageObserved
from postsale.app import PostSale
from postsale.errors import ExportRefused, ExportUnwritable, InvalidInput, LeaseHeld, UnknownWireName, Unsupported
from postsale.events import ManualClock, decode, iso_of, registry
from postsale.projections import Features, count, total
from postsale.projections.datasets import pseudonym
from postsale.projections.event_tables import ENVELOPE, event_tables
from postsale.projections.export import LogExport
from postsale.projections.export_place import Place
from postsale.store import LeaseName, Query
from tests.nursery import forked

from .exported import agents, assert_sound, files, lived, manifest, rows
from .support import CANARY, NOON, Where, head, opened, paid, url_of, used

ROOT = Path(__file__).resolve().parents[2]


def lively(where: Where) -> PostSale:
    clock = ManualClock(NOON)
    ps = opened(where, clock=clock, agents=agents())
    lived(ps, clock)
    return ps


def test_every_event_is_a_row_of_its_kinds_table_with_what_a_reader_sees(where: Where, tmp_path: Path) -> None:
    """Compared event by event with the log, of every kind of log; personal fields are what a reader without rights sees."""
    with lively(where) as ps:
        report = ps.tenant("acme").export.log(str(tmp_path / "out"))
        keys, found = ps.log.vault.tenant("acme"), rows(tmp_path / "out")
        tables = event_tables()
        events = [decode(stored) for stored in ps.log.store.read(Query(tenant="acme"))]
        assert report.rows == len(events) == sum(map(len, found.values())) > 30
        assert report.position == head(ps)
        by_position = {row["_position"]: (name, row) for name, table in found.items() for row in table}
        for event in events:
            table = tables[event.data.kind]
            name, row = by_position[event.position]
            assert name == f"{table.name}/v{table.version}"
            assert row["_event_id"] == str(event.event_id)
            assert row["_key"] == pseudonym(keys.blind, event.stored.stream.id)
            assert (row["_occurred_at"], row["_recorded_at"]) == (event.occurred_at, event.recorded_at)
            assert (row["_wire_name"], row["_version"], row["_source"] or "") == (
                event.stored.wire_name,
                event.stored.version,
                event.header.source,
            )
            payload = event.data.payload()
            for column in table.columns[len(ENVELOPE) :]:
                value, cell = payload.get(column.name), row[column.name]
                if column.type in ("int", "bool", "float", "time"):
                    assert cell == value, column
                elif column.type == "text":
                    assert cell == (None if value is None else str(value)), column
                elif column.type == "mask":
                    assert cell == (None if value is None else "•••"), column
                else:
                    assert (cell is None) == (value is None), column
    assert_sound(tmp_path / "out")


def test_no_personal_value_no_reference_and_no_login_leaves(tmp_path: Path) -> None:
    """Everything that was exported, as text, beside what the log knows of people: only pseudonyms of it are there."""
    with lively(tmp_path) as ps:
        acme = ps.tenant("acme")
        acme.export.log(str(tmp_path / "out"))
        acme.export.features(Payments, str(tmp_path / "out"))
        text = json.dumps(rows(tmp_path / "out"), default=str) + json.dumps(manifest(tmp_path / "out"))
        streams = {stored.stream for stored in ps.log.store.read(Query(tenant="acme"))}
        secret = {stream.id for stream in streams if stream.category in ("customers", "aliases", "contacts")}
        assert len(secret) > 8
        for word in (*secret, *acme.names().values(), CANARY, "cus_STRANGE", "anna", "$sealed"):
            assert word not in text, word
        assert "•••" in json.dumps(rows(tmp_path / "out"), ensure_ascii=False, default=str)


def test_a_second_run_writes_only_what_is_new(where: Where, tmp_path: Path) -> None:
    """The files of the first run are left as they are; a run without news writes none."""
    out = tmp_path / "out"
    with lively(where) as ps:
        acme = ps.tenant("acme")
        acme.export.log(str(out))
        before, position = files(out), head(ps)
        assert acme.export.log(str(out)).files == ()
        acme.record("cus_1", paid("new"))
        acme.record("cus_new", used("new-2"))
        report = acme.export.log(str(out))
        after = files(out)
        assert {name: after[name] for name in before} == before
        assert set(after) - set(before) == set(report.files)
        new = [row["_position"] for table in rows(out).values() for row in table if row["_position"] > position]
        assert sorted(new) == list(range(position + 1, head(ps) + 1))
        assert report.rows == len(new) == 3
    assert_sound(out)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(windows=st.lists(st.tuples(st.integers(2, 30), st.integers(0, 6)), min_size=1, max_size=4))
def test_however_often_and_in_whatever_windows_it_is_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, windows: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("windows")
    with opened(None) as ps:
        acme, keys = ps.tenant("acme"), ps.log.vault.tenant("acme")
        for run, (window, more) in enumerate(windows):
            acme.record_many((f"cus_{n % 3}", paid(f"{run}-{n}") if n % 2 else used(f"{run}-{n}")) for n in range(more))
            LogExport(ps.log.store, "acme", keys, Place(str(folder / "bit-by-bit")), window=window).run()
        acme.export.log(str(folder / "at-once"))
    assert rows(folder / "bit-by-bit") == rows(folder / "at-once")
    assert_sound(folder / "bit-by-bit")


def test_killed_anywhere_no_reader_sees_half_a_file_or_a_row_twice_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """Real SIGKILLs at random steps of the writing, one after the other over the same folder, and the log grows meanwhile."""
    seed = random.getrandbits(32)
    rand = random.Random(seed)
    out, window, tables = tmp_path / "out", 1_000, len(event_tables())  # at first the whole log at once, so that its end moves on
    with lively(tmp_path) as ps:
        acme, keys = ps.tenant("acme"), ps.log.vault.tenant("acme")
        for number in range(4):
            # Two steps write the manifest, then every table's first file is begun, then each gets its name: the first death is among these.
            step = tables + rand.randrange(4, tables) if number == 0 else rand.randrange(2, 25)
            command = forked("-m", "tests.app.exported", url_of(tmp_path), out, window, step)
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode in (0, -signal.SIGKILL), (seed, done.stderr[-2000:])
            window = rand.choice([12, 30, 1_000])
            for name, table in rows(out).items():
                positions = [row["_position"] for row in table]
                assert len(set(positions)) == len(positions), (seed, number, name)
            acme.record_many((f"cus_{n % 4}", used(f"{number}-{n}")) for n in range(rand.randrange(1, 12)))
        LogExport(ps.log.store, "acme", keys, Place(str(out)), window=window).run()
        acme.export.log(str(tmp_path / "at-once"))
    assert rows(out) == rows(tmp_path / "at-once"), seed
    assert_sound(out)
    assert not list(out.rglob("*.partial")), seed


def test_an_export_of_another_tenant_log_or_past_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """Rows of two origins in one folder could not be told apart."""
    out = tmp_path / "out"
    with lively(tmp_path) as ps:
        ps.tenant("acme").export.log(str(out))
        backup = tmp_path / "backup"
        backup.mkdir()
        for name in ("log.db", "log.keys"):
            shutil.copy2(tmp_path / name, backup / name)
        for suffix in ("-wal", "-shm"):
            if (tmp_path / f"log.db{suffix}").exists():
                shutil.copy2(tmp_path / f"log.db{suffix}", backup / f"log.db{suffix}")
        before_more = files(out)
        ps.tenant("other").record("cus_1", paid("x"))
        with pytest.raises(ExportRefused, match="tenant acme, not other"):
            ps.tenant("other").export.log(str(out))
        assert files(out) == before_more
        ps.tenant("acme").record("cus_1", paid("more"))
        ps.tenant("acme").export.log(str(out))
    with opened(backup) as restored:
        for n in range(9):  # it has grown past where the export was, another way
            restored.tenant("acme").record("cus_1", paid(f"other-{n}"))
        with pytest.raises(ExportRefused, match="not a continuation"):
            restored.tenant("acme").export.log(str(out))
    with opened(None) as another:
        another.tenant("acme").record("cus_1", paid("x"))
        with pytest.raises(ExportRefused, match="log_id"):
            another.tenant("acme").export.log(str(out))
    assert_sound(out)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 1}'])
def test_a_manifest_that_is_none_is_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_bytes(raw)
    with opened(None) as ps:
        ps.tenant("acme").record("cus_1", paid("x"))
        with pytest.raises(ExportRefused):
            ps.tenant("acme").export.log(str(tmp_path / "out"))


def test_a_place_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    """A file where a folder should be; a scheme that no filesystem has. A password in a URL is not repeated."""
    (tmp_path / "file").write_text("")
    with opened(None) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("x"))
        with pytest.raises(ExportUnwritable):
            acme.export.log(str(tmp_path / "file" / "out"))
        with pytest.raises(Unsupported) as refused:
            acme.export.log("ftp://anna:geheim@example.com/x")
        assert "geheim" not in str(refused.value)


def test_one_run_at_a_time_writes_to_a_place(tmp_path: Path) -> None:
    """Another one is told who is at work."""
    out = str(tmp_path / "out")
    with opened(tmp_path) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("x"))
        held: list[LeaseName] = []

        def in_the_middle(_done: int, _all: int) -> None:
            if not held:
                with opened(tmp_path) as other, pytest.raises(LeaseHeld) as refused:
                    other.tenant("acme").export.log(out)
                held.append(refused.value.lease)

        acme.export.log(out, on_progress=in_the_middle)
        assert held
        assert held[0].startswith("acme/export/")


def test_progress_rises_to_the_whole(tmp_path: Path) -> None:
    with opened(None) as ps:
        acme, keys = ps.tenant("acme"), ps.log.vault.tenant("acme")
        acme.record_many(("cus_1", paid(f"{n}")) for n in range(50))
        told: list[tuple[int, int]] = []
        LogExport(ps.log.store, "acme", keys, Place(str(tmp_path / "out")), window=9).run(lambda done, whole: told.append((done, whole)))
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[-1] == (head(ps), head(ps))


# ---------------------------------------------------------------- frames and features


def test_a_frame_is_what_is_exported_within_the_two_clocks(where: Where, tmp_path: Path) -> None:
    """The same columns and rows; `as_of` and `known_at` cut it."""
    with lively(where) as ps:
        acme = ps.tenant("acme")
        acme.export.log(str(tmp_path / "out"))
        frame = acme.export.frame(UsageObserved)
        assert frame.to_pylist() == rows(tmp_path / "out")["product__usage_observed/v1"]
        assert set(frame.to_pandas()["feature"]) == set(polars.from_arrow(frame)["feature"]) == {"search"}
        early = NOON - timedelta(days=1, minutes=2)
        assert acme.export.frame(UsageObserved, as_of=early).num_rows == 2
        assert acme.export.frame(UsageObserved, known_at=NOON - timedelta(days=9)).num_rows == 0


class Payments(Features, version=1, owner="tests"):
    """What came in."""

    payments = count(InvoicePaid)
    spent = total(InvoicePaid, lambda e: e.amount_minor, by=lambda e: e.currency)


def test_a_snapshot_of_features_is_the_training_rows_of_that_time_and_made_once(where: Where, tmp_path: Path) -> None:
    """Its keys are those of the exported events; a snapshot that is there is not made again."""
    import pyarrow.parquet as parquet

    out = tmp_path / "out"
    clock = ManualClock(NOON)
    with opened(where, clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record_many((f"cus_{n % 3}", paid(f"{n}")) for n in range(7))
        clock.move_to(NOON + timedelta(days=1))
        acme.export.log(str(out))
        report = acme.export.features(Payments, str(out), as_of=NOON + timedelta(hours=3))
        (name,) = report.files
        assert (
            name == f"features/Payments/v1/{iso_of(NOON + timedelta(hours=3)).translate(str.maketrans('', '', '-:'))[:15]}000000Z.parquet"
        )
        table = parquet.read_table(out / name)
        assert table.to_pylist() == acme.training_rows(Payments, name="same", at=[NOON + timedelta(hours=3)]).table.to_pylist()
        assert sorted(table["payments"].to_pylist()) == [2, 2, 3]
        assert set(table["customer"].to_pylist()) == {row["_key"] for row in rows(out)["billing__invoice_paid/v1"]}
        again = acme.export.features(Payments, str(out), as_of=NOON + timedelta(hours=3))
        assert (again.files, again.rows) == ((), 0)
        assert [m.name for m in acme.datasets_of("cus_1")] == ["export/Payments", "same"]
        with pytest.raises(InvalidInput):
            acme.export.features(Payments, str(out), as_of=NOON + timedelta(days=2))
    assert_sound(out)


def test_features_that_were_changed_without_a_new_version_are_refused(tmp_path: Path) -> None:
    """Two meanings of one column in one table could not be told apart."""

    def changed() -> type[Features]:
        class Payments(Features, version=1, owner="tests"):
            """Something else."""

            payments = count(InvoicePaid, where=lambda e: e.amount_minor > 0)

        return Payments

    with opened(None) as ps:
        acme = ps.tenant("acme")
        acme.record("cus_1", paid("x"))
        acme.export.features(Payments, str(tmp_path / "out"), as_of=NOON)
        with pytest.raises(ExportRefused, match="next version"):
            acme.export.features(changed(), str(tmp_path / "out"), as_of=NOON)


def test_an_event_that_cannot_be_read_ends_a_run_with_its_error_alone(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Files that were begun are given up without a word, and the next run, which can read it, leaves nothing out."""
    with lively(tmp_path) as ps, pytest.MonkeyPatch.context() as patch:
        last, acme = head(ps), ps.tenant("acme")
        real, unraisable = registry.get, []
        patch.setattr(sys, "unraisablehook", unraisable.append)
        patch.setattr(registry, "get", lambda name, position=None: _unknown(name) if position == last else real(name, position))
        with pytest.raises(UnknownWireName):
            acme.export.log(str(tmp_path / "out"))
        gc.collect()
        assert unraisable == []
        patch.undo()
        acme.export.log(str(tmp_path / "out"))
        assert sum(map(len, rows(tmp_path / "out").values())) == sum(1 for _ in ps.log.store.read(Query(tenant="acme")))


def _unknown(name: str) -> Any:
    raise UnknownWireName(wire_name=name)
