"""PostSale: the one place where rooms are wired together. Opens the log with its keys and views; runs projections, agents, outbox.

May import everything below `app`; holds no rule of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from postsale.access import FileVault, KeyVault, Person, Unsealer, authenticate, everything, issue_token, os_user
from postsale.access.sealing import MaySee
from postsale.app.directory import Directory, random_ref
from postsale.app.identity import Identity
from postsale.app.recorder import Recorder
from postsale.app.tenant import Tenant
from postsale.errors import UnknownDecision
from postsale.events import Clock, StreamId, SystemClock, check_tenant
from postsale.projections.customer_health import CUSTOMER_HEALTH
from postsale.projections.health import HealthModel
from postsale.projections.views import MemoryViews, SqliteViews, Views
from postsale.store import Store, VerifyReport, open_store, verify
from postsale.store.log import Log


class PostSale:
    """An open log of signals and decisions. Use it as a context manager; safe to share between threads.

    Nothing runs in the background: `run_once` does the work of projections, agents and outbox when you call it.
    """

    def __init__(
        self,
        store: Store,
        vault: KeyVault,
        views: Views,
        *,
        clock: Clock,
        health: HealthModel = CUSTOMER_HEALTH,
        new_ref: Callable[[], str] = random_ref,
        may_see: MaySee = everything,
    ) -> None:
        self.clock = clock
        self.model = health
        self.log = Log(store, vault, clock)
        self.views = views
        self.unsealer = Unsealer(vault, may_see)
        self.directory = Directory(self.log, new_ref)
        self.recorder = Recorder(self.log, self.directory)
        self.identity = Identity(self.log, self.directory)

    @classmethod
    def open(
        cls,
        url: str = "sqlite:///postsale.db",
        *,
        health: HealthModel = CUSTOMER_HEALTH,
        clock: Clock | None = None,
        may_see: MaySee = everything,
    ) -> Self:
        """Open, or create, the log a URL names: `sqlite:///relative.db`, `sqlite:////absolute.db`, or `memory:`.

        Beside `NAME.db` it keeps `NAME.keys` (0600; lose it and personal data is unreadable) and `NAME.views` (derived).
        Raises Unsupported, StoreUnavailable, KeyUnavailable.
        """
        clock = clock or SystemClock()
        store = open_store(url, clock)
        try:
            if url == "memory:":
                return cls(store, FileVault.in_memory(), MemoryViews(), clock=clock, health=health, may_see=may_see)
            path = Path(url.partition(":///")[2])
            vault = FileVault(path.with_suffix(".keys"))
            views = SqliteViews(path.with_suffix(".views"), store.log_id)
            return cls(store, vault, views, clock=clock, health=health, may_see=may_see)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Close files. Everything acknowledged is durable already."""
        self.views.close()
        self.log.vault.close()
        self.log.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------ tenants and people

    def tenant(self, name: str) -> Tenant:
        """A tenant by name: 1 to 64 of a-z, 0-9, `.`, `_`, `-`. It exists from its first event on."""
        return Tenant(self, check_tenant(name))

    def tenants(self) -> list[str]:
        """Tenants that have events, by name."""
        return [name for name in self.log.store.tenants() if not name.startswith("_")]

    def person(self, by: Person | None) -> Person:
        """The person given, else the owner of this process according to the operating system."""
        return by if by is not None else os_user()

    def authenticate(self, token: str) -> Person:
        """The person an access token was issued to; NotAllowed for any other token."""
        return authenticate(self.log.vault, token)

    def issue_token(self, login: str) -> str:
        """A new access token for a person. Shown once: only its digest is kept."""
        return issue_token(self.log.vault, login)

    def decision_stream(self, tenant: str, decision_id: UUID) -> StreamId:
        """The customer's stream that holds a decision. Raises UnknownDecision."""
        stored = self.log.store.find(tenant, decision_id)
        if stored is None or stored.kind != "agent/decision-recorded":
            raise UnknownDecision(tenant=tenant, decision_id=str(decision_id))
        return stored.stream

    # ------------------------------------------------------------ proofs

    def verify(self, on_progress: Callable[[int], None] | None = None) -> VerifyReport:
        """Recompute every leaf from stored bytes and name every event that is not what was recorded."""
        return verify(self.log.store, on_progress)
