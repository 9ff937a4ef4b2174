"""A log that was cut off, restored or rewritten, however carefully, is told from the one whose checkpoints are kept elsewhere."""

from __future__ import annotations

import base64
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.store.signing import Pair

from postsale.access import FileVault
from postsale.errors import CheckpointRefused, StoreUnavailable
from postsale.events import ManualClock
from postsale.store import (
    Checkpoint,
    FileAnchor,
    Query,
    SQLiteStore,
    VerifierKey,
    VerifyReport,
    origin_of,
    sign_checkpoint,
    tree_of,
    verifier_key,
    verify,
    verify_consistency,
)
from postsale.store.checkpoints import LATEST, SPACE
from postsale.store.leaves import Frontier, commitment, leaf_of
from postsale.store.notes import Note, sign
from postsale.testing import Events
from postsale.testing.store_building import each

START = datetime(2027, 1, 1, tzinfo=UTC)
SIZES = (300, 512, 700)  # of tenant acme when a checkpoint was signed


class History:
    """A log in a folder with its key file and an anchor elsewhere: 700 events of acme among 200 of globex, signed three times."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.path, self.keys, self.anchor = folder / "log.db", folder / "log.keys", FileAnchor(folder / "elsewhere")
        self.clock = ManualClock(START)
        self.events = Events(seed)

    @contextmanager
    def opened(self) -> Iterator[tuple[SQLiteStore, FileVault]]:
        with closing(SQLiteStore(self.path, clock=self.clock)) as store, closing(FileVault(self.keys)) as vault:
            yield store, vault

    def fill(self) -> None:
        rand = random.Random(self.events.seed)
        with self.opened() as (store, vault):
            done = {"acme": 0, "globex": 0}
            for size in SIZES:
                while done["acme"] < size:
                    count = min(rand.choice([1, 20, 60]), size - done["acme"])
                    tenant = "globex" if rand.random() < 0.3 and done["globex"] < 200 else "acme"
                    done[tenant] += count
                    store.append(each(*(self.events.fact(self.events.stream(tenant)) for _ in range(count))))
                self.clock.advance(timedelta(hours=1))
                sign_checkpoint(store, vault, self.clock, "acme", self.anchor)
            store.append(each(*(self.events.fact(self.events.stream("globex")) for _ in range(9))))

    def verified(self, **more: Any) -> VerifyReport:
        with self.opened() as (store, vault):
            options = {"against": self.anchor.notes(), "keys": [verifier_key(store, vault, "acme")], "clock": self.clock} | more
            return verify(store, **options)

    def position(self, leaf_index: int) -> int:
        with self.opened() as (store, _):
            return [event.position for event in store.read(Query(tenant="acme"))][leaf_index]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> History:
    """Made once; the tests change copies."""
    history = History(tmp_path_factory.mktemp("made"), seed=random.getrandbits(32))
    history.fill()
    return history


@pytest.fixture
def history(made: History, tmp_path: Path) -> History:
    for file in made.path.parent.iterdir():
        shutil.copy2(file, tmp_path / file.name)
    copy = History(tmp_path, made.events.seed + 1)
    copy.clock.move_to(made.clock.now_us())
    return copy


# ---------------------------------------------------------------- somebody who owns the file


@contextmanager
def without_triggers(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        yield db
        for _, sql in triggers:
            db.execute(sql)


def recompute(db: sqlite3.Connection) -> None:
    """Heads, nodes and ids as if the events that are there had always been all: what a careful forger leaves behind."""
    db.execute("DELETE FROM nodes")
    for (tenant,) in db.execute("SELECT no FROM tenants").fetchall():
        leaves = [leaf for (leaf,) in db.execute("SELECT leaf FROM events WHERE tenant = ? ORDER BY position", (tenant,))]
        frontier = Frontier()
        db.executemany("INSERT INTO nodes VALUES (?, ?, ?, ?)", [(tenant, *node) for node in frontier.extend(leaves)])
        db.execute("UPDATE tenants SET size = ?, frontier = ? WHERE no = ?", (frontier.size, frontier.to_bytes(), tenant))
    db.execute("UPDATE log SET (position, recorded_at) = (SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1)")


def rewrite(history: History, position: int) -> None:
    """One event says something else, and everything in the file agrees with it."""
    with history.opened() as (store, _):
        event = next(store.read(Query(after=position - 1, limit=1)))._replace(data=b'{"n":0}')
    fields = event._asdict()
    del fields["leaf"]
    with without_triggers(history.path) as db:
        db.execute("UPDATE events SET data = ?, leaf = ? WHERE position = ?", (event.data, leaf_of(commitment(**fields)), position))
        recompute(db)


def cut_off(history: History, position: int) -> None:
    with without_triggers(history.path) as db:
        db.execute("DELETE FROM events WHERE position > ?", (position,))
        recompute(db)


def forget_checkpoints(history: History, *, above: int = 0) -> None:
    with history.opened() as (store, _):
        for kept in store.kv.scan(SPACE, "acme"):
            if Checkpoint.parse(kept.value).size > above:
                store.kv.delete(SPACE, "acme", kept.key)


# ---------------------------------------------------------------- claims


def test_a_sound_log_leads_to_all_its_checkpoints(history: History) -> None:
    report = history.verified()
    assert (report.problems, report.warnings, report.first_problem) == ([], [], None)
    assert report.signed == {"acme": 700}
    assert report.to_dict()["first_problem"] is None


def test_a_log_that_grew_since_leads_to_all_its_checkpoints(history: History) -> None:
    with history.opened() as (store, _):
        store.append(each(*(history.events.fact() for _ in range(300))))
    report = history.verified()
    assert (report.ok, report.signed) == (True, {"acme": 700})


def test_a_tail_cut_off_with_everything_recomputed_is_named_by_its_count(history: History) -> None:
    position = history.position(511)
    cut_off(history, position)
    assert history.verified(against=()).problems  # by the checkpoints that the log itself keeps
    forget_checkpoints(history, above=512)
    assert history.verified(against=()).ok  # all that is in the file agrees
    report = history.verified()
    signed_at = "2027-01-01T03:00:00.000000Z"
    reason = f"tenant 'acme' has 512 leaves, the checkpoint signed at {signed_at} says 700: 188 events are missing at the end"
    assert report.problems == [(position + 1, reason)]
    assert report.first_problem == (position + 1, reason)
    assert report.to_dict()["first_problem"] == {"position": position + 1, "reason": reason}
    assert report.signed == {"acme": 512}


def test_a_tenant_that_was_removed_as_a_whole_is_named(history: History) -> None:
    with without_triggers(history.path) as db:
        (no,) = db.execute("SELECT no FROM tenants WHERE name = 'acme'").fetchone()
        for table, column in (("events", "tenant"), ("nodes", "tenant"), ("streams", "tenant"), ("tenants", "no")):
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (no,))
    assert any("tenant 'acme' has 0 leaves" in reason for _, reason in history.verified().problems)


def test_a_database_restored_from_an_older_backup_is_named(history: History, tmp_path: Path) -> None:
    with history.opened() as (store, vault), closing(sqlite3.connect(tmp_path / "backup.db")) as target:
        with closing(sqlite3.connect(history.path)) as source:
            source.backup(target)
        store.append(each(*(history.events.fact() for _ in range(77))))
        sign_checkpoint(store, vault, history.clock, "acme", history.anchor)
    history.path = tmp_path / "backup.db"
    ((position, reason),) = history.verified().problems
    assert "has 700 leaves" in reason
    assert "says 777: 77 events are missing at the end" in reason
    assert position == history.position(699) + 1, "the first place where they can have been"


def test_a_restored_database_that_has_grown_again_is_named(history: History, tmp_path: Path) -> None:
    """It has more events than the checkpoint says: only the root tells."""
    shutil.copy(history.path, tmp_path / "backup.db")
    with history.opened() as (store, vault):
        store.append(each(*(history.events.fact() for _ in range(77))))
        sign_checkpoint(store, vault, history.clock, "acme", history.anchor)
    history.path = tmp_path / "backup.db"
    with history.opened() as (store, _):
        store.append(each(*(history.events.fact() for _ in range(500))))
    first, last = history.position(700), history.position(776)
    ((position, reason),) = history.verified().problems
    assert position == first
    assert f"from here to position {last} do not lead to the checkpoint of 777 events" in reason


@pytest.mark.parametrize("leaf_index", [0, 299, 300, 511, 699])
def test_history_rewritten_with_everything_recomputed_is_named_between_two_checkpoints(history: History, leaf_index: int) -> None:
    position = history.position(leaf_index)
    rewrite(history, position)
    forget_checkpoints(history)
    assert history.verified(against=()).ok  # all that is in the file agrees
    wrong = next(size for size in SIZES if size > leaf_index)
    right = max([size for size in SIZES if size <= leaf_index], default=0)
    report = history.verified()
    ((first, reason),) = report.problems
    assert report.first_problem == (first, reason)
    assert first == history.position(right)
    assert first <= position <= history.position(wrong - 1)
    assert f"from here to position {history.position(wrong - 1)} do not lead to the checkpoint of {wrong} events" in reason
    assert report.signed == ({"acme": right} if right else {})


def test_a_rewritten_and_shortened_log_is_named_for_both(history: History) -> None:
    rewrite(history, history.position(299))
    cut_off(history, history.position(599))
    reasons = [reason for _, reason in history.verified().problems]
    assert sum("do not lead to the checkpoint of 300 events" in reason for reason in reasons) == 1
    assert sum("100 events are missing at the end" in reason for reason in reasons) == 1
    assert len(reasons) == 2


def test_a_log_put_in_the_place_of_another_is_named(history: History, tmp_path: Path) -> None:
    other = History(tmp_path, history.events.seed)
    other.path = tmp_path / "other.db"
    with other.opened() as (store, _):
        store.append(each(other.events.fact()))
        log_id = store.log_id
    assert other.verified().problems == [(0, f"of 3 checkpoints given, none is of this log (log id {log_id})")]
    assert history.verified(against=[*history.anchor.notes(), other_note()]).warnings == [
        "not compared, because of other logs: 1 checkpoint"
    ]


def other_note() -> str:
    text = f"{origin_of('0' * 32, 'acme')}\n7\n{base64.b64encode(bytes(32)).decode()}\n"
    return f"{text}\n{Pair('other').line(text)}"


def test_a_checkpoint_that_the_log_keeps_and_somebody_changed_is_named(history: History) -> None:
    with history.opened() as (store, _):
        kept = store.kv.get(SPACE, "acme", LATEST)
        assert kept is not None
        store.kv.put(SPACE, "acme", LATEST, kept.value.replace(b"\n700\n", b"\n699\n"))
    assert [reason for _, reason in history.verified(against=()).problems] == [
        "a checkpoint of tenant 'acme' of size 699 is not genuine: the signature by "
        + next(history.anchor.notes()).partition("\n")[0]
        + " is not over this text"
    ]
    with history.opened() as (store, _):
        store.kv.put(SPACE, "acme", LATEST, b"garbage")
    ((position, reason),) = history.verified(against=()).problems
    assert (position, reason.partition(":")[0]) == (0, "the checkpoints that the log keeps cannot be read")


def test_what_cannot_be_checked_is_a_warning(history: History) -> None:
    report = history.verified(keys=())
    assert report.ok
    assert report.warnings == ["the signatures of 3 checkpoints of tenant 'acme' were not checked: its key was not given"]
    report = history.verified(against=[*history.anchor.notes(), "torn", "torn too"])
    assert report.ok
    assert report.warnings == [
        "not compared, because not readable (no text, blank line and signature lines that end with a newline): 2 checkpoints"
    ]


def test_a_checkpoint_without_a_signature_of_the_log_is_named(history: History) -> None:
    text = Note.parse(next(history.anchor.notes())).text
    forged = f"{text}\n{Pair('somebody').line(text)}"
    assert [reason for _, reason in history.verified(against=[forged]).problems] == [
        "a checkpoint of tenant 'acme' of size 300 is not genuine: it has no signature by the key of the log"
    ]


@pytest.mark.parametrize(("ahead", "warned"), [(timedelta(minutes=4), False), (timedelta(days=400), True)])
def test_a_checkpoint_stamped_in_the_future_is_a_warning(history: History, ahead: timedelta, warned: bool) -> None:
    now_us = history.clock.now_us()
    history.clock.advance(ahead)
    with history.opened() as (store, vault):
        store.append(each(history.events.fact()))
        sign_checkpoint(store, vault, history.clock, "acme", history.anchor)
    report = history.verified(clock=ManualClock(now_us))
    assert (report.ok, report.signed) == (True, {"acme": 701})
    assert bool(report.warnings) is warned
    assert all("in the future" in warning and "34,560,000 s ahead" in warning for warning in report.warnings)


def test_a_file_with_unreadable_pages_is_a_report_and_no_crash(history: History) -> None:
    raw = bytearray(history.path.read_bytes())
    rand = random.Random(history.events.seed)
    notes = list(history.anchor.notes())
    key, reported = _key(history), 0
    for _ in range(20):
        damaged = bytearray(raw)
        at = rand.randrange(1, len(raw) // 4096) * 4096
        damaged[at : at + 4096] = rand.randbytes(4096)
        history.path.write_bytes(damaged)
        try:
            store = SQLiteStore(history.path)
        except StoreUnavailable:  # a page without which it cannot be opened
            continue
        with closing(store):
            report = verify(store, against=notes, keys=[key], clock=history.clock)
        assert not report.ok or report.signed == {"acme": 700}, f"seed {history.events.seed}"
        reported += 1
    assert reported, f"seed {history.events.seed}"


def _key(history: History) -> VerifierKey:
    with history.opened() as (store, vault):
        return verifier_key(store, vault, "acme")


# ---------------------------------------------------------------- a stolen signing key


class Witness:
    """The least that a witness does (c2sp.org/tlog-witness): it cosigns what continues the last that it cosigned, and nothing else."""

    def __init__(self) -> None:
        self.pair = Pair("witness.example/w1")
        self.size, self.root = 0, Frontier().root()

    def cosign(self, note: str, path: list[bytes], log: VerifierKey, time_s: int) -> str | None:
        checkpoint = Checkpoint.parse(note)
        assert checkpoint.note.signed_by([log])
        if not verify_consistency(self.size, self.root, checkpoint.size, checkpoint.root, path):
            return None
        self.size, self.root = checkpoint.size, checkpoint.root
        return note + self.pair.cosigned(checkpoint.note.text, time_s)


def test_history_rewritten_with_the_stolen_key_is_caught_by_the_anchor_and_gets_no_cosignature(history: History) -> None:
    """The thief signs every checkpoint again, at the same times: the file and its checkpoints agree, and only outside is the truth."""
    witness, key, true_notes = Witness(), _key(history), list(history.anchor.notes())
    with history.opened() as (store, _):
        for note in true_notes:
            size = Checkpoint.parse(note).size
            assert witness.cosign(note, tree_of(store, "acme").consistency(witness.size, size), key, 1_800_000_000)
    rewrite(history, history.position(400))
    with history.opened() as (store, vault):
        tree = tree_of(store, "acme")
        for note in true_notes:
            size = Checkpoint.parse(note).size
            lines = Note.parse(note).text.split("\n")
            lines[2] = base64.b64encode(tree.root(size)).decode()
            forged = sign("\n".join(lines), key, lambda message, vault=vault: vault.sign("acme", message))  # type: ignore[misc]
            for name in (f"{size:020d}", LATEST):
                store.kv.put(SPACE, "acme", name, forged.encode())
        store.append(each(*(history.events.fact() for _ in range(10))))
        newest = sign_checkpoint(store, vault, history.clock, "acme")
        assert verify(store, keys=[key], clock=history.clock).problems == []  # nothing inside betrays it

        path = tree_of(store, "acme").consistency(700, 710)
        assert witness.cosign(newest.text, path, key, 1_800_000_000) is None
        with pytest.raises(CheckpointRefused, match="first 700 events are not those"):
            sign_checkpoint(store, vault, history.clock, "acme", history.anchor)
    report = history.verified()
    reasons = [reason for _, reason in report.problems]
    assert sorted(reasons)[-2:] == [
        f"two different histories of tenant 'acme' were signed for {size} events: its key may be stolen" for size in (512, 700)
    ]
    assert report.first_problem is not None
    assert report.first_problem[0] == history.position(300)
    assert "do not lead to the checkpoint of 512 events" in report.first_problem[1]
