"""The decision lane: triggers, decisions, approvals, consent, overrides, commands, effects, outcomes.

A closed union: `match` with `assert_never` finds a forgotten case. Wire names and fields are the storage format.
May import `events` and the other events of this lane. Rules live in `customer.py` and in `agents`, never here.
"""

from __future__ import annotations

from typing import ClassVar, Literal
from uuid import UUID

from postsale.aggregates.artifacts import Digest
from postsale.aggregates.asked import ApprovalAsked, ApprovalEscalated, ApprovalReplaced, ApprovalSigned, ApprovalTimedOut
from postsale.aggregates.budgets import Reservation
from postsale.aggregates.conversations import ConversationEnded
from postsale.aggregates.identity import MergedInto, SplitFrom, StreamJoined, StreamParted
from postsale.aggregates.parts import Arguments, Part, Ppm
from postsale.aggregates.plans import PlanReceived, PlanRequested
from postsale.aggregates.risk import RiskCaseClosed, RiskCaseMoved, RiskCaseOpened
from postsale.aggregates.timed import ScheduleCame, SlaBreached, SlaWarned, WaitBegan, WaitEnded
from postsale.aggregates.undos import UNDO_AGENT
from postsale.events import AmountMinor, Count, Currency, Event, Id, Int, Personal, Text, UtcDatetime

Disposition = Literal["acted", "awaiting", "suppressed", "failed"]
Scalar = bool | Int | Text | None  # what evidence may hold: no floats, so that bytes and thresholds are exact


# ---------------------------------------------------------------- what makes an agent decide


class TriggerRaised(Event):
    """An agent's condition became true. The event's id is the trigger's id: `derive_id(agent, condition, causing event)`."""

    wire_name: ClassVar[str] = "agent/trigger-raised@1"
    agent: Id
    condition: Id
    cause: Literal["fact", "time", "command"]
    causing_event: UUID
    depth: Count = 0  # causation depth of the cause; facts from outside are 0


class TriggerCleared(Event):
    """A condition that had raised a trigger is no longer true: its next rise is a new trigger."""

    wire_name: ClassVar[str] = "agent/trigger-cleared@1"
    agent: Id
    condition: Id
    causing_event: UUID


class TriggerDeferred(Event):
    """Deciding raised an error of the agent's own: it is tried again, a few times; then the decision is recorded as failed."""

    wire_name: ClassVar[str] = "agent/trigger-deferred@1"
    trigger_id: UUID
    agent: Id
    attempt: Count  # from 1
    reason: Text  # the kind of error, never its words
    retry_at: UtcDatetime


class CommandIssued(Event):
    """A person or a system asked for something to be done about this customer."""

    wire_name: ClassVar[str] = "customer/command-issued@1"
    command: Id
    agent: Id | None = None
    reason: Text


# ---------------------------------------------------------------- the decision


class ReadRef(Part):
    """One thing a decision read, precisely enough to read it again."""

    stream: Text  # tenant/category/id
    fact_position: Count  # facts up to this position were folded
    decision_version: Count
    projection: Id | None = None
    projection_version: Count = 0
    state_hash: Text = ""


class Verdict(Part):
    """What one guardrail said. `rule` names it as dispositions do, such as `frequency:2/30d`."""

    guardrail: Id
    rule: Id
    passed: bool
    reason: Text


class Eligible(Part):
    """An action that the policy allowed here, and how likely it was to be chosen, in parts per million."""

    action: Id
    rule: Id
    propensity_ppm: Ppm


class Offer(Part):
    """Something of value promised to the customer."""

    kind: Id  # such as credit, discount, gift
    amount_minor: AmountMinor
    currency: Currency
    terms: Text
    authority_limit_minor: AmountMinor  # above this a person decides


class EffectIntent(Part):
    """One effect that is to leave the building. Its id is the idempotency key that the tool receives."""

    intent_id: UUID
    tool: Id  # name@version
    tool_kind: Literal["idempotent", "queryable", "unsafe"]
    tool_digest: Text  # of the tool's contract
    channel: Id | None = None  # set when the customer is contacted
    arguments_mac: Text  # keyed digest of the canonical arguments
    due_at: UtcDatetime


