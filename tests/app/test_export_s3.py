"""Exports to an object store: complete and incremental, through a store that is busy, cuts connections, lies, and through SIGKILL."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow.fs
import pytest

from postsale import PostSale
from postsale.errors import ExportUnwritable
from postsale.events import ManualClock
from postsale.projections.export import LogExport
from postsale.projections.export_place import Place
from tests.nursery import forked

from .exported import agents, assert_sound, lived, rows
from .object_store import Environ, ObjectStore, object_store
from .support import NOON, head, opened, paid, url_of

ROOT = Path(__file__).resolve().parents[2]
DAY = timedelta(days=1)


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with object_store("lake") as made:
        yield made


def downloaded(store: ObjectStore, folder: Path) -> Path:
    """What a stranger finds there, as files."""
    pyarrow.fs.copy_files("lake/exports", str(folder), source_filesystem=store.files())
    return folder


def small(ps: PostSale, n: int = 6) -> None:
    for i in range(n):
        ps.tenant("acme").record(f"cus_{i % 3}", paid(f"p{i}", NOON - i * DAY))


def test_an_export_to_s3_is_the_export_to_a_folder_and_goes_on_where_it_ended(store: ObjectStore, tmp_path: Path) -> None:
    """Row by row; a second run writes only what is new, a third no table. What is read back has a lie for an ETag: the digests are ours, of what was written."""
    store.tag, clock = '"d41d8cd98f00b204e9800998ecf8427e"', ManualClock(NOON)
    with opened(None, clock=clock, agents=agents()) as ps:
        lived(ps, clock)
        export = ps.tenant("acme").export
        here, there = export.log(str(tmp_path / "here")), export.log(store.url("lake/exports"))
        assert (there.rows, there.files, there.position) == (here.rows, here.files, here.position)
        ps.tenant("acme").record("cus_0", paid("new", NOON))
        more = export.log(store.url("lake/exports"))
        assert (more.rows, len(more.files)) == (1, 1)
        store.asked.clear()
        assert export.log(store.url("lake/exports")).rows == 0
        assert not [asked for asked in store.asked if asked.startswith("PUT") and ".parquet" in asked]
        export.log(str(tmp_path / "here"))
    store.tag = ""
    got = downloaded(store, tmp_path / "got")
    assert_sound(got)
    assert rows(got) == rows(tmp_path / "here")


def test_a_store_that_is_busy_loses_answers_or_files_leaves_an_export_that_the_next_run_finishes(
    store: ObjectStore, tmp_path: Path
) -> None:
    """First it does not hold what it took, then a part's digest is wrong, then it is busy for good: errors that name the place, and no half file is listed. Then it is
    busy at times, and at times carries out what it is asked and does not answer: the run ends, and the rows are those of a folder.
    """
    counted = [0]

    def moody(environ: Environ) -> str:
        counted[0] += 1
        return "busy" if counted[0] % 17 == 0 else "cut" if counted[0] % 31 == 0 and environ["REQUEST_METHOD"] == "PUT" else ""

    with opened(None) as ps:
        small(ps)
        export, url = ps.tenant("acme").export, store.url("lake/exports")
        store.mood = lambda e: "short" if e["REQUEST_METHOD"] == "HEAD" and e["PATH_INFO"].endswith(".parquet") else ""
        with pytest.raises(ExportUnwritable, match="bytes were written to"):
            export.log(url)
        store.mood, store.tag, store.tagged = (lambda _: ""), '"d41d8cd98f00b204e9800998ecf8427e"', ("PUT",)
        with pytest.raises(ExportUnwritable, match=r"UNKNOWN \(400\)"):  # a part's ETag that is no part's: the file is never made
            export.log(url)
        store.tag = ""
        store.mood = lambda _: "busy"
        with pytest.raises(ExportUnwritable, match="s3://lake/exports") as refused:
            export.log(url)
        assert "tests" not in str(refused.value)
        store.mood = lambda _: ""
        kept = json.loads(Place(url).read("manifest.json") or b"")
        assert kept["pending"] is not None
        assert not any(table["files"] for table in kept["tables"].values())
        store.mood = moody
        assert export.log(url).rows == head(ps)
        store.mood = lambda _: ""
        export.log(str(tmp_path / "here"))
    got = downloaded(store, tmp_path / "got")
    assert_sound(got)
    assert rows(got) == rows(tmp_path / "here")


def test_killed_anywhere_the_watermark_stays_right_and_no_row_is_there_twice(store: ObjectStore, tmp_path: Path) -> None:
    """Real SIGKILLs at random steps of writing to the store, while the log grows; then one run finishes."""
    seed = random.SystemRandom().randrange(2**32)
    rng, url, window = random.Random(seed), store.url("lake/exports"), 5
    with opened(tmp_path) as ps:
        small(ps)
        killed = 0
        for round_ in range(2):
            command = forked(ROOT / "tests/app/exported.py", url_of(tmp_path), url, window, rng.randrange(2, 60))
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
            assert done.returncode in (0, -signal.SIGKILL), (seed, done.stderr[-2000:])
            killed += done.returncode != 0
            ps.tenant("acme").record("cus_1", paid(f"more-{round_}", NOON))
        assert killed, seed
        keys = ps.log.vault.tenant("acme")
        LogExport(ps.log.store, "acme", keys, Place(url), window=window).run()
        LogExport(ps.log.store, "acme", keys, Place(str(tmp_path / "here")), window=window).run()
    got = downloaded(store, tmp_path / "got")
    assert_sound(got)
    assert rows(got) == rows(tmp_path / "here"), seed
