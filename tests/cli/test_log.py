"""`postsale log`: an operator signs and anchors, an auditor verifies, a third party checks a proof with nothing but a key."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from postsale.store import Checkpoint

from .support import process, run


@pytest.fixture
def anchored(db: str, tmp_path: Path) -> tuple[str, Path, Path]:
    """A database of one tenant that is signed; its anchor; the file of its key."""
    anchor, keys = tmp_path / "elsewhere", tmp_path / "keys.txt"
    assert run("log", "checkpoint", "--db", db, "--anchor", str(anchor)).code == 0
    keys.write_text(run("log", "key", "--db", db).out)
    return db, anchor, keys


def record(db: str, name: str, tenant: str = "acme") -> None:
    from datetime import UTC, datetime

    from postsale import PostSale
    from postsale.aggregates.signals import UsageObserved

    with PostSale.open(db) as ps:
        signal = UsageObserved(source="app", id=name, occurred_at=datetime(2026, 1, 1, tzinfo=UTC), feature="export")
        ps.tenant(tenant).record("cus_1", signal)


# ---------------------------------------------------------------- verify


def test_a_signed_log_verifies_against_its_anchor_and_key(anchored: tuple[str, Path, Path]) -> None:
    db, anchor, keys = anchored
    done = run("log", "verify", "--db", db, "--anchor", str(anchor), "--key", str(keys))
    assert (done.code, done.err) == (0, "")
    assert "continues every checkpoint that was given" in done.out
    assert "Warning" not in done.out
    report = run("log", "verify", "--db", db, "--anchor", str(anchor), "--key", str(keys), "--json").json()
    assert report["ok"] is True
    assert (report["first_problem"], report["warnings"]) == (None, [])
    assert report["signed"] == {tenant: head["size"] for tenant, head in report["roots"].items()}


def test_without_its_key_a_checkpoint_is_compared_and_the_next_command_is_named(anchored: tuple[str, Path, Path]) -> None:
    db, anchor, _ = anchored
    Path(db.removeprefix("sqlite:///")).with_suffix(".keys").unlink()  # an auditor has a copy of the log alone
    done = run("log", "verify", "--db", db, "--anchor", str(anchor))
    assert done.code == 0
    assert "were not checked: its key was not given" in done.out
    assert f"postsale log key > log.key --db {db}" in done.out
    assert f"postsale log verify --anchor {anchor} --key log.key --db {db}" in done.out


def test_an_unsigned_log_says_what_its_file_cannot_show(db: str) -> None:
    done = run("log", "verify", "--db", db)
    assert done.code == 0
    assert "postsale log checkpoint --anchor FILE" in done.out


def test_a_cut_off_tail_is_named_on_a_line_of_its_own(anchored: tuple[str, Path, Path], tmp_path: Path) -> None:
    """Restored from a backup that was made before the last events: everything in the file agrees with everything else."""
    db, anchor, keys = anchored
    path = Path(db.removeprefix("sqlite:///"))
    shutil.copy(path, tmp_path / "backup.db")
    for number in range(3):
        record(db, f"u{number}")
    assert run("log", "checkpoint", "--db", db, "--anchor", str(anchor)).code == 0
    shutil.copy(tmp_path / "backup.db", path)
    for left in path.parent.glob(f"{path.name}-*"):
        left.unlink()
    assert run("log", "verify", "--db", db).code == 0
    done = run("log", "verify", "--db", db, "--anchor", str(anchor), "--key", str(keys))
    assert done.code == 1
    (line,) = [line for line in done.out.splitlines() if line.startswith("First wrong event")]
    report = run("log", "verify", "--db", db, "--anchor", str(anchor), "--json")
    assert report.code == 1
    first = report.json()["first_problem"]
    assert f"position {first['position']:,}" in line
    assert first["reason"] in line
    assert "events are missing at the end" in first["reason"]
    refused = run("log", "checkpoint", "--db", db, "--anchor", str(anchor))
    assert (refused.code, refused.out) == (1, "")
    assert "CheckpointRefused" in refused.err
    assert "postsale log verify" in refused.err


def test_the_first_wrong_event_is_named_before_the_others(anchored: tuple[str, Path, Path]) -> None:
    db, _, _ = anchored
    with closing(sqlite3.connect(db.removeprefix("sqlite:///"))) as log:
        log.execute("DROP TRIGGER events_no_update")
        log.execute("UPDATE events SET data = x'7B7D' WHERE position IN (7, 30, 31)")
        log.commit()
    done = run("log", "verify", "--db", db)
    assert done.code == 1
    assert "First wrong event  position 7  the stored bytes do not match their leaf" in done.out
    assert run("log", "verify", "--db", db, "--json").json()["first_problem"]["position"] == 7


@pytest.mark.parametrize("several", [False, True])
def test_checkpoints_may_be_given_as_files_of_notes(anchored: tuple[str, Path, Path], tmp_path: Path, several: bool) -> None:
    db, _, keys = anchored
    if several:
        record(db, "u1", "globex")
    done = run("log", "checkpoint", "--db", db)
    keys.write_text(run("log", "key", "--db", db).out)
    note = tmp_path / "note"
    note.write_text(done.out)
    assert run("log", "verify", "--db", db, "--checkpoint", str(note), "--key", str(keys)).code == 0
    changed = tmp_path / "changed"
    changed.write_text(done.out.replace("time 2", "time 3"))
    report = run("log", "verify", "--db", db, "--checkpoint", str(changed), "--key", str(keys), "--json")
    assert report.code == 1
    assert "not genuine" in report.json()["problems"][0]["reason"]


# ---------------------------------------------------------------- sign


def test_a_checkpoint_is_printed_exactly_as_it_is_published(anchored: tuple[str, Path, Path]) -> None:
    db, anchor, _ = anchored
    done = run("log", "checkpoint", "--db", db, "--tenant", "acme")
    published = [json.loads(line)["note"] for line in anchor.read_text().splitlines()]
    assert done.out in published
    assert "--anchor FILE" in done.err
    (given,) = run("log", "checkpoint", "--db", db, "--tenant", "acme", "--json").json()
    checkpoint = Checkpoint.parse(done.out)
    assert given == {
        "tenant": "acme",
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "signed_at_us": checkpoint.at_us,
        "note": done.out,
    }


def test_the_key_is_that_of_the_checkpoint_and_every_tenant_has_one(anchored: tuple[str, Path, Path]) -> None:
    db, anchor, keys = anchored
    record(db, "u1", "globex")
    assert run("log", "checkpoint", "--db", db, "--anchor", str(anchor)).code == 0
    keys.write_text(run("log", "key", "--db", db).out)
    listed = run("log", "key", "--db", db, "--json").json()
    assert [entry["key"] for entry in listed] == keys.read_text().split()
    assert [entry["tenant"] for entry in listed] == ["acme", "globex"]
    origins = {json.loads(line)["note"].partition("\n")[0] for line in anchor.read_text().splitlines()}
    assert {entry["key"].partition("+")[0] for entry in listed} == origins
    assert run("log", "key", "--db", db, "--tenant", "acme").out.strip() in keys.read_text().split()


# ---------------------------------------------------------------- prove


def test_a_third_party_checks_a_proof_with_nothing_but_the_key(anchored: tuple[str, Path, Path], tmp_path: Path) -> None:
    db, _, keys = anchored
    proof = tmp_path / "proof.json"
    done = run("log", "prove", "9", "--db", db, "--out", str(proof))
    assert (done.code, done.err) == (0, "")
    assert "postsale log check-proof" in done.out
    third = tmp_path / "third"
    third.mkdir()
    shutil.move(proof, third / "proof.json")
    key = next(key for key in keys.read_text().split() if "/acme+" in key)
    checked = process("log", "check-proof", "proof.json", "--key", key, cwd=third)
    assert (checked.code, checked.err) == (0, "")
    assert checked.out.startswith("Proved: this event was in the log")
    assert [file.name for file in third.iterdir()] == ["proof.json"]
    shown = run("log", "check-proof", str(third / "proof.json"), "--key", str(keys), "--json").json()
    with closing(sqlite3.connect(db.removeprefix("sqlite:///"))) as log:
        kind, index = log.execute("SELECT k.wire_name, leaf_index FROM events JOIN kinds k ON k.no = kind WHERE position = 9").fetchone()
    assert (shown["ok"], shown["kind"], shown["leaf_index"]) == (True, kind, index)


def test_a_proof_may_be_asked_for_by_event_id_and_printed(anchored: tuple[str, Path, Path]) -> None:
    db, _, _ = anchored
    with closing(sqlite3.connect(db.removeprefix("sqlite:///"))) as log:
        (event_id,) = log.execute("SELECT hex(event_id) FROM events WHERE position = 9").fetchone()
    assert run("log", "prove", event_id, "--db", db).json() == run("log", "prove", "9", "--db", db).json()


def test_a_proof_that_was_changed_or_is_of_another_log_proves_nothing(anchored: tuple[str, Path, Path], tmp_path: Path) -> None:
    db, _, keys = anchored
    proof = tmp_path / "proof.json"
    run("log", "prove", "9", "--db", db, "--out", str(proof))
    members = json.loads(proof.read_text())
    for document in (json.dumps({**members, "leaf_index": 3}), "{}", "not json", ""):
        proof.write_text(document)
        done = run("log", "check-proof", str(proof), "--key", str(keys))
        assert (done.code, done.err) == (1, "")
        assert done.out.startswith("Not proved")
        assert run("log", "check-proof", str(proof), "--key", str(keys), "--json").json()["ok"] is False
    proof.write_text(json.dumps(members))
    record(db, "u1", "globex")
    assert run("log", "check-proof", str(proof), "--key", run("log", "key", "--db", db, "--tenant", "globex").out).code == 1


def test_a_proof_of_a_personal_event_shows_nothing_personal(anchored: tuple[str, Path, Path]) -> None:
    """Contents, header, id, salt and digest of every event with sealed fields are absent from its proof, in any encoding of it."""
    import base64

    db, _, _ = anchored
    with closing(sqlite3.connect(db.removeprefix("sqlite:///"))) as log:
        personal = log.execute(
            "SELECT position, event_id, header, data, salt, content_mac FROM events WHERE instr(data, CAST('$sealed' AS BLOB)) LIMIT 5"
        ).fetchall()
    assert personal
    for position, *hidden in personal:
        document = run("log", "prove", str(position), "--db", db).out.encode()
        raw = base64.b64decode(json.loads(document)["commitment"])
        for secret in hidden:
            for form in (secret, secret.hex().encode(), base64.b64encode(secret)[:-4]):
                assert form not in document + raw


# ---------------------------------------------------------------- what is wrong


def test_exit_2_what_is_given_is_wrong(anchored: tuple[str, Path, Path], tmp_path: Path) -> None:
    db, anchor, keys = anchored
    empty, folder = tmp_path / "empty", tmp_path / "folder"
    empty.touch()
    folder.mkdir()
    for arguments in (
        ("verify", "--key", "nonsense"),
        ("verify", "--key", ""),
        ("verify", "--key", str(empty)),
        ("verify", "--key", "x" * 5_000),
        ("verify", "--checkpoint", str(empty)),
        ("verify", "--checkpoint", str(keys)),
        ("verify", "--checkpoint", str(folder)),
        ("verify", "--checkpoint", str(tmp_path / "none")),
        ("prove", "nonsense"),
        ("prove", "9", "--tenant", "acme", "--out", str(folder)),
        ("prove", "9", "--checkpoint", str(anchor)),
        ("checkpoint", "--tenant", "nobody"),
        ("key", "--tenant", "nobody"),
        ("prove", "9", "--tenant", "Nobody"),
    ):
        done = run("log", *arguments, "--db", db)
        assert (done.code, done.out) == (2, ""), arguments
        assert "Traceback" not in done.err
    for arguments in (("none.json", "--key", str(keys)), (str(keys),)):
        done = run("log", "check-proof", *arguments)
        assert (done.code, done.out) == (2, ""), arguments


def test_exit_4_an_event_that_is_not_there_or_not_signed_yet(anchored: tuple[str, Path, Path]) -> None:
    db, _, _ = anchored
    for event in ("0", "999999999", "00000000-0000-0000-0000-000000000000"):
        done = run("log", "prove", event, "--db", db)
        assert (done.code, done.out) == (4, ""), event
    record(db, "u1")
    newest = run("log", "verify", "--db", db, "--json").json()["events"]
    done = run("log", "prove", str(newest), "--db", db)
    assert done.code == 4
    assert "postsale log checkpoint --tenant acme" in done.err


def test_exit_5_an_anchor_that_cannot_be_used(anchored: tuple[str, Path, Path], tmp_path: Path) -> None:
    db, _, _ = anchored
    for command, anchor in (("verify", tmp_path / "none"), ("checkpoint", tmp_path), ("checkpoint", tmp_path / "none" / "anchor")):
        done = run("log", command, "--db", db, "--anchor", str(anchor))
        assert (done.code, done.out) == (5, ""), command
        assert "AnchorUnavailable" in done.err


def test_an_empty_database_has_nothing_to_sign(tmp_path: Path) -> None:
    from postsale import PostSale

    db = f"sqlite:///{tmp_path / 'empty.db'}"
    PostSale.open(db).close()
    assert run("log", "checkpoint", "--db", db).code == 2
    assert run("log", "prove", "1", "--db", db).code == 2
    assert run("log", "key", "--db", db).out == ""
