"""Work on customers, one or many at a time: each is a generator that yields what it wants done and receives what came of it.

Driven alone, every want is done at once; driven together, the wants of a step share one read and one append, and calls are made side by
side. What is done, and its order for one customer, is the same either way. Nothing is decided here. May import the store and events.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from itertools import islice
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from postsale.aggregates.customer import CustomerAggregate
from postsale.errors import ConditionFailed, ContentConflict, VersionConflict
from postsale.events import StreamId
from postsale.store.contract import Condition
from postsale.store.log import Draft

TOGETHER: Final = 128  # customers that are visited side by side: each step waits for a few flushes of a disk
CALLS: Final = 32  # effects that may have left, with no result yet, when the process dies
UNSAFE: Final = 2  # the room that a call takes which must not be made again: half as many may go to people then
CONFLICTS: Final = (ContentConflict, VersionConflict, ConditionFailed)
T = TypeVar("T")


class Load(NamedTuple):
    """The customer of a stream, folded on from `held`."""

    stream: StreamId
    held: CustomerAggregate | None


class Append(NamedTuple):
    """Decision-lane events, each with its stream and the version it follows, stored all or none."""

    parts: tuple[tuple[StreamId, int, Draft], ...]
    conditions: tuple[Condition, ...]


class Claimed(NamedTuple):
    """A call of a tool that is claimed in the log. `do` touches nothing but the tool."""

    do: Callable[[], Any]


class Room(NamedTuple):
    """Leave to claim a call, of `CALLS` in all, given when others that are under way have been recorded. `Room(0)` gives it back."""

    taken: int


Want = Load | Append | Claimed | Room
Work = Generator[Want, Any, T]
"""A generator that yields wants and returns T."""


class Door(Protocol):
    """What wants are done through. A failure is returned in its place, so that it is nobody else's."""

    def begin(self) -> None:
        """A new step: what was read for the one before may have changed."""

    def load(self, wants: Sequence[Load]) -> Sequence[Any]: ...

    def store(self, wants: Sequence[Append]) -> Sequence[Any]: ...


def load(stream: StreamId, held: CustomerAggregate | None = None) -> Work[CustomerAggregate]:
    """The customer now."""
    found: CustomerAggregate = yield Load(stream, held)
    return found


def alone(door: Door, work: Work[T]) -> T:
    """Do one work to its end. Raises what it raises."""
    answer: Any = None
    while True:
        door.begin()
        try:
            want = _resume(work, answer)
        except StopIteration as end:
            result: T = end.value
            return result
        match want:
            case Claimed(do):
                answer = _outcome(do)
            case Room():
                answer = None
            case _:
                answer = _now(door, want)


def together(door: Door, works: Iterable[Work[T]], *, width: int = TOGETHER, calls: int = CALLS) -> Iterator[tuple[int, T | Exception]]:
    """Do many works, `width` at a time, `calls` of tools at a time (half, of unsafe ones): the number of each and what it returned or raised, as they end.

    Whose append met a conflict goes on alone until one of its own is stored: they do not wear each other out. `works` is asked
    for the next one only when there is room for it. Read it to its end: effects that have left are recorded by going on.
    """
    with ThreadPoolExecutor(calls, thread_name_prefix="postsale-call") as pool:
        yield from _Together(door, works, width, calls, pool).run()


class _Running(Generic[T]):
    __slots__ = ("no", "room", "work")

    def __init__(self, no: int, work: Work[T]) -> None:
        self.no = no
        self.work = work
        self.room = 0


class _Together(Generic[T]):
    def __init__(self, door: Door, works: Iterable[Work[T]], width: int, calls: int, pool: ThreadPoolExecutor) -> None:
        self._door = door
        self._works = iter(works)
        self._width = width
        self._calls = self._room = calls
        self._pool = pool
        self._begun = 0
        self._ready: list[tuple[_Running[T], Any]] = []
        self._calling: dict[Future[Any], _Running[T]] = {}
        self._queue: list[tuple[_Running[T], int]] = []  # for room
        self._over: list[tuple[int, T | Exception]] = []

    def run(self) -> Iterator[tuple[int, T | Exception]]:
        while True:
            self._fill()
            if not self._ready:
                if not self._calling:
                    return
                wait(self._calling, return_when=FIRST_COMPLETED)
            for future in [f for f in self._calling if f.done()]:
                self._ready.append((self._calling.pop(future), _outcome(future.result)))
            self._step()
            yield from self._over
            self._over = []

    def _fill(self) -> None:
        free = self._width - len(self._ready) - len(self._calling) - len(self._queue)
        if free < self._width // 4 and (self._ready or self._calling):
            return  # works that begin together share their first read
        for work in islice(self._works, free):
            self._ready.append((_Running(self._begun, work), None))
            self._begun += 1

    def _step(self) -> None:
        """Let everybody who is ready say what is wanted next, and do it all."""
        ready, self._ready = self._ready, []
        loads: list[tuple[_Running[T], Load]] = []
        appends: list[tuple[_Running[T], Append]] = []
        self._door.begin()
        for running, answer in ready:
            match self._next(running, answer):
                case Load() as want:
                    loads.append((running, want))
                case Append() as want:
                    appends.append((running, want))
        if loads:
            self._ready += zip((running for running, _ in loads), self._door.load([want for _, want in loads]), strict=True)
        if not appends:
            return
        again: list[tuple[_Running[T], Any]] = []
        for (running, _), outcome in zip(appends, self._door.store([want for _, want in appends]), strict=True):
            (again if isinstance(outcome, CONFLICTS) else self._ready).append((running, outcome))
        for running, outcome in again:
            self._alone(running, outcome)

    def _alone(self, running: _Running[T], answer: Any) -> None:
        while True:
            self._door.begin()
            want = self._next(running, answer)
            if want is None:
                return
            answer = _now(self._door, want)
            if isinstance(want, Append) and not isinstance(answer, CONFLICTS):
                self._ready.append((running, answer))
                return

    def _next(self, running: _Running[T], answer: Any) -> Load | Append | None:
        """Resume a work; None when it is over, calls, or waits for room."""
        try:
            want = _resume(running.work, answer)
        except StopIteration as end:
            self._end(running, end.value)
        except Exception as error:
            self._end(running, error)
        else:
            match want:
                case Claimed(do):
                    self._calling[self._pool.submit(copy_context().run, do)] = running
                case Room(taken) if taken:
                    self._queue.append((running, min(taken, self._calls)))
                    self._give_room()
                case Room():
                    self._take_room(running)
                    self._ready.append((running, None))
                case _:
                    return want
        return None

    def _end(self, running: _Running[T], result: T | Exception) -> None:
        self._take_room(running)
        self._over.append((running.no, result))

    def _give_room(self) -> None:
        """In the order in which they asked: who needs more than is left keeps those behind waiting, or would wait for ever."""
        while self._queue and self._queue[0][1] <= self._room:
            running, units = self._queue.pop(0)
            running.room = units
            self._room -= units
            self._ready.append((running, None))

    def _take_room(self, running: _Running[T]) -> None:
        self._room, running.room = self._room + running.room, 0
        self._give_room()


def _resume(work: Work[Any], answer: Any) -> Want:
    return work.throw(answer) if isinstance(answer, Exception) else work.send(answer)


def _now(door: Door, want: Load | Append) -> Any:
    return (door.load([want]) if isinstance(want, Load) else door.store([want]))[0]


def _outcome(do: Callable[[], Any]) -> Any:
    try:
        return do()
    except Exception as error:
        return error
