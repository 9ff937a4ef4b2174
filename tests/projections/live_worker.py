"""One process among several over one log and its views, run by test_live_faults.

python -m …live_worker URL SCHEMA VIEWS ROLE ARGUMENT      SCHEMA is - for a log in a file; VIEWS is its file of views, or - on a server

write SEED        append 40 times 25 facts, told one line each
rebuild COMMITS   rebuild the view beside the one that serves, and kill itself after so many commits; 0: to the end
full BYTES        rebuild while no file may grow beyond so many bytes, as on a full disk; says the error
project TTL_S     keep the view up to date until SIGTERM; says "ready" when it is
"""

from __future__ import annotations

import os
import resource
import signal
import sys

from postsale.errors import StoreUnavailable
from postsale.events import SECOND_US, SystemClock
from postsale.projections import CustomerHealth, Fold, Projector, Runner, SqliteViews, Views
from postsale.projections.deployments import Deployments
from postsale.projections.views_postgres import PostgresViews
from postsale.store import Leases, Store, open_store
from postsale.store.postgres import PostgresStore
from postsale.store.postgres_link import Patience

from .logs import Facts

BATCH = 150
PATIENCE = Patience(idle=2.0)  # with a process that stands still in the middle of a transaction


class Later(SystemClock):
    """A minute from now, when the lease of whoever was killed is over."""

    def now_us(self) -> int:
        return super().now_us() + 60 * SECOND_US


def opened(url: str, schema: str, views: str) -> tuple[Store, Views]:
    if schema == "-":
        store: Store = open_store(url, durable=False)
        return store, SqliteViews(views, store.log_id)
    store = PostgresStore(url, schema=schema, patience=PATIENCE)
    return store, PostgresViews(url, store.log_id, schema=schema, patience=PATIENCE)


def runner_of(store: Store, views: Views, partitions: int) -> Runner:
    build = Deployments(store.kv).build_of("CustomerHealth")
    return Runner(store, views, Fold(CustomerHealth), batch=BATCH, partitions=partitions, build=build)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(url: str, schema: str, where: str, role: str, argument: str) -> None:
    store, views = opened(url, schema, where)
    runner = runner_of(store, views, 1 if schema == "-" else 4)
    if role == "write":
        facts = Facts(int(argument))
        for _ in range(40):
            say(str(facts.append(store, 25)))
    elif role == "rebuild":
        left = int(argument)

        def committed(_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        leases = Leases(store.kv, None if left else Later())
        done = Deployments(store.kv).rebuild(store, runner, leases, on_progress=committed)
        say(f"{done.progress.from_position} {done.serves}")
    elif role == "full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(argument), resource.RLIM_INFINITY))
        try:
            Deployments(store.kv).rebuild(store, runner, Leases(store.kv))
            say("rebuilt")
        except StoreUnavailable as error:
            say(str(error))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    elif role == "project":
        projector = Projector(store, [runner], Leases(store.kv), ttl_s=float(argument))
        signal.signal(signal.SIGTERM, lambda *_: projector.stop())
        said = False

        def turned(_: object) -> None:
            nonlocal said
            if projector.ready and not said:
                said = True
                say("ready")

        projector.run(turned)
        say("stopped")
    views.close()
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:6])
