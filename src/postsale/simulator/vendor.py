"""The vendor: its customers, lived day by day, as its five sources report them, imperfectly; and what it does about them.

    vendor = Vendor(7, customers=60, start=start)
    for day in range(vendor.days):
        for arrival in vendor.day(day): ...  # what reached us on that day
        vendor.act(effects)                  # what left for customers; they respond from the next day on

Pure: a seed gives the same story everywhere. The layers are `latent`, `account`, `money`, `product`, `voice` and `sources`; the equations
are in docs/the-simulated-vendor.md. May import `aggregates`, `events` and the simulator's layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from postsale.errors import InvalidInput
from postsale.events import to_us
from postsale.simulator import account, money, product, voice
from postsale.simulator.draws import Stream
from postsale.simulator.latent import YEAR, live, new_customer, respond
from postsale.simulator.model import ACTIONS, Action, Source, VendorModel
from postsale.simulator.sources import Arrival, Sources
from postsale.simulator.state import Customer, Happening, Tally, World
from postsale.simulator.truth import Outcome, Truth

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect that left for a customer, as what it is to that customer. `id` makes it count once."""

    id: object
    customer: str
    action: Action
    at: datetime


class Vendor:
    """A vendor with `customers` customers at the start and newcomers since, for `days` days from `start` (aware).

    The same seed and model give the same world: what an action changes is its effect, on its customer and those it invites. Days are
    lived once, in order. Raises InvalidInput for numbers below 0 and a start without a time zone.
    """

    def __init__(self, seed: int = 7, *, customers: int = 60, start: datetime, days: int = 91, model: VendorModel | None = None) -> None:
        to_us(start)
        for name, number in (("customers", customers), ("days", days)):
            if number < 0:
                raise InvalidInput(what="Vendor", field=name, reason="expected 0 or more")
        self.seed, self.customers, self.start, self.days = seed, customers, start, days
        self.model = model if model is not None else VendorModel()
        self._world = World(self.model, seed, start)
        self._sources = Sources(self._world)
        self._here = {name: new_customer(self._world, name) for name in (f"cus_{n + 1:03d}" for n in range(customers))}
        self._coming: list[tuple[int, Customer]] = []  # soonest last
        self._acts: dict[int, list[tuple[str, Action]]] = {}  # by day
        self._acted: set[object] = set()
        self._lived = 0

    # ------------------------------------------------------------ the story

    def day(self, number: int) -> list[Arrival]:
        """What reaches us on a day, by time of arrival. Days are asked for in order, each once; InvalidInput otherwise."""
        for c, happening in self._live(number):
            self._sources.take(c, happening)
        return list(self._sources.arrived(self.start + (number + 1) * _DAY))

    def arrivals(self) -> Iterator[Arrival]:
        """Every day's arrivals, of all days that are left, with nobody acting: streamed."""
        return chain.from_iterable(self.day(number) for number in range(self._lived, self.days))

    def live(self, until: int | None = None) -> None:
        """Live on to the end of the story, or to the beginning of day `until`, without making signals: for the truth alone."""
        for _ in self.story(until):
            pass

    def story(self, until: int | None = None) -> Iterator[tuple[Customer, Happening]]:
        """As `live`, and what happens to whom on the way, before any source has a word in it."""
        for number in range(self._lived, self.days if until is None else until):
            yield from self._live(number)

    # ------------------------------------------------------------ what we do about it

    def respond(self, customer: str, action: Action, at: datetime) -> None:
        """An action reaches a customer at `at`; it responds on that day, or on the next one to be lived if that is later.

        An action about a customer that is not there any more changes nothing. Raises InvalidInput for an unknown customer or action.
        """
        if customer not in self._here:
            raise InvalidInput(what="respond", field="customer", reason="expected one of this vendor's customers")
        if action not in ACTIONS:
            raise InvalidInput(what="respond", field="action", reason=f"expected one of {', '.join(ACTIONS)}")
        self._acts.setdefault(max((at - self.start).days, self._lived), []).append((customer, action))

    def act(self, effects: Iterable[Effect]) -> int:
        """Effects that left: each reaches its customer, once, however often it is handed in. How many were new."""
        new = 0
        for effect in effects:
            if effect.id not in self._acted:
                self._acted.add(effect.id)
                self.respond(effect.customer, effect.action, effect.at)
                new += 1
        return new

    # ------------------------------------------------------------ the truth

    def outcomes(self) -> dict[str, Outcome]:
        """What became of every customer so far, by its id, in the order in which they came."""
        return {name: _outcome(c) for name, c in self._here.items() if c.begun}

    def truth(self) -> Truth:
        """What all actions so far have truly changed: this world beside the same one with nobody acting, which is lived for it."""
        other = self.twin()
        other.live(self._lived)
        return Truth.of(self.outcomes(), other.outcomes())

    def effect_of(self, action: Action, *, day: int) -> Truth:
        """The true average effect of one action: on every customer there at the beginning of that day, once, in this world from its start.

        Up to the end of the story. `by_archetype` says whom it helps and whom it harms. Lives two whole stories.
        """
        acted = self.twin()
        acted.live(day)
        for name in acted.outcomes():
            acted.respond(name, action, self.start + day * _DAY)
        acted.live()
        return acted.truth()

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """How often each random process has struck, beside the mean and variance that the model gives that number.

        Expected of each day just before it, so a z beyond 4 is a fault of the program (or of a change to it), whatever the parameters.
        """
        return self._world.tallies

    @property
    def acts(self) -> tuple[tuple[int, str, Action], ...]:
        """Every action so far or to come: day, customer, action."""
        return tuple((day, *act) for day in sorted(self._acts) for act in self._acts[day])

    def silent_days(self, source: Source) -> list[int]:
        """On which days of the story the source says nothing."""
        return [day for day in range(self.days) if self._sources.silent(source, day)]

    def twin(self) -> Vendor:
        """The same world at its beginning, with nobody acting."""
        return Vendor(self.seed, customers=self.customers, start=self.start, days=self.days, model=self.model)

    # ------------------------------------------------------------ inside

    def _live(self, number: int) -> Iterator[tuple[Customer, Happening]]:
        if number != self._lived:
            raise InvalidInput(what="day", field="number", reason=f"days are lived in order, each once; the next one is {self._lived}")
        world = self._world
        world.begin(number)
        self._lived += 1
        if number % YEAR == 0:
            self._expect_newcomers(number)
        while self._coming and self._coming[-1][0] <= number:
            comes = self._coming.pop()[1]
            self._here[comes.name] = comes
            if comes.referrer is not None:
                self._here[comes.referrer].converted += 1
        today: dict[str, list[Action]] = {}
        for name, action in self._acts.get(number, ()):
            today.setdefault(name, []).append(action)
        for c in list(self._here.values()):
            if c.ended is None:
                for happening in self._customer(c, sorted(today.get(c.name, ()))):
                    yield c, happening
        if world.coming:
            self._coming = sorted([*self._coming, *world.coming], key=lambda x: (-x[0], x[1].name))
            world.coming = []

    def _customer(self, c: Customer, actions: list[Action]) -> Iterator[Happening]:
        world = self._world
        if not c.begun:
            yield from account.begin(c, world)
        news = live(c, world)
        for action in actions:
            respond(c, action, self.model, world.day)
        yield from account.people(c, world, news)
        yield from product.onboarding(c, world)
        yield from product.use(c, world)
        yield from voice.tickets(c, world)
        yield from voice.surveys(c, world)
        yield from voice.speaking_up(c, world)
        yield from account.contract(c, world)
        if c.ended is None:
            yield from account.growth(c, world)
            yield from money.charges(c, world)

    def _expect_newcomers(self, number: int) -> None:
        """The year's newcomers; how many there are and when they come does not depend on how long the story is."""
        year, new = number // YEAR, round(self.customers * self.model.growth_per_year)
        for n in range(year * new, (year + 1) * new):
            name = f"new_{n + 1:03d}"
            joined = number + Stream(self.seed, "newcomer", name).of("comes").whole(YEAR)
            self._coming.append((joined, new_customer(self._world, name, joined)))
        self._coming.sort(key=lambda x: (-x[0], x[1].name))


def _outcome(c: Customer) -> Outcome:
    running = c.ended is None and c.trial_until is None and c.paused_until is None
    return Outcome(
        archetype=c.archetype.name,
        joined=c.joined,
        ended=c.ended,
        avoidable=c.avoidable,
        due=c.due,
        renewed=c.renewed,
        mrr_minor=c.mrr_minor if running else 0,
        collected_minor=c.collected_minor,
        invited=c.invited,
        converted=c.converted,
        satisfaction=c.satisfaction,
        acted=dict(c.acted),
    )
