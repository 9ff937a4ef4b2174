"""Whether a server, a database and a login are fit for a PostgreSQL log: what is looked at, and what it means. Reads catalogs only.

Each finding names the exact statement or setting that mends it. Needs the extra `postgres`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.rows import namedtuple_row

from postsale.store.postgres_init import GRANTS, Guard, policies, row_security_sql, triggers
from postsale.store.postgres_schema import DEFAULT_SCHEMA, SCHEMA_VERSION, TENANT_TABLES, Roles, check_schema

OLDEST_SERVER: Final = 150_000  # as server_version_num has it
OF_SERVICES: Final = frozenset(
    {
        "superuser",
        "bypassrls",
        "createrole",
        "owner",
        "row_security",
        "policies",
        "append_only",
        "triggers_run",
        "privileges",
        "logged_tables",
    }
)
"""Checks that bind a service, and not whoever looks after the log: that login may be the owner's, and must see what was tampered with."""

_UPSTREAM_SWITCH: Final = "POSTGRES_ENABLE_DB_FUNCTIONS"  # of the library eventsourcing; on, its subscribers miss events
_ON: Final = frozenset({"y", "yes", "t", "true", "on", "1"})
_IN_EVERY_PART: Final = ("append_only", "own_tenant", "no_truncate")  # triggers of a partition


class Check(NamedTuple):
    """One thing that was looked at. `what`, `wanted` and `fix` are for people; they say something when `ok` is False."""

    name: str
    ok: bool
    what: str = ""
    wanted: str = ""
    fix: str = ""


def checks(db: psycopg.Connection[Any], schema: str = DEFAULT_SCHEMA, environ: Mapping[str, str] = os.environ) -> list[Check]:
    """Everything that is looked at, in order of importance. Ends early when there is no log to look at."""
    s, roles = check_schema(schema), Roles.of(schema)
    with db.transaction(), db.cursor(row_factory=namedtuple_row) as cursor:
        found: Any = cursor.execute(_look(s, db.info.server_version).encode(), _looked_for(s), prepare=False).fetchone()
    judged = [_environment(environ), *server_checks(found.version, found.encoding), *_durability(found)]
    if not found.log:
        fix = f"Run: postsale db init {shown_place(db)}{_option(s)} --apply"
        return [*judged, Check("log", False, f"no log in the schema {s!r} of {shown_place(db)}", "one", fix)]
    return [*judged, Check("log", True), *_login_checks(found, roles), *_protection(found, s, roles)]


def version_check(version: int, schema: str) -> Check:
    """Whether this release reads and writes a log of this schema version."""
    return Check(
        "version",
        version == SCHEMA_VERSION,
        f"a log of schema version {version}",
        f"version {SCHEMA_VERSION}, which this release reads and writes",
        f"Run: postsale db migrate{_option(schema)}"
        if version < SCHEMA_VERSION
        else "Install the release of postsale that wrote it, or a later one.",
    )


def shown_place(db: psycopg.Connection[Any]) -> str:
    """Where a connection leads, as a URL without login and password."""
    host, port, name = db.info.host, db.info.port, db.info.dbname
    if host.startswith("/"):
        return f"postgresql:///{name}?host={host}"
    return f"postgresql://{host}{'' if port == 5432 else f':{port}'}/{name}"


def _option(schema: str) -> str:
    return "" if schema == DEFAULT_SCHEMA else f" --schema {schema}"


# ---------------------------------------------------------------- what is looked at


