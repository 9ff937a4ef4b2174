"""What was recorded beside what came out again: the differences of one decision, and what could not be had again, by name and reason.

Comparing happens here, outside the sandbox, by the library's own code. Pure but for the history that is passed in.
May import everything below `audit`, but neither tools nor engines.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

import orjson

from postsale.agents.budget import Page
from postsale.agents.decide import Mac, decision_id, intent_mac
from postsale.agents.editing import REPLACES
from postsale.agents.guardrails import POLICY_RETIRED, SWITCHES
from postsale.agents.policy import Policy
from postsale.agents.rederive import Difference, first_difference
from postsale.aggregates.artifacts import content_digest
from postsale.aggregates.decisions import DecisionRecorded
from postsale.audit.replay_history import History
from postsale.errors import PostSaleError
from postsale.events import StoredEvent, canonical, decode_payload, encode_payload, to_us

Verdict = Literal["same", "different", "unverifiable"]

ERASED: Final = "erased"  # the arguments, and the key that would tell them by their digest
OTHER_CODE: Final = "other-code"  # the deciding code that is installed is not the code that decided
NOT_HERE: Final = "decider-not-here"  # its class is not installed, or cannot be loaded in a process of its own
RETIRED: Final = "view-retired"  # another version of the read model or its model is installed
THIRD_PARTY: Final = "third-party"  # it came from outside the log: a flag, a draw, a recorded answer
CIRCUMSTANCE: Final = "circumstance"  # it says what happened around the process: too many conflicts
UNREADABLE: Final = "unreadable-event"  # an event that this code cannot read
REASONS: Final = (ERASED, OTHER_CODE, NOT_HERE, RETIRED, THIRD_PARTY, CIRCUMSTANCE, UNREADABLE)

TAKEN_AS_RECORDED: Final = ("decided_at", "tools", "package_version")
"""Inputs that only the process knew: its clock, the tools it had, its package. They are taken as they were recorded, and certified to be nothing."""

FROM_OUTSIDE: Final = ("draw_ppm",)
"""Inputs that come from outside the log and are recorded to be used again. Flags are told one by one, a planner's answer as `plan.answer`."""

