"""Making a PostgreSQL log, as SQL text: its roles, and the triggers, policies and privileges around its tables. Executes nothing.

What protects a log (`triggers`, `policies`, GRANTS) is data, so that it can be checked too. Imports the schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from postsale.errors import InvalidInput
from postsale.store.plan import DEFAULT_CHAPTER
from postsale.store.postgres_schema import (
    APPEND_ONLY,
    DEFAULT_SCHEMA,
    SCHEMA_VERSION,
    SYSTEM,
    SYSTEM_NO,
    TENANT_TABLES,
    Roles,
    check_schema,
    tables_sql,
)

_LOGIN: Final = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}\Z")
_ARCHIVED: Final = ("archived_ids", "segment_streams", "segment_tenants")  # what the owner writes


class Guard(NamedTuple):
    """A trigger or a policy: on which table, under which name, and the statement that makes it."""

    table: str
    name: str
    sql: str


class Grant(NamedTuple):
    """A privilege of the writers or the tailers on a table, or on some of its columns."""

    table: str
    role: str  # writer | tailer
    privilege: str
    columns: tuple[str, ...] = ()


GRANTS: Final = (
    *(Grant(table, role, "SELECT") for table in ("log", "tenants", "kinds", "segments", *TENANT_TABLES) for role in ("writer", "tailer")),
    Grant("log", "writer", "UPDATE", ("position", "recorded_at")),
    Grant("tenants", "writer", "UPDATE", ("size", "frontier")),
    Grant("kinds", "writer", "INSERT", ("wire_name", "schema")),  # without the numbers: those are given out, never chosen
    Grant("streams", "writer", "INSERT", ("tenant", "category", "id")),
    Grant("events", "writer", "INSERT"),
    # COPY is refused on a table with row-level security, so bulk goes into the partitions themselves, past the policies: there a
    # trigger holds the rows to their tenant. `ensure_chapter` grants the same on the chapters.
    Grant("decisions", "writer", "INSERT"),
    Grant("nodes", "writer", "INSERT"),
    Grant("kv", "writer", "INSERT"),
    Grant("kv", "writer", "UPDATE", ("value", "revision")),
    Grant("kv", "writer", "DELETE"),
    Grant("quarantine", "writer", "INSERT", ("tenant", "id", "source", "reason", "received_at", "body", "status")),
    Grant("quarantine", "writer", "UPDATE", ("status",)),
    Grant("revisions", "writer", "USAGE"),
)
"""Every privilege on a relation that the roles of a log have, beside the owner's and INSERT on the chapters of facts."""


def init_sql(schema: str = DEFAULT_SCHEMA, *, chapter: int = DEFAULT_CHAPTER) -> str:
    """Everything a new log needs, for one transaction of a role that may create roles and schemas. Changes nothing that is there."""
    s, roles = check_schema(schema), Roles.of(check_schema(schema))
    return f"""\
{roles_sql(roles, acting=(roles.migrator,))}
CREATE SCHEMA {s} AUTHORIZATION {roles.migrator};
SET LOCAL ROLE {roles.migrator};
GRANT USAGE ON SCHEMA {s} TO {roles.writer}, {roles.tailer};

{tables_sql(s)}
{_lines(guard.sql for guard in triggers(s))}

INSERT INTO {s}.log VALUES (1, replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')::char(32), {SCHEMA_VERSION}, {chapter}, 0, 0);
INSERT INTO {s}.tenants (no, name) VALUES ({SYSTEM_NO}, '{SYSTEM}');
SELECT {s}.ensure_chapter(0);

-- Row-level security, forced on the owner too. The restrictive policies narrow whatever else a login may be a member of.
{_lines(row_security_sql(s, table) for table in ("tenants", *TENANT_TABLES))}
{_lines(guard.sql for guard in policies(s))}

-- The fewest privileges.
REVOKE ALL ON FUNCTION {s}.enter, {s}.ask, {s}.ensure_chapter, {s}.follows_events FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {s}.enter, {s}.ask, {s}.ensure_chapter TO {roles.writer};
{_lines(grant_sql(s, grant) for grant in GRANTS)}

RESET ROLE;
{acting_ends_sql((roles.migrator,))}"""


def roles_sql(roles: Sequence[str], *, acting: Sequence[str]) -> str:
    """Roles that cannot log in, made unless they are there. Whoever runs the script acts for some of them until `acting_ends_sql`."""
    return f"""\
-- Roles belong to the whole server: they may be there from an earlier log of this name. Then they must be as we would make them.
DO $$
DECLARE role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY[{", ".join(f"'{role}'" for role in roles)}] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', role_name);
        ELSIF EXISTS (
            SELECT FROM pg_roles r WHERE rolname = role_name
            AND (rolcanlogin OR rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication
                OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid))
        ) THEN
            RAISE EXCEPTION 'the role % is there already and can do more than a role of a log', role_name
                USING HINT = 'Choose another schema, or drop that role.';
        END IF;
    END LOOP;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT {", ".join(acting)} TO %I', current_user); -- until the end of this script
    END IF;
END $$;
"""


