"""Signing: one checkpoint for each size, each continuing the last, whoever signs and whoever is killed; nothing rewritten is signed."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.nursery import Fork
from tests.store.signing import Pair

from postsale.access import FileVault
from postsale.errors import AnchorUnavailable, CheckpointRefused, InvalidInput, LogDamaged
from postsale.events import ManualClock
from postsale.store import (
    Checkpoint,
    FileAnchor,
    MemoryStore,
    SQLiteStore,
    kept_checkpoints,
    latest_checkpoint,
    sign_checkpoint,
    tree_of,
    verifier_key,
    verify,
    verify_consistency,
)
from postsale.store.checkpoints import LATEST, SPACE
from postsale.testing import Events
from postsale.testing.store_building import each, in_threads

SIGNER = Path(__file__).with_name("signer.py")
CLOCK = ManualClock(datetime(2027, 1, 1, tzinfo=UTC))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    with closing(SQLiteStore(tmp_path / "log.db")) as store:
        yield store


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[FileVault]:
    with closing(FileVault(tmp_path / "log.keys")) as vault:
        yield vault


@pytest.fixture
def anchor(tmp_path: Path) -> FileAnchor:
    return FileAnchor(tmp_path / "elsewhere")


@pytest.fixture
def events() -> Events:
    return Events(seed=random.getrandbits(32))


def grow(store: SQLiteStore | MemoryStore, events: Events, count: int, tenant: str = "acme") -> None:
    store.append(each(*(events.fact(events.stream(tenant)) for _ in range(count))))


def continues(store: SQLiteStore | MemoryStore, first: Checkpoint, second: Checkpoint) -> bool:
    path = tree_of(store, "acme").consistency(first.size, second.size)
    return verify_consistency(first.size, first.root, second.size, second.root, path)


# ---------------------------------------------------------------- one signer


def test_a_checkpoint_is_the_signed_head_of_its_tenant(store: SQLiteStore, vault: FileVault, events: Events) -> None:
    grow(store, events, 5)
    grow(store, events, 2, "globex")
    signed = sign_checkpoint(store, vault, CLOCK, "acme")
    key = verifier_key(store, vault, "acme")
    assert (signed.size, signed.root) == store.tree_head("acme")
    assert signed.origin == key.name == f"postsale/{store.log_id}/acme"
    assert signed.at_us == CLOCK.now_us()
    assert signed.note.signed_by([key]) == {key: None}
    assert latest_checkpoint(store, "acme") == signed
    assert latest_checkpoint(store, "globex") is None
    assert verifier_key(store, vault, "globex").public != key.public


def test_without_new_events_the_kept_checkpoint_is_given_again(
    store: SQLiteStore, vault: FileVault, anchor: FileAnchor, events: Events
) -> None:
    grow(store, events, 5)
    first = sign_checkpoint(store, vault, CLOCK, "acme", anchor)
    later = ManualClock(CLOCK.now_us())
    later.advance(timedelta(days=1))
    assert sign_checkpoint(store, vault, later, "acme", anchor) == first
    assert list(anchor.notes()) == [first.text]


def test_each_checkpoint_continues_the_one_before_and_all_are_kept(
    store: SQLiteStore, vault: FileVault, anchor: FileAnchor, events: Events
) -> None:
    signed = []
    for count in (1, 1, 254, 1, 300, 9):
        grow(store, events, count)
        signed.append(sign_checkpoint(store, vault, CLOCK, "acme", anchor))
    assert all(continues(store, first, second) for n, second in enumerate(signed) for first in signed[:n])
    assert list(dict.fromkeys(kept_checkpoints(store, "acme"))) == list(anchor.notes()) == [c.text for c in signed]


def test_a_tenant_without_events_is_not_signed(store: SQLiteStore, vault: FileVault) -> None:
    with pytest.raises(InvalidInput):
        sign_checkpoint(store, vault, CLOCK, "acme")


def test_more_checkpoints_than_a_page_are_all_listed(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postsale.store.checkpoints._PAGE", 3)
    for size in range(10):
        store.kv.put(SPACE, "acme", f"{size:020d}", b"%d" % size)
    assert list(kept_checkpoints(store, "acme")) == [str(size) for size in range(10)]


# ---------------------------------------------------------------- what is not signed


def test_a_log_restored_from_an_older_backup_is_not_signed_once_a_checkpoint_is_at_the_anchor(
    tmp_path: Path, vault: FileVault, anchor: FileAnchor, events: Events
) -> None:
    """The backup holds its own, older checkpoint: only the anchor knows better, also when the log has grown past it again."""
    path = tmp_path / "log.db"
    with closing(SQLiteStore(path)) as store:
        grow(store, events, 300)
        sign_checkpoint(store, vault, CLOCK, "acme", anchor)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(tmp_path / "backup.db")) as backup:
            source.backup(backup)
        grow(store, events, 100)
        sign_checkpoint(store, vault, CLOCK, "acme", anchor)
    with closing(SQLiteStore(tmp_path / "backup.db")) as restored:
        with pytest.raises(CheckpointRefused, match=r"has 300 events, the checkpoint signed at 2027-01-01T.* says 400"):
            sign_checkpoint(restored, vault, CLOCK, "acme", anchor)
        grow(restored, events, 200)
        with pytest.raises(CheckpointRefused, match="first 400 events are not those of the checkpoint"):
            sign_checkpoint(restored, vault, CLOCK, "acme", anchor)
        assert [Checkpoint.parse(note).size for note in anchor.notes()] == [300, 400]


class Forked(MemoryStore):
    """Another history under the same log id and the same records: what a signer may see of a log that is being rewritten."""

    def __init__(self, of: MemoryStore) -> None:
        super().__init__()
        self._log_id, self._kv = of._log_id, of._kv


def test_another_history_is_not_signed_over_what_was_signed(events: Events) -> None:
    store = MemoryStore()
    fork = Forked(store)
    grow(store, events, 5)
    grow(fork, events, 9)
    with closing(FileVault.in_memory()) as vault:
        signed = sign_checkpoint(store, vault, CLOCK, "acme")
        with pytest.raises(CheckpointRefused, match="first 5 events are not those"):
            sign_checkpoint(fork, vault, CLOCK, "acme")
        assert list(kept_checkpoints(fork, "acme")) == [signed.text] * 2


@pytest.mark.parametrize("kept", ["", "garbage", "of another key", "of another tenant", "of another log", None])
def test_nothing_is_signed_after_a_kept_checkpoint_that_was_replaced_or_removed(
    store: SQLiteStore, vault: FileVault, events: Events, kept: str | None
) -> None:
    grow(store, events, 5)
    grow(store, events, 5, "globex")
    signed = sign_checkpoint(store, vault, CLOCK, "acme")
    if kept is None:
        store.kv.delete(SPACE, "acme", LATEST)
    else:
        forged = {
            "of another key": f"{signed.note.text}\n{Pair(signed.origin).line(signed.note.text)}",
            "of another tenant": sign_checkpoint(store, vault, CLOCK, "globex").text,
            "of another log": other_log(vault, events),
        }
        store.kv.put(SPACE, "acme", LATEST, forged.get(kept, kept).encode())
    grow(store, events, 1)
    with pytest.raises(CheckpointRefused):
        sign_checkpoint(store, vault, CLOCK, "acme")


def other_log(vault: FileVault, events: Events) -> str:
    """By the same vault, for the tenant of the same name."""
    store = MemoryStore()
    grow(store, events, 3)
    return sign_checkpoint(store, vault, CLOCK, "acme").text


def test_an_anchor_with_a_forged_checkpoint_stops_the_signer_and_says_so(
    store: SQLiteStore, vault: FileVault, anchor: FileAnchor, events: Events
) -> None:
    grow(store, events, 5)
    text = sign_checkpoint(store, vault, CLOCK, "acme").note.text.replace("\n5\n", "\n9\n")
    anchor.publish(Checkpoint.parse(f"{text}\n{Pair(text.partition(chr(10))[0]).line(text)}"))
    with pytest.raises(CheckpointRefused, match="checkpoint, of 9 events, is not signed by the key in the key file"):
        sign_checkpoint(store, vault, CLOCK, "acme", anchor)


def test_a_head_that_is_not_that_of_its_leaves_is_not_signed(tmp_path: Path, vault: FileVault, events: Events) -> None:
    with closing(SQLiteStore(tmp_path / "log.db")) as store:
        grow(store, events, 5)
        with store.writing() as db:
            db.execute("DROP TRIGGER events_no_update")
            db.execute("UPDATE events SET leaf = zeroblob(32) WHERE position = 2")
        with pytest.raises(LogDamaged, match="not that of its leaves"):
            sign_checkpoint(store, vault, CLOCK, "acme")


# ---------------------------------------------------------------- several signers


def test_threads_that_see_different_histories_never_sign_two_roots_for_one_size(events: Events) -> None:
    """Two logs that share their records, as if one were being rewritten while both are signed: the first to sign decides."""
    for _ in range(10):
        stores: list[MemoryStore] = [MemoryStore()]
        stores.append(Forked(stores[0]))
        for store in stores:
            grow(store, events, 6)
        with closing(FileVault.in_memory()) as vault:
            results = signed_at_once(stores, vault)
        assert len({result.text for result in results if isinstance(result, Checkpoint)}) == 1, f"seed {events.seed}"
        assert sum(isinstance(result, CheckpointRefused) for result in results) == 2
        assert len(set(kept_checkpoints(stores[0], "acme"))) == 1


def signed_at_once(stores: list[MemoryStore], vault: FileVault) -> list[Checkpoint | CheckpointRefused]:
    """What two threads for each store got."""
    results: list[Checkpoint | CheckpointRefused] = []
    barrier = threading.Barrier(4)

    def run(index: int) -> None:
        barrier.wait()
        try:
            results.append(sign_checkpoint(stores[index % 2], vault, CLOCK, "acme"))
        except CheckpointRefused as error:
            results.append(error)

    in_threads(run, 4)
    return results


def signer(tmp_path: Path, what: str, seed: int, last: object) -> subprocess.Popen[str]:
    arguments = [str(tmp_path / name) for name in ("log.db", "log.keys", "elsewhere")]
    return Fork(SIGNER, what, *arguments, seed, last, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_processes_that_append_and_sign_at_once_agree_on_one_checkpoint_for_each_size(
    tmp_path: Path, store: SQLiteStore, vault: FileVault, anchor: FileAnchor
) -> None:
    seed = random.getrandbits(32)
    key = verifier_key(store, vault, "acme")
    processes = [signer(tmp_path, "race", seed + index, 12) for index in range(2)]
    assert [process.stdout and process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [line for process in processes for line in process.communicate()[0].splitlines()]
    assert [process.returncode for process in processes] == [0, 0], f"seed {seed}"
    assert len(said) == 24
    roots: dict[str, str] = {}
    for size, root in (line.split() for line in said):
        assert roots.setdefault(size, root) == root, f"seed {seed}"
    report = verify(store, against=anchor.notes(), keys=[key])
    assert (report.problems, report.warnings) == ([], []), f"seed {seed}"
    assert set(kept_checkpoints(store, "acme")) >= set(anchor.notes()), f"seed {seed}"
    assert {str(Checkpoint.parse(note).size) for note in anchor.notes()} == set(roots), f"seed {seed}"


STEPS = [f"{when} {what}" for what in ("sign", "_file", "publish") for when in ("before", "after")]


@pytest.mark.parametrize("step", STEPS)
def test_a_signer_killed_at_any_step_leaves_the_next_checkpoint_continuing_the_last(
    tmp_path: Path, store: SQLiteStore, vault: FileVault, anchor: FileAnchor, events: Events, step: str
) -> None:
    key = verifier_key(store, vault, "acme")
    grow(store, events, 5)
    first = sign_checkpoint(store, vault, CLOCK, "acme", anchor)
    with signer(tmp_path, "die", events.seed + 1, step) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert store.tree_head("acme").size == 8  # it was killed after it had appended
    kept = latest_checkpoint(store, "acme")
    second = sign_checkpoint(store, vault, CLOCK, "acme", anchor)
    assert second.size == 8
    assert kept == (first if step.endswith(" sign") else second)
    grow(store, events, 300)
    third = sign_checkpoint(store, vault, CLOCK, "acme", anchor)
    assert continues(store, first, second)
    assert continues(store, second, third)
    assert list(anchor.notes()) == [first.text, second.text, third.text]
    assert list(dict.fromkeys(kept_checkpoints(store, "acme"))) == list(anchor.notes())
    report = verify(store, against=anchor.notes(), keys=[key], clock=CLOCK)
    assert (report.problems, report.warnings, report.signed) == ([], [], {"acme": 308})


@pytest.mark.parametrize("step", ["after sign", "before _file"])
def test_a_checkpoint_whose_signer_was_killed_is_filed_by_the_next_even_if_the_log_has_grown(
    tmp_path: Path, store: SQLiteStore, vault: FileVault, anchor: FileAnchor, events: Events, step: str
) -> None:
    grow(store, events, 5)
    sign_checkpoint(store, vault, CLOCK, "acme", anchor)
    with signer(tmp_path, "die", events.seed + 1, step) as process:
        process.communicate()
    newest = latest_checkpoint(store, "acme")
    grow(store, events, 1)
    sign_checkpoint(store, vault, CLOCK, "acme", anchor)
    assert newest is not None
    assert newest.text in list(kept_checkpoints(store, "acme"))


# ---------------------------------------------------------------- the anchor


def some(size: int, origin: str = "postsale/log/acme") -> Checkpoint:
    text = f"{origin}\n{size}\n{'A' * 43}=\n"
    return Checkpoint.parse(f"{text}\n{Pair(origin).line(text)}")


def test_an_anchor_keeps_every_checkpoint_once_and_knows_the_largest_of_each_origin(anchor: FileAnchor) -> None:
    assert anchor.latest("postsale/log/acme") is None
    for size in (5, 9, 7, 9):
        anchor.publish(some(size))
        anchor.publish(some(size + 1, "postsale/log/acme2"))
    assert anchor.latest("postsale/log/acme") == some(9)
    assert anchor.latest("postsale/log/acme2") == some(10, "postsale/log/acme2")
    assert anchor.latest("postsale/log") is None
    assert [Checkpoint.parse(note).size for note in anchor.notes()] == [5, 6, 9, 10, 7, 8]


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_line_that_was_not_written_to_its_end_takes_nothing_from_the_others(anchor: FileAnchor, cut: int) -> None:
    anchor.publish(some(5))
    whole = anchor.path.read_bytes()
    anchor.publish(some(6))
    torn = anchor.path.read_bytes()[len(whole) :][:cut]
    anchor.path.write_bytes(whole + torn)
    assert list(anchor.notes()) == [some(5).text]
    assert anchor.latest("postsale/log/acme") == some(5)
    anchor.publish(some(6))
    anchor.publish(some(7))
    found = dict.fromkeys(anchor.notes())  # a torn line that lacked only its end counts, and is there twice then
    assert [note for note in found if note.endswith("=\n")] == [some(size).text for size in (5, 6, 7)]
    assert anchor.latest("postsale/log/acme") == some(7)
    assert anchor.path.read_bytes().startswith(whole + torn)  # it only grows


@pytest.mark.parametrize("line", [b"[]", b"7", b'{"note": 7}', b'{"other": "x"}', b"\xff\xfe", b'{"note": "postsale/log/acme\\n7"}', b""])
def test_a_line_that_is_no_checkpoint_is_passed_over_and_not_hidden(anchor: FileAnchor, line: bytes) -> None:
    anchor.path.write_bytes(line + b"\n")
    anchor.publish(some(5))
    assert anchor.latest("postsale/log/acme") == some(5)
    assert len(list(anchor.notes())) == (2 if line else 1)


USES: dict[str, Callable[[FileAnchor], object]] = {
    "publish": lambda anchor: anchor.publish(some(5)),
    "latest": lambda anchor: anchor.latest("postsale/log/acme"),
    "notes": lambda anchor: list(anchor.notes()),
}


@pytest.mark.parametrize("use", USES)
def test_an_anchor_that_cannot_be_used_is_a_typed_error(tmp_path: Path, use: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(AnchorUnavailable, match="anchor folder"):
        USES[use](FileAnchor(tmp_path / "folder"))


def test_a_checkpoint_that_could_not_be_published_is_published_by_the_next_call(
    tmp_path: Path, store: SQLiteStore, vault: FileVault, events: Events
) -> None:
    grow(store, events, 5)
    anchor = FileAnchor(tmp_path / "no such folder" / "anchor")
    with pytest.raises(AnchorUnavailable):
        sign_checkpoint(store, vault, CLOCK, "acme", anchor)
    anchor.path.parent.mkdir()
    signed = sign_checkpoint(store, vault, CLOCK, "acme", anchor)
    assert list(anchor.notes()) == [signed.text]


def test_threads_that_publish_at_once_lose_no_checkpoint(anchor: FileAnchor) -> None:
    in_threads(lambda index: [FileAnchor(anchor.path).publish(some(size)) for size in range(index * 20 + 1, index * 20 + 21)], 4)
    assert sorted(Checkpoint.parse(note).size for note in anchor.notes()) == list(range(1, 81))
