"""One process among several over one log and a view with features across customers; run by test_members_faults.

python ring_process.py URL OPTIONS ROLE ARGUMENT

write SEED        thirty steps of a story, told one line each
rebuild COMMITS   rebuild the view beside the one that serves, and kill itself after so many commits; 0: to the end
project TTL_S     keep the view up to date until SIGTERM; says "ready" when it is
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from postsale import PostSale, foreign
from postsale.aggregates.signals import InvoicePaid
from postsale.errors import ConditionFailed, IdentityConflict, InvalidInput, UnknownCustomer, VersionConflict
from postsale.events import SECOND_US, SystemClock
from postsale.projections import Features, Fold, Kin, Projector, Runner, across, count, days, distinct, latest, total
from postsale.projections.views import Views
from postsale.projections.views_postgres import PostgresViews
from postsale.store import Leases, Store
from postsale.store.postgres import PostgresStore
from postsale.store.postgres_link import Patience
from tests.app.support import ANNA, NOON, paid
from tests.projections.related import Invited

CUSTOMERS = 6
PATIENCE = Patience(idle=2.0)  # with a projector that stands still in the middle of a transaction


class Ring(Features, version=1, owner="tests"):
    """What comes in by invitations, and about how many different amounts."""

    invited_by = latest(Invited, lambda e: e.referrer)
    company = latest(Invited, lambda e: e.note)
    amounts = distinct(InvoicePaid, lambda e: e.amount_minor, approximate=True, window=days(20))
    friends_paid = across(invited_by, total(InvoicePaid, lambda e: e.amount_minor))
    friends_amounts = across(invited_by, distinct(InvoicePaid, lambda e: e.amount_minor, approximate=True))
    group_payments = across(company, count(InvoicePaid), source="crm")


FOLD = Fold(Ring)


class Later(SystemClock):
    """Two minutes from now, when the lease of whoever was killed is over."""

    def now_us(self) -> int:
        return super().now_us() + 120 * SECOND_US


def runner_of(ps: PostSale, store: Store | None = None, views: Views | None = None, **more: Any) -> Runner:
    """Four shares, in small batches."""
    store, views = store or ps.log.store, views or ps.views
    return Runner(store, views, FOLD, batch=25, partitions=4, kin=Kin(store, views, ps.log.vault), **more)


def served(ps: PostSale, store: Store | None = None, views: Views | None = None) -> Runner:
    """Of the build that serves."""
    return runner_of(ps, store, views, build=ps.deployments.build_of("Ring"))


def step(ps: PostSale, rng: random.Random, name: str) -> None:
    """Somebody pays, says who brought it in, is linked, merged, split; what cannot be at this moment is left out."""
    acme, one, two = ps.tenant("acme"), rng.randrange(CUSTOMERS), rng.randrange(CUSTOMERS)
    at = NOON - timedelta(days=rng.randrange(30))
    said = {"source": "app", "id": name, "occurred_at": at}
    try:
        match rng.choice(["pay", "pay", "invite", "invite", "company", "foreign", "link", "merge", "split"]):
            case "pay":
                acme.record(f"cus_{one}", paid(name, at, amount_minor=rng.randrange(50)))
            case "invite":
                acme.record(f"cus_{one}", Invited(**said, referrer=f"cus_{two}"))
            case "company":
                acme.record(f"cus_{one}", Invited(**said, note=str(two % 3)))
            case "foreign":
                acme.record(foreign("crm", str(one % 3)), Invited(**said, referrer=f"cus_{two}"))
            case "link":
                acme.link(foreign("crm", str(one % 3)), f"cus_{two}")
            case "merge":
                acme.merge(f"cus_{one}", into=f"cus_{two}", reason="the same", by=ANNA)
            case _:
                acme.split(f"cus_{one}", reason="not the same", by=ANNA)
    except (IdentityConflict, UnknownCustomer, InvalidInput, VersionConflict, ConditionFailed):
        pass


def say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(url: str, options: str, role: str, argument: str) -> None:
    with PostSale.open(url, **json.loads(options)) as ps:
        if role == "write":
            rng = random.Random(int(argument))
            for n in range(30):
                step(ps, rng, f"{argument}-{n}")
                say(n)
        elif role == "rebuild":
            left = int(argument)

            def committed(_: object) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            leases = Leases(ps.log.store.kv, None if left else Later())
            done = ps.deployments.rebuild(ps.log.store, served(ps), leases, on_progress=committed)
            say(f"{done.progress.from_position} {done.serves}")
        else:
            schema = json.loads(options)["schema"]
            store = PostgresStore(url, schema=schema, patience=PATIENCE)
            views = PostgresViews(url, store.log_id, schema=schema, patience=PATIENCE)
            projector = Projector(store, [served(ps, store, views)], Leases(store.kv), ttl_s=float(argument))
            signal.signal(signal.SIGTERM, lambda *_: projector.stop())
            told: list[None] = []

            def turned(_: object) -> None:
                if projector.ready and not told:
                    told.append(None)
                    say("ready")

            projector.run(turned)
            views.close()
            store.close()
            say("stopped")


if __name__ == "__main__":
    main(*sys.argv[1:5])
