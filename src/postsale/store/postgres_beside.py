"""What stands beside a PostgreSQL log: small records and the quarantine. Nothing here is a fact. See `KeyValue` and `Quarantine`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from postsale.store.contract import Kept, QuarantineItem
from postsale.store.kv import check_keys, check_limit, check_names, check_value
from postsale.store.postgres_link import Link, Script
from postsale.store.postgres_names import Names, enter
from postsale.store.quarantine import check_items, check_status

_PAGE = 200  # items of the quarantine that are held at once


class _Beside:
    def __init__(self, link: Link, names: Names) -> None:
        self._link = link
        self._names = names
        self._mine = f"tenant = (SELECT {link.schema}.tenant_no())"

    def _run(self, tenant: str, sql: str, *values: Any, write: bool = False) -> list[Any]:
        """The rows of one statement in the name of a tenant, committed."""
        link, found = self._link, list[Any]()
        opening = link.begin(link.roles.writer, read_only=not write)
        enter(opening, link.schema, tenant, make=write)
        script = Script()
        script.add(sql, *values, take=found.extend)
        with link.translated(), link.transaction(opening) as db:
            script.add(link.keep())
            script.run(db)
        return found


class PostgresKeyValue(_Beside):
    """Records in a log's own schema; made by `PostgresStore`."""

    def get(self, space: str, tenant: str, key: str) -> Kept | None:
        check_names(space=space, tenant=tenant, key=key)
        rows = self._run(
            tenant, f"SELECT key, value, revision FROM {self._link.schema}.kv WHERE {self._mine} AND space = %s AND key = %s", space, key
        )
        return Kept(*rows[0]) if rows else None

    def get_many(self, space: str, tenant: str, keys: Sequence[str]) -> list[Kept]:
        check_keys(space, tenant, keys)
        sql = f"SELECT key, value, revision FROM {self._link.schema}.kv WHERE {self._mine} AND space = %s AND key = ANY(%s)"
        return [Kept(*row) for row in self._run(tenant, sql, space, list(keys))] if keys else []

    def put(self, space: str, tenant: str, key: str, value: bytes, *, expected: int | None = None) -> int | None:
        check_names(space=space, tenant=tenant, key=key)
        check_value(value)
        s = self._link.schema
        next_revision = f"nextval('{s}.revisions')"
        if expected:
            rows = self._run(
                tenant,
                f"UPDATE {s}.kv SET value = %s, revision = {next_revision} WHERE {self._mine} AND space = %s AND key = %s AND revision = %s"
                " RETURNING revision",
                *(value, space, key, expected),
                write=True,
            )
        else:
            over = "NOTHING" if expected == 0 else f"UPDATE SET value = excluded.value, revision = {next_revision}"
            rows = self._run(
                tenant,
                f"INSERT INTO {s}.kv (tenant, space, key, value) VALUES ({s}.tenant_no(), %s, %s, %s)"
                f" ON CONFLICT (tenant, space, key) DO {over} RETURNING revision",
                *(space, key, value),
                write=True,
            )
        return int(rows[0][0]) if rows else None

    def delete(self, space: str, tenant: str, key: str, *, expected: int | None = None) -> bool:
        check_names(space=space, tenant=tenant, key=key)
        sql = (
            f"DELETE FROM {self._link.schema}.kv WHERE {self._mine} AND space = %s AND key = %s"
            " AND revision = coalesce(%s::bigint, revision) RETURNING 1"
        )
        return bool(self._run(tenant, sql, space, key, expected, write=True))

    def scan(self, space: str, tenant: str, *, after: str = "", upto: str | None = None, limit: int = 1_000) -> list[Kept]:
        check_names(space=space, tenant=tenant)
        check_limit(limit)
        sql = (
            f"SELECT key, value, revision FROM {self._link.schema}.kv WHERE {self._mine} AND space = %s AND key > %s"
            " AND (%s::text IS NULL OR key <= %s) ORDER BY key LIMIT %s"
        )
        return [Kept(*row) for row in self._run(tenant, sql, space, after, upto, upto, limit)]


class PostgresQuarantine(_Beside):
    """Quarantine in a log's own schema; made by `PostgresStore`."""

    def put(self, items: Sequence[QuarantineItem]) -> int:
        check_items(items)
        by_tenant: dict[str, list[QuarantineItem]] = {}
        for item in items:
            by_tenant.setdefault(item.tenant, []).append(item)
        link, made = self._link, list[Any]()
        if not by_tenant:
            return 0
        script = Script()
        for tenant, its_items in by_tenant.items():
            enter(script, link.schema, tenant, make=True)
            for item in its_items:
                script.add(
                    f"INSERT INTO {link.schema}.quarantine (tenant, id, source, reason, received_at, body, status)"
                    f" VALUES ({link.schema}.tenant_no(), %s, %s, %s, %s, %s, %s) ON CONFLICT (tenant, id) DO NOTHING RETURNING 1",
                    *(item.id, item.source, item.reason, item.received_at_us, item.body, item.status),
                    take=made.extend,
                )
        with link.translated(), link.transaction(link.begin(link.roles.writer)) as db:
            script.add(link.keep())
            script.run(db)
        return len(made)

    def items(self, tenant: str, *, status: str | None = "waiting") -> Iterator[QuarantineItem]:
        after: tuple[int, int] = (-(2**63), 0)
        while True:
            rows = self._run(
                tenant,
                f"SELECT id, source, reason, received_at, body, status, no FROM {self._link.schema}.quarantine WHERE {self._mine}"
                " AND status = coalesce(%s, status) AND (received_at, no) > (%s, %s) ORDER BY received_at, no LIMIT %s",
                *(status, *after, _PAGE),
            )
            for id_, source, reason, received_at, body, found, no in rows:
                after = received_at, no
                yield QuarantineItem(
                    id=id_, tenant=tenant, source=source, reason=reason, received_at_us=received_at, body=body, status=found
                )
            if len(rows) < _PAGE:
                return

    def settle(self, tenant: str, id: str, status: str) -> bool:
        check_status(status)
        sql = f"UPDATE {self._link.schema}.quarantine SET status = %s WHERE {self._mine} AND id = %s RETURNING 1"
        return bool(self._run(tenant, sql, status, id, write=True))
