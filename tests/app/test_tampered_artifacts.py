"""A policy or a model whose stored bytes were changed behind the log's back decides nothing and scores nobody: the event is named."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from postsale.agents import Agent
from postsale.errors import LogDamaged
from postsale.events import ManualClock
from postsale.store.contract import Query
from tests.postgres import server

from .support import ANNA, NOON, Server, Where, opened, url_of
from .test_models import activated, card, rescue_decides
from .test_scores import RESCUE

Change = Callable[[bytes], bytes]


def changed(where: Where, position: int, change: Change) -> None:
    """As somebody does it who owns the database: no trigger fires."""
    if isinstance(where, Server):
        with psycopg.connect(server()) as db:
            db.execute("SET session_replication_role = replica")
            ((data,),) = db.execute(f"SELECT data FROM {where.schema}.events WHERE position = %s".encode(), (position,)).fetchall()
            db.execute(f"UPDATE {where.schema}.events SET data = %s WHERE position = %s".encode(), (change(bytes(data)), position))
        return
    assert isinstance(where, Path)
    with sqlite3.connect(url_of(where).removeprefix("sqlite:///")) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        (data,) = db.execute("SELECT data FROM events WHERE position = ?", (position,)).fetchone()
        db.execute("UPDATE events SET data = ? WHERE position = ?", (change(data), position))
        for _, sql in triggers:
            db.execute(sql)
    db.close()


def one_digit(old: bytes, new: bytes) -> Change:
    """Changes one byte."""

    def change(data: bytes) -> bytes:
        assert data.count(old) == 1
        assert [a != b for a, b in zip(old, new, strict=True)].count(True) == 1
        return data.replace(old, new)

    return change


def published_at(where: Where, category: str) -> int:
    with opened(where) as ps:
        (stored,) = ps.log.store.read(Query(tenant="acme", category=category, kinds=frozenset({"artifact/published"})))
        return stored.position


@pytest.mark.parametrize("category", ["models", "policies"])
def test_one_flipped_byte_in_what_decides_is_named_and_nothing_is_decided_by_it(lasting: Where, category: str) -> None:
    """A model whose offset became another, a policy whose floor of probability did: the agent decides nothing by it."""
    clock, its = ManualClock(NOON), card(-9.0)
    with opened(lasting, clock=clock, agents=[Agent(RESCUE, name="rescue")]) as ps:
        acme = ps.tenant("acme")
        acme.agent("rescue").act(reason="tried", by=ANNA)
        activated(acme, its)
        before = rescue_decides(ps, clock, 1)
        assert before.disposition == "suppressed"
    position = published_at(lasting, category)
    flip = {"models": (rb"offset\":-9.0", rb"offset\":-1.0"), "policies": (rb"percent\":10", rb"percent\":11")}[category]
    changed(lasting, position, one_digit(*flip))
    with opened(lasting, clock=clock, agents=[Agent(RESCUE, name="rescue")]) as ps:
        with pytest.raises(LogDamaged, match=f"position {position}"):
            rescue_decides(ps, clock, 2)
        assert ps.tenant("acme").decisions("cus_2") == []
        if category == "policies":  # nobody is told that it was decided by a text that it was not decided by
            with pytest.raises(LogDamaged, match=f"position {position}"):
                ps.tenant("acme").explain(before.id)
