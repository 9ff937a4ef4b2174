"""Whatever a writer asks, it is answered as if no other tenant existed.

Random statements from a grammar of reads run twice: in acme's name over a log that also holds birch, and by a superuser over a log that
holds acme alone. Answers must be equal, errors too: a division that fails only on birch's rows, a function that shouts what it is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.postgres import server
from tests.shared import examples
from tests.store.raw_log import ACME, BIRCH, SYSTEM, TENANT_COLUMN, as_admin, of_birch, raw_log

NUMBERS = {
    "tenants": ("no", "size"),
    "streams": ("no", "tenant"),
    "events": ("position", "tenant", "stream", "lane", "version", "kind", "recorded_at", "leaf_index"),
    "nodes": ("tenant", "level", "number"),
    "archived_ids": ("tenant", "position", "recorded_at"),
    "segment_streams": ("tenant", "stream"),
    "segment_tenants": ("tenant", "chapter"),
    "kv": ("tenant", "revision"),
    "quarantine": ("no", "tenant", "received_at"),
}
TEXTS = {
    "tenants": ("name", "encode(frontier, 'escape')"),
    "streams": ("category", "id"),
    "events": ("encode(data, 'escape')", "encode(event_id, 'escape')", "encode(leaf, 'hex')"),
    "nodes": ("encode(hash, 'escape')",),
    "archived_ids": ("encode(event_id, 'escape')", "encode(content_mac, 'hex')"),
    "segment_streams": ("encode(groups, 'escape')",),
    "segment_tenants": ("encode(leaves, 'escape')", "encode(leaves, 'hex')"),
    "kv": ("space", "key", "encode(value, 'escape')"),
    "quarantine": ("id", "source", "encode(body, 'escape')"),
}
tables = st.sampled_from(sorted(NUMBERS))
integers = st.sampled_from(["0", "1", "2", "-1", "10", "20", "current_setting('postsale.tenant')::int + 1"])


def number(table: str, alias: str) -> st.SearchStrategy[str]:
    return st.sampled_from([f"{alias}.{column}" for column in NUMBERS[table]])


def text(table: str, alias: str) -> st.SearchStrategy[str]:
    columns = [column.replace("(", f"({alias}.") if "(" in column else f"{alias}.{column}" for column in TEXTS[table]]
    return st.sampled_from([*columns, f"{alias}::text"])


def conditions(table: str, alias: str, depth: int = 2) -> st.SearchStrategy[str]:
    """What a WHERE may ask about a row; several of these fail, or shout, on a row of birch's."""
    mine = f"{alias}.{TENANT_COLUMN[table]}"
    simple = st.one_of(
        st.builds("{} {} {}".format, number(table, alias), st.sampled_from(["=", "<>", "<", ">="]), integers),
        st.builds("{} BETWEEN {} AND {}".format, number(table, alias), integers, integers),
        st.builds("{} IN ({}, {})".format, number(table, alias), integers, integers),
        st.builds("{} LIKE '%{}%'".format, text(table, alias), st.sampled_from(["birch", "acme", "6269726368", "c", ""])),
        st.builds("pg_temp.shout({})".format, text(table, alias)),
        st.just(f"10 / ({mine} - {BIRCH}) > -99"),
        st.just(f"(CASE WHEN {mine} = {BIRCH} THEN 'x' ELSE '1' END)::int = 1"),
        st.just(f"{mine} = {BIRCH}"),
        st.sampled_from(["true", f"{alias} IS NOT NULL", f"{mine} IS DISTINCT FROM {ACME}"]),
    )
    if depth == 0:
        return simple
    inner = conditions(table, alias, depth - 1)
    return st.one_of(
        simple,
        st.builds("({} OR {})".format, inner, inner),
        st.builds("({} AND {})".format, inner, inner),
        st.builds("NOT ({})".format, inner),
        tables.flatmap(
            lambda other: st.builds(
                "{}EXISTS (SELECT FROM {{s}}.{} z WHERE {} AND {} = {})".format,
                st.sampled_from(["", "NOT "]),
                st.just(other),
                conditions(other, "z", 0),
                number(other, "z"),
                number(table, alias),
            )
        ),
    )