class DecisionRecorded(Event):
    """What an agent decided about one trigger, and everything needed to re-run it offline and get the same bytes."""

    wire_name: ClassVar[str] = "agent/decision-recorded@1"
    trigger_id: UUID
    agent: Id
    condition: Id
    depth: Count
    mode: Literal["observe", "propose", "act"]
    decided_at: UtcDatetime

    read_set: tuple[ReadRef, ...]
    evidence: dict[Id, Scalar]  # the values looked at, declared fields only
    context: dict[Id, Scalar]  # what guardrails looked at: consent, contacts in window, budget left, local time
    policy: Digest
    model: Text | None = None  # digest of the health or propensity model
    prompt: Digest | None = None
    tools: dict[Id, Text]  # tool -> contract digest
    decider: Text  # module:qualname of the deciding code
    decider_digest: Text
    package_version: Text
    flags: dict[Id, Scalar]
    draw_ppm: Ppm | None = None  # the random draw, when one was made

    eligible: tuple[Eligible, ...]
    verdicts: tuple[Verdict, ...]
    action: Id | None = None  # None: nothing is to be done
    rule: Id | None = None  # the policy row that chose it
    offer: Offer | None = None
    rationale: Text
    confidence_ppm: Ppm | None = None
    disposition: Disposition
    suppressed_by: Id | None = None
    intents: tuple[EffectIntent, ...] = ()
    arguments: Personal[Arguments] | None = None  # canonical JSON list, one object per intent

    bound_to: tuple[Id, ...] = ()  # evidence whose change voids an approval
    approval_expires_at: UtcDatetime | None = None
    must_not_have_changed: tuple[Id, ...] = ()
    outcome_kinds: tuple[Id, ...] = ()  # facts that count as success
    outcome_by: UtcDatetime | None = None  # until when
    reservations: tuple[Reservation, ...] = ()  # all made in the same append, on the streams of their budgets


class AgentReached(Event):
    """A decision that acts or asks counts against its agent's blast radius. On `tenant/reach/<agent>`, in the decision's append."""

    wire_name: ClassVar[str] = "agent/reached@1"
    decision_id: UUID


# ---------------------------------------------------------------- people


class ApprovalGranted(Event):
    """A person said yes to exactly these arguments on exactly these values. Single use: there is one per decision."""

    wire_name: ClassVar[str] = "approval/granted@1"
    decision_id: UUID
    approver: Id
    authenticated_by: Id
    arguments_mac: Text  # over all intents' digests
    values_digest: Text  # of the evidence named in `bound_to`, as it was re-read
    reason: Text = ""


class ApprovalRejected(Event):
    """A person said no."""

    wire_name: ClassVar[str] = "approval/rejected@1"
    decision_id: UUID
    approver: Id
    authenticated_by: Id
    reason: Text
    on_behalf_of: Id | None = None  # whose authority it is, when it was delegated
    delegation_id: UUID | None = None
    role: Id | None = None  # under rules: in which role


class ApprovalLapsed(Event):
    """The request can no longer be approved: it expired, or a value it was bound to changed."""

    wire_name: ClassVar[str] = "approval/lapsed@1"
    decision_id: UUID
    why: Literal["expired", "values-changed", "paused"]
    detail: Text = ""


class DecisionOverridden(Event):
    """A person set a decision aside, with a reason; effects that have not left are cancelled."""

    wire_name: ClassVar[str] = "agent/decision-overridden@1"
    decision_id: UUID
    by: Id
    reason: Text


class ConsentGiven(Event):
    """The customer may be contacted on this channel for this purpose. Unknown consent is no consent."""

    wire_name: ClassVar[str] = "consent/given@1"
    channel: Id
    purpose: Id
    evidence: Text  # where and how it was given


