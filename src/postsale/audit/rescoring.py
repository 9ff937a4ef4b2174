"""Rescoring: the scores that a decision recorded, made again from the facts that it had read and by the models that it names.

A decision replays from its own record whatever scores now; this holds the record itself against the log. May import everything
below `audit`, but neither tools nor engines.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from postsale.aggregates import decisions as d
from postsale.errors import ReplayDiverged, UnknownDecision
from postsale.events import StreamId, decode, to_us
from postsale.projections.bulk import read_facts
from postsale.projections.folding import Fold
from postsale.projections.scoring import Scorer, as_evidence
from postsale.store.log import Log


def rescored(log: Log, tenant: str, decision_id: UUID, fold: Fold, scorer_of: Callable[[str, str, str], Scorer | None]) -> tuple[str, ...]:
    """Names of the models whose score is again the recorded one. Raises ReplayDiverged for another score, UnknownDecision.

    Left out are models that are not here, or take other features than `fold`, and all of them where the facts that were read are no
    longer those that were folded (the state's hash differs).
    """
    stored = log.store.find(tenant, decision_id)
    if stored is None or stored.wire_name != d.DecisionRecorded.wire_name:
        raise UnknownDecision(tenant=tenant, decision_id=str(decision_id))
    recorded = decode(stored).data
    assert isinstance(recorded, d.DecisionRecorded)
    named = [part.rpartition(":") for part in (recorded.model or "").split(" ")[1:]]
    models = [(name, scorer_of(tenant, name, digest)) for name, _, digest in named]
    scorers = [(name, scorer) for name, scorer in models if scorer is not None and scorer.features == fold.features.digest]
    if not scorers:
        return ()
    own, at_us = recorded.read_set[0], to_us(recorded.decided_at)
    streams = [StreamId(*ref.stream.split("/", 2)) for ref in recorded.read_set]
    facts = [f for f in read_facts(log.store, streams, kinds=fold.kinds, as_of_us=at_us) if f.position <= own.fact_position]
    state = fold.fold(facts)
    if fold.digest(state) != own.state_hash:
        return ()
    values, again = fold.finish(state, at_us), []
    for name, scorer in scorers:
        said = as_evidence(name, scorer.score(values))
        for key in said.keys() & recorded.evidence.keys():
            if said[key] != recorded.evidence[key]:
                where, was = f"evidence.{key}", str(recorded.evidence[key])
                raise ReplayDiverged(decision_id=str(decision_id), where=where, recorded=was, regenerated=str(said[key]))
        again.append(name)
    return tuple(again)
