"""Closing the loop: effects that really left, read from the log, as what they are to the vendor's customers.

    left = EffectsLeft(ps, "acme")
    ...
    ps.run_once()
    vendor.act(left.new())

Reads the decision lane once, event by event. May import `app` and everything below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from postsale.aggregates.decisions import DecisionRecorded, EffectSucceeded
from postsale.app import PostSale
from postsale.events import Lane, from_us
from postsale.simulator.model import Action
from postsale.simulator.vendor import Effect
from postsale.store.contract import Query

_KINDS = frozenset({"agent/decision-recorded", "effect/succeeded"})


class Meaning(NamedTuple):
    """A tool's call that is an action to the customer: the tool's name, and a word that its template, title, text or terms must hold."""

    tool: str  # without version
    word: str  # in lower case
    action: Action


MEANINGS: tuple[Meaning, ...] = (
    Meaning("billing.offer_credit", "seats", "upsell-offer"),
    Meaning("billing.offer_credit", "", "offer"),
    Meaning("email.send", "payment", "payment-reminder"),
    Meaning("email.send", "onboarding", "onboarding-nudge"),
    Meaning("email.send", "invite-", "referral-invitation"),
    Meaning("email.send", "referral-thanks", "outreach"),
    Meaning("email.send", "referral", "referral-invitation"),
    Meaning("email.send", "upsell", "upsell-offer"),
    Meaning("email.send", "seats", "upsell-offer"),
    Meaning("email.send", "next-plan", "upsell-offer"),
    Meaning("email.send", "goes-with-it", "upsell-offer"),
    Meaning("email.send", "", "outreach"),
    Meaning("crm.create_task", "payment", "payment-reminder"),
    Meaning("crm.create_task", "renewal", "renewal-call"),
    Meaning("crm.create_task", "cancellation", "renewal-call"),
    Meaning("crm.create_task", "onboarding", "onboarding-nudge"),
    Meaning("crm.create_task", "working session", "onboarding-nudge"),
    Meaning("crm.create_task", "upsell", "upsell-offer"),
    Meaning("crm.create_task", "seats", "upsell-offer"),
    Meaning("crm.create_task", "", "health-check-call"),
)
"""What calls of the shipped policies' tools mean; the first that fits counts. A tool that none names is nothing to a customer."""


class EffectsLeft:
    """The effects of a tenant's agents that tools took, since the last look. `meanings` of your own come before the shipped ones."""

    def __init__(self, ps: PostSale, tenant: str, *, meanings: tuple[Meaning, ...] = ()) -> None:
        self._ps, self._tenant = ps, tenant
        self._meanings = (*meanings, *MEANINGS)
        self._after = 0
        self._names: dict[str, str] = {}
        self._intents: dict[UUID, tuple[str, str, dict[str, Any]]] = {}  # intent -> customer's reference, tool, arguments

    def new(self) -> list[Effect]:
        """What has left since the last call, in the order of the log. An effect whose customer nobody may name is left out."""
        found = list(self._left())
        if any(ref not in self._names for ref, *_ in found):
            self._names = self._ps.tenant(self._tenant).names()
        made = (self._effect(self._names.get(ref), id_, tool, arguments, at_us) for ref, id_, tool, arguments, at_us in found)
        return [effect for effect in made if effect is not None]

    def _left(self) -> Iterator[tuple[str, UUID, str, dict[str, Any], int]]:
        query = Query(tenant=self._tenant, lane=Lane.DECISION, kinds=_KINDS, after=self._after)
        for recorded in self._ps.log.events(query, self._ps.unsealer):
            self._after = recorded.stored.position
            event = recorded.data
            if isinstance(event, DecisionRecorded):
                whole = orjson.loads(event.arguments) if isinstance(event.arguments, str) else [{} for _ in event.intents]
                for intent, arguments in zip(event.intents, whole, strict=True):
                    self._intents[intent.intent_id] = (recorded.stored.stream.id, intent.tool, arguments)
            elif isinstance(event, EffectSucceeded) and event.intent_id in self._intents:
                customer, tool, arguments = self._intents.pop(event.intent_id)
                yield customer, event.intent_id, tool, arguments, recorded.stored.occurred_at_us

    def _effect(self, customer: str | None, id_: UUID, tool: str, arguments: dict[str, Any], at_us: int) -> Effect | None:
        said = " ".join(str(arguments[k]) for k in ("template", "title", "text", "terms") if k in arguments).lower()
        for meaning in self._meanings:
            if tool.partition("@")[0] == meaning.tool and meaning.word in said:
                return None if customer is None else Effect(id_, customer, meaning.action, from_us(at_us))
        return None
