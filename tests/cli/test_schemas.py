"""`postsale schemas`: a history of one's own kinds is kept, a change of it is named and refused, and the list can be read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .support import Done, from_nothing, process

V1 = """
from postsale.aggregates.signals import Signal
from postsale.events import Count, Id, Personal, Text, registry

class Attended(Signal):
    \"\"\"Somebody attended a webinar. They may have asked something.\"\"\"
    wire_name = "acme.webinars/attended@1"
    webinar: Id
    stayed_min: Count
    question: Personal[Text] | None = None
"""
V2 = (
    V1.replace("class Attended(", "class Attended1(")
    + """
class Attended(Signal):
    \"\"\"Somebody attended a webinar.\"\"\"
    wire_name = "acme.webinars/attended@2"
    webinar: Id
    stayed_s: Count

@registry.upcaster("acme.webinars/attended@1", "acme.webinars/attended@2")
def in_seconds(fields):
    return {"webinar": fields["webinar"], "stayed_s": fields["stayed_min"] * 60}
"""
)


class Project:
    """A folder with one module of kinds, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.says(V1)

    def says(self, source: str) -> None:
        (self.folder / "webinars.py").write_text(source)

    def schemas(self, *arguments: str) -> Done:
        return process("schemas", *arguments, cwd=self.folder, PYTHONDONTWRITEBYTECODE="1")

    def kept(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "schemas").glob("*")}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    assert project.schemas("write", "webinars").code == 0
    return project


def test_a_new_kind_is_not_kept_yet_until_it_is_written(tmp_path: Path) -> None:
    project = Project(tmp_path)
    before = project.schemas("check", "webinars")
    assert before.code == 1
    assert "acme.webinars.attended@1.json" in before.out
    assert "postsale schemas write webinars" in before.out
    assert project.schemas("write", "webinars", "--json").json() == ["schemas/acme.webinars.attended@1.json"]
    assert project.schemas("write", "webinars", "--json").json() == []
    after = project.schemas("check", "webinars")
    assert (after.code, after.err) == (0, "")
    assert "kinds 1 · versions 1" in after.out
    assert project.schemas("check", "webinars", "--json").json() == []
    assert project.schemas("check", "webinars", "--dir", "elsewhere").code == 1


def test_a_changed_version_is_named_refused_and_left_as_it_was(project: Project) -> None:
    before = project.kept()
    project.says(V1.replace("stayed_min: Count", "stayed_min: Text"))
    checked = project.schemas("check", "webinars", "--json")
    assert checked.code == 1
    assert checked.json() == [
        {
            "wire_name": "acme.webinars/attended@1",
            "what": "field `stayed_min` was integer, is now string",
            "breaks": "stored",
            "todo": "declare @2 and an upcaster",
        }
    ]
    for_people = project.schemas("check", "webinars")
    assert for_people.code == 1
    assert "stored events" in for_people.out
    assert "was integer, is now string" in for_people.out
    written = project.schemas("write", "webinars")
    assert (written.code, written.out) == (1, "")
    assert "acme.webinars/attended@1: field `stayed_min` was integer, is now string — declare @2 and an upcaster" in written.err
    assert project.kept() == before


def test_a_next_version_with_an_upcaster_passes_and_one_without_is_a_bad_declaration(project: Project) -> None:
    project.says(V2)
    names = ["schemas/acme.webinars.attended@1.json", "schemas/acme.webinars.attended@2.json"]  # the class of @1 has another name now
    assert project.schemas("write", "webinars", "--json").json() == names
    assert project.schemas("check", "webinars").code == 0
    project.says(V2.partition("@registry")[0])
    for command in ("check", "write"):
        done = project.schemas(command, "webinars")
        assert (done.code, done.out) == (2, "")
        assert "acme.webinars/attended@1: no upcaster leads from acme.webinars/attended@1 towards acme.webinars/attended@2" in done.err


def test_the_list_shows_versions_lane_and_fields_to_people_and_to_programs(project: Project) -> None:
    project.says(V2)
    (kind,) = project.schemas("list", "webinars", "--json").json()
    assert kind == {
        "wire_name": "acme.webinars/attended@2",
        "versions": ["acme.webinars/attended@1", "acme.webinars/attended@2"],
        "module": "webinars",
        "lane": "fact",
        "description": "Somebody attended a webinar.",
        "fields": [
            {"name": "webinar", "type": "string", "unit": "", "personal": False, "required": True},
            {"name": "stayed_s", "type": "integer", "unit": "s", "personal": False, "required": True},
        ],
    }
    project.says(V1)
    shown = project.schemas("list", "webinars").out
    assert "Somebody attended a webinar" in shown
    assert "webinar, stayed_min, question•?" in shown
    everything = {kind["wire_name"] for kind in project.schemas("list", "--json").json()}
    assert {"billing/invoice-paid@1", "agent/decision-recorded@1"} <= everything
    assert "acme.webinars/attended@1" not in everything


@pytest.mark.parametrize("module", ["no_such_module", "json", "not a module"])
def test_a_module_without_kinds_is_bad_input(project: Project, module: str) -> None:
    done = project.schemas("check", module, "--dir", "none")
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


# ---------------------------------------------------------------- in one's own tests


OWN_TESTS = """
import itertools
import pytest
import webinars
from postsale.testing import assert_schemas_kept, upcasted

def test_kept():
    assert_schemas_kept("webinars", "schemas")

def test_read():
    event = upcasted("acme.webinars/attended@1", {"webinar": "w1", "stayed_min": 2})
    assert (type(event).__name__, event.stayed_s) == ("Attended", 120)
"""
IMPURE = V2.replace('fields["stayed_min"] * 60', "next(clock)").replace(
    "@registry", "import itertools\nclock = itertools.count()\n\n@registry"
)


def own_tests(project: Project) -> str:
    (project.folder / "test_mine.py").write_text(OWN_TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", "-o", "addopts=", "test_mine.py"]
    return subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=False).stdout


def test_the_same_checks_run_in_the_tests_of_a_user(project: Project) -> None:
    project.says(V2)
    shown = own_tests(project)
    assert "acme.webinars/attended@2: acme.webinars.attended@2.json is not there" in shown
    assert "1 failed, 1 passed" in shown
    project.schemas("write", "webinars")
    assert "2 passed" in own_tests(project)
    project.says(IMPURE)
    assert "an upcaster of acme.webinars/attended@1 is not pure" in own_tests(project)


def test_our_own_schemas_are_checked_without_the_extra_eventsourcing(tmp_path: Path) -> None:
    """Its kind of event is in the history: whoever does not have that library must still be able to read, and to check, it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'eventsourcing':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = from_nothing("schemas", "check", "postsale", "--dir", str(Path(__file__).resolve().parents[2] / "schemas"), PYTHONPATH=paths)
    assert done.code == 0, done.out + done.err
    missing = from_nothing("schemas", "check", "postsale.store.recorders", PYTHONPATH=paths)
    assert "eventsourcing" in missing.err  # the library is not here indeed
