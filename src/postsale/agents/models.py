"""Models in the log: published and activated by people, on `tenant/models/<name>`, as policies are; which one scores now, and which did.

Lives here: the history of a model's stream, changes to it, the cards that are active. Not here: whether a card may be activated
(`app` knows what is live), scoring. May import the desk and what is below it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from postsale.access import Person
from postsale.agents.control import require_person, require_reason
from postsale.agents.desk import TRIES, Desk
from postsale.aggregates.artifacts import MODELS, ArtifactActivated, ArtifactPublished, ArtifactRetired, content_digest, model_stream
from postsale.errors import ContentConflict, UnknownModel, VersionConflict
from postsale.events import Event, Lane, Recorded, StreamId, derive_id
from postsale.projections.model_card import OTHER_SCORES, CardScorer, ModelCard
from postsale.projections.targets import Target
from postsale.store.contract import Query
from postsale.store.log import Cause

_LEAST_PREFIX: Final = 6


@dataclass(frozen=True, slots=True)
class Published:
    """A version of a model in the log, with the person who published it."""

    card: ModelCard
    digest: str
    published_us: int
    by: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A change of what scores. `digest` is "" when it was retired."""

    digest: str
    at_us: int
    approver: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelHistory:
    """What a model's stream says: every version that was published, oldest first, and every change of what scores."""

    name: str
    version: int = 0  # of the stream
    published: tuple[Published, ...] = ()
    turns: tuple[Turn, ...] = ()

    @property
    def active(self) -> Published | None:
        """The version that scores now; None when there is none, or it was retired."""
        return self.find(self.turns[-1].digest) if self.turns and self.turns[-1].digest else None

    def find(self, digest: str) -> Published | None:
        """The version with exactly this digest."""
        return next((p for p in self.published if p.digest == digest), None)


class Held(NamedTuple):
    """The stream of a model's name and its version when it was read: what a decision that read it holds on to."""

    name: str
    stream: StreamId
    version: int


@dataclass(frozen=True, slots=True)
class ActiveModels:
    """What scores in one tenant, at one time: the cards, and the streams that say so."""

    scorers: tuple[CardScorer, ...] = ()
    held: tuple[Held, ...] = ()


NO_MODELS: Final = ActiveModels()


