"""The claims that every engine must hold: each story comes to what it should, and to the same canonical hashes as on the embedded engine.

Subclass `EngineContract`, say how your engine is driven, and run it. Needs pytest. The reference is the embedded engine in one process
over SQLite, told the same story. Effects are counted by the server that received them.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from postsale.testing.engine_site import Site
from postsale.testing.engine_stage import ANNA, BEN, Drive, Stage, effects_of, embedded, staged

Story = Callable[[Stage], None]
"""A story checks what it comes to, on whatever engine it is told."""


class Told(NamedTuple):
    """What is left of a story."""

    hashes: dict[str, str]
    lines: dict[str, list[str]]
    effects: list[UUID]


# ---------------------------------------------------------------- the stories


def acted(s: Stage) -> None:
    s.begins()
    s.fails("a", attempt=1)
    s.pays("a")
    s.wait(hours=1)
    s.fails("a")
    assert s.dispositions("a") == ["policy:wait", "acted"]
    assert len(effects_of(s)) == 1
    s.wait(hours=1)
    s.settle()
    assert len(effects_of(s)) == 1


def approved(s: Stage) -> None:
    s.begins()
    s.profile("a", "vip")
    s.fails("a")
    assert s.dispositions("a") == ["awaiting"]
    assert effects_of(s) == []
    s.wait(hours=1)
    s.tenant.approve(s.decision("a").id, by=BEN)
    s.settle()
    assert s.decision("a").disposition == "acted"
    assert len(effects_of(s)) == 1


def rejected(s: Stage) -> None:
    s.begins("propose")
    s.fails("a")
    s.wait(hours=1)
    s.tenant.reject(s.decision("a").id, reason="no", by=BEN)
    s.wait(days=3)
    assert s.decision("a").disposition == "suppressed"
    assert effects_of(s) == []


def expired(s: Stage) -> None:
    s.begins("propose")
    s.fails("a")
    s.wait(days=3)
    assert s.decision("a").disposition == "suppressed"
    assert "approval/lapsed" in s.kinds("a")
    assert effects_of(s) == []


def suppressed(s: Stage) -> None:
    """Each kind of limit, on a customer of its own."""
    s.begins()
    s.profile("consent", "smb")
    s.tenant.consent("consent", "email", "service", given=False, evidence="story")
    s.profile("quiet", "smb", time_zone="Asia/Tokyo")
    s.profile("often", "smb")
    s.profile("rich", "vip")
    s.profile("poor", "vip")
    s.profile("hostile", "hostile")
    s.profile("watched", "watched")
    s.complains("cross")
    for name in ("consent", "quiet", "often", "rich", "poor", "hostile", "watched", "cross", "deep"):
        s.fails(name)
    s.pays("often")
    s.wait(hours=1)
    s.fails("often")
    s.pays("deep")
    s.wait(hours=1)
    s.returned("deep")
    s.tenant.agent("engines").pause(reason="the story", by=ANNA)
    s.fails("paused")
    assert {name: s.dispositions(name)[-1] for name in ("consent", "quiet", "often", "rich", "poor", "hostile", "watched", "cross")} == {
        "consent": "consent:email/service",
        "quiet": "quiet-hours:20:00-08:00",
        "often": "frequency:1/30d",
        "rich": "awaiting",
        "poor": "budget:retention/2026-11",
        "hostile": "appetite:medium/medium",
        "watched": "autonomy:observe/watched",
        "cross": "sequence:after-a-complaint",
    }
    assert s.dispositions("deep") == ["acted", "depth:0"]
    assert s.dispositions("paused") == ["kill-switch:agent"]
    assert len(effects_of(s)) == 2


def stopped_in_mid_run(s: Stage) -> None:
    """The kill switch is thrown between the decision and its effect, which leaves when it is released and not before."""
    s.begins()
    s.server.faults.append("500")
    s.fails("a")
    s.tenant.agent("engines").pause(reason="the story", by=ANNA)
    s.wait(hours=1)
    assert effects_of(s) == []
    s.tenant.agent("engines").resume(reason="the story", by=ANNA)
    s.settle()
    assert len(effects_of(s)) == 1


def retried(s: Stage) -> None:
    s.begins()
    s.server.faults += ["500", "close", "close-after", "500-after"]
    s.fails("a")
    s.wait(hours=1)
    assert s.kinds("a").count("effect/started") == 5
    assert s.kinds("a")[-1] == "effect/succeeded"
    assert len(effects_of(s)) == 1


def unknown(s: Stage) -> None:
    """An unsafe tool breaks off after it has acted: nobody calls again, and a person says what happened."""
    s.begins()
    s.profile("a", "phone")
    s.server.faults.append("close-after")
    s.fails("a")
    s.wait(hours=1)
    assert s.kinds("a")[-1] == "effect/unknown"
    decision = s.decision("a")
    s.tenant.settle(decision.id, decision.recorded.intents[0].intent_id, happened=True, reason="they confirm it", by=BEN)
    s.settle()
    assert len(effects_of(s)) == 1


def unsafe(s: Stage) -> None:
    s.begins()
    s.profile("a", "phone")
    s.fails("a")
    assert s.kinds("a")[-1] == "effect/succeeded"
    assert len(effects_of(s)) == 1


def time_alone(s: Stage) -> None:
    s.begins()
    s.pays("a")
    s.wait(days=29)
    assert s.dispositions("a") == []
    s.wait(days=2)
    assert s.dispositions("a") == ["acted"]
    assert len(effects_of(s)) == 1


def merged(s: Stage) -> None:
    """A customer with something open becomes part of another one: what had not left does not leave."""
    s.begins()
    s.pays("b")
    s.server.faults.append("500")
    s.fails("a")
    s.tenant.merge("a", into="b", reason="the same", by=ANNA)
    s.settle()
    s.wait(hours=1)
    assert effects_of(s) == []
    assert s.tenant.customer("a").stream == s.tenant.customer("b").stream


def observed(s: Stage) -> None:
    s.begins()
    s.profile("a", "vip")
    s.fails("a")
    s.tenant.approve(s.decision("a").id, by=BEN)
    s.settle()
    s.fails("b")
    s.wait(days=3)
    s.pays("a")
    s.wait(days=12)
    assert "agent/outcome-observed" in s.kinds("a")
    assert "agent/outcome-observed" in s.kinds("b")
    assert len(effects_of(s)) == 2


def budget(s: Stage) -> None:
    """Money that was set aside comes back with a rejection, and is there for the next one."""
    s.begins()
    for name in ("a", "b"):
        s.profile(name, "vip")
        s.fails(name)
    assert [s.decision(n).recorded.disposition for n in ("a", "b")] == ["awaiting", "suppressed"]
    s.tenant.reject(s.decision("a").id, reason="no", by=BEN)
    s.wait(hours=1)
    s.profile("c", "vip")
    s.fails("c")
    assert s.decision("c").disposition == "awaiting"
    s.tenant.approve(s.decision("c").id, by=BEN)
    s.settle()
    assert len(effects_of(s)) == 1


def unhurried(s: Stage) -> None:
    """Nothing is expected in a hurry: after each happening there is an hour, which is enough for whoever was killed in between."""
    s.begins()
    s.wait(hours=1)
    s.profile("vip", "vip")
    s.fails("vip")
    s.wait(hours=1)
    s.tenant.approve(s.decision("vip").id, by=BEN)
    s.wait(hours=1)
    s.server.faults += ["500", "close-after"]
    s.fails("b")
    s.wait(hours=1)
    s.pays("vip")
    s.wait(hours=1)
    assert s.decision("vip").disposition == "acted"
    assert [s.kinds(name).count("effect/succeeded") for name in ("vip", "b")] == [1, 1]
    assert len(effects_of(s)) == 2


STORIES: dict[str, Story] = {
    f.__name__: f
    for f in (
        acted,
        approved,
        rejected,
        expired,
        suppressed,
        stopped_in_mid_run,
        retried,
        unknown,
        unsafe,
        time_alone,
        merged,
        observed,
        budget,
        unhurried,
    )
}


# ---------------------------------------------------------------- the claims

_reference: dict[tuple[str, bool], Told] = {}


def reference(name: str, *, attempts: bool = True) -> Told:
    """What the embedded engine makes of a story, once a process."""
    if (name, attempts) not in _reference:
        with tempfile.TemporaryDirectory() as folder, staged(Path(folder) / "site", embedded) as stage:
            STORIES[name](stage)
            for form in (True, False):
                stage.attempts = form
                _reference[name, form] = _told(stage)
    return _reference[name, attempts]


def _told(stage: Stage) -> Told:
    return Told(stage.hashes(), stage.told(), effects_of(stage))


def assert_same(stage: Stage, name: str, seen: str = "") -> None:
    """A story that was told here came to what it comes to on the embedded engine, line by line, effect by effect. `seen`: how to repeat it."""
    here, there = _told(stage), reference(name, attempts=stage.attempts)
    assert here.lines == there.lines, seen
    assert here.hashes == there.hashes, seen
    assert here.effects == there.effects, seen


class EngineContract(ABC):
    """Subclass it as `class TestMyEngine(EngineContract)`, with `driven`."""

    @abstractmethod
    def driven(self, site: Site) -> AbstractContextManager[Drive]:
        """Your engine over the log at a site: it gives a function that has it do what waits, and returns when it has."""

    @contextmanager
    def place(self) -> Iterator[dict[str, Any]]:
        """`url` and `schema` of a fresh log, when it is to be on PostgreSQL."""
        yield {}

    @pytest.mark.parametrize("name", list(STORIES))
    def test_a_story_comes_to_the_same_hashes_and_effects_as_on_the_embedded_engine(self, name: str, tmp_path: Path) -> None:
        with self.place() as place, staged(tmp_path / "site", self.driven, **place) as stage:
            STORIES[name](stage)
            assert_same(stage, name)