def _look(s: str, server_version: int) -> str:
    """One query over settings and catalogs; every list holds what is wrong."""
    takes = "SET" if server_version >= 160_000 else "MEMBER"  # since 16 a member need not be allowed to take the role
    mine = f"relnamespace = to_regnamespace('{s}')"
    return f"""\
SELECT current_setting('server_version_num')::int AS version, current_setting('server_encoding') AS encoding,
    current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_pages,
    current_setting('synchronous_commit') AS sync, (SELECT source FROM pg_settings WHERE name = 'synchronous_commit') AS sync_source,
    current_setting('session_replication_role') AS replication, coalesce(current_setting('postsale.tenant', true), '') AS tenant,
    ARRAY(SELECT rolname FROM pg_roles WHERE rolname = '{s}_projector') AS beside, -- the role of the views, where they are kept here
    session_user AS login, current_database() AS database, EXISTS (SELECT FROM pg_class WHERE {mine} AND relname = 'log') AS log,
    (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) AS superuser,
    (SELECT rolcreaterole FROM pg_roles WHERE rolname = session_user) AS makes_roles,
    ARRAY(SELECT rolname FROM pg_roles WHERE pg_has_role(session_user, oid, 'MEMBER') AND (rolsuper OR rolbypassrls
        OR rolname IN ('pg_execute_server_program', 'pg_write_server_files')) ORDER BY rolname = session_user DESC, rolname) AS powers,
    ARRAY(SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE {mine} AND pg_has_role(session_user, relowner, 'MEMBER')) AS owners,
    ARRAY(SELECT name FROM unnest(%(roles)s::text[]) name
        WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name AND pg_has_role(session_user, oid, '{takes}'))) AS missing_roles,
    ARRAY(SELECT name FROM unnest(%(tenant_tables)s::text[]) name
        WHERE NOT EXISTS (SELECT FROM pg_class WHERE {mine} AND relname = name AND relrowsecurity AND relforcerowsecurity)) AS open_tables,
    ARRAY(SELECT relname FROM pg_class WHERE {mine} AND relkind IN ('r', 'p', 'S') AND relpersistence <> 'p') AS unlogged,
    ARRAY(SELECT t || '.' || n FROM unnest(%(policy_tables)s::text[], %(policies)s::text[], %(restrict)s::bool[]) p (t, n, restricts)
        WHERE NOT EXISTS (SELECT FROM pg_policy JOIN pg_class c ON c.oid = polrelid WHERE {mine} AND relname = t AND polname = n
            AND polpermissive <> restricts AND (polpermissive OR coalesce(pg_get_expr(polqual, c.oid), '')
                || coalesce(pg_get_expr(polwithcheck, c.oid), '') LIKE '%%tenant_no()%%'))) AS missing_policies,
    ARRAY(SELECT t || '.' || n FROM (SELECT * FROM unnest(%(trigger_tables)s::text[], %(triggers)s::text[])
            UNION SELECT relname, unnest(%(part_triggers)s::text[]) FROM pg_class WHERE {mine} AND relkind = 'r' AND relispartition) e (t, n)
        WHERE NOT EXISTS (SELECT FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
            WHERE {mine} AND relname = t AND tgname = n AND tgenabled IN ('O', 'A')) ORDER BY 1) AS missing_triggers,
    ARRAY(SELECT ARRAY[CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                p || coalesce(' (' || nullif(col, '') || ')', ''),
                CASE kind WHEN 'n' THEN 'SCHEMA {s}' WHEN 'S' THEN 'SEQUENCE {s}.' || t ELSE '{s}.' || t END]
        FROM (SELECT relkind, relname, relispartition, grantee, privilege_type, '' FROM pg_class, aclexplode(relacl)
                WHERE {mine} AND grantee <> relowner
            UNION ALL SELECT relkind, relname, relispartition, grantee, privilege_type, attname
                FROM pg_class c JOIN pg_attribute ON attrelid = c.oid, aclexplode(attacl) WHERE {mine} AND grantee <> relowner
            UNION ALL SELECT 'n', nspname, false, grantee, privilege_type, '' FROM pg_namespace, aclexplode(nspacl)
                WHERE nspname = '{s}' AND grantee <> nspowner AND privilege_type = 'CREATE') g (kind, t, part, grantee, p, col)
        WHERE (grantee = 0 OR pg_has_role(session_user, grantee, 'MEMBER'))
            AND NOT EXISTS (SELECT FROM unnest(%(grant_tables)s::text[], %(grantees)s::text[], %(grants)s::text[], %(columns)s::text[]) e
                (t, grantee, p, col) WHERE (e.t = g.t OR (part AND e.t = 'decisions')) AND e.grantee = pg_get_userbyid(g.grantee)
                AND e.p = g.p AND e.col = g.col) ORDER BY 1) AS surplus"""