class Models:
    """The models of one log. Safe to share between threads: caches only ever hold what the log said."""

    def __init__(self, desk: Desk, targets: Mapping[str, Target]) -> None:
        """Names of `targets`, and of models of purchases, are on offer as evidence."""
        self._desk = desk
        self._targets = targets
        self.names = tuple(sorted({*targets, *OTHER_SCORES}))
        self._known: dict[StreamId, ModelHistory] = {}
        self._cards: dict[str, ModelCard] = {}

    def active(self, tenant: str, *, known_at_us: int | None = None) -> ActiveModels:
        """The cards that score in a tenant now, or as it was known at a time, in order of their names."""
        streams = [model_stream(tenant, name) for name in self.names]
        if not streams:
            return NO_MODELS
        versions = self._desk.log.store.versions(streams)
        histories = [self._at(s, v, known_at_us) for s, v in zip(streams, versions, strict=True)]
        scorers = tuple(self._scorer(h.active.card, h.active.digest) for h in histories if h.active is not None)
        return ActiveModels(scorers, tuple(Held(h.name, s, v) for h, s, v in zip(histories, streams, versions, strict=True)))

    def history(self, tenant: str, name: str) -> ModelHistory:
        """What was published and activated under a name."""
        stream = model_stream(tenant, name)
        return self._at(stream, self._desk.log.store.versions([stream])[0], None)

    def published_names(self, tenant: str) -> list[str]:
        """Names under which something was published, sorted."""
        query = Query(tenant=tenant, category=MODELS, lane=Lane.DECISION, kinds=frozenset({ArtifactPublished.wire_name.partition("@")[0]}))
        return sorted({stored.stream.id for stored in self._desk.log.store.read(query)})

    def find(self, tenant: str, name: str, digest: str) -> Published:
        """The version of a name whose digest begins so. UnknownModel when there is none, or more than one."""
        found = [p for p in self.history(tenant, name).published if p.digest.startswith(digest.lower())]
        if len(found) != 1 or len(digest) < _LEAST_PREFIX:
            raise UnknownModel(tenant=tenant, model=f"{name[:64]!r} with the digest {digest[:64]!r} (6 digits of one version at least)")
        return found[0]

    def scorer(self, tenant: str, name: str, digest: str) -> CardScorer | None:
        """The model of exactly this digest, which a decision names, whatever is active; None when the log has none, or its target is another by now."""
        found = self.history(tenant, name).find(digest)
        scorer = None if found is None else self._scorer(found.card, digest)
        return scorer if scorer is not None and scorer.of_this_target else None

    def cards(self, tenant: str) -> dict[str, CardScorer]:
        """Every version that the log has, by digest, but for those whose target is another by now."""
        published = (one for name in self.published_names(tenant) for one in self.history(tenant, name).published)
        return {one.digest: scorer for one in published if (scorer := self._scorer(one.card, one.digest)).of_this_target}

    def _scorer(self, card: ModelCard, digest: str) -> CardScorer:
        return CardScorer(card, digest, self._targets.get(card.name))

    # ------------------------------------------------------------ changes

    def publish(self, tenant: str, card: ModelCard, *, person: Person, reason: str) -> bool:
        """Put a version into the log; False when it is there already. Nothing scores by it until it is activated."""
        who = require_person(person, "publish models")
        require_reason(reason, "model")
        event = ArtifactPublished(of="model", name=card.name, digest=card.digest, content=card.content)
        return self._change(tenant, card.name, lambda h: () if h.find(card.digest) else (event,), who)

    def activate(self, tenant: str, published: Published, *, person: Person, reason: str) -> bool:
        """Make a published version the one that scores; False when it is already. Whoever calls has checked that it may."""
        who, why, card = require_person(person, "activate models"), require_reason(reason, "model"), published.card
        event = ArtifactActivated(
            of="model", name=card.name, digest=published.digest, owner=card.model.owner, approver=who.login, reason=why
        )  # fmt: skip
        return self._change(tenant, card.name, lambda h: () if h.active == published else (event,), who)

    def retire(self, tenant: str, name: str, *, person: Person, reason: str) -> bool:
        """Let no version of a name score any more; False when none did."""
        who, why = require_person(person, "retire models"), require_reason(reason, "model")

        def change(history: ModelHistory) -> tuple[Event, ...]:
            if history.active is None:
                return ()
            return (ArtifactRetired(of="model", name=name, digest=history.active.digest, approver=who.login, reason=why),)

        return self._change(tenant, name, change, who)

    def _change(self, tenant: str, name: str, change: Callable[[ModelHistory], Sequence[Event]], person: Person) -> bool:
        stream = model_stream(tenant, name)
        for attempt in range(1, TRIES + 1):
            history = self.history(tenant, name)
            events = change(history)
            if not events:
                return False
            ids = [(e, derive_id(stream, history.version + i, e.wire_name)) for i, e in enumerate(events)]
            try:
                self._desk.append_to(stream, history.version, ids, Cause(actor=person.actor, origin=self._desk.origin))
            except (ContentConflict, VersionConflict):
                if attempt == TRIES:
                    raise
                continue
            return True
        raise AssertionError("unreachable")

    # ------------------------------------------------------------ reading

    def _at(self, stream: StreamId, version: int, known_at_us: int | None) -> ModelHistory:
        if not version:
            return ModelHistory(stream.id)
        if known_at_us is None and (known := self._known.get(stream)) is not None and known.version == version:
            return known
        query = Query(tenant=stream.tenant, streams=(stream,), lane=Lane.DECISION, known_at_us=known_at_us)
        history = ModelHistory(stream.id)
        for recorded in self._desk.log.events(query):
            history = self._evolve(history, recorded)
        if known_at_us is None:
            self._known[stream] = history
        return history

    def _evolve(self, h: ModelHistory, recorded: Recorded[Event]) -> ModelHistory:
        stored, event = recorded.stored, recorded.data
        h = replace(h, version=stored.version)
        match event:
            case ArtifactPublished(digest=digest, content=content) if content_digest(content) == digest:
                card = self._cards.setdefault(digest, ModelCard.from_json(content))
                new = Published(card, digest, stored.recorded_at_us, recorded.header.actor.id)
                return replace(h, published=(*h.published, new))
            case ArtifactActivated(digest=digest, approver=approver, reason=reason):
                return replace(h, turns=(*h.turns, Turn(digest, stored.recorded_at_us, approver, reason)))
            case ArtifactRetired(approver=approver, reason=reason):
                return replace(h, turns=(*h.turns, Turn("", stored.recorded_at_us, approver, reason)))
        return h