@st.composite
def selects(draw: st.DrawFn) -> str:
    """A SELECT whose answer does not depend on the order of rows."""
    one, two = draw(tables), draw(tables)
    where = draw(conditions(one, "a"))
    source, cells = f"{{s}}.{one} a", [draw(st.one_of(number(one, "a"), text(one, "a")))]
    if draw(st.booleans()):
        join = draw(st.sampled_from(["JOIN", "LEFT JOIN", "RIGHT JOIN", "JOIN LATERAL", "LEFT JOIN LATERAL"]))
        far = (
            f"(SELECT * FROM {{s}}.{two} y WHERE {draw(conditions(two, 'y', 1))})"
            if "LATERAL" in join or draw(st.booleans())
            else f"{{s}}.{two}"
        )
        source += f" {join} {far} b ON {draw(number(one, 'a'))} {draw(st.sampled_from(['=', '<>']))} {draw(number(two, 'b'))}"
        cells.append(draw(st.one_of(number(two, "b"), text(two, "b"))))
    match draw(st.sampled_from(["plain", "distinct", "aggregate", "group", "window", "scalar"])):
        case "plain":
            return f"SELECT {', '.join(cells)} FROM {source} WHERE {where}"
        case "distinct":
            return f"SELECT DISTINCT {', '.join(cells)} FROM {source} WHERE {where}"
        case "aggregate":
            several = ", ".join(
                f"min({cell}), max({cell}), string_agg({cell}::text, ',' ORDER BY {cell}), count(DISTINCT {cell})" for cell in cells
            )
            return f"SELECT count(*), {several} FROM {source} WHERE {where}"
        case "group":
            return f"SELECT {cells[0]}, count(*) FROM {source} WHERE {where} GROUP BY ROLLUP (1)"
        case "window":
            return f"SELECT {cells[0]}, rank() OVER (ORDER BY {cells[0]}), count(*) OVER () FROM {source} WHERE {where}"
        case "scalar":
            return f"SELECT (SELECT count(*) FROM {source} WHERE {where}), EXISTS (SELECT FROM {source} WHERE {where})"
    raise AssertionError


statements = st.one_of(
    selects(),
    st.builds("WITH w AS MATERIALIZED ({}) SELECT w::text FROM w".format, selects()),
    st.builds("SELECT (q)::text FROM ({}) q {} SELECT (r)::text FROM ({}) r".format, selects(), st.sampled_from(["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]), selects()),
    st.builds("DECLARE c CURSOR FOR {}".format, selects()),
    st.builds("PREPARE p AS {}".format, selects()),
    st.builds("COPY ({}) TO STDOUT".format, selects()),
)  # fmt: skip
Answer = tuple[str, Counter[Any]]
Ask = Callable[[str], Answer]


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Ask, Ask, list[str]]]:
    """Ask acme beside birch; ask a superuser where acme is alone; what was shouted beside birch."""
    shouted: list[str] = []
    with raw_log(SYSTEM, ACME, BIRCH) as crowded, raw_log(SYSTEM, ACME) as alone:
        with as_admin() as admin:  # the planner knows the tables, as it does in a log that is in use
            for table in NUMBERS:
                admin.execute(f"ANALYZE {crowded.schema}.{table}".encode())
        with psycopg.connect(crowded.url, autocommit=True) as theirs, psycopg.connect(server(), autocommit=True) as reference:
            theirs.add_notice_handler(lambda notice: shouted.append(notice.message_primary or ""))
            for db in (theirs, reference):
                db.execute(
                    "CREATE FUNCTION pg_temp.shout(said text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS"
                    " $$ BEGIN RAISE NOTICE '%', said; RETURN true; END $$"
                )
            yield _asker(theirs, crowded.schema, crowded.roles.writer), _asker(reference, alone.schema, "postgres"), shouted


def _asker(db: psycopg.Connection[Any], schema: str, role: str) -> Ask:
    def ask(statement: str) -> Answer:
        text = statement.replace("{s}", schema)
        try:
            with db.transaction(force_rollback=True), db.cursor() as cursor:
                db.execute(f"SET LOCAL ROLE {role}")
                db.execute(f"SET LOCAL postsale.tenant = '{ACME}'")
                if text.startswith("COPY"):
                    with cursor.copy(text.encode()) as copy:
                        return "", Counter(b"".join(copy).splitlines())
                cursor.execute(text.encode())
                if text.startswith(("DECLARE", "PREPARE")):
                    cursor.execute("FETCH ALL c" if text.startswith("DECLARE") else "EXECUTE p")
                rows = Counter(cursor.fetchall())
                if text.startswith("PREPARE"):
                    cursor.execute("DEALLOCATE p")
                return "", rows
        except psycopg.Error as error:
            if text.startswith("PREPARE"):
                db.execute("DEALLOCATE ALL")
            return error.sqlstate or "", Counter()

    return ask


@settings(max_examples=examples(250))
@given(statement=statements)
def test_an_answer_is_the_one_that_would_be_given_if_nobody_else_were_there(both: tuple[Ask, Ask, list[str]], statement: str) -> None:
    beside_birch, alone, shouted = both
    shouted.clear()
    answer = beside_birch(statement)
    assert not any(of_birch(said) for said in shouted)
    assert answer == alone(statement)
