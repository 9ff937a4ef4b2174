"""Processes with different releases of one kind, over one log at the same time: nothing is skipped, misread or recorded twice.

The kind is `acme.webinars/attended`. Release 1 knows @1, where `stayed` is in minutes; release 2A reads @2, where it is in seconds,
and still writes @1; release 2B writes @2. The feature is declared with the same words in all of them: the sum of `stayed`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.nursery import Fork

RELEASE = Path(__file__).with_name("release.py")
CUSTOMERS = ("anna", "bert", "carl")

COMMON = """
from postsale.aggregates.signals import Signal
from postsale.events import Count, Id, Personal, Text, registry
from postsale.projections import Component, Features, HealthModel, total

class {first}(Signal):
    wire_name = "acme.webinars/attended@1"
    stayed: Count
    question: Personal[Text] | None = None
"""
SECOND = """
class Attended(Signal):
    wire_name = "acme.webinars/attended@2"
    stayed: Count
    asked: Personal[Text] | None = None
    room: Id = "main"

@registry.upcaster("acme.webinars/attended@1", "acme.webinars/attended@2")
def in_seconds(fields):
    fields["stayed"] *= 60
    if "question" in fields:
        fields["asked"] = fields.pop("question")
    return fields
"""
MODEL = """
class Webinars(Features, version=1, owner="tests"):
    stayed = total(Attended, lambda e: e.stayed)

MODEL = HealthModel("webinars", 1, Webinars, (Component("any", 1, lambda values: 0),))
"""
WRITES_1 = """
def attended(*, minutes, question=None, **more):
    return {first}(stayed=minutes, question=question, **more)
"""
WRITES_2 = """
def attended(*, minutes, question=None, **more):
    return Attended(stayed=minutes * 60, asked=question, **more)