EFFECTS: Final = frozenset({"effect/started", "effect/succeeded", "effect/failed", "effect/unknown", "effect/cancelled"})
_LEFT: Final = frozenset({"effect/started", "effect/succeeded"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """One decision, made again."""

    decision_id: UUID
    position: int
    stream: str
    agent: str
    decided_at: datetime
    differences: tuple[Difference, ...]
    unverifiable: Mapping[str, str]  # value -> reason
    digest: str  # SHA-256, hex, of everything that came out again
    intents: int = 0
    arguments_checked: bool = True

    @property
    def verdict(self) -> Verdict:
        if self.differences:
            return "different"
        return "unverifiable" if self.unverifiable else "same"

    @property
    def reasons(self) -> frozenset[str]:
        return frozenset(self.unverifiable.values())


class Following(NamedTuple):
    """An event that names a decision or a trigger, with its payload."""

    position: int
    kind: str
    fields: Mapping[str, Any]


class OwnLane:
    """The decision lane of one stream, by what its events name."""

    def __init__(self, events: Iterable[StoredEvent]) -> None:
        """`events` by position."""
        self.positions: list[int] = []
        self.triggers: dict[str, Following] = {}
        self.cases: dict[str, list[Following]] = {}  # risk cases opened, by trigger
        self.following: dict[str, list[Following]] = {}  # approvals and effects, by decision
        self.plans: dict[str, StoredEvent] = {}  # questions to planners, and their answers
        taken = set()
        for event in events:
            self.positions.append(event.position)
            kind, id_ = event.kind, str(event.event_id)
            if kind == "agent/decision-recorded":
                taken.add(id_)
            elif kind == "undo/ordered" and str(event.fields().get("decision_id")) in taken:
                taken.add(id_)  # it stands for a decision in what follows from it
            elif kind == "agent/trigger-raised":
                self.triggers[id_] = Following(event.position, kind, event.fields())
            elif kind == "risk/case-opened":
                fields = event.fields()
                self.cases.setdefault(str(fields.get("trigger_id")), []).append(Following(event.position, kind, fields))
            elif kind in {"agent/plan-requested", "agent/plan-received"}:
                self.plans[id_] = event
            elif kind in EFFECTS or kind.startswith("approval/"):
                fields = event.fields()
                self.following.setdefault(str(fields.get("decision_id")), []).append(Following(event.position, kind, fields))
        self.strays = [
            (one.position, f"{one.kind} names a decision that was not taken about this customer")
            for id_, events_ in self.following.items()
            if id_ not in taken
            for one in events_
        ]

    def newest_before(self, position: int) -> int:
        """The position of the newest event before a position; 0 without any."""
        index = bisect_left(self.positions, position)
        return self.positions[index - 1] if index else 0


@dataclass(frozen=True, slots=True)
class AsRecorded:
    """A decision as the log has it: what is compared."""

    stored: StoredEvent
    payload: Mapping[str, Any]  # JSON, unsealed as far as it may be
    policy: Policy | None
    installed: str  # digest of the installed deciding code; "" when it is not here
    erased: bool = False  # a planner's answer that cannot be read any more: what was made of it is taken as recorded


def compare(recorded: AsRecorded, answer: Mapping[str, Any], history: History, lane: OwnLane, mac: Mac | None) -> Outcome:
    """Everything that differs, the intents first. `lane`: the decision lane of its stream, by position.

    KeyError, TypeError, ValueError or AttributeError for an answer that is none.
    """
    payload, stored = recorded.payload, recorded.stored
    unverifiable: dict[str, str] = {}
    differences: list[Difference] = []
    again: dict[str, Any] = {}
    checked = True
    if recorded.policy is None:
        differences.append(Difference("policy", str(payload["policy"]), "no such policy in the log"))
    elif answer["again"] is None:
        differences.append(Difference("(deciding)", "a decision", str(answer["error"])))
    else:
        again = orjson.loads(answer["again"])
        found, checked = _intents(payload, again, mac, recorded.erased)
        differences += found
        if not checked:
            unverifiable["plan.answer" if recorded.erased else "arguments"] = ERASED
    differences += _surroundings(recorded, history, lane)
    differences += _planned(recorded, lane, unverifiable)
    differences += _evidence(recorded, answer, history, lane, unverifiable)
    if again:
        differences += _consequences(stored, again, answer["risk"], history, lane)
    regenerated = {k: v for k, v in again.items() if k != "arguments"}  # the intents' keyed digests stand for them
    digest = hashlib.sha256(canonical([regenerated, {k: answer.get(k) for k in ("evidence", "context", "state_hash")}])).hexdigest()
    return Outcome(
        stored.event_id,
        stored.position,
        str(stored.stream),
        str(payload["agent"]),
        datetime.fromisoformat(payload["decided_at"]),
        tuple(differences),
        unverifiable,
        digest,
        len(payload.get("intents") or ()),
        checked,
    )


# ---------------------------------------------------------------- intents from evidence


def _intents(payload: Mapping[str, Any], again: dict[str, Any], mac: Mac | None, erased: bool) -> tuple[list[Difference], bool]:
    """The bytes that came out again, against those of the log; and whether the arguments were among what was compared."""
    recorded = dict(payload)
    intents: list[dict[str, Any]] = again["intents"]
    if erased and again.get("arguments"):
        again["arguments"] = recorded.get("arguments")
    if mac is not None and not erased:
        clear = orjson.loads(again["arguments"]) if again.get("arguments") else []
        for intent, arguments in zip(intents, clear, strict=True):
            intent["arguments_mac"] = intent_mac(mac, UUID(intent["intent_id"]), intent["tool"], arguments)
    else:  # compare all but the keyed digests
        for intent, kept in zip(intents, recorded.get("intents") or (), strict=False):
            intent["arguments_mac"] = kept["arguments_mac"]
    masked = isinstance(recorded.get("arguments"), dict)
    if masked:
        del recorded["arguments"]
    compared = {k: v for k, v in again.items() if k != "arguments"} if masked else again
    left, right = canonical(recorded), canonical(compared)
    difference = first_difference(left, right)
    if difference is not None:  # an optional field that this version of the kind added since is no difference
        try:
            left = encode_payload(decode_payload(DecisionRecorded.wire_name, left))
        except PostSaleError:
            return [difference], True
        difference = first_difference(left, encode_payload(decode_payload(DecisionRecorded.wire_name, right)))
    return [difference] if difference is not None else [], not erased and (not intents or not masked or mac is not None)


# ---------------------------------------------------------------- evidence from the log


def _surroundings(recorded: AsRecorded, history: History, lane: OwnLane) -> Iterator[Difference]:
    """Who decided about what, by which policy, and how far it might go: by the streams that say so."""
    payload, stored = recorded.payload, recorded.stored
    if stored.event_id != decision_id(UUID(payload["trigger_id"])):
        yield Difference("trigger_id", payload["trigger_id"], "the decision's id is not derived from it")
    raised = lane.triggers.get(payload["trigger_id"])
    if raised is None or raised.position > stored.position:
        yield Difference("trigger_id", payload["trigger_id"], "no such trigger was raised before it")
    else:
        for name in ("agent", "condition", "depth"):
            if (was := raised.fields.get(name, 0)) != payload[name]:
                yield Difference(name, str(payload[name]), str(was))
    mode = history.switches(payload["agent"], stored.position)[0].mode
    if mode != payload["mode"]:
        yield Difference("mode", payload["mode"], mode)
    if recorded.policy is not None:
        name = recorded.policy.name
        active = history.active(name, stored.position) or history.stopped(name, stored.position)
        if active != payload["policy"]:
            yield Difference("policy", payload["policy"], f"{active or 'none'} was active")


def _planned(recorded: AsRecorded, lane: OwnLane, unverifiable: dict[str, str]) -> Iterator[Difference]:
    """What the decision says of its planner, by the question and the answer in the log. No planner is asked again."""
    payload, flags = recorded.payload, recorded.payload.get("flags") or {}
    status = flags.get("plan.status")
    if status is None:
        return
    if status in {"not-asked", "over-budget"}:  # its planner or prompt was not there, or what stands beside the log forbade it
        unverifiable["plan.status"] = CIRCUMSTANCE
        return
    requested = lane.plans.get(str(flags.get("plan.request")))
    question = requested.fields() if requested is not None and requested.position < recorded.stored.position else {}
    if question.get("trigger_id") != payload["trigger_id"]:
        yield Difference("plan.request", str(flags.get("plan.request")), "no such question in the log")
        return
    said: dict[str, Any] = {name: question[name] for name in ("planner", "model", "prompt")} | {"attempts": question["attempt"]}
    said["oldest_at_us"] = to_us(datetime.fromisoformat(question["oldest_at"]))
    if status != "silent":
        received = lane.plans.get(str(flags.get("plan.received")))
        answer = received.fields() if received is not None and received.position < recorded.stored.position else {}
        if answer.get("request_id") != flags["plan.request"]:
            yield Difference("plan.received", str(flags.get("plan.received")), "no such answer in the log")
            return
        said |= {name: answer.get(name) for name in ("status", "reason", "propensity_ppm")}
        said["model"] = answer.get("model") or said["model"]
    if status == "answered" and not recorded.erased:
        unverifiable["plan.answer"] = THIRD_PARTY
    for name, value in sorted(said.items()):
        kept = payload.get("prompt") if name == "prompt" else flags.get(f"plan.{name}")
        if (kept or None) != (value or None):
            yield Difference(f"plan.{name}", _brief(kept), _brief(value))


def _evidence(
    recorded: AsRecorded, answer: Mapping[str, Any], history: History, lane: OwnLane, unverifiable: dict[str, str]
) -> Iterator[Difference]:
    payload, own = recorded.payload, recorded.payload["read_set"][0]
    if recorded.installed != payload["decider_digest"]:
        unverifiable["decider"] = OTHER_CODE if recorded.installed else NOT_HERE
    for name in FROM_OUTSIDE:
        if payload.get(name) is not None:
            unverifiable[name] = THIRD_PARTY
    flags = {name: value for name, value in (payload.get("flags") or {}).items() if not name.startswith("plan.")}
    failed = flags.pop("failed", "")
    unverifiable.update({f"flags.{name}": THIRD_PARTY for name in flags})
    if recorded.policy is None or answer["again"] is None:
        return
    if answer["unread"] or answer["evidence"] is None:
        unverifiable["evidence"] = UNREADABLE
        return
    gone = {*answer["gone"]}
    for name in payload["evidence"]:
        if name in gone:
            unverifiable[f"evidence.{name}"] = RETIRED if recorded.installed and answer["retired"] else NOT_HERE
    yield from _values("evidence", payload["evidence"], answer["evidence"], gone)
    if answer["retired"]:
        unverifiable["model"] = RETIRED
    elif answer["state_hash"] != own.get("state_hash", ""):
        yield Difference("read_set[0].state_hash", own.get("state_hash", ""), answer["state_hash"])
    if answer["decision_version"] != own["decision_version"]:
        yield Difference("read_set[0].decision_version", str(own["decision_version"]), str(answer["decision_version"]))
    if [r["stream"] for r in payload["read_set"]] != answer["streams"]:
        yield Difference("read_set", f"{len(payload['read_set'])} streams", f"{len(answer['streams'])} streams")
    if answer["problem"] and not gone and answer["problem"] != failed:
        yield Difference("flags.failed", failed or "nothing", answer["problem"])
    elif failed and answer["problem"] != failed:
        unverifiable["flags.failed"] = CIRCUMSTANCE
    yield from _context(recorded, answer["context"], history, lane)


def _context(recorded: AsRecorded, found: Mapping[str, Any], history: History, lane: OwnLane) -> Iterator[Difference]:
    payload, position = recorded.payload, recorded.stored.position
    switches = history.switches(payload["agent"], position)
    paused = next(("retired" if state.retired else name for name, state in zip(SWITCHES, switches, strict=True) if state.paused), "")
    assert recorded.policy is not None
    if not paused and history.stopped(recorded.policy.name, position):
        paused = POLICY_RETIRED
    yield from _values("context", payload["context"], {**found, "paused_by": paused}, ())
    # The customer was read first and has every event of its own lane before the decision; budgets were looked at after that.
    after, replaced = lane.newest_before(position), (payload.get("flags") or {}).get(REPLACES)
    for budget in recorded.policy.budgets or ():
        left, slice_ = (
            payload["context"].get(f"budget_left.{budget.name}"),
            str(payload["context"].get(f"budget_slice.{budget.name}") or ""),
        )
        page = Page(budget.counted_in, str(payload["context"].get(f"budget_period.{budget.name}", "")))
        purse = slice_ or budget.ledger(payload["agent"])
        limit = history.granted.get(slice_, 0) if slice_ else budget.limit
        freed = history.freed(UUID(replaced), purse, page, position) if replaced is not None else 0
        possible = {amount + freed for amount in history.left(purse, page, limit, after, position)}
        if left not in possible:
            yield Difference(f"context.budget_left.{budget.name}", str(left), " or ".join(map(str, sorted(possible))))


def _values(where: str, recorded: Mapping[str, Any], found: Mapping[str, Any], but: Iterable[str]) -> Iterator[Difference]:
    for name in sorted((recorded.keys() | found.keys()) - {*but}):
        a, b = recorded.get(name), found.get(name)
        if type(a) is not type(b) or a != b:
            yield Difference(f"{where}.{name}", _brief(a), _brief(b))


def _brief(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else text[:79] + "…"


# ---------------------------------------------------------------- what followed


def _consequences(stored: StoredEvent, again: Mapping[str, Any], risk: str | None, history: History, lane: OwnLane) -> Iterator[Difference]:
    """Whatever the log says followed from the decision, which it did not intend."""
    intents = {intent["intent_id"] for intent in again["intents"]}
    approved = again["disposition"] == "acted"
    for position, _, fields in lane.cases.get(again["trigger_id"], ()):
        if fields.get("reason") != risk:
            yield Difference(f"risk case at position {position}", "opened", "not intended" if risk is None else "for another reason")
    for position, kind, fields in lane.following.get(str(stored.event_id), ()):
        if kind == "approval/granted":
            approved = True
            if fields["arguments_mac"] != content_digest(",".join(i["arguments_mac"] for i in again["intents"])):
                yield Difference(f"approval at position {position}", "over other arguments", "(not shown)")
        elif kind in EFFECTS and fields["intent_id"] not in intents:
            yield Difference(f"{kind} at position {position}", "an effect", "no such intent")
        elif kind in _LEFT and not approved:
            yield Difference(f"{kind} at position {position}", "an effect", f"nothing leaves: {again['disposition']}")
    yield from _reserved(stored, again.get("reservations") or (), history)


def _reserved(stored: StoredEvent, intended: Sequence[Mapping[str, Any]], history: History) -> Iterator[Difference]:
    wanted = [(str(r["intent_id"]), r["budget"], r["unit"], r["period"], r["amount"]) for r in intended]
    found = [(str(r.intent_id), r.budget, *r.page, r.amount) for r in history.reserved.get(stored.event_id, ())]
    if sorted(found) != sorted(wanted):
        yield Difference("reservations", _reserved_text(found), _reserved_text(wanted))


def _reserved_text(rows: Sequence[tuple[Any, ...]]) -> str:
    return ", ".join(f"{amount} {unit} of {budget}/{period}" for _, budget, unit, period, amount in sorted(rows)) or "nothing"