def acting_ends_sql(acting: Sequence[str]) -> str:
    return f"""\
DO $$
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('REVOKE {", ".join(acting)} FROM %I', current_user);
    END IF;
END $$;
"""


def login_sql(login: str, roles: Sequence[str]) -> str:
    """A login for a service: made without a password unless it is there, and a member of these roles. InvalidInput for a name that needs quotes."""
    if not _LOGIN.match(login):
        raise InvalidInput(what="login", field="name", reason="expected 1 to 63 of a-z, 0-9, '_', not beginning with a digit or 'pg_'")
    return f"""\
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{login}') THEN
        CREATE ROLE {login} LOGIN NOINHERIT;
    END IF;
END $$;
GRANT {", ".join(roles)} TO {login};
"""


def triggers(schema: str) -> Iterator[Guard]:
    """What keeps the log append-only and its heads true."""
    s = schema
    for table in APPEND_ONLY:
        yield _trigger(s, table, "append_only", "BEFORE UPDATE OR DELETE", "ROW", "refuse")
    for table in ("log", "tenants"):
        yield _trigger(s, table, "no_delete", "BEFORE DELETE", "ROW", "refuse")
    for table in (*APPEND_ONLY, "decisions", "facts", "log", "tenants"):
        yield _trigger(s, table, "no_truncate", "BEFORE TRUNCATE", "STATEMENT", "refuse")
    for table, backward in (
        (
            "log",
            "NEW.log_id <> OLD.log_id OR NEW.chapter <> OLD.chapter OR NEW.position <= OLD.position OR NEW.recorded_at <= OLD.recorded_at",
        ),
        ("tenants", "NEW.no <> OLD.no OR NEW.name <> OLD.name OR NEW.size <= OLD.size"),
    ):
        yield _trigger(s, table, "only_forward", "BEFORE UPDATE", "ROW", "only_forward", when=f" WHEN ({backward})")
    # After, not before, which would make COPY slow; its condition alone is computed per row.
    yield _trigger(s, "events", "own_tenant", "AFTER INSERT", "ROW", "refuse_tenant", when=f" WHEN (NEW.tenant <> {s}.tenant_no())")
    sql = f"CREATE CONSTRAINT TRIGGER follows_events AFTER UPDATE ON {s}.log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {s}.follows_events();"
    yield Guard("log", "follows_events", sql)


def _trigger(s: str, table: str, name: str, event: str, each: str, function: str, *, when: str = "") -> Guard:
    sql = f"CREATE TRIGGER {name} {event} ON {s}.{table} FOR EACH {each}{when} EXECUTE FUNCTION {s}.{function}();"
    return Guard(table, name, sql)


def policies(schema: str) -> Iterator[Guard]:
    """Who sees and writes which rows. A writer: its tenant's, and reads those of `_system`. A tailer reads all. The owner: what archiving takes."""
    s, (writer, tailer, migrator) = schema, Roles.of(schema)
    for table in ("tenants", *TENANT_TABLES):
        column = "no" if table == "tenants" else "tenant"
        mine = f"{column} = (SELECT {s}.tenant_no())"  # a sub-select runs once in a statement, not once in a row
        # Not `=`, which would offer every statement the indexes by tenant, even where another index leads to a few rows.
        seen = f"{column} IS NOT DISTINCT FROM (SELECT {s}.tenant_no()) OR {column} IS NOT DISTINCT FROM {SYSTEM_NO}"
        for name, rule in (
            ("writers", f"TO {writer} USING (true) WITH CHECK (true)"),
            ("sees", f"AS RESTRICTIVE FOR SELECT TO {writer} USING ({seen})"),
            ("adds", f"AS RESTRICTIVE FOR INSERT TO {writer} WITH CHECK ({mine})"),
            ("changes", f"AS RESTRICTIVE FOR UPDATE TO {writer} USING ({mine}) WITH CHECK ({mine})"),
            ("removes", f"AS RESTRICTIVE FOR DELETE TO {writer} USING ({mine})"),
            ("tailers", f"FOR SELECT TO {tailer} USING (true)"),
        ):
            yield Guard(table, name, f"CREATE POLICY {name} ON {s}.{table} {rule};")
    for table in ("tenants", "streams", "events", *_ARCHIVED):
        yield Guard(table, "owner_sees", f"CREATE POLICY owner_sees ON {s}.{table} FOR SELECT TO {migrator} USING (true);")
    for table in ("tenants", *_ARCHIVED):
        yield Guard(table, "owner_adds", f"CREATE POLICY owner_adds ON {s}.{table} FOR INSERT TO {migrator} WITH CHECK (true);")


def row_security_sql(schema: str, table: str) -> str:
    return f"ALTER TABLE {schema}.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"


def grant_sql(schema: str, grant: Grant) -> str:
    columns = f" ({', '.join(grant.columns)})" if grant.columns else ""
    kind = "SEQUENCE " if grant.privilege == "USAGE" else ""
    return f"GRANT {grant.privilege}{columns} ON {kind}{schema}.{grant.table} TO {getattr(Roles.of(schema), grant.role)};"


def _lines(statements: Iterable[str]) -> str:
    return "\n".join(statements)