"""
RELEASES = {
    "1": COMMON.format(first="Attended") + MODEL + WRITES_1.format(first="Attended"),
    "2A": COMMON.format(first="Attended1") + SECOND + MODEL + WRITES_1.format(first="Attended1"),
    "2B": COMMON.format(first="Attended1") + SECOND + MODEL + WRITES_2,
    "2B, broken": COMMON.format(first="Attended1") + SECOND.replace("*= 60", "= fields['minutes'] * 60") + MODEL + WRITES_2,
}


class Release:
    """A running process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, name: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(orjson.dumps([name, *arguments]).decode() + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process has ended"
        return orjson.loads(line)


Start = Callable[[str], Release]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process of a release over this test's log; all run until the test's end."""
    with ExitStack() as running:

        def started(release: str) -> Release:
            code = tmp_path / f"release-{release}"
            code.mkdir(exist_ok=True)
            (code / "webinars.py").write_text(RELEASES[release])
            process = running.enter_context(Fork("-c", BOOT, code, RELEASE, tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            running.callback(process.kill)
            return Release(process)

        yield started


BOOT = (
    "import runpy, sys; code, script, *sys.argv[1:] = sys.argv[1:]; sys.path.insert(0, code); runpy.run_path(script, run_name='__main__')"
)


def unknown(answer: dict[str, Any], position: int) -> bool:
    """The typed error that names kind, version and position."""
    named = answer["wire_name"] == "acme.webinars/attended@2" and answer["position"] == position
    return named and answer["error"] == "UnknownWireName" and f"position {position}" in answer["message"]


def test_new_code_reads_old_events_as_its_own_and_old_code_stops_at_new_ones_and_nowhere_else(start: Start) -> None:
    old, new = start("1"), start("2B")
    assert [old("attend", name, f"{name}-1", 1)[0] for name in CUSTOMERS] == [True] * 3
    assert (new("feature", "anna"), new("latest", "anna")) == (60, 60)
    _, at = new("attend", "anna", "anna-2", 2)
    assert unknown(old("latest", "anna"), at)
    assert old("attend", "bert", "bert-2", 5)[0]  # the old release goes on writing, to whomever
    assert old("attend", "anna", "anna-3", 5)[0]
    for read, bert in (("feature", 6), ("latest", 5)):
        assert old(read, "bert") == bert
    assert unknown(old("feature", "anna"), at)
    assert unknown(old("folded"), at)
    assert (new("feature", "anna"), new("feature", "bert")) == (60 + 120 + 300, 360)


def test_the_old_runner_parks_the_customer_others_go_on_and_after_the_upgrade_the_view_is_the_fold_from_the_start(start: Start) -> None:
    old, new = start("1"), start("2B")
    for name in CUSTOMERS:
        old("attend", name, f"{name}-1", 1)
    assert old("run")["problems"] == []
    before = old("view")
    _, at = new("attend", "anna", "anna-2", 2)
    old("attend", "anna", "anna-3", 3)
    old("attend", "bert", "bert-2", 4)
    (problem,) = old("run")["problems"]
    assert "UnknownWireName" in problem[1]
    assert f"position {at}" in problem[1]
    (parked,) = old("parked")
    assert (parked["position"], parked["wire_name"], parked["error"], parked["waiting"]) == (
        at,
        "acme.webinars/attended@2",
        "UnknownWireName",
        1,
    )
    view = old("view")
    assert (view["anna"], view["bert"], view["carl"]) == (before["anna"], 5, 1)  # in minutes, as this release counts
    for upgraded in (new, start("2B")):  # beside the old one, and in its place
        assert upgraded("run")["problems"] == []
        assert upgraded("parked") == []
        assert upgraded("view") == upgraded("folded")
    assert new("view") == {"anna": 60 + 120 + 180, "bert": 300, "carl": 60}
    old("run")
    assert old("view")["bert"] == 5  # what one release counts in is not mixed into the view of the other


def test_readers_first_then_writers_and_no_process_ever_meets_a_version_it_does_not_know(start: Start, tmp_path: Path) -> None:
    first = start("1")
    first("attend", "anna", "anna-1", 1)
    readers = start("2A")
    assert readers("attend", "anna", "anna-2", 2)[0]
    assert set(readers("kinds")) == {"acme.webinars/attended@1"}
    assert (first("feature", "anna"), readers("feature", "anna")) == (3, 180)
    event = '{"specversion":"1.0","type":"acme.webinars/attended@1","source":"zoom","id":"ce-1","subject":"anna","time":"2026-03-01T00:00:00Z","data":{"stayed":3}}'
    (tmp_path / "events.json").write_text(event)
    assert readers("ingest", str(tmp_path / "events.json"))["recorded"] == 1
    assert set(readers("kinds")) == {"acme.webinars/attended@1"}  # what a source says in @1 is stored in @1
    assert (first("feature", "anna"), readers("feature", "anna")) == (6, 360)
    assert first("run")["problems"] == readers("run")["problems"] == []
    writers = start("2B")  # the first release is gone by now
    assert writers("attend", "anna", "anna-3", 4)[0]
    assert readers("feature", "anna") == writers("feature", "anna") == 600
    for release in (readers, writers):
        assert release("run")["problems"] == []
        assert release("view") == release("folded")


def test_the_same_signal_again_is_the_same_whichever_release_it_reaches(start: Start) -> None:
    old, readers, new = start("1"), start("2A"), start("2B")
    stored, at = old("attend", "anna", "a", 1)
    assert stored
    for release in (old, readers, new):
        assert release("attend", "anna", "a", 1) == [False, at]
    other = new("attend", "anna", "a", 2)
    assert (other["error"], other["stored_position"]) == ("ContentConflict", at)
    elsewhere = new("attend", "bert", "a", 1)
    assert (elsewhere["error"], elsewhere["stored_position"]) == ("ContentConflict", at)
    assert new("quarantine") == 2
    _, later = new("attend", "anna", "b", 1)
    for release in (readers, new):
        assert release("attend", "anna", "b", 1) == [False, later]
    assert old("attend", "anna", "b", 1)["error"] == "ContentConflict"  # it cannot know: kept, not lost
    assert old("quarantine") == 3
    assert old("retry_quarantine") == {"tried": 3, "recorded": 0, "still waiting": 3}
    assert new("retry_quarantine") == {"tried": 3, "recorded": 1, "still waiting": 2}
    assert len(new("kinds")) == 2


def test_personal_fields_are_read_under_their_new_name_and_compared_when_they_come_again(start: Start) -> None:
    old, new = start("1"), start("2B")
    _, at = old("attend", "anna", "a", 1, "how much?")
    assert new("asked", "anna") == ["how much?"]
    assert new("attend", "anna", "a", 1, "how much?") == [False, at]
    assert new("attend", "anna", "a", 1, "how long?")["error"] == "ContentConflict"


def test_an_upcaster_that_raises_parks_the_event_by_name_and_the_mended_one_goes_on_to_the_fold_from_the_start(start: Start) -> None:
    """The mended release has the same view: what could not be read waits in it, and is folded by the next process' first run."""
    old, broken = start("1"), start("2B, broken")
    old("attend", "anna", "anna-1", 1)
    _, at = old("attend", "anna", "anna-2", 2)
    broken("attend", "bert", "bert-1", 3)
    (problem,) = broken("run")["problems"]
    assert "UpcastFailed" in problem[1]
    (parked,) = broken("parked")
    assert (parked["position"], parked["wire_name"], parked["error"], parked["waiting"]) == (
        at - 1,
        "acme.webinars/attended@1",
        "UpcastFailed",
        1,
    )
    assert "KeyError at webinars.py:" in parked["reason"]
    assert broken("view") == {"bert": 180}
    failed = broken("folded")
    assert (failed["error"], failed["wire_name"], failed["position"]) == ("UpcastFailed", "acme.webinars/attended@1", at - 1)
    broken("attend", "anna", "anna-3", 1)
    broken("run")
    mended = start("2B")
    assert mended("parked")[0]["waiting"] == 2
    assert mended("run")["problems"] == []
    assert mended("parked") == []
    assert mended("view") == mended("folded")
    assert mended("view")["anna"] == 60 + 120 + 60