def _looked_for(s: str) -> dict[str, Any]:
    roles = Roles.of(s)
    the_policies, the_triggers = list(policies(s)), list(triggers(s))
    grants = [(grant.table, getattr(roles, grant.role), grant.privilege, column) for grant in GRANTS for column in grant.columns or ("",)]
    tables, grantees, privileges, columns = map(list, zip(*grants, strict=True))
    return {
        "roles": [roles.writer, roles.tailer],
        "tenant_tables": ["tenants", *TENANT_TABLES],
        "policy_tables": [guard.table for guard in the_policies],
        "policies": [guard.name for guard in the_policies],
        "restrict": ["AS RESTRICTIVE" in guard.sql for guard in the_policies],
        "trigger_tables": [guard.table for guard in the_triggers],
        "triggers": [guard.name for guard in the_triggers],
        "part_triggers": list(_IN_EVERY_PART),
        "grant_tables": tables,
        "grantees": grantees,
        "grants": privileges,
        "columns": columns,
    }


# ---------------------------------------------------------------- what it means


def _environment(environ: Mapping[str, str]) -> Check:
    on = environ.get(_UPSTREAM_SWITCH, "").strip().lower() in _ON
    return Check(
        "environment",
        not on,
        f"{_UPSTREAM_SWITCH} is on, with which subscribers of the library eventsourcing miss events",
        "it off",
        f"Type: unset {_UPSTREAM_SWITCH}",
    )


def server_checks(version: int, encoding: str) -> Iterator[Check]:
    """What a log needs of a server before it is made."""
    oldest = OLDEST_SERVER // 10_000
    yield Check(
        "server",
        version >= OLDEST_SERVER,
        f"PostgreSQL {version // 10_000}",
        f"{oldest} or later",
        f"Move the database to PostgreSQL {oldest} or later.",
    )
    yield Check(
        "encoding",
        encoding == "UTF8",
        f"a database in the encoding {encoding}",
        "UTF8",
        "Make the log in another: CREATE DATABASE postsale ENCODING 'UTF8' TEMPLATE template0;",
    )


def _durability(found: Any) -> Iterator[Check]:
    for setting, value in (("fsync", found.fsync), ("full_page_writes", found.full_pages)):
        yield Check(
            setting,
            value == "on",
            f"{setting} is {value}: a crash of the server may lose or tear what was acknowledged",
            "on",
            f"Type as a superuser: ALTER SYSTEM SET {setting} = on; SELECT pg_reload_conf();",
        )
    where = {
        "user": f"ALTER ROLE {found.login} RESET synchronous_commit;",
        "database": f"ALTER DATABASE {found.database} RESET synchronous_commit;",
        "database user": f"ALTER ROLE {found.login} IN DATABASE {found.database} RESET synchronous_commit;",
        "configuration file": "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf();",
        "global": "ALTER ROLE ALL RESET synchronous_commit;",
    }
    statement = where.get(found.sync_source)
    yield Check(
        "synchronous_commit",
        found.sync != "off",
        "synchronous_commit is off: a crash of the server loses what was acknowledged",
        "on (or local, remote_write, remote_apply)",
        f"Type: {statement}" if statement else "Take synchronous_commit out of the URL's options, PGOPTIONS, or what the pool sets.",
    )


def _login_checks(found: Any, roles: Roles) -> Iterator[Check]:
    own = f"a login of its own, a member of {roles.writer} and {roles.tailer}"
    better = f"CREATE ROLE postsale_app LOGIN NOINHERIT; GRANT {', '.join([roles.writer, roles.tailer, *found.beside])} TO postsale_app;"
    yield Check(
        "superuser",
        not found.superuser,
        f"the login {found.login} is a superuser: no policy, trigger or privilege holds it",
        own,
        f"Type: {better} Give it a password, and use it in the URL.",
    )
    powers = [] if found.superuser else found.powers
    role = powers[0] if powers else ""
    bypass = f"ALTER ROLE {role} NOBYPASSRLS;" if role == found.login else f"REVOKE {role} FROM {found.login};"
    yield Check(
        "bypassrls",
        not powers,
        f"the login {found.login} has BYPASSRLS: it would see every tenant"
        if role == found.login
        else f"the login {found.login} may act as {role}, which no policy holds",
        own,
        f"Type as a superuser: {bypass}",
    )
    yield Check(
        "createrole",
        found.superuser or not found.makes_roles,
        f"the login {found.login} has CREATEROLE: it could make itself a member of what it likes",
        own,
        f"Type as a superuser: ALTER ROLE {found.login} NOCREATEROLE;",
    )
    owners = [] if found.superuser else sorted(found.owners)
    owner = owners[0] if owners else ""
    yield Check(
        "owner",
        not owners,
        f"the login {found.login} owns the log's tables"
        if owner == found.login
        else f"the login {found.login} may act as {owner}, which owns the log's tables",
        own,
        f"Type: {better} Give it a password, and use it in the URL."
        if owner == found.login
        else f"Type as a superuser: REVOKE {owner} FROM {found.login};",
    )
    missing = ", ".join(found.missing_roles)
    yield Check(
        "roles",
        not missing,
        f"the login {found.login} may not act as {missing}",
        own,
        f"Type: GRANT {missing} TO {found.login}{' WITH SET TRUE' if found.version >= 160_000 else ''};",
    )
    yield Check(
        "no_tenant_preset",
        not found.tenant,
        "postsale.tenant is set beforehand: a transaction that names no tenant would work for that one",
        "no value outside a transaction",
        f'Type: ALTER ROLE {found.login} RESET "postsale.tenant"; ALTER DATABASE {found.database} RESET "postsale.tenant"; and take it out of'
        " the URL's options and of what the pool sets.",
    )


