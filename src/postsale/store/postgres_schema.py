"""The PostgreSQL log: its schema, tables, roles, policies and triggers, as SQL text. Executes nothing; reads and writes no events.

Three roles, none of which can log in: `…_writer` reads and appends the events of one tenant per transaction setting, `…_tailer`
reads all tenants and writes nothing, `…_migrator` owns the tables. A service logs in as a role of its own that is a member of the
first two and takes one of them in each transaction (`SET LOCAL ROLE`). The setting `postsale.tenant` holds the number of the tenant
in whose name a transaction works; without it, every statement of a writer on a tenant's rows is an error.

What is here may import errors and `plan`. What protects the log (TRIGGERS, POLICIES, GRANTS) is data, so that it can be checked too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from postsale.errors import InvalidInput
from postsale.store.plan import DEFAULT_CHAPTER

SCHEMA_VERSION: Final = 1  # log.schema_version; a change needs a migration, which is never made silently
DEFAULT_SCHEMA: Final = "postsale"
SYSTEM: Final = "_system"
SYSTEM_NO: Final = 0  # the number of the tenant `_system`, which every writer may read

_NAME: Final = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,39}\Z")
_LOGIN: Final = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}\Z")


class Roles(NamedTuple):
    """The roles of a log in one schema. Roles belong to the whole server, so they carry the schema's name."""

    writer: str
    tailer: str
    migrator: str

    @classmethod
    def of(cls, schema: str) -> Roles:
        return cls(f"{schema}_writer", f"{schema}_tailer", f"{schema}_migrator")


def check_schema(name: str) -> str:
    """`name` when it can name a schema without quoting: a-z, 0-9, `_`, at most 40, no `pg_` in front; else InvalidInput."""
    if not _NAME.match(name):
        raise InvalidInput(what="schema", field="name", reason="expected 1 to 40 of a-z, 0-9, '_', not beginning with a digit or 'pg_'")
    return name


EVENT_COLUMNS: Final = (
    ("position", "bigint"),
    ("tenant", "integer"),
    ("stream", "bigint"),
    ("lane", "smallint"),
    ("version", "bigint"),
    ("event_id", "bytea"),
    ("kind", "integer"),
    ("occurred_at", "bigint"),
    ("recorded_at", "bigint"),
    ("content_mac", "bytea"),
    ("header", "bytea"),
    ("data", "bytea"),
    ("salt", "bytea"),
    ("leaf_index", "bigint"),
    ("leaf", "bytea"),
)
"""Columns of `events`, in the order of a verification row."""

