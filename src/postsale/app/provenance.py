"""The part of a log that says what stands behind a decision: its stream, its code, its models. Part of the wiring, as `postsale`."""

from __future__ import annotations

from uuid import UUID

from postsale.agents import SHIPPED, Agent
from postsale.agents.agent import decider_digest
from postsale.agents.models import Models
from postsale.aggregates.decisions import UndoOrdered
from postsale.errors import UnknownDecision
from postsale.events import StreamId, decode
from postsale.projections.journal import read_journal
from postsale.projections.scoring import Scorer
from postsale.store.log import Log


class Provenance:
    """What `PostSale` inherits; never made alone."""

    log: Log
    agents: tuple[Agent, ...]
    models: Models
    scorers: tuple[Scorer, ...]

    def installed_digest(self, tenant: str, decision_id: UUID) -> str:
        """The digest of the installed code of the class that took a decision; "" when that class is not here."""
        stream = self.decision_stream(tenant, decision_id)
        (entry,) = (e for e in read_journal(self.log.store, tenant, (stream,)) if e.id == decision_id)
        here: list[type[Agent]] = [Agent, *SHIPPED.values(), *(type(agent) for agent in self.agents)]
        return next((decider_digest(cls) for cls in here if decider_name(cls) == entry.recorded.decider), "")

    def decision_stream(self, tenant: str, decision_id: UUID) -> StreamId:
        """The customer's stream that holds a decision. Raises UnknownDecision."""
        stored = self.log.store.find(tenant, decision_id)
        if stored is None or stored.kind != "agent/decision-recorded":
            raise UnknownDecision(tenant=tenant, decision_id=str(decision_id))
        return stored.stream

    def decision_of(self, tenant: str, id_: UUID) -> UUID:
        """The decision that an id names: itself, or the one of which an order to take back took an effect."""
        stored = self.log.store.find(tenant, id_)
        event = decode(stored).data if stored is not None and stored.wire_name == UndoOrdered.wire_name else None
        return event.decision_id if isinstance(event, UndoOrdered) else id_

    def scoring(self, tenant: str) -> tuple[Scorer, ...]:
        """What scores for agents of a tenant now: the models that are active in its log, then those the log was opened with."""
        active = self.models.active(tenant).scorers
        names = {scorer.name for scorer in active}
        return (*active, *(scorer for scorer in self.scorers if scorer.name not in names))

    def scorer_of(self, tenant: str, name: str, digest: str) -> Scorer | None:
        """The model of exactly this digest, which a decision names: from the log, else among those the log was opened with."""
        return self.models.scorer(tenant, name, digest) or next((s for s in self.scorers if s.digest == digest), None)


def decider_name(cls: type[Agent]) -> str:
    """How decisions name the class that took them: module:qualname."""
    return f"{cls.__module__}:{cls.__qualname__}"
