"""What a login of PostgreSQL may do, and in whose name the application does it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from postsale.agents import RenewalRescue
from postsale.aggregates.identity import foreign
from postsale.errors import NotAllowed, StoreUnavailable
from postsale.projections.views_postgres_schema import projector_role
from postsale.store.postgres_schema import Roles
from tests.postgres import server as admin_url

from .support import ANNA, NOON, Server, failed, head, opened, paid, subscribed, used


@pytest.fixture
def web(server: Server) -> Iterator[Server]:
    """The same log for a login that may not fold views."""
    login, roles = f"{server.schema}_web", Roles.of(server.schema)
    with psycopg.connect(admin_url(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {login} LOGIN NOINHERIT")
        admin.execute(f"GRANT {roles.writer}, {roles.tailer} TO {login}")
        yield server._replace(url=server.url.replace(f"{server.schema}_app", login))
        admin.execute(f"DROP ROLE {login}")


def admin(statement: str) -> None:
    with psycopg.connect(admin_url(), autocommit=True) as db:
        db.execute(statement)


def test_what_a_tenant_is_asked_and_told_goes_in_the_name_of_that_tenant(web: Server) -> None:
    """The right to read all tenants is taken away from the login while the log is open: only what is about all of them notices."""
    with opened(web) as ps:
        admin(f"REVOKE {Roles.of(web.schema).tailer} FROM {web.schema}_web")
        acme, globex = ps.tenant("acme"), ps.tenant("globex")
        for tenant in (acme, globex):
            assert tenant.record("cus_1", subscribed("s")).stored
            items = [("cus_1", failed("f")), ("cus_2", paid("p")), ("cus_2", paid("p", amount_minor=1))]
            assert tenant.record_many(items).recorded == 2
            assert tenant.record(foreign("crm", "7"), used("u")).stored
            assert tenant.link(foreign("crm", "7"), "cus_1")
            assert tenant.consent("cus_1", "email", "service", evidence="form")
            assert tenant.merge("cus_2", into="cus_1", reason="one", by=ANNA)
            tenant.agent("renewal-rescue").observe(reason="first look", by=ANNA)
        assert acme.health("cus_1").score is not None
        assert acme.health("cus_1").why()
        assert len(acme.timeline("cus_1")) == len(globex.timeline("cus_1")) > 2
        assert [row.name for row in acme.customers()] == ["cus_1"]
        assert acme.customer("cus_1", as_of=NOON, known_at=NOON).consents == {}
        assert (len(acme.quarantine()), acme.decisions(), acme.approvals()) == (1, [], [])
        assert len(acme.names()) == 2
        for call in (ps.tenants, ps.verify):
            with pytest.raises(NotAllowed, match=f"GRANT {Roles.of(web.schema).tailer}"):
                call()


def test_who_may_not_fold_is_told_which_role_that_takes_and_then_may(web: Server) -> None:
    """A run that was refused left nothing half-done."""
    with opened(web, agents=[RenewalRescue()]) as ps:
        ps.tenant("acme").record("cus_1", subscribed("s"))
        ps.tenant("acme").record("cus_1", failed("f", attempt=2))
        before = head(ps)
        with pytest.raises(StoreUnavailable, match=f"GRANT {projector_role(web.schema)}"):
            ps.run_once()
        assert head(ps) == before
        admin(f"GRANT {projector_role(web.schema)} TO {web.schema}_web")
        assert ps.run_once().decided > 0
        assert ps.verify().problems == []
