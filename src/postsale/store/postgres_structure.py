"""What protects a PostgreSQL log, compared with what `postsale db init` made: for verification. Reads catalogs only.

Needs the extra `postgres`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import psycopg
from psycopg.rows import tuple_row

from postsale.store.postgres_checks import checks
from postsale.store.postgres_init import init_sql
from postsale.store.postgres_link import Connection

_PROTECTION: Final = ("row_security", "policies", "append_only", "privileges", "logged_tables")
_FUNCTION: Final = re.compile(r"CREATE FUNCTION \w+\.(\w+)\((?:(?!CREATE FUNCTION).)*?AS \$\$(.*?)\$\$;", re.DOTALL)
_TENANT_NO: Final = "RETURN (current_setting('postsale.tenant'::text))::integer"  # as the server shows it
_CHAPTER: Final = re.compile(r"facts_\d+\Z")

# Columns of the unique indexes: without one of them a row could be there twice.
_UNIQUE: Final = {
    "decisions": ("position", "event_id,tenant", "stream,version,tenant"),
    "facts_…": ("position", "event_id,tenant"),
    "tenants": ("no", "name"),
    "streams": ("no", "tenant,category,id"),
    "kinds": ("no", "wire_name,schema"),
    "archived_ids": ("event_id,tenant",),
    "nodes": ("tenant,level,number",),
    "segments": ("chapter",),
    "segment_streams": ("stream,chapter",),
    "segment_tenants": ("tenant,chapter",),
    "kv": ("tenant,space,key",),
    "quarantine": ("tenant,id",),
}


def damage(db: Connection, schema: str) -> Iterator[str]:
    """What is missing, switched off, changed, or was given to somebody; on a connection in a transaction."""
    for check in checks(db, schema):
        if check.name in _PROTECTION and not check.ok:
            yield f"{check.what} ({check.fix})"
    yield from _functions(db, schema)
    yield from _indexes(db, schema)


def _functions(db: Connection, schema: str) -> Iterator[str]:
    expected = dict(_FUNCTION.findall(init_sql(schema)))
    found = dict(_rows(db, "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = to_regnamespace(%s) AND prosqlbody IS NULL", schema))
    for name, body in expected.items():
        if found.get(name) != body:
            yield f"the function {name} is {'changed' if name in found else 'missing'}"


def _indexes(db: Connection, schema: str) -> Iterator[str]:
    found: dict[str, set[str]] = {}
    for table, columns in _rows(
        db,
        "SELECT c.relname, (SELECT string_agg(a.attname, ',' ORDER BY k.at) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (no, at)"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.no)"
        " FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL"
        " WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = 'r' ORDER BY 1",
        schema,
    ):
        found.setdefault(table, set()).add(columns)
    for table in [*found.keys() | (_UNIQUE.keys() - {"facts_…"})]:
        for columns in _UNIQUE.get("facts_…" if _CHAPTER.match(table) else table, ()):
            if columns not in found.get(table, ()):
                yield f"{table} has no unique index on ({columns.replace(',', ', ')})"


def _rows(db: Connection, sql: str, *values: str) -> list[tuple[str, str]]:
    with psycopg.Cursor(db, row_factory=tuple_row) as cursor:
        return cursor.execute(sql.encode(), values, prepare=False).fetchall()