def _protection(found: Any, s: str, roles: Roles) -> Iterator[Check]:
    def mend(statements: Iterable[str]) -> str:
        return f"Type as a superuser: SET ROLE {roles.migrator}; {' '.join(statements)} RESET ROLE;"

    yield Check(
        "row_security",
        not found.open_tables,
        f"row-level security is off, or not forced, on {', '.join(found.open_tables)}",
        "it on, and forced on the owner too",
        mend(row_security_sql(s, table) for table in found.open_tables),
    )
    yield Check(
        "policies",
        not found.missing_policies,
        f"policies are missing or changed: {', '.join(found.missing_policies)}",
        "those that postsale db init made",
        mend(_made_again("POLICY", policies(s), found.missing_policies, s)),
    )
    yield Check(
        "append_only",
        not found.missing_triggers,
        f"triggers are off or missing: {', '.join(found.missing_triggers)}",
        "those that keep the log append-only",
        mend(_made_again("TRIGGER", triggers(s), found.missing_triggers, s)) + " Then run: postsale log verify",
    )
    yield Check(
        "triggers_run",
        found.replication == "origin",
        f"session_replication_role is {found.replication}: the triggers that keep the log append-only do not run",
        "origin",
        f"Type as a superuser: ALTER ROLE {found.login} RESET session_replication_role;",
    )
    yield Check(
        "privileges",
        not found.surplus,
        f"privileges on the log that postsale db init did not give: {len(found.surplus)}",
        "the fewest",
        mend(_revoked(found.surplus, s, roles)),
    )
    yield Check(
        "logged_tables",
        not found.unlogged,
        f"unlogged tables, which a crash of the server empties: {', '.join(found.unlogged)}",
        "logged ones",
        mend(f"ALTER TABLE {s}.{table} SET LOGGED;" for table in found.unlogged),
    )


def _made_again(what: str, guards: Iterable[Guard], missing: list[str], s: str) -> Iterator[str]:
    """Statements that make these guards (`table.name`) as they were, whether they were dropped, changed or switched off."""
    sql = {f"{guard.table}.{guard.name}": guard.sql for guard in guards}
    for guard in missing:
        table, name = guard.split(".")
        if guard in sql:
            yield f"DROP {what} IF EXISTS {name} ON {s}.{table}; {sql[guard]}"
        elif f"events.{name}" not in missing:  # a partition's: it comes back with that of the whole
            yield f"ALTER TABLE {s}.{table} ENABLE TRIGGER {name};"


def _revoked(surplus: list[tuple[str, str, str]], s: str, roles: Roles) -> Iterator[str]:
    """Statements that take privileges back; all of them from who should have none."""
    for grantee in sorted({grantee for grantee, _, _ in surplus} - set(roles)):
        for kind in ("ALL TABLES IN SCHEMA", "ALL SEQUENCES IN SCHEMA", "SCHEMA"):
            yield f"REVOKE ALL ON {kind} {s} FROM {grantee};"
    for grantee, privilege, of in surplus:
        if grantee in roles:
            yield f"REVOKE {privilege} ON {of} FROM {grantee};"
