"""`postsale db migrate`, `postsale log chapters` and `postsale log archive`: what they print, what they return, what they leave alone."""

from __future__ import annotations

import gzip
import shutil
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from postsale.events import ManualClock
from postsale.store import Query, SQLiteStore, open_store
from postsale.testing import Events
from postsale.testing.store_building import START, each
from tests.postgres import fresh_log, server

from .support import process, run

DATA = Path(__file__).parents[1] / "store" / "data"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A log that release 0.1.0 wrote."""
    for suffix in (".db", ".keys"):
        (tmp_path / f"old{suffix}").touch(mode=0o600)
        (tmp_path / f"old{suffix}").write_bytes(gzip.decompress((DATA / f"version-1{suffix}.gz").read_bytes()))
    return tmp_path / "old.db"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """45 facts in chapters of 20, an hour between them."""
    events, clock = Events(seed=1), ManualClock(START)
    with closing(SQLiteStore(tmp_path / "log.db", clock=clock, chapter=20)) as store:
        for _ in range(45):
            store.append(each(events.fact()))
            clock.advance(timedelta(hours=1))
    return tmp_path / "log.db"


def test_a_check_says_what_would_be_done_and_does_nothing(old: Path) -> None:
    before = old.read_bytes()
    done = run("db", "migrate", f"sqlite:///{old}", "--check")
    assert done.code == 1
    assert "version" in done.out
    assert f"postsale db migrate sqlite:///{old}" in done.out
    assert [step["version"] for step in run("db", "migrate", f"sqlite:///{old}", "--check", "--json").json()["pending"]] == [2]
    assert old.read_bytes() == before
    assert list(old.parent.glob("*version*")) == []


def test_migrating_backs_up_first_and_verifies_and_a_check_is_then_content(old: Path) -> None:
    refused = run("log", "verify", "--db", f"sqlite:///{old}")
    assert refused.code == 5
    assert "postsale db migrate" in refused.err
    before = old.read_bytes()
    done = process("db", "migrate", f"sqlite:///{old}")
    assert (done.code, done.err) == (0, "")
    assert "from version 1" in done.out
    assert "b624b123493e464fd50fad97f0002ece899c110cdfb5053f0c74ee7a3d4999af" in done.out
    assert old.with_name("old.db.version-1").exists()
    assert run("db", "migrate", f"sqlite:///{old}", "--check").code == 0
    assert "Nothing to migrate" in run("db", "migrate", f"sqlite:///{old}").out
    assert run("log", "verify", "--db", f"sqlite:///{old}").code == 0
    old.write_bytes(before)
    again = run("db", "migrate", f"sqlite:///{old}", "--json").json()
    assert again["backup"] == str(old.with_name("old.db.version-1.1")), "an earlier backup is not written over"
    assert again["verified"]["ok"]


def test_a_backup_may_go_elsewhere_or_be_declined(old: Path, tmp_path: Path) -> None:
    before = old.read_bytes()
    assert run("db", "migrate", f"sqlite:///{old}", "--backup", str(tmp_path / "safe")).code == 0
    assert (tmp_path / "safe").exists()
    old.write_bytes(before)
    assert run("db", "migrate", f"sqlite:///{old}", "--backup", str(tmp_path / "safe")).code == 2
    assert old.read_bytes() == before
    assert run("db", "migrate", f"sqlite:///{old}", "--no-backup", "--json").json()["backup"] is None
    assert list(tmp_path.glob("*version*")) == []


def test_what_cannot_be_migrated_is_named_without_a_password(tmp_path: Path) -> None:
    done = run("db", "migrate", "postgresql://me:hunter2@localhost/postsale")
    assert done.code == 2
    assert "hunter2" not in done.err + done.out
    assert run("db", "migrate", f"sqlite:///{tmp_path}/none.db").code == 5
    assert not (tmp_path / "none.db").exists()


def test_the_chapters_are_listed_and_archived_up_to_a_time_and_read_as_before(log: Path) -> None:
    url = f"sqlite:///{log}"
    with closing(SQLiteStore(log)) as store:
        before = list(store.read(Query()))
    rows = run("log", "chapters", "--db", url, "--json").json()
    assert [(row["chapter"], row["first"], row["last"], row["complete"]) for row in rows] == [
        (0, 1, 20, True),
        (1, 21, 40, True),
        (2, 41, 45, False),
    ]
    listed = run("log", "chapters", "--db", url).out
    assert "still growing" in listed
    assert "postsale log archive" in listed
    done = run("log", "archive", "--db", url, "--upto", "2027-01-01T20:00:00Z", "--json").json()
    assert [(row["chapter"], row["facts"]) for row in done] == [(0, 20)]
    assert Path(done[0]["file"]).parent == log.with_suffix(".archive")
    rest = process("log", "archive", "--db", url)
    assert (rest.code, rest.err) == (0, "")
    assert "postsale log verify" in rest.out
    assert "Back up" in rest.out
    assert "none" in run("log", "archive", "--db", url).out
    rows = run("log", "chapters", "--db", url, "--json").json()
    assert [row["file"] is not None for row in rows] == [True, True, False]
    with closing(SQLiteStore(log)) as store:
        assert list(store.read(Query())) == before
    assert run("log", "verify", "--db", url).code == 0


def test_a_missing_segment_is_named_and_an_archive_that_was_moved_is_found(log: Path, tmp_path: Path) -> None:
    url, to = f"sqlite:///{log}", tmp_path / "cold"
    assert run("log", "archive", "--db", url, "--dir", str(to)).code == 0
    shutil.move(to, tmp_path / "moved")
    lost = run("log", "verify", "--db", url)
    assert lost.code == 1
    assert "chapter-00000000" in lost.out
    assert "POSTSALE_ARCHIVE" in lost.out
    assert run("log", "verify", "--db", url, env={"POSTSALE_ARCHIVE": str(tmp_path / "moved")}).code == 0


def test_a_log_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    for command in ("chapters", "archive"):
        assert run("log", command, "--db", f"sqlite:///{tmp_path}/none.db").code == 5
        assert run("log", command, "--db", "memory:").code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_log_in_postgresql_is_archived_by_a_member_of_the_migrator_role(tmp_path: Path) -> None:
    login, schema = fresh_log(chapter=20)
    log = ("--db", login, "--schema", schema)
    events = Events(seed=2)
    with closing(open_store(login, schema=schema)) as store:
        store.append(each(*(events.fact() for _ in range(45))))
        before = list(store.read(Query()))
    with psycopg.connect(server(), autocommit=True) as admin:
        refused = run("log", "archive", *log, "--dir", str(tmp_path))
        assert refused.code == 3
        assert f"{schema}_migrator" in refused.err
        admin.execute(f"GRANT {schema}_migrator TO {schema}_app".encode())
    assert run("log", "archive", *log).code == 2, "the first chapters need a place"
    done = run("log", "archive", *log, "--dir", str(tmp_path), "--json")
    assert done.code == 0, done.err
    assert [row["chapter"] for row in done.json()] == [0, 1]
    assert [row["file"] is not None for row in run("log", "chapters", *log, "--json").json()] == [True, True, False]
    with psycopg.connect(server(), autocommit=True) as admin:
        admin.execute(f"REVOKE {schema}_migrator FROM {schema}_app".encode())  # a service's login is never the owner's
    assert run("log", "verify", *log).code == 0
    with closing(open_store(login, schema=schema, as_owner=True)) as store:
        assert list(store.read(Query())) == before
