"""The generator of the reference and the schemas, run on a copy of the documentation: it names a breaking change and heals none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from docs.generate import main

Generate = Callable[[bool], tuple[int, list[str]]]

ROOT = Path(__file__).resolve().parents[2]
PAID = "billing.invoice-paid@1.json"
SAID = "billing/invoice-paid@1: field `amount_minor` was string, is now integer — declare @2 and an upcaster"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in ("docs", "schemas"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


@pytest.fixture
def generate(copy: Path, capsys: pytest.CaptureFixture[str]) -> Generate:
    """Runs the generator here, where a second run costs nothing; what it tells is from its own lines."""

    def run(check: bool) -> tuple[int, list[str]]:
        return main(check, copy), capsys.readouterr().err.splitlines()

    return run


def change(path: Path, field: str, **keywords: object) -> None:
    schema = orjson.loads(path.read_bytes())
    schema["properties"][field] |= keywords
    path.write_bytes(orjson.dumps(schema))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file() and "__pycache__" not in path.parts}


def test_a_version_that_the_code_reads_in_another_way_is_named_and_neither_check_nor_generation_writes_anything(copy: Path) -> None:
    """By the command, as it is typed."""
    change(copy / "schemas" / PAID, "amount_minor", type="string")
    before = contents(copy)
    for arguments in (["--check"], []):
        command = [sys.executable, "-m", "docs.generate", *arguments]
        done = subprocess.run(command, cwd=copy, env={**os.environ}, capture_output=True, text=True, check=False)
        assert next(line for line in done.stderr.splitlines() if "amount_minor" in line) == SAID
        assert done.returncode == 1
    assert contents(copy) == before


def test_a_kind_that_is_gone_from_the_code_stays_in_the_history_and_is_named(copy: Path, generate: Generate) -> None:
    shutil.copy(copy / "schemas" / PAID, copy / "schemas" / "billing.gone@1.json")
    code, said = generate(False)
    assert code == 1
    assert said[:-1] == [
        "billing/gone@1: nothing reads it any more, and stored events would be unreadable — keep its class, or add an upcaster from it"
    ]
    assert "deleting its file" in said[-1]
    assert (copy / "schemas" / "billing.gone@1.json").is_file()


def test_what_is_only_stale_or_missing_is_told_by_check_and_written_by_generation(copy: Path, generate: Generate) -> None:
    (copy / "schemas" / PAID).unlink()
    change(copy / "schemas" / "billing.subscription-ended@1.json", "plan", title="Another title")
    (copy / "docs" / "reference" / "events.md").write_text("")
    code, said = generate(True)
    assert code == 1
    stale = {f"schemas/{PAID}", "schemas/billing.subscription-ended@1.json", "docs/reference/events.md"}
    assert {line.partition(" is stale")[0] for line in said} == stale
    assert generate(False) == (0, [])
    assert generate(True) == (0, [])
    assert contents(copy / "schemas").keys() == {copy / "schemas" / path.name for path in (ROOT / "schemas").glob("*.json")}
