"""The workflow of one customer: visits one after another, its effects one after another, then it sleeps until something is due.

It knows ids and times, and decides nothing: what is to be done is read from the log by the activities. So it can be thrown away and
started again from the log. The names and fields here are what running workflows were started with: a change that replays differently is a new
VERSION, which has its own workflows and workers. May import temporalio, and nothing of postsale.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from temporalio import workflow
from temporalio.common import RetryPolicy

VERSION: Final = 1
VISITS: Final = 100
"""Visits of one run of a workflow; then it continues as new, so that no history grows without bound."""

_BLOCKED_S: Final = 60.0  # what is due and does not leave waits for a person or a tool: looked at again
_SHORTEST_S: Final = 0.01
_LONGEST: Final = timedelta(days=365)
_ONE_STEP: Final = timedelta(hours=1)  # a worker that stopped is found by its heartbeats
_RETRY: Final = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(minutes=5))


@dataclass(frozen=True)
class Visit:
    """A reason to look: the id of the event that it is about, none for time passing since `since_us`."""

    cause: str | None = None
    since_us: int | None = None


@dataclass(frozen=True)
class Effect:
    """An effect that may leave: where it was decided, and its intent, whose id is the key that the tool gets."""

    stream: str
    decision_id: str
    intent_id: str


@dataclass(frozen=True)
class Looked:
    """What a visit left to do: effects now, and when to look again, in seconds from then."""

    effects: list[Effect] = field(default_factory=list)
    wait_s: float | None = None


@dataclass(frozen=True)
class Customer:
    """What a workflow is started with, and carries over when it continues as new."""

    stream: str
    heartbeat_s: float
    visits: list[Visit] = field(default_factory=list)


@workflow.defn(name=f"postsale.customer@{VERSION}")
class CustomerWorkflow:
    """See the module."""

    @workflow.init
    def __init__(self, customer: Customer) -> None:
        self._customer = customer
        self._visits = list(customer.visits)
        self._idle = False
        self._over = False
        self._wait_s: float | None = None

    @workflow.run
    async def run(self, customer: Customer) -> None:
        for _ in range(VISITS):
            if not self._visits and not await self._sleep():
                break
            visit, *self._visits = self._visits or [Visit()]
            await self._attend(visit)
            if workflow.info().is_continue_as_new_suggested():
                break
        self._over = True  # whoever waits asks the next run
        await workflow.wait_condition(workflow.all_handlers_finished)
        if self._visits or self._wait_s is not None:
            visits = self._visits or [Visit()]
            workflow.continue_as_new(Customer(customer.stream, customer.heartbeat_s, visits))

    async def _sleep(self) -> bool:
        """Until somebody calls or something is due; False when nothing ever will be."""
        if self._wait_s is None:
            return False
        self._idle = True
        with suppress(TimeoutError):
            await workflow.wait_condition(lambda: bool(self._visits), timeout=min(timedelta(seconds=self._wait_s), _LONGEST))
        self._idle = False
        return True

    async def _attend(self, visit: Visit) -> None:
        looked = await self._step("postsale.visit", [self._customer.stream, visit.cause, visit.since_us])
        for effect in looked.effects:
            looked = await self._step("postsale.effect", [self._customer.stream, effect], effect.intent_id)
        self._wait_s = looked.wait_s
        if self._wait_s is not None:
            self._wait_s = _BLOCKED_S if self._wait_s <= 0 else max(self._wait_s, _SHORTEST_S)

    async def _step(self, name: str, args: list[object], id_: str | None = None) -> Looked:
        looked: Looked = await workflow.execute_activity(
            name,
            args=args,
            result_type=Looked,
            activity_id=id_,
            start_to_close_timeout=_ONE_STEP,
            heartbeat_timeout=timedelta(seconds=self._customer.heartbeat_s),
            retry_policy=_RETRY,
        )
        return looked

    @workflow.signal
    def visit(self, visit: Visit) -> None:
        """Look at the customer once more; the same reason that waits already is no second one."""
        if visit not in self._visits:
            self._visits.append(visit)

    @workflow.update
    async def settled(self) -> bool:
        """Return True when everything that this workflow was called for is done; False: it ended before, ask its next run."""
        await workflow.wait_condition(lambda: self._over or (self._idle and not self._visits))
        return self._idle and not self._over
