"""A log on PostgreSQL, backed up with the server's own tools and put back elsewhere, is the same log."""

from __future__ import annotations

import subprocess

import psycopg

from postsale.agents import RenewalRescue
from tests.postgres import binary
from tests.postgres import server as admin_url

from .support import Server, failed, head, opened, paid, subscribed


def test_a_dump_without_the_views_is_restored_to_the_same_roots_and_goes_on(server: Server) -> None:
    """Into another database of the same roles: every proof holds, ids are known, views are folded again, the next event is the next."""
    name = f"{server.schema}_restored"
    with opened(server, agents=[RenewalRescue()]) as ps:
        acme = ps.tenant("acme")
        acme.record_many([("cus_1", subscribed("s")), ("cus_1", failed("f", attempt=2)), ("cus_2", paid("p"))])
        ps.run_once()
        told = ([row.to_dict() for row in acme.customers()], [e.to_dict() for e in acme.decisions()])
        before, roots = head(ps), ps.verify().roots
        dump = [binary("pg_dump"), "--schema", server.schema, "--schema", f"{server.schema}_views"]
        dump += ["--exclude-table-data", f"{server.schema}_views.*", admin_url()]
        dumped = subprocess.run(dump, capture_output=True, check=True).stdout
    with psycopg.connect(admin_url(), autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}")
    try:
        elsewhere = admin_url().replace("/postgres?", f"/{name}?")
        psql = [binary("psql"), "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", elsewhere]
        subprocess.run(psql, input=dumped, capture_output=True, check=True)
        with opened(server._replace(url=server.url.replace("/postgres?", f"/{name}?")), agents=[RenewalRescue()]) as ps:
            acme = ps.tenant("acme")
            report = ps.verify()
            assert (report.problems, report.roots, head(ps)) == ([], roots, before)
            assert not acme.record("cus_2", paid("p")).stored
            run = ps.run_once()
            assert (run.folded, run.raised, run.decided) == (3, 0, 0)
            assert ([row.to_dict() for row in acme.customers()], [e.to_dict() for e in acme.decisions()]) == told
            assert acme.record("cus_2", paid("p2")).position == before + 1
            assert ps.verify().problems == []
    finally:
        with psycopg.connect(admin_url(), autocommit=True) as db:
            db.execute(f"DROP DATABASE {name} (FORCE)")