APPEND_ONLY: Final = ("events", "streams", "kinds", "nodes", "archived_ids", "segments", "segment_streams", "segment_tenants")
TENANT_TABLES: Final = ("events", "streams", "nodes", "archived_ids", "segment_streams", "segment_tenants", "kv", "quarantine")
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
    events = ",\n    ".join(f"{name} {type_} NOT NULL" for name, type_ in EVENT_COLUMNS)
    definer = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"  # pg_temp last: else a writer's own type `text` goes first
    return f"""\
{roles_sql(roles, acting=(roles.migrator,))}
CREATE SCHEMA {s} AUTHORIZATION {roles.migrator};
SET LOCAL ROLE {roles.migrator};
GRANT USAGE ON SCHEMA {s} TO {roles.writer}, {roles.tailer};

-- One row outside tenant security: positions are given out under its lock.
CREATE TABLE {s}.log (
    one integer PRIMARY KEY CHECK (one = 1), log_id text NOT NULL, schema_version integer NOT NULL, chapter bigint NOT NULL,
    position bigint NOT NULL, recorded_at bigint NOT NULL
);
CREATE TABLE {s}.tenants (
    no integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE,
    size bigint NOT NULL DEFAULT 0, frontier bytea NOT NULL DEFAULT ''
);
CREATE TABLE {s}.streams (
    no bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, tenant integer NOT NULL,
    category text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL, UNIQUE (tenant, category, id)
);
CREATE TABLE {s}.kinds (
    no integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, wire_name text COLLATE "C" NOT NULL, schema bytea NOT NULL,
    UNIQUE (wire_name, schema)
);

-- Facts are partitioned by chapter, so that indexes on random ids stay small and a chapter can be detached; decisions stay for ever.
CREATE TABLE {s}.events (
    {events}
) PARTITION BY LIST (lane);
CREATE TABLE {s}.decisions PARTITION OF {s}.events FOR VALUES IN (1);
CREATE UNIQUE INDEX decisions_by_position ON {s}.decisions (position);
CREATE UNIQUE INDEX decisions_by_id ON {s}.decisions (event_id, tenant);
-- With the tenant, although a stream has one: a row forged into another tenant's stream must not collide with what that tenant wrote.
CREATE UNIQUE INDEX decisions_by_version ON {s}.decisions (stream, version, tenant);
CREATE INDEX decisions_by_stream ON {s}.decisions (stream, position);
CREATE INDEX decisions_by_tenant ON {s}.decisions (tenant, position);
CREATE INDEX decisions_by_kind ON {s}.decisions (kind, position);
CREATE TABLE {s}.facts PARTITION OF {s}.events FOR VALUES IN (0) PARTITION BY RANGE (position);
CREATE UNIQUE INDEX facts_by_position ON {s}.facts (position);
CREATE INDEX facts_by_stream ON {s}.facts (stream, position);
CREATE INDEX facts_by_tenant ON {s}.facts (tenant, position);
CREATE INDEX facts_by_kind ON {s}.facts (kind, position);

CREATE TABLE {s}.archived_ids (
    tenant integer NOT NULL, event_id bytea NOT NULL, position bigint NOT NULL, recorded_at bigint NOT NULL, content_mac bytea NOT NULL,
    PRIMARY KEY (event_id, tenant)
);
-- What is known of archived chapters: each one's file, and in which of its row groups a stream's facts and a tenant's leaves are.
CREATE TABLE {s}.segments (
    chapter bigint PRIMARY KEY, name text NOT NULL, directory text NOT NULL, first bigint NOT NULL, last bigint NOT NULL,
    rows bigint NOT NULL, size_bytes bigint NOT NULL, sha256 bytea NOT NULL, tail_sha256 bytea NOT NULL, archived_at bigint NOT NULL,
    groups bytea NOT NULL
);
CREATE TABLE {s}.segment_streams (
    tenant integer NOT NULL, stream bigint NOT NULL, chapter bigint NOT NULL, groups bytea NOT NULL, PRIMARY KEY (stream, chapter)
);
CREATE TABLE {s}.segment_tenants (
    tenant integer NOT NULL, chapter bigint NOT NULL, leaves bytea NOT NULL, PRIMARY KEY (tenant, chapter)
);
CREATE TABLE {s}.nodes (
    tenant integer NOT NULL, level smallint NOT NULL, number bigint NOT NULL, hash bytea NOT NULL, PRIMARY KEY (tenant, level, number)
);
CREATE SEQUENCE {s}.revisions;
CREATE TABLE {s}.kv (
    tenant integer NOT NULL, space text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, value bytea NOT NULL,
    revision bigint NOT NULL DEFAULT nextval('{s}.revisions'), PRIMARY KEY (tenant, space, key)
);
CREATE TABLE {s}.quarantine (
    no bigint GENERATED BY DEFAULT AS IDENTITY, tenant integer NOT NULL, id text COLLATE "C" NOT NULL, source text NOT NULL,
    reason text NOT NULL, received_at bigint NOT NULL, body bytea NOT NULL, status text NOT NULL, PRIMARY KEY (tenant, id)
);
CREATE INDEX quarantine_by_arrival ON {s}.quarantine (tenant, received_at, no);

-- An unset or empty setting is an error on purpose: no tenant must never mean all tenants.
CREATE FUNCTION {s}.tenant_no() RETURNS integer LANGUAGE sql STABLE PARALLEL SAFE
    RETURN current_setting('postsale.tenant')::integer;

-- Writers learn the number of a name they know. Created here because writers do not see other tenants' rows.
CREATE FUNCTION {s}.enter(tenant_name text, make boolean) RETURNS integer LANGUAGE plpgsql {definer} AS $$
DECLARE found integer;
BEGIN
    SELECT no INTO found FROM {s}.tenants WHERE name = tenant_name;
    IF found IS NULL AND make THEN
        INSERT INTO {s}.tenants (name) VALUES (tenant_name) ON CONFLICT (name) DO NOTHING RETURNING no INTO found;
        IF found IS NULL THEN
            SELECT no INTO found FROM {s}.tenants WHERE name = tenant_name;
        END IF;
    END IF;
    PERFORM set_config('postsale.tenant', coalesce(found, -1)::text, true);
    RETURN found;
END $$;

-- The position up to which all that the caller may read, archived facts aside, was recorded at or before a time: the next such event's
-- less one. recorded_at increases with position.
CREATE FUNCTION {s}.known_prefix(at_us bigint) RETURNS bigint LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    low bigint := 0; high bigint; middle bigint; at bigint;
BEGIN
    SELECT position INTO high FROM {s}.log;
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        SELECT recorded_at INTO at FROM {s}.events WHERE position >= middle ORDER BY position LIMIT 1;
        IF at <= at_us THEN low := middle; ELSE high := middle - 1; END IF;
    END LOOP;
    RETURN coalesce((SELECT position - 1 FROM {s}.events WHERE position > low ORDER BY position LIMIT 1), (SELECT position FROM {s}.log));
END $$;

-- The position of a tenant's leaf; its leaves are in order of position.
CREATE FUNCTION {s}.position_of_leaf(tenant_number integer, wanted bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    low bigint := 1; high bigint; middle bigint; at bigint;
BEGIN
    SELECT position + 1 INTO high FROM {s}.log;
    WHILE low < high LOOP
        middle := (low + high) / 2;
        SELECT leaf_index INTO at FROM {s}.events WHERE tenant = tenant_number AND position >= middle ORDER BY position LIMIT 1;
        IF at < wanted THEN low := middle + 1; ELSE high := middle; END IF;
    END LOOP;
    RETURN low;
END $$;

-- What every append asks and does is in two functions, because a function's plans are kept, whatever pooler stands in between: to plan
-- these statements anew costs several times as much as to run them.
-- `ask` locks the head until the transaction ends and tells what an append of a tenant must know: the head, the position where events
-- really end, the tenant's tree, and what is there under these ids. Writers see only their tenant's events, so it runs as the owner.
CREATE FUNCTION {s}.ask(
    tenant_number integer, raw_ids bytea[], lock_ms integer, statement_ms integer, idle_ms integer,
    OUT head bigint, OUT newest_at bigint, OUT last bigint, OUT leaves bigint, OUT nodes bytea,
    OUT ids bytea[], OUT positions bigint[], OUT versions bigint[], OUT times bigint[], OUT macs bytea[]
) LANGUAGE plpgsql {definer} AS $$
BEGIN
    PERFORM set_config('postsale.tenant', tenant_number::text, true), set_config('lock_timeout', lock_ms::text, true),
        set_config('statement_timeout', statement_ms::text, true), set_config('idle_in_transaction_session_timeout', idle_ms::text, true),
        -- A plan that is made while the tables are empty must suit them when they are large.
        set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true),
        set_config('enable_bitmapscan', 'off', true);
    IF current_setting('synchronous_commit') = 'off' THEN  -- another client of a shared connection may have switched it off
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    SELECT l.position, l.recorded_at INTO head, newest_at FROM {s}.log l FOR UPDATE;
    SELECT max(e.position) INTO last FROM {s}.events e WHERE e.position >= head;
    IF last IS NULL THEN
        SELECT coalesce(max(g.last), 0) INTO last FROM {s}.segments g WHERE g.last = head;
    END IF;
    SELECT t.size, t.frontier INTO leaves, nodes FROM {s}.tenants t WHERE t.no = tenant_number;
    SELECT array_agg(f.id), array_agg(f.at), array_agg(f.ver), array_agg(f.time), array_agg(f.mac)
        INTO ids, positions, versions, times, macs FROM (
        SELECT e.event_id, e.position, e.version, e.recorded_at, e.content_mac
            FROM {s}.events e WHERE e.event_id = ANY (raw_ids) AND e.tenant IS NOT DISTINCT FROM tenant_number
        UNION ALL
        SELECT a.event_id, a.position, a.position, a.recorded_at, a.content_mac
            FROM {s}.archived_ids a WHERE a.tenant = tenant_number AND a.event_id = ANY (raw_ids)
    ) f (id, at, ver, time, mac);
END $$;
-- `store` writes rows of a tenant and moves its tree, and with the last rows the head. It runs as the caller, under its policies.
CREATE FUNCTION {s}.store(
    tenant_number integer, positions bigint[], streams bigint[], lanes smallint[], versions bigint[], event_ids bytea[], kinds integer[],
    occurred bigint[], recorded bigint[], macs bytea[], headers bytea[], bodies bytea[], salts bytea[], leaf_indexes bigint[],
    leaves bytea[], new_size bigint, new_frontier bytea, levels smallint[], numbers bigint[], hashes bytea[],
    new_position bigint, newest_at bigint
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('postsale.tenant', tenant_number::text, true);
    IF cardinality(positions) > 0 THEN
        INSERT INTO {s}.events
            SELECT u.p, tenant_number, u.s, u.l, u.v, u.e, u.k, u.o, u.r, u.m, u.h, u.d, u.salt, u.i, u.leaf
            FROM unnest(positions, streams, lanes, versions, event_ids, kinds, occurred, recorded, macs, headers, bodies, salts,
                leaf_indexes, leaves) AS u (p, s, l, v, e, k, o, r, m, h, d, salt, i, leaf);
    END IF;
    IF cardinality(levels) > 0 THEN
        INSERT INTO {s}.nodes SELECT tenant_number, u.* FROM unnest(levels, numbers, hashes) u;
    END IF;
    UPDATE {s}.tenants SET size = new_size, frontier = new_frontier WHERE no = tenant_number;
    IF new_position IS NOT NULL THEN
        UPDATE {s}.log SET position = new_position, recorded_at = newest_at;
        PERFORM pg_notify('{s}', new_position::text);
    END IF;
END $$;

-- The partition of the next chapter, made by the append that needs it. Attached, not created in place: that would wait for every reader.
CREATE FUNCTION {s}.ensure_chapter(chapter_no bigint) RETURNS void LANGUAGE plpgsql {definer} AS $$
DECLARE
    size bigint; last bigint; name text := 'facts_' || chapter_no;
BEGIN
    SELECT chapter, position INTO size, last FROM {s}.log FOR UPDATE;
    IF to_regclass('{s}.' || name) IS NOT NULL THEN
        RETURN;
    END IF;
    IF chapter_no < last / size OR chapter_no > last / size + 64 THEN
        RAISE EXCEPTION 'chapter % is not near the end of the log', chapter_no;
    END IF;
    EXECUTE format('CREATE TABLE {s}.%I (LIKE {s}.facts)', name);
    EXECUTE format('CREATE UNIQUE INDEX %I ON {s}.%I (event_id, tenant)', name || '_by_id', name);
    EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {s}.%I FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse()', name);
    EXECUTE format('ALTER TABLE {s}.facts ATTACH PARTITION {s}.%I FOR VALUES FROM (%s) TO (%s)',
        name, chapter_no * size + 1, (chapter_no + 1) * size + 1);
    EXECUTE format('GRANT INSERT ON {s}.%I TO {roles.writer}', name);
END $$;

-- At the end of a transaction that moved the head: the positions it moved over hold one event each, recorded later than those before,
-- each in a stream of its own tenant. So nobody can move the head over a gap, or write into another tenant's streams.
CREATE FUNCTION {s}.follows_events() RETURNS trigger LANGUAGE plpgsql {definer} AS $$
DECLARE new_events record;
BEGIN
    SELECT count(*) AS size, count(DISTINCT position) AS positions, min(recorded_at) AS earliest, max(recorded_at) AS latest,
        bool_or(tenant IS DISTINCT FROM (SELECT s.tenant FROM {s}.streams s WHERE s.no = stream)) AS astray
    INTO new_events FROM {s}.events WHERE position > OLD.position AND position <= NEW.position;
    IF new_events.size <> NEW.position - OLD.position OR new_events.positions <> new_events.size THEN
        RAISE EXCEPTION 'the head of the log only moves over events' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF new_events.earliest <= OLD.recorded_at OR new_events.latest <> NEW.recorded_at THEN
        RAISE EXCEPTION 'the clock of the log moves with its events' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF new_events.astray THEN
        RAISE EXCEPTION 'an event in a stream of another tenant' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION {s}.refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'the log is append-only' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE FUNCTION {s}.refuse_tenant() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'an event of another tenant' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE FUNCTION {s}.only_forward() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'a head only moves forward' USING ERRCODE = 'integrity_constraint_violation';
END $$;

{_lines(guard.sql for guard in triggers(s))}

INSERT INTO {s}.log VALUES (1, replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')::char(32), {SCHEMA_VERSION}, {chapter}, 0, 0);
INSERT INTO {s}.tenants (no, name) VALUES ({SYSTEM_NO}, '{SYSTEM}');
SELECT {s}.ensure_chapter(0);

-- Row-level security, forced on the owner too. The restrictive policies narrow whatever else a login may be a member of.
{_lines(row_security_sql(s, table) for table in ("tenants", *TENANT_TABLES))}
{_lines(guard.sql for guard in policies(s))}

-- The fewest privileges.
REVOKE ALL ON FUNCTION {s}.enter(text, boolean), {s}.ask(integer, bytea[], integer, integer, integer),
    {s}.ensure_chapter(bigint), {s}.follows_events() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {s}.enter(text, boolean), {s}.ask(integer, bytea[], integer, integer, integer), {s}.ensure_chapter(bigint)
    TO {roles.writer};
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
