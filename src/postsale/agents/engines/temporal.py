"""The Temporal engine: one workflow a customer wakes, waits, retries and times out; the log stays the truth.

Only ids and times travel through Temporal. What an activity does is a step over the log, safe to repeat; an effect is an activity of its
own under the id of its intent, and the outbox decides whether it leaves. Lose Temporal, and the log starts every workflow again.
May import the steps and what they need, and temporalio (extra `temporal`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from datetime import timedelta
from typing import Any, Final, Self, TypeVar
from uuid import UUID

from postsale.agents.engines.engine import Attended
from postsale.agents.engines.engine import Visit as ToVisit
from postsale.agents.engines.steps import Steps
from postsale.errors import EngineUnavailable, MissingExtra, PostSaleError
from postsale.events import SECOND_US, StoredEvent, StreamId
from postsale.store.leases import Lease

try:
    from temporalio import activity
    from temporalio.client import Client, WorkflowUpdateFailedError
    from temporalio.common import WorkflowIDConflictPolicy
    from temporalio.exceptions import ApplicationError
    from temporalio.runtime import Runtime, TelemetryConfig
    from temporalio.service import RPCError, RPCStatusCode
    from temporalio.worker import UnsandboxedWorkflowRunner, Worker

    from postsale.agents.engines.customer_workflow import VERSION, Customer, CustomerWorkflow, Effect, Looked, Visit
except ImportError:
    raise MissingExtra(feature="the Temporal engine", extra="temporal") from None

_IDENTITY: Final = "postsale"  # instead of the machine's and the user's name
_STICKY: Final = timedelta(seconds=1)  # a worker that died is not waited for: histories are short
_TURNED_AWAY_S: Final = 0.5
_DRAIN: Final = timedelta(minutes=2)
T = TypeVar("T")


class TemporalEngine:
    """Steps over one log, driven through a Temporal server. Use it as a context manager; safe to share between threads.

    `attend` calls a customer's workflow, `worker` does the work; any number of processes may do either.
    """

    name = f"temporal@{VERSION}"

    def __init__(
        self,
        steps: Steps,
        address: str = "127.0.0.1:7233",
        *,
        namespace: str = "default",
        heartbeat_s: float = 10.0,
        connect: Mapping[str, Any] | None = None,
    ) -> None:
        """`connect`: further arguments of `temporalio.client.Client.connect`, such as `tls` and `api_key`.

        `heartbeat_s`, at least 1: what a worker has not been heard of about for so long is begun again by another. Nothing is connected yet.
        """
        self.steps = steps
        self.address = address
        self._heartbeat_s = heartbeat_s
        self._log_id = steps.log.store.log_id
        self._queue = f"postsale-{VERSION}-{self._log_id}"
        self._link = _Link(address, {"namespace": namespace, **(connect or {})})

    def under(self, lease: Lease) -> Self:
        """The steps that are taken here are under the lease. A call of a workflow changes nothing in the log, and a second one does no harm."""
        engine = copy(self)
        engine.steps = self.steps.under(lease)
        return engine

    def workflow_id(self, stream: StreamId) -> str:
        """The id of the workflow that visits the customer of a stream."""
        return f"postsale-{VERSION}/{self._log_id}/{stream}"

    # ------------------------------------------------------------ calling

    def attend(self, stream: StreamId, cause: StoredEvent | None = None, *, since_us: int | None = None) -> Attended:
        """Have a worker visit the customer, soon and at least once: returns when Temporal has written that down. Starts the workflow.

        Raises EngineUnavailable when the server does not answer; the call may have been taken all the same.
        """
        visit = Visit(None if cause is None else str(cause.event_id), since_us)

        async def call() -> None:
            await (await self._link.client()).start_workflow(
                CustomerWorkflow.run,
                Customer(str(stream), self._heartbeat_s),
                id=self.workflow_id(stream),
                task_queue=self._queue,
                task_timeout=timedelta(seconds=self._heartbeat_s),
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="visit",
                start_signal_args=[visit],
            )

        self._link.run(call())
        return Attended()

    def attend_many(self, visits: Iterable[ToVisit]) -> Iterator[tuple[ToVisit, Attended | Exception]]:
        """As `attend`, one after another: a call is short, and what follows is done by workers."""
        for visit in visits:
            try:
                yield visit, self.attend(visit.stream, visit.cause, since_us=visit.since_us)
            except PostSaleError as error:
                yield visit, error

    def settle(self, stream: StreamId) -> None:
        """Wait until everything is done that the customer's workflow was called for. Needs a worker. Raises EngineUnavailable."""

        async def wait() -> None:
            client = await self._link.client()
            while True:
                handle = client.get_workflow_handle_for(CustomerWorkflow.run, self.workflow_id(stream))
                try:
                    if await handle.execute_update(CustomerWorkflow.settled):
                        return
                except WorkflowUpdateFailedError:
                    continue  # the run ended in between
                except RPCError as error:
                    if error.status is not RPCStatusCode.NOT_FOUND or "amespace" in error.message:
                        raise
                    return  # it is over, or never began

        self._link.run(wait())

    # ------------------------------------------------------------ working

    @contextmanager
    def worker(self, threads: int = 4) -> Iterator[None]:
        """Do steps for as long as the block lasts; at its end no new step begins and those under way are finished, for two minutes at most.

        `threads` steps at a time. Raises EngineUnavailable when the server does not answer at the start; later it is waited for.
        """
        with ThreadPoolExecutor(threads, thread_name_prefix="postsale-step") as pool:
            first = self._link.run(self._made(pool, threads))
            over = asyncio.Event()
            serving = self._link.start(self._serve(first, over, lambda: self._made(pool, threads)))
            try:
                yield
            finally:
                self._link.run(_set(over))
                serving.result()

    async def _serve(self, worker: Worker, over: asyncio.Event, again: Callable[[], Coroutine[Any, Any, Worker]]) -> None:
        """Run a worker until it is over. One that its server turned away, as a server does that is just starting, is followed by another."""
        told = asyncio.ensure_future(over.wait())
        while True:
            running = asyncio.ensure_future(worker.run())
            await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await worker.shutdown()
            await asyncio.wait({running})
            while running.exception() is not None and not over.is_set():
                await asyncio.wait({told}, timeout=_TURNED_AWAY_S)
                with suppress(RPCError, RuntimeError):
                    worker = await again()
                    break
            if over.is_set():
                return

    async def _made(self, pool: ThreadPoolExecutor, threads: int) -> Worker:
        loop = asyncio.get_running_loop()

        async def step(work: Callable[[], Looked]) -> Looked:
            doing = loop.run_in_executor(pool, work)
            while not (await asyncio.wait({doing}, timeout=self._heartbeat_s / 4))[0]:
                activity.heartbeat()
            error = doing.exception()
            if error is None:
                return doing.result()
            if isinstance(error, Exception):  # its text and its traceback may hold what Temporal must not see
                raise ApplicationError(type(error).__name__, type=type(error).__name__)
            raise error

        @activity.defn(name="postsale.visit")
        async def visit(stream: str, cause: str | None, since_us: int | None) -> Looked:
            return await step(lambda: self._visit(_stream(stream), cause, since_us))

        @activity.defn(name="postsale.effect")
        async def effect(stream: str, effect: Effect) -> Looked:
            return await step(lambda: self._effect(_stream(stream), effect))

        return Worker(
            await self._link.client(),
            task_queue=self._queue,
            workflows=[CustomerWorkflow],
            activities=[visit, effect],
            max_concurrent_activities=threads,
            workflow_runner=UnsandboxedWorkflowRunner(),  # it would guard little of what matters here, and costs a second an import
            sticky_queue_schedule_to_start_timeout=_STICKY,
            graceful_shutdown_timeout=_DRAIN,
            max_heartbeat_throttle_interval=timedelta(seconds=self._heartbeat_s / 4),
            default_heartbeat_throttle_interval=timedelta(seconds=self._heartbeat_s / 4),
            identity=_IDENTITY,
            build_id=self.name,  # else every module that is loaded is read and hashed, for a second
        )

    def _visit(self, stream: StreamId, cause: str | None, since_us: int | None) -> Looked:
        event = None if cause is None else self.steps.log.store.find(stream.tenant, UUID(cause))
        done = self.steps.visit(stream, event, since_us=since_us)
        due = [Effect(str(c.stream), str(d), str(i)) for c in done.customers for d, i in self.steps.outbox.due(c)]
        if done.troubles and not due:  # Temporal visits again; what was done is done, and effects that are due go first
            raise done.troubles[0].error
        return Looked(due, self._wait_s(stream))

    def _effect(self, stream: StreamId, effect: Effect) -> Looked:
        self.steps.outbox.send(_stream(effect.stream), UUID(effect.decision_id), UUID(effect.intent_id))
        return Looked([], self._wait_s(stream))

    def _wait_s(self, stream: StreamId) -> float | None:
        due_us = self.steps.due_us(stream)
        return None if due_us is None else (due_us - self.steps.desk.now_us()) / SECOND_US

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection. Calls that were acknowledged are Temporal's."""
        self._link.close()


class _Link:
    """A connection with the thread that its coroutines run on, made at the first use."""

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        self._address = address
        self._options = options
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: Client | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine. Raises EngineUnavailable."""
        try:
            return self.start(work).result()
        except (RPCError, RuntimeError) as error:
            reason = error.status.name if isinstance(error, RPCError) else "no connection"
            raise EngineUnavailable(engine="Temporal", address=self._address, reason=reason) from None

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """The same, without waiting."""
        with self._guard:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="postsale-temporal", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def client(self) -> Client:
        if self._client is None:
            runtime = Runtime(telemetry=TelemetryConfig(logging=None, metrics=None))
            self._client = await Client.connect(self._address, identity=_IDENTITY, runtime=runtime, **self._options)
        return self._client

    def close(self) -> None:
        with self._guard:
            loop, thread, self._loop, self._thread, self._client = self._loop, self._thread, None, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _set(event: asyncio.Event) -> None:
    event.set()


def _stream(text: str) -> StreamId:
    return StreamId(*text.split("/", 2))
