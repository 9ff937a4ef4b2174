"""The dbt package: the same bytes each time, checkable, careful with other people's files; and dbt runs it over a real export."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from postsale.errors import InvalidInput
from postsale.events import Lane, ManualClock
from postsale.projections.dbt_package import check_package, dbt_package, write_package
from postsale.projections.event_tables import event_tables
from tests.app.exported import agents, lived
from tests.app.support import NOON, opened

ROOT = Path(__file__).resolve().parents[2]
_APART = ROOT / ".venv-dbt" / "bin" / "dbt"
DBT = os.environ.get("POSTSALE_DBT") or (str(_APART) if _APART.exists() else shutil.which("dbt"))


def written(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_package_is_written_once_and_found_up_to_date(tmp_path: Path) -> None:
    """Every kind that was imported has a model; a second run changes nothing; names of this machine are not in it."""
    assert write_package(tmp_path)
    assert written(tmp_path) == dbt_package()
    assert write_package(tmp_path) == check_package(tmp_path) == []
    models = {path.stem for path in (tmp_path / "models" / "staging").glob("*.sql")}
    assert models == {f"stg_postsale__{table.name}" for table in event_tables().values()}
    assert not [name for name, text in written(tmp_path).items() if str(ROOT) in text or str(tmp_path) in text]


def test_a_stale_package_is_named_and_mended_and_other_files_stay(tmp_path: Path) -> None:
    """A changed file, a missing one, one of a kind that is gone; models of one's own are not touched."""
    write_package(tmp_path)
    staging = tmp_path / "models" / "staging"
    changed, missing, gone = (staging / f"stg_postsale__{name}.sql" for name in ("billing__invoice_paid", "survey__answered", "acme__gone"))
    changed.write_text(changed.read_text() + "-- mine\n")
    missing.unlink()
    gone.write_text(changed.read_text())
    (staging / "mine.sql").write_text("select 1\n")
    assert set(check_package(tmp_path)) == {changed, missing, gone}
    assert set(write_package(tmp_path)) == {changed, missing, gone}
    assert check_package(tmp_path) == []
    assert not gone.exists()
    assert (staging / "mine.sql").read_text() == "select 1\n"


def test_a_file_that_was_not_generated_is_never_replaced(tmp_path: Path) -> None:
    """Somebody's own project in that folder is refused before anything is written."""
    (tmp_path / "dbt_project.yml").write_text("name: mine\n")
    with pytest.raises(InvalidInput, match="not generated"):
        write_package(tmp_path)
    assert written(tmp_path) == {"dbt_project.yml": "name: mine\n"}


@pytest.mark.skipif(DBT is None, reason="no dbt here: `make test` installs it into .venv-dbt")
def test_dbt_builds_and_tests_the_package_over_an_export_and_its_customers_are_ours(tmp_path: Path) -> None:
    """One real run. Facts of linked and merged streams count to the customer that the log counts them to."""
    import duckdb

    clock = ManualClock(NOON)
    with opened(None, clock=clock, agents=agents()) as ps:
        lived(ps, clock)
        acme = ps.tenant("acme")
        acme.export.log(str(tmp_path / "out"))
        names = acme.pseudonyms()
        ours = {
            key: sum(event.stored.lane is Lane.FACT for event in acme.timeline(name))
            for key, ref in names.items()
            for name in [acme.names()[ref]]
            if name != "cus_3"  # part of cus_2
        }
    write_package(tmp_path / "package")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DBT_", "POSTSALE_", "PYTHON"))},
        "POSTSALE_EXPORT": str(tmp_path / "out"),
        "POSTSALE_WAREHOUSE": str(tmp_path / "warehouse.duckdb"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "DBT_WARN_ERROR": "true",
    }
    folder = str(tmp_path / "package")
    command = [
        str(DBT),
        "build",
        "--project-dir",
        folder,
        "--profiles-dir",
        folder,
        "--no-use-colors",
        "--log-path",
        str(tmp_path / "logs"),
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "ERROR=0" in done.stdout
    with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as warehouse:
        found = dict(warehouse.execute("SELECT customer, count(*) FROM customer_events GROUP BY customer").fetchall())
        actions = warehouse.execute("SELECT action FROM stg_postsale__agent__decision_recorded").fetchall()
    assert found == ours
    assert actions
