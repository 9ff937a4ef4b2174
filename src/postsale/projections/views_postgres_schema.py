"""The schema of views in PostgreSQL, beside the log's: whom it belongs to, its tables and policies, as SQL text. Executes nothing.

`postsale_views` for the log in `postsale`, with a role of its own, `postsale_projector`, which cannot log in: it owns the views
and cannot read the log. Whoever runs `run_once` is a member. Imports the names of the log's roles.
"""

from __future__ import annotations

from typing import Final

from postsale.store.postgres_init import acting_ends_sql, roles_sql
from postsale.store.postgres_schema import DEFAULT_SCHEMA, Roles, check_schema

LAYOUT: Final = 2
"""Of the tables; views of another layout are emptied when they are opened."""


def views_schema(schema: str = DEFAULT_SCHEMA) -> str:
    """The schema of the views of the log in `schema`."""
    return f"{check_schema(schema)}_views"


def projector_role(schema: str = DEFAULT_SCHEMA) -> str:
    """The role that owns the views of the log in `schema`: it folds for all tenants. Who runs `run_once` is a member."""
    return f"{check_schema(schema)}_projector"


def views_sql(schema: str = DEFAULT_SCHEMA) -> str:
    """What views need beside a log that is there: a role and an empty schema that the role owns. May be run again."""
    s, v, projector, roles = check_schema(schema), views_schema(schema), projector_role(schema), Roles.of(schema)
    acting = (projector, roles.migrator)
    return f"""\
{roles_sql((projector,), acting=acting)}
CREATE SCHEMA IF NOT EXISTS {v} AUTHORIZATION {projector};
SET LOCAL ROLE {roles.migrator};
GRANT USAGE ON SCHEMA {s} TO {projector};
RESET ROLE;
{acting_ends_sql(acting)}"""


def tables_sql(schema: str) -> str:
    """The tables, as the projector makes them at first use. `tenant` is whom a row is about, '' where it is about nobody.

    Keys of states are `TENANT/category/id`; the runner's parked streams are `parked/TENANT/…` in `NAME!aside`; the rounds of a
    tenant are a view of their own, `rounds/TENANT`.
    """
    s, v, writer, projector = schema, views_schema(schema), Roles.of(schema).writer, projector_role(schema)
    return f"""\
CREATE TABLE {v}.log (id text NOT NULL, layout integer NOT NULL);
CREATE TABLE {v}.checkpoints (view text COLLATE "C" PRIMARY KEY, position bigint NOT NULL, token bigint NOT NULL);
CREATE TABLE {v}.rows (
    view text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, value bytea NOT NULL,
    tenant text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        CASE WHEN right(view, 6) = '!aside' THEN split_part(key, '/', 2)
             WHEN strpos(view, '/') > 0 THEN split_part(view, '/', 2)
             WHEN strpos(key, '/') > 0 THEN split_part(key, '/', 1)
             ELSE '' END
    ) STORED,
    PRIMARY KEY (view, key)
);
ALTER TABLE {v}.rows ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY projectors ON {v}.rows TO {projector} USING (true) WITH CHECK (true);
CREATE POLICY writers ON {v}.rows FOR SELECT TO {writer} USING (true);
CREATE POLICY own ON {v}.rows AS RESTRICTIVE TO {writer} -- also a login that is a member of the projector too, and took no role
    USING (tenant = (SELECT name FROM {s}.tenants WHERE no = (SELECT {s}.tenant_no())));
GRANT USAGE ON SCHEMA {v} TO {writer};
GRANT SELECT ON {v}.rows TO {writer};
"""
