"""`postsale export`: Parquet and the dbt package from the command line; a new version of a kind; kinds that nobody here knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from tests.app.exported import assert_sound, manifest, rows

from .support import process, run

V1 = """
from postsale.aggregates.signals import Signal
from postsale.events import Count, Id, Text
from postsale.projections import Features, count

class Attended(Signal):
    \"\"\"Somebody attended a webinar.\"\"\"
    wire_name = "acme.webinars/attended@1"
    webinar: Id
    stayed_min: Count
    question: Text = ""

class Webinars(Features, version=1, owner="tests"):
    attended = count(Attended)
"""
V2 = """
from postsale.aggregates.signals import Signal
from postsale.events import Count, Id, Personal, Text, registry

class Attended(Signal):
    \"\"\"Somebody attended a webinar. What they asked is personal, as we know by now.\"\"\"
    wire_name = "acme.webinars/attended@2"
    webinar: Id
    stayed_s: Count
    question: Personal[Text] | None = None

@registry.upcaster("acme.webinars/attended@1", "acme.webinars/attended@2")
def in_seconds(fields):
    return {"webinar": fields["webinar"], "stayed_s": fields["stayed_min"] * 60, "question": fields["question"]}
"""
RECORD = """
from datetime import UTC, datetime
from postsale import PostSale
from webinars import Attended
with PostSale.open("sqlite:///postsale.db") as ps:
    for n in range(3):
        at = datetime(2026, 9, 1, n, tzinfo=UTC)
        ps.tenant("acme").record("cus_1", Attended(source="zoom", id=f"w{n}", occurred_at=at, webinar="start", stayed_min=n, question="whose?"))
"""


def test_log_exports_and_says_what_it_wrote_and_nothing_when_there_is_nothing_new(db: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    first = run("export", "log", "--to", out, "--db", db, "--json")
    assert first.code == 0, first.err
    report = first.json()
    assert report["rows"] == sum(map(len, rows(tmp_path / "out").values())) > 500
    assert report["position"] == manifest(tmp_path / "out")["tables"]["billing__invoice_paid/v1"]["position"]
    assert run("export", "log", "--to", f"file://{out}", "--db", db, "--json").json()["files"] == []
    shown = run("export", "log", "--to", out, "--db", db)
    assert "rows 0 · files 0" in shown.out
    assert_sound(tmp_path / "out")


def test_features_exports_a_declaration_by_name_and_refuses_what_is_none(db: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    argv = ("export", "features", "postsale.projections:CustomerHealth", "--to", out, "--db", db, "--as-of", "2026-09-01", "--json")
    first = run(*argv)
    assert first.code == 0, first.err
    (name,) = first.json()["files"]
    assert parquet.read_table(tmp_path / "out" / name).num_rows == first.json()["rows"] > 5
    assert run(*argv).json()["files"] == []
    for what in ("postsale.projections:Features", "postsale.projections:count", "postsale.projections", "nowhere:X"):
        assert run("export", "features", what, "--to", out, "--db", db).code == 2


def test_a_place_with_another_tenants_export_is_refused_with_status_3(db: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("export", "log", "--to", str(out), "--db", db).code == 0
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace('"tenant":"acme"', '"tenant":"other"'))
    refused = run("export", "log", "--to", str(out), "--db", db)
    assert refused.code == 3
    assert "tenant other, not acme" in refused.err
    (tmp_path / "file").write_text("")
    assert run("export", "log", "--to", str(tmp_path / "file" / "x"), "--db", db).code == 5


def test_dbt_writes_a_package_and_checks_it(tmp_path: Path) -> None:
    """Status 1 while it is not up to date."""
    package = str(tmp_path / "package")
    assert run("export", "dbt", "--to", package, "--check").code == 1
    assert not (tmp_path / "package").exists()
    assert "dbt_project.yml" in run("export", "dbt", "--to", package).out
    assert run("export", "dbt", "--to", package, "--check", "--json").json() == []


def test_a_new_version_of_a_kind_is_a_table_of_its_own_with_the_whole_history(tmp_path: Path) -> None:
    """Upcast; a field that became personal is masked though it was stored in the clear; the old table stays as it was. Without the kind nothing is
    passed over."""
    (tmp_path / "webinars.py").write_text(V1)
    (tmp_path / "record.py").write_text(RECORD)

    def exports(**env: str) -> Any:
        return process("export", "log", "--to", "out", "--json", cwd=tmp_path, PYTHONDONTWRITEBYTECODE="1", **env)

    subprocess.run([sys.executable, "record.py"], cwd=tmp_path, check=True, timeout=60)
    unknown = exports()
    assert unknown.code == 2
    assert "UnknownWireName" in unknown.err
    assert exports(POSTSALE_IMPORT="webinars").code == 0
    before = rows(tmp_path / "out")
    (tmp_path / "webinars.py").write_text(V2)
    again = exports(POSTSALE_IMPORT="webinars")
    assert again.code == 0, again.err
    assert again.json()["rows"] == 3
    after = rows(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    old, new = after["acme_webinars__attended/v1"], after["acme_webinars__attended/v2"]
    assert [row["_position"] for row in new] == [row["_position"] for row in old]
    assert [row["stayed_s"] for row in new] == [0, 60, 120]
    assert {row["_wire_name"] for row in new} == {"acme.webinars/attended@1"}
    assert {row["question"] for row in new} == {"•••"}
    assert_sound(tmp_path / "out")
