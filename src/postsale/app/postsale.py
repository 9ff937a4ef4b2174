"""PostSale: the one place where rooms are wired together. Opens the log with its keys and views; runs projections, agents, outbox.

May import everything below `app`; holds no rule of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from postsale.access import FileVault, KeyVault, Person, Unsealer, authenticate, everything, issue_token, os_user
from postsale.access.sealing import MaySee
from postsale.agents import SHIPPED, Agent
from postsale.agents.desk import Desk
from postsale.agents.engines import EmbeddedEngine, Engine
from postsale.agents.escrow import Escrow
from postsale.agents.flags import FlagSource
from postsale.agents.models import Models
from postsale.agents.readings import RunnerHealth
from postsale.agents.tools import Tool, Toolbox
from postsale.aggregates.artifacts import Mode
from postsale.app import operating, simulation
from postsale.app.directory import Directory, random_ref
from postsale.app.files import SHARES, keys_path, on_server, open_hot, open_views, shown
from postsale.app.identity import Identity
from postsale.app.proofs import Proofs
from postsale.app.provenance import Provenance, decider_name
from postsale.app.readings import Readings
from postsale.app.recorder import Recorder
from postsale.app.rounds import Rounds, RunReport, never
from postsale.app.simulation import Simulated
from postsale.app.tenant import Tenant
from postsale.audit.replay import policy_of
from postsale.errors import BadDeclaration, InvalidInput, StoreUnavailable, ViewMoved
from postsale.events import SYSTEM_TENANT, Clock, Origin, StreamId, SystemClock, check_tenant
from postsale.projections import Features, Fold, HealthModel
from postsale.projections.customer_health import CUSTOMER_HEALTH
from postsale.projections.deployments import Deployments
from postsale.projections.folding import State
from postsale.projections.hot_rows import HotRows
from postsale.projections.journal import Entry as Decision
from postsale.projections.journal import read_journal
from postsale.projections.kin import Kin
from postsale.projections.projector import Projector
from postsale.projections.runner import Runner
from postsale.projections.scoring import Scorer
from postsale.projections.targets import TARGETS, Target, by_name
from postsale.projections.views import Views
from postsale.store import (
    LeaseName,
    Leases,
    Store,
    open_store,
)
from postsale.store.leases import Lease
from postsale.store.log import Log
from postsale.store.postgres_schema import DEFAULT_SCHEMA

RUN: Final = LeaseName(SYSTEM_TENANT, "run")
"""The lease under which one process at a time does what waits."""

_RUN_TTL_S: Final = 60.0  # longer than a visit's one call of a tool; what a killed run keeps others waiting


class PostSale(Provenance, Proofs):
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
        agents: Sequence[Agent] = (),
        toolbox: Toolbox | None = None,
        health: HealthModel = CUSTOMER_HEALTH,
        scorers: Sequence[Scorer] = (),
        targets: Sequence[Target] = TARGETS,
        new_ref: Callable[[], str] = random_ref,
        may_see: MaySee = everything,
        world: Origin = Origin.LIVE,
        url: str = "memory:",
        keys: Path | None = None,
        partitions: int = 1,
        hot: HotRows | None = None,
        flags: FlagSource | None = None,
        escrow: Escrow | None = None,
    ) -> None:
        self.url = shown(url)
        self._keys = keys
        self.clock = clock
        self.model = health
        self.scorers = tuple(scorers)
        self.targets = by_name(targets)
        if isinstance(agents, Agent):
            raise BadDeclaration(what="agents", reason="expected a list of agents: agents=[…]")
        self.agents = tuple(agents)
        self.world = world
        self._running = threading.Lock()  # a runner is one thread's at a time
        self._retried = False
        self._toolbox = toolbox if toolbox is not None else Toolbox()
        self.log = Log(store, vault, clock)
        self.leases = Leases(store.kv, clock)
        self.views = views
        self.unsealer = Unsealer(vault, may_see)
        self.directory = Directory(self.log, new_ref)
        self.recorder = Recorder(self.log, self.directory)
        self.identity = Identity(self.log, self.directory)
        self.deployments = Deployments(store.kv, clock)
        self._partitions, self._hot = partitions, hot
        self._flags, self._escrow = flags, escrow
        self.runner = self.runner_of(health.features)
        self.models = Models(Desk(self.log, origin=world), self.targets)
        self._health = RunnerHealth(self.runner, health, self.deployments, scorers, self.models)
        self.readings = Readings(self.log, health, self._health)
        self.engine = self.engine_of(self.agents)

    def engine_of(self, agents: Sequence[Agent]) -> EmbeddedEngine:
        """An engine over this log for these agents. Raises BadDeclaration, PolicyInvalid."""
        return EmbeddedEngine(self.log, agents, self._toolbox, self._health, origin=self.world, flags=self._flags, escrow=self._escrow)

    @classmethod
    def open(
        cls,
        url: str = "sqlite:///postsale.db",
        *,
        agents: Sequence[Agent] = (),
        tools: Sequence[Tool] = (),
        sandbox: bool = True,
        health: HealthModel = CUSTOMER_HEALTH,
        scorers: Sequence[Scorer] = (),
        targets: Sequence[Target] = TARGETS,
        clock: Clock | None = None,
        may_see: MaySee = everything,
        new_ref: Callable[[], str] = random_ref,
        world: Origin = Origin.LIVE,
        schema: str = DEFAULT_SCHEMA,
        keys: Path | str | None = None,
        views: str | None = None,
        hot: str | None = None,
        max_connections: int = 16,
        archive: str | os.PathLike[str] | None = None,
        flags: FlagSource | None = None,
        escrow: Escrow | None = None,
    ) -> Self:
        """Open the log a URL names: `sqlite:///relative.db`, `sqlite:////absolute.db` (made when not there), `memory:`, `postgresql://…`.

        Beside `NAME.db` it keeps `NAME.keys` (0600; lose it and personal data is unreadable) and `NAME.views` (derived). A log on
        PostgreSQL is in `schema`, made by `postsale db init`; its key file is `keys`, else what POSTSALE_KEYS names; its views are
        in the database, or where `views` names: `memory:`, `sqlite:///PATH`. Its pool has at most `max_connections`; a call that
        gets none within 10 seconds raises StoreUnavailable.
        `hot` is a Redis at `redis://…` that serves rows of views (extra `redis`). On PostgreSQL four processes can fold one view.
        `scorers` are models over the features of `health`; what they say is evidence for agents (`churn_probability_ppm`, `churn_rank_ppm`).
        `targets` are what models can be trained for and activated in the log (`Tenant.models`); an active one takes its scorer's place.
        `agents` are those that may run; a new one only observes. `tools` leave the building only with `sandbox=False`.
        `flags` is where policies' flags are read, such as `OpenFeatureFlags()`; without it they have their defaults. With `escrow`
        this process reserves money from slices of budgets, and gives them back when it is closed.
        `archive` is the directory of archived chapters, if they were moved from where they were archived to.
        Raises InvalidInput, Unsupported, StoreUnavailable, KeyUnavailable, BadDeclaration, PolicyInvalid.
        """
        clock = clock or SystemClock()
        toolbox = Toolbox(tools, sandbox=sandbox)
        key_file = keys_path(url, keys)
        with ExitStack() as opened:
            # A simulation is made again, so it need not survive the machine.
            store = open_store(
                url, clock, durable=world is not Origin.SIMULATION, archive=archive, schema=schema, max_connections=max_connections
            )
            opened.callback(store.close)
            # A log with events had keys: new ones would open nothing, and would record everything a second time.
            vault = FileVault.in_memory() if key_file is None else FileVault(key_file, create=not store.head())
            opened.callback(vault.close)
            its_views = open_views(url, views, store.log_id, schema=schema)
            opened.callback(its_views.close)
            ps = cls(
                store,
                vault,
                its_views,
                clock=clock,
                agents=agents,
                toolbox=toolbox,
                health=health,
                scorers=scorers,
                targets=targets,
                new_ref=new_ref,
                may_see=may_see,
                world=world,
                url=url,
                keys=key_file,
                partitions=SHARES if on_server(views or url) else 1,
                hot=open_hot(hot, store.log_id),
                flags=flags,
                escrow=escrow,
            )
            opened.pop_all()
            return ps

    def close(self) -> None:
        """Close files. Everything acknowledged is durable already."""
        if self._escrow is not None:
            self._escrow.give_back(self.log)
        if self._hot is not None:
            self._hot.close()
        self.views.close()
        self.log.vault.close()
        self.log.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------ tenants and people

    def tenant(self, name: str) -> Tenant:
        """A tenant by name: 1 to 64 of a-z, 0-9, `.`, `_`, `-`, not beginning with `_`. It exists from its first event on."""
        if check_tenant(name).startswith("_"):
            raise InvalidInput(what="tenant", field="name", reason="names that begin with '_' belong to the system")
        return Tenant(self, name)

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

    def engine_for(self, agent: str, decision: Decision | None = None) -> EmbeddedEngine:
        """The engine that knows this agent: among those opened with, else a shipped one. InvalidInput for any other name.

        The agent of a `decision` that was made by its policy alone is made again from the policy in the log.
        """
        if agent in self.engine.agents:
            return self.engine
        if agent in SHIPPED:
            return self.engine_of([SHIPPED[agent]()])
        if decision is not None and decision.recorded.decider == decider_name(Agent):
            engine = self.engine_of([])  # to settle what it proposed, its tools need not be here
            engine.agents[agent] = Agent(policy_of(self.log, decision.stream.tenant, decision.recorded), name=agent)
            return engine
        raise InvalidInput(
            what="agent", field="name", reason=f"{agent!r} is not among the agents this log was opened with, and does not ship"
        )

    # ------------------------------------------------------------ work

    def run_once(
        self,
        *,
        agents: Sequence[Agent] | None = None,
        engine: Engine | None = None,
        everybody: bool = False,
        on_progress: Callable[[int], None] | None = None,
        wait_s: float = 90.0,
        stopped: Callable[[], bool] = never,
    ) -> RunReport:
        """Do what waits, once: catch up read models, let agents decide, send what is due. Returns what was done.

        `agents` run instead of those the log was opened with. Safe to repeat and to kill. One run at a time, among all processes:
        waits at most `wait_s` seconds for another, then raises LeaseHeld; a run that was killed is waited for a minute at most.
        `engine` makes the visits, such as a TemporalEngine over `self.engine`, whose workers do then what the report does not count; it
        is called for everybody who has anything open when another engine was before, and with `everybody`: after it lost its own store.
        `stopped` is asked before each visit: once it is True none begins, those under way come to their ends, and the next run makes the rest.
        Raises LeaseLost when this process stood still for so long that another one took over, EngineUnavailable, NotLive when there are
        agents and the health model's projection is not the version that is live: read models are caught up, nothing else was done.
        """
        if engine is not None and agents is not None:
            raise BadDeclaration(what="run_once", reason="an engine has its own agents: give one of the two")
        engine = engine or (self.engine if agents is None else self.engine_of(agents))
        known = engine.steps.agents
        with self.leases.held(RUN, ttl_s=_RUN_TTL_S, wait_s=wait_s) as lease, self._running:
            head = self.log.store.head()
            report = RunReport(folded=self._catch_up(lease))
            tenants = self.tenants()
            for tenant, agent in [(t, a) for t in tenants for a in known.values()]:
                self._downgrade(tenant, agent, report)
            if known:
                self._health.require_live()  # again at each reading: a switch may come in between
                Rounds(self.log, self.views, self.readings, engine, lease, stopped).run(tenants, report, on_progress, everybody=everybody)
        for tenant in tenants:
            report.dispositions.update(e.disposition for e in read_journal(self.log.store, tenant, after=head))
        return report

    def _downgrade(self, tenant: str, agent: Agent, report: RunReport) -> None:
        """An agent whose policy says so goes one step back by itself, before it decides anything more."""
        policy = self.tenant(tenant).policy(agent.policy.name)
        down = policy.autonomy.downgrade if policy is not None and policy.autonomy is not None else None
        if down is None or not down.automatic:
            return
        handle = self.tenant(tenant).agent(agent)
        was = handle.control
        if handle.downgrade_by_itself().version != was.version:
            report.downgraded.append((tenant, agent.name))

    def _catch_up(self, lease: Lease) -> int:
        """Facts folded. Another process that folds the same view is as good: then look again from where it has come to."""
        while True:
            try:
                if not self._retried:  # what other code could not read, this code may
                    self.runner.retry()
                    self._retried = True
                return self.runner.catch_up(on_progress=lambda _: lease.keep()).events
            except ViewMoved:
                continue

    def simulate(
        self,
        tenant: str,
        as_of: datetime,
        *,
        agents: Sequence[Agent],
        into: str | None = None,
        mode: Mode = "act",
        on_progress: Callable[[int], None] | None = None,
    ) -> Simulated:
        """Bring one tenant's past up to `as_of` into a database of its own and let agents run there as of then.

        The simulation's database is made anew at each call; this one is not changed. Only sandbox tools are reachable.
        It is a file: beside a log in a file, else in the working directory, unless `into` names another.
        Raises InvalidInput without agents, Unsupported for a log in memory.
        """
        return simulation.simulate(self, self._keys, tenant, as_of, agents=agents, into=into, mode=mode, on_progress=on_progress)

    def projections(self) -> list[dict[str, Any]]:
        """How far each read model is, which version of it is live and which build serves, and who folds it, for operators."""
        return operating.projections(self)

    def runner_of(self, features: type[Features]) -> Runner:
        """A runner of a declaration's view beside this log, for one thread, in the build that serves; see `projector`."""
        return Runner(
            self.log.store,
            self.views,
            self.model.fold if features is self.model.features else Fold(features),
            clock=self.clock,
            partitions=self._partitions,
            build=self.deployments.build_of(features.__name__),
            hot=self._hot,
            kin=Kin(self.log.store, self.views, self.log.vault),
        )

    def hot_state(self, fold: Fold, streams: Sequence[StreamId]) -> State | None:
        """What these streams' facts give now, by way of the cache; None without one, for another fold, or where views cannot be used."""
        if self._hot is None or fold.features is not self.model.features:
            return None
        try:
            return self.runner.read_state(streams).state
        except StoreUnavailable:  # a login that may read the log and no views
            return None

    def projector(self, features: Iterable[type[Features]] | None = None) -> Projector:
        """Keeps views up to date until it is stopped: of these declarations, by default of the health model's.

        For a thread or a process of its own, beside others that do the same. Needs no agents and sends nothing.
        """
        runners = [self.runner_of(one) for one in (features or (self.model.features,))]
        return Projector(self.log.store, runners, self.leases, clock=self.clock)
