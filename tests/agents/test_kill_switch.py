"""The kill switch, thrown by another process's hand before every step of the whole chain in turn: nothing is claimed after it."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postsale.agents.tools import Tool
from postsale.app import PostSale
from postsale.audit import check_dispositions
from postsale.events import SECOND_US, to_us
from postsale.store import Query
from postsale.testing.engine_site import FileClock
from tests.agents.killed_chain import Gift, GiveBack, OfferCredit, go, opened, prepare
from tests.agents.test_killed_chain import PASS_S, ServerWithShop
from tests.agents.world import ANNA, NOON

TORTURE = bool(os.environ.get("POSTSALE_TORTURE"))
EVERY = 1 if TORTURE else 11
pytestmark = pytest.mark.torture


def later(folder: Path) -> None:
    clock = FileClock(folder / "clock")
    clock.move_to(clock.now_us() + PASS_S * SECOND_US)


class Hand:
    """Throws the switch before the step of that number: an append, or the request of a tool."""

    def __init__(self, at: int, throw: Callable[[], None]) -> None:
        self.at, self.throw, self.done = at, throw, 0

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **kwargs: Any) -> Any:
            self.done += 1
            if self.done == self.at:
                self.throw()
            return function(*args, **kwargs)

        return stepped


@pytest.mark.parametrize("passes", [0, 1])
def test_thrown_before_every_step_in_turn_nothing_is_claimed_after_it_and_released_the_chain_comes_to_its_end(
    passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was claimed before may still arrive: one effect at most. Dispositions stay one to one, and no effect is there twice."""
    tools: list[type[Tool]] = [OfferCredit, Gift, GiveBack]
    thrown, ready = 0, tmp_path / "ready"
    ready.mkdir()
    FileClock(ready / "clock").move_to(to_us(NOON))
    with ServerWithShop() as server:
        with opened(ready, server.url) as ps:
            prepare(ps, 1)
            for _ in range(passes):
                go(ps, 1)
                later(ready)
        effects, paths = list(server.shop.effects), list(server.shop.paths)
    for step in range(random.randrange(1, EVERY + 1), 500, EVERY):
        seen, folder = f"pass {passes}, thrown at step {step}", shutil.copytree(ready, tmp_path / str(step))
        with ServerWithShop() as server, monkeypatch.context() as patched:
            server.shop.effects, server.shop.paths = list(effects), list(paths)

            def throw(folder: Path = folder, url: str = server.url) -> None:
                with opened(folder, url) as other:
                    other.engine.pause("acme", person=ANNA, reason="stop")

            hand = Hand(step, throw)
            with opened(folder, server.url) as ps:
                patched.setattr(ps.log.store, "append", hand.before(ps.log.store.append))
                for tool in tools:
                    patched.setattr(tool, "_said", hand.before(tool._said))  # type: ignore[attr-defined]
                go(ps, 1)
                if hand.done < step:
                    break  # it has fewer steps
            patched.undo()
            thrown += 1
            left = len(server.shop.effects)
            with opened(folder, server.url) as ps:
                claimed_after(ps, seen)
                for _ in range(2):
                    later(folder)
                    go(ps, 1)
                assert len(server.shop.effects) == left, f"{seen}: something left although it is thrown"
                claimed_after(ps, seen)
                ps.engine.resume("acme", person=ANNA, reason="go on")
                for _ in range(4):
                    later(folder)
                    go(ps, 1)
                assert check_dispositions(ps.log.store).problems == [], seen
                assert max(Counter(server.shop.effects).values(), default=0) <= 1, seen
                for name in ("retention", "rescue"):
                    assert not ps.engine.desk.budget("acme", name).open, f"{seen}: money is held by nothing"
        shutil.rmtree(folder)
    assert thrown >= 40 // EVERY // 3


def claimed_after(ps: PostSale, seen: str) -> None:
    lane = list(ps.log.store.read(Query(tenant="acme")))
    (paused,) = [e.position for e in lane if e.kind == "agent/paused"]
    assert not [e for e in lane if e.kind == "effect/started" and e.position > paused], seen
