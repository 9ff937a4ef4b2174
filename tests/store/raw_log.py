"""A PostgreSQL log filled by hand, below all code of ours: what the database itself lets through, and nothing else, is seen here.

Every value of a tenant carries the tenant's name, in text, bytes or a number made from it, so that a leak can be recognised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
import pytest
from tests.postgres import new_log, server

from postsale.store.postgres_schema import Roles

Connection = psycopg.Connection[Any]

SYSTEM, ACME, BIRCH = 0, 1, 2
NAMES = {SYSTEM: "_system", ACME: "acme", BIRCH: "birch"}
TENANT_COLUMN = {
    "tenants": "no",
    "streams": "tenant",
    "events": "tenant",
    "nodes": "tenant",
    "archived_ids": "tenant",
    "segment_streams": "tenant",
    "segment_tenants": "tenant",
    "kv": "tenant",
    "quarantine": "tenant",
}
CHAPTER = 8
FACTS_OF = {ACME: (1, 3, 4, 9, 10), BIRCH: (2, 5, 7, 8, 11), SYSTEM: (6,)}
DECISIONS_OF = {ACME: (12, 14), BIRCH: (13, 15), SYSTEM: (16,)}
HEAD = 16


class RawLog(NamedTuple):
    url: str  # of a service's login
    schema: str

    @property
    def roles(self) -> Roles:
        return Roles.of(self.schema)


@contextmanager
def raw_log(*tenants: int) -> Iterator[RawLog]:
    """A log in three chapters of 8 positions with the rows of these tenants, at the numbers and positions that they have in the log of all three."""
    with new_log(chapter=CHAPTER) as (url, schema):
        log = RawLog(url, schema)
        with as_admin() as db:
            db.execute(f"SELECT {schema}.ensure_chapter(1), {schema}.ensure_chapter(2)")
            db.execute("SET LOCAL session_replication_role = replica")  # what is not there leaves gaps that no writer may leave
            for tenant in tenants:
                _fill(db, schema, tenant)
            db.execute(f"UPDATE {schema}.log SET position = {HEAD}, recorded_at = {HEAD}")
            for table in ("tenants", "streams", "kinds", "quarantine"):
                db.execute(f"ALTER TABLE {schema}.{table} ALTER no RESTART WITH 100")
        yield log


def _fill(db: Connection, s: str, tenant: int) -> None:
    name = NAMES[tenant].encode()
    if tenant != SYSTEM:
        db.execute(f"INSERT INTO {s}.tenants (no, name) VALUES (%s, %s)", (tenant, NAMES[tenant]))
    db.execute(f"UPDATE {s}.tenants SET size = 7, frontier = %s WHERE no = %s", (name, tenant))
    streams = [tenant * 10 + n for n in range(3)]
    for no in streams:  # the ids are the same in every tenant
        db.execute(f"INSERT INTO {s}.streams VALUES (%s, %s, 'customers', %s)", (no, tenant, f"cus_{no % 10}"))
    rows = [(position, 0, position) for position in FACTS_OF[tenant]]
    rows += [(position, 1, version) for version, position in enumerate(DECISIONS_OF[tenant], 1)]
    for index, (position, lane, version) in enumerate(rows):
        data = b"%s %d" % (name, position)
        row = (
            position,
            tenant,
            streams[lane],
            lane,
            version,
            data,
            tenant * 100 + lane,
            position,
            position,
            data,
            data,
            data,
            data,
            index,
            data,
        )
        db.execute(f"INSERT INTO {s}.events VALUES ({', '.join(['%s'] * len(row))})", row)
    for level in (1, 2):
        db.execute(f"INSERT INTO {s}.nodes VALUES (%s, %s, 0, %s)", (tenant, level, name))
    db.execute(f"INSERT INTO {s}.archived_ids VALUES (%s, %s, %s, 1, %s)", (tenant, b"old " + name, -tenant, name))
    db.execute(f"INSERT INTO {s}.segment_streams VALUES (%s, %s, -1, %s)", (tenant, streams[0], name))
    db.execute(f"INSERT INTO {s}.segment_tenants VALUES (%s, -1, %s)", (tenant, name))
    for key in ("shared", f"of {NAMES[tenant]}"):
        db.execute(f"INSERT INTO {s}.kv VALUES (%s, 'leases', %s, %s, %s)", (tenant, key, name, tenant * 10 + len(key)))
    db.execute(
        f"INSERT INTO {s}.quarantine (no, tenant, id, source, reason, received_at, body, status)"
        " VALUES (%s, %s, 'q1', %s, 'bad', 1, %s, 'waiting')",
        (tenant, tenant, NAMES[tenant], name),
    )


@contextmanager
def as_admin() -> Iterator[Connection]:
    """A superuser, in a transaction."""
    with psycopg.connect(server()) as db, db.transaction():
        yield db


@contextmanager
def as_role(log: RawLog, role: str | None, tenant: object = None) -> Iterator[Connection]:
    """The service's login in a transaction that is rolled back, under one of the log's roles and in the name of a tenant."""
    with psycopg.connect(log.url, autocommit=True) as db, db.transaction(force_rollback=True):
        if role is not None:
            db.execute(f"SET LOCAL ROLE {role}")
        if tenant is not None:
            db.execute("SELECT set_config('postsale.tenant', %s, true)", (str(tenant),))
        yield db


@contextmanager
def as_writer(log: RawLog, tenant: object = None) -> Iterator[Connection]:
    with as_role(log, log.roles.writer, tenant) as db:
        yield db


def refused(db: Connection, statement: str, *values: Any, because: type[psycopg.Error] = psycopg.errors.InsufficientPrivilege) -> str:
    """That the database refuses a statement, for this reason, and says nothing of birch's while it does; what it says."""
    with pytest.raises(because) as caught, db.transaction():
        db.execute(statement.encode(), values or None)
    said = " ".join(filter(None, (str(caught.value), caught.value.diag.message_detail, caught.value.diag.message_hint)))
    assert not of_birch(said)
    return said


def of_birch(shown: object) -> bool:
    """Whether a text that the database showed carries something of birch's."""
    text = str(shown).lower()
    return "birch" in text or b"birch".hex() in text