class ConsentWithdrawn(Event):
    """The customer may no longer be contacted on this channel for this purpose."""

    wire_name: ClassVar[str] = "consent/withdrawn@1"
    channel: Id
    purpose: Id
    evidence: Text


# ---------------------------------------------------------------- effects


class EffectStarted(Event):
    """A worker is about to call the tool. Written first, so that a crash leaves a trace and never a silent repeat."""

    wire_name: ClassVar[str] = "effect/started@1"
    intent_id: UUID
    decision_id: UUID
    attempt: Count


class EffectSucceeded(Event):
    """The tool confirmed the effect."""

    wire_name: ClassVar[str] = "effect/succeeded@1"
    intent_id: UUID
    decision_id: UUID
    attempt: Count
    sandbox: bool
    receipt: Text = ""  # the tool's own reference


class EffectFailed(Event):
    """The tool refused, or no attempt is left. `final` closes the intent; otherwise it is tried again from `retry_at`."""

    wire_name: ClassVar[str] = "effect/failed@1"
    intent_id: UUID
    decision_id: UUID
    attempt: Count
    final: bool
    reason: Text
    retry_at: UtcDatetime | None = None
    ambiguous: bool = False  # the tool may have acted nevertheless: it timed out, broke off, or answered garbage


class EffectUnknown(Event):
    """An unsafe tool may or may not have acted: a person must look."""

    wire_name: ClassVar[str] = "effect/unknown@1"
    intent_id: UUID
    decision_id: UUID
    attempt: Count
    reason: Text


class EffectCancelled(Event):
    """The effect will not leave: overridden, or switched off in mid-run."""

    wire_name: ClassVar[str] = "effect/cancelled@1"
    intent_id: UUID
    decision_id: UUID
    reason: Text


class UndoOrdered(Event):
    """An approved undo takes back one effect of a decision: `intents` has the one effect that does it.

    The event's id stands where a decision's id stands in what follows (effect/started and so on), so that the outbox carries it out.
    """

    wire_name: ClassVar[str] = "undo/ordered@1"
    undo_id: UUID
    plan: Digest
    approver: Id
    decision_id: UUID  # whose effect it was
    undoes: UUID  # the effect that is taken back
    trigger_id: UUID
    depth: Count
    intents: tuple[EffectIntent, ...]
    arguments: Personal[Arguments] | None = None  # canonical JSON list, one object per intent
    compensates: tuple[Reservation, ...] = ()  # of that effect, what goes back to its budgets with it

    @property
    def agent(self) -> str:
        return UNDO_AGENT

    @property
    def context(self) -> dict[str, Scalar]:
        return {}


class OutcomeObserved(Event):
    """What came of a decision: a fact that counts as success arrived in time, or the time is over."""

    wire_name: ClassVar[str] = "agent/outcome-observed@1"
    decision_id: UUID
    outcome: Literal["success", "none"]
    fact_event: UUID | None = None


Ordered = DecisionRecorded | UndoOrdered
"""What the outbox carries out."""

CustomerEvent = (
    TriggerRaised
    | TriggerCleared
    | TriggerDeferred
    | CommandIssued
    | DecisionRecorded
    | PlanRequested
    | PlanReceived
    | ApprovalGranted
    | ApprovalRejected
    | ApprovalLapsed
    | DecisionOverridden
    | ConsentGiven
    | ConsentWithdrawn
    | EffectStarted
    | EffectSucceeded
    | EffectFailed
    | EffectUnknown
    | EffectCancelled
    | UndoOrdered
    | OutcomeObserved
    | ConversationEnded
    | RiskCaseOpened
    | RiskCaseMoved
    | RiskCaseClosed
    | ApprovalAsked
    | ApprovalSigned
    | ApprovalEscalated
    | ApprovalTimedOut
    | ApprovalReplaced
    | ScheduleCame
    | WaitBegan
    | WaitEnded
    | SlaWarned
    | SlaBreached
    | StreamJoined
    | StreamParted
    | MergedInto
    | SplitFrom
)
