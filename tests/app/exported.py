"""What the tests of exports share: a log with something of everything, reading an export as a stranger would, and dying in the middle.

python exported.py URL FOLDER WINDOW STEP: exports, and kills itself with SIGKILL at that step of writing files.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from postsale import PostSale, contact, foreign
from postsale.agents import RenewalRescue
from postsale.aggregates.signals import AccountProfiled, SurveyAnswered
from postsale.events import ManualClock
from postsale.projections.export import LogExport
from postsale.projections.export_place import Place, Sink
from tests.app.support import ANNA, CANARY, NOON, failed, paid, subscribed, used

Row = dict[str, Any]


def lived(ps: PostSale, clock: ManualClock) -> None:
    """Facts, personal fields, linked and merged customers, a decision, its approval and its effect."""
    acme = ps.tenant("acme")
    for n in range(4):
        acme.record(f"cus_{n}", subscribed(f"s{n}", NOON - timedelta(days=60), mrr_minor=60_000))
        acme.record(f"cus_{n}", paid(f"p{n}", NOON - timedelta(hours=5)))
        acme.record(f"cus_{n}", used(f"u{n}", NOON - timedelta(days=1, minutes=n)))
    acme.record("cus_0", AccountProfiled(source="crm", id="a0", occurred_at=NOON, name=CANARY, segment="smb"))
    acme.record("cus_1", SurveyAnswered(source="survey", id="n1", occurred_at=NOON, survey="nps", score=2, comment=CANARY))
    acme.record(contact(CANARY, "crm"), used("by-contact"))
    acme.link(contact(CANARY, "crm"), "cus_1")
    acme.record(foreign("stripe", "cus_STRANGE"), failed("by-foreign"))
    acme.link(foreign("stripe", "cus_STRANGE"), "cus_2")
    acme.merge("cus_3", into="cus_2", reason="the same shop", by=ANNA)
    acme.record("cus_0", failed("f0", NOON, attempt=2))
    acme.agent("renewal-rescue").propose(reason="a first try", by=ANNA)
    acme.consent("cus_0", "email", "service", evidence="form")
    ps.run_once()
    first, *_ = acme.approvals()
    acme.approve(first.id, by=ANNA, reason="agreed")
    clock.move_to(NOON + timedelta(hours=1))
    ps.run_once()


def agents() -> list[Any]:
    return [RenewalRescue()]


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_bytes()))


def files(folder: Path) -> dict[str, bytes]:
    """Every file that readers of Parquet see, by its name below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def rows(folder: Path) -> dict[str, list[Row]]:
    """Every row of every table, by name with version, by position: as somebody reads them who knows only the folders."""
    out: dict[str, list[Row]] = {}
    for table in sorted(glob.glob(f"{folder}/log/*/*")):
        parts = [pa.parquet.read_table(file) for file in sorted(glob.glob(f"{table}/*.parquet"))]
        found = pa.concat_tables(parts).to_pylist() if parts else []
        out[os.path.relpath(table, f"{folder}/log")] = sorted(found, key=lambda row: row["_position"])
    return out


def assert_sound(folder: Path) -> None:
    """Every listed file is there, as it was listed, and nothing else is."""
    listed = [file for group in ("tables", "features") for table in manifest(folder)[group].values() for file in table["files"]]
    found = files(folder)
    assert sorted(found) == sorted(file["name"] for file in listed)
    for file in listed:
        raw = found[file["name"]]
        assert (len(raw), hashlib.sha256(raw).hexdigest()) == (file["size_bytes"], file["sha256"]), file["name"]
        assert pa.parquet.read_metadata(folder / file["name"]).num_rows == file["rows"]


class Dying(Place):
    """A place at which this process is killed at a step: before a file is begun, or before it gets its name."""

    def __init__(self, url: str, step: int) -> None:
        super().__init__(url)
        self._left = step

    def _step(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def writing(self, name: str) -> Iterator[Sink]:
        self._step()
        with super().writing(name) as sink:
            yield sink
            self._step()


def main(url: str, folder: str, window: int, step: int) -> None:
    with PostSale.open(url, clock=ManualClock(NOON)) as ps:
        keys = ps.log.vault.tenant("acme")
        LogExport(ps.log.store, "acme", keys, Dying(folder, step), window=window).run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
