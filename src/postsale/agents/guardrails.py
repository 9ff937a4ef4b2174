"""Guardrails: what may stop an action. Pure: they look at a `Context` of recorded values and say a verdict each.

All are evaluated and recorded, in one fixed order, also after one has failed; the first that failed names the disposition.
They suppress and never defer: what is not allowed now is decided anew at the next trigger. No clock, no log, no tools.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from zoneinfo import ZoneInfo

from postsale.agents.budget_policy import Left, period
from postsale.agents.budget_policy import verdicts as budget_verdicts
from postsale.agents.conversation import Contacts, contacts_of, holder, verdicts
from postsale.agents.expressions import Value
from postsale.agents.holdout import Drawn, draw, drawn_of
from postsale.agents.limits import TIERS, Asked, authority, offered, reach, tool_risk
from postsale.agents.policy import NO_ACTION, Policy
from postsale.agents.policy_sections import ProbabilityFloor, Rule, SequenceRule
from postsale.agents.schedules import CUSTOMER, zone_of
from postsale.aggregates.artifacts import MODES, AgentControl, Mode
from postsale.aggregates.conversations import ContactLimit
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import Offer, Scalar, Verdict
from postsale.events import DAY_US, from_us

PERSON = ("approval/granted", "customer/command-issued")  # what people say themselves
POLICY_RETIRED = "policy-retired"
SWITCHES = ("agent", "tenant", "everything")  # in the order of `artifacts.switch_streams`


class ToolRef(NamedTuple):
    """A tool as a decision sees it: enough to name it, never to call it."""

    name: str  # name@version
    kind: str  # idempotent, queryable, unsafe
    digest: str  # of its contract
    tier: str = ""  # how bad a wrong effect is: low, medium, high

    @property
    def text(self) -> str:
        """How a decision records it."""
        return f"{self.kind}:{self.digest}"


class Past(NamedTuple):
    """What a sequence rule found in a customer's past."""

    events: int  # that count, MAX_RECENT of each kind at most
    lifted: bool  # something that lifts the rule came with the newest of them, or after it


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What guardrails look at, as plain values, so that a decision can record them and be judged again from them."""

    local_time: str  # HH:MM on the customer's clock
    time_zone: str
    consent: Mapping[str, bool]  # by channel, for the policy's purpose
    touches: Mapping[int, int]  # window in days -> contacts in it, made or promised
    budgets: Mapping[str, Left] = field(default_factory=dict)  # by the budget's name in the policy
    paused_by: str = ""  # "", or which switch: agent, tenant, everything; "retired" for good; POLICY_RETIRED
    merged: bool = False  # the customer is part of another one
    past: Mapping[str, Past] = field(default_factory=dict)  # by sequence rule
    probability_ppm: int | None = None  # of the policy's floor; None when no calibrated model says so
    tiers: Mapping[str, str] = field(default_factory=dict)  # tool -> the risk its contract declares, where the policy limits it
    reached: int | None = None  # decisions of this agent that acted within the policy's hours
    offered_minor: int | None = None  # to this customer within the policy's days; None: more than is remembered
    priority: int | None = None  # of the agent among all agents; None: its policy takes no part
    conversation_with: str = ""  # the other agent that speaks with the customer and does not have to yield
    contacts: Mapping[str, Contacts] = field(default_factory=dict)  # by channel, by all agents together
    drawn: Drawn | None = None  # the customer's number in the policy's hold-out
    zone_of: str = ""  # whose zone it is: the customer's, the policy's, or utc, because nobody has one; "" in old records

    def scalars(self) -> dict[str, Scalar]:
        """The context as a decision records it. `from_scalars` is the inverse."""
        out: dict[str, Scalar] = {
            "local_time": self.local_time,
            "time_zone": self.time_zone,
            "paused_by": self.paused_by,
            "merged": self.merged,
        }
        for name, (left, its, slice_) in self.budgets.items():
            out |= {f"budget_left.{name}": left, f"budget_period.{name}": its}
            if slice_:
                out[f"budget_slice.{name}"] = slice_
        out |= {f"consent.{channel}": given for channel, given in self.consent.items()}
        out |= {f"touches.{days}d": count for days, count in self.touches.items()}
        out |= {f"past.{id_}": past.events for id_, past in self.past.items()}
        out |= {f"lifted.{id_}": past.lifted for id_, past in self.past.items()}
        if self.probability_ppm is not None:
            out["probability_ppm"] = self.probability_ppm
        out |= {f"tier.{tool}": tier for tool, tier in self.tiers.items()}
        out |= {name: value for name in ("reached", "offered_minor") if (value := getattr(self, name)) is not None}
        if self.priority is not None:
            out |= {"priority": self.priority, "conversation_with": self.conversation_with}
            for channel, (made, most, days) in self.contacts.items():
                out |= {f"contacts.{channel}": made, f"contact_limit.{channel}": most, f"contact_days.{channel}": days}
        if self.drawn is not None:
            out |= self.drawn.scalars()
        if self.zone_of:
            out["time_zone_of"] = self.zone_of
        return out

    @property
    def contact_limits(self) -> dict[str, ContactLimit]:
        """The budget of contacts as it stood."""
        return {channel: ContactLimit(c.most, c.days) for channel, c in self.contacts.items()}

    @classmethod
    def from_scalars(cls, values: Mapping[str, Scalar]) -> Context:
        """The context that a decision recorded."""
        likely = values.get("probability_ppm")
        return cls(
            local_time=str(values["local_time"]),
            time_zone=str(values["time_zone"]),
            consent={k[8:]: v is True for k, v in values.items() if k.startswith("consent.")},
            touches={int(k[8:-1]): v for k, v in values.items() if k.startswith("touches.") and isinstance(v, int)},
            budgets={
                k[12:]: Left(v, str(values.get(f"budget_period.{k[12:]}") or ""), str(values.get(f"budget_slice.{k[12:]}") or ""))
                for k, v in values.items()
                if k.startswith("budget_left.") and isinstance(v, int)
            },
            paused_by=str(values.get("paused_by") or ""),
            merged=values.get("merged") is True,
            past={
                k[5:]: Past(v, values.get(f"lifted.{k[5:]}") is True)
                for k, v in values.items()
                if k.startswith("past.") and isinstance(v, int)
            },
            probability_ppm=likely if isinstance(likely, int) else None,
            tiers={k[5:]: str(v) for k, v in values.items() if k.startswith("tier.")},
            reached=_integer(values.get("reached")),
            offered_minor=_integer(values.get("offered_minor")),
            priority=_integer(values.get("priority")),
            conversation_with=str(values.get("conversation_with") or ""),
            contacts={
                k[9:]: Contacts(v, _integer(values.get(f"contact_limit.{k[9:]}")) or 0, _integer(values.get(f"contact_days.{k[9:]}")) or 1)
                for k, v in values.items()
                if k.startswith("contacts.") and isinstance(v, int)
            },
            drawn=drawn_of(values),
            zone_of=str(values.get("time_zone_of") or ""),
        )


def look(
    policy: Policy,
    customer: CustomerAggregate,
    evidence: Mapping[str, Value],
    *,
    now_us: int,
    switches: tuple[AgentControl, ...] = (),
    retired: bool = False,
    budgets: Mapping[str, Left] | None = None,
    tools: Mapping[str, ToolRef] | None = None,
    reached: int | None = None,
    agent: str = "",
    contact_limits: Mapping[str, ContactLimit] | None = None,
) -> Context:
    """The context of one decision of `agent`. `switches` are the states of `artifacts.switch_streams`, in that order;
    `retired`: the policy was.

    `budgets`: what is left of each, and of which slice; nothing of one that is not there. Which period it is, follows from the time.
    """
    g, priority = policy.guardrails, None if policy.conversation is None else policy.conversation.priority
    zone, zone_of_whom = zone_of(CUSTOMER, evidence.get("time_zone"), g.quiet_hours.default_zone if g.quiet_hours else policy.zone)
    likely = evidence.get(g.probability.input) if g.probability else None
    paused = ["retired" if state.retired else name for name, state in zip(SWITCHES, switches, strict=False) if state.paused]
    return Context(
        local_time=from_us(now_us).astimezone(ZoneInfo(zone)).strftime("%H:%M"),
        time_zone=zone,
        consent={c: customer.may_contact(c, g.purpose) for c in policy.channels},
        touches={d: contacts(customer, now_us, d) for d in sorted({f.days for f in g.frequency})},
        budgets={b.name: (budgets or {}).get(b.name, Left(0, ""))._replace(period=period(b, now_us)) for b in policy.budgets or ()},
        paused_by=paused[0] if paused else POLICY_RETIRED if retired else "",
        merged=customer.merged_into is not None,
        past={rule.id: look_back(rule, customer, now_us) for rule in g.sequence or ()},
        probability_ppm=likely if type(likely) is int else None,
        tiers={} if not policy.by_tier else {name: tools[name].tier for name in policy.tools if tools is not None and name in tools},
        reached=reached if g.blast_radius is not None else None,
        offered_minor=None if g.authority is None else offered(g.authority, customer, now_us),
        priority=priority,
        conversation_with="" if priority is None else holder(customer, agent, priority, now_us),
        contacts={} if priority is None else contacts_of(customer, policy.channels, contact_limits or {}, now_us),
        drawn=draw(policy.holdout, customer.ref),
        zone_of=zone_of_whom,
    )


def look_back(rule: SequenceRule, customer: CustomerAggregate, now_us: int) -> Past:
    """What a sequence rule finds in what is known about a customer at `now_us`. Exactly `within_days` ago still counts."""
    recent = customer.recent
    after_us = max((recent[kind][-1] for kind in rule.since if kind in recent), default=-1)
    begin_us = now_us - rule.within_days * DAY_US
    counted = [at for kind in dict.fromkeys(rule.kinds) for at in recent.get(kind, ()) if at >= begin_us and at > after_us]
    lifting = [kind for name in rule.unless for kind in (PERSON if name == "person" else (name,))]
    lifted = bool(counted) and any(recent[kind][-1] >= max(counted) for kind in lifting if kind in recent)
    return Past(len(counted), lifted)


def forbidding(rules: Iterable[SequenceRule], chosen: Sequence[Rule], context: Context) -> Iterator[SequenceRule]:
    """The sequence rules that forbid one of the rows."""
    acting = {rule.action for rule in chosen} - {NO_ACTION}
    for rule in rules:
        past = context.past.get(rule.id, Past(0, False))
        if past.events >= rule.count and not past.lifted and (acting & set(rule.actions) if rule.actions else acting):
            yield rule


def contacts(customer: CustomerAggregate, now_us: int, days: int) -> int:
    """Contacts made or promised within the last `days`, by any agent. Exactly `days` ago still counts."""
    return sum(1 for touch in customer.touches if touch.at_us >= now_us - days * DAY_US)


def is_quiet(local_time: str, start: str, end: str) -> bool:
    """Whether `HH:MM` lies in [start, end); a window whose end is before its start passes midnight."""
    if start < end:
        return start <= local_time < end
    return local_time >= start or local_time < end


def judge(
    policy: Policy,
    chosen: Sequence[Rule],
    no_row: str,
    offer: Offer | None,
    context: Context,
    *,
    mode: Mode,
    depth: int,
    tools: Mapping[str, ToolRef],
    segment: str | None = None,
    evidence: Mapping[str, Value] | None = None,
) -> tuple[Verdict, ...]:
    """Every guardrail's verdict on the rows that decide, in order: all of them may, or none. `mode` is the customer's, in this segment.

    `no_row` says why there is none: no-rule, not-unique, not-any.
    """
    g = policy.guardrails
    contacting = [rule.channel for rule in chosen if rule.channel is not None]
    out = [
        _say("kill-switch", f"kill-switch:{context.paused_by or 'agent'}", not context.paused_by, "paused", "not paused"),
        _say("identity", "identity:merged", not context.merged, "this customer is part of another one", "stands on its own"),
        _policy(chosen, no_row),
        _say(
            "depth",
            f"depth:{g.max_depth}",
            depth <= g.max_depth,
            f"depth {depth}: too many of our own effects in the chain",
            f"depth {depth}",
        ),
        *_tools(chosen, tools),
    ]
    acts = bool(chosen) and chosen[0].action != NO_ACTION
    out += verdicts(policy.conversation, acts, contacting, context.conversation_with, context.contacts)
    if not contacting:
        out.append(_say("consent", "consent:none", True, "", "this does not contact the customer"))
    for channel in dict.fromkeys(contacting):
        given = context.consent.get(channel, False)
        out.append(_say("consent", f"consent:{channel}/{g.purpose}", given, "not given; unknown is no", "given"))
    for f in g.frequency:
        made = context.touches.get(f.days, 0)
        ok = not contacting or made + len(contacting) <= f.count
        out.append(_say("frequency", f"frequency:{f.count}/{f.days}d", ok, f"{made} contacts already", f"{made} contacts"))
    stopped = {rule.id for rule in forbidding(g.sequence or (), chosen, context)}
    for sequence in g.sequence or ():
        found = f"{context.past.get(sequence.id, Past(0, False)).events} of {', '.join(sequence.kinds)} in {sequence.within_days} days"
        ok = sequence.id not in stopped or sequence.then == "ask"
        out.append(_say("sequence", f"sequence:{sequence.id}", ok, found, f"{found}{'; a person decides' * (sequence.id in stopped)}"))
    if (q := g.quiet_hours) is not None:
        ok = not contacting or not is_quiet(context.local_time, q.start, q.end)
        at = f"{context.local_time} in {context.time_zone}"
        out.append(_say("quiet-hours", f"quiet-hours:{q.start}-{q.end}", ok, at, at))
    out += budget_verdicts(policy.budgets or (), chosen if acts else (), offer, context.budgets, context.tiers)
    if g.probability is not None:
        out.append(_probability(g.probability, chosen, context))
    out.append(_authority(chosen, offer))
    if g.appetite is not None:
        tier = max((rule.tier for rule in chosen if rule.action != NO_ACTION), default=0)
        text = f"{TIERS[tier]} risk{'; a person decides' * (tier > TIERS.index(g.appetite.act))}"
        ok = tier <= TIERS.index(g.appetite.propose)
        out.append(
            _say("appetite", f"appetite:{g.appetite.act}/{g.appetite.propose}", ok, f"{TIERS[tier]} risk is not wanted at all", text)
        )
    out += [asked.verdict for asked in beyond(policy, chosen, offer, context, evidence or {})]
    where = "" if segment is None else f"/{segment}"
    out.append(_say("autonomy", f"autonomy:{mode}{where}", mode != "observe", "the agent observes", f"the agent may {mode}"))
    if context.drawn is not None:  # last, so that it stops only what nothing else does: the arms differ by the draw alone
        out.append(context.drawn.verdict)
    return tuple(out)


def beyond(
    policy: Policy, chosen: Sequence[Rule], offer: Offer | None, context: Context, evidence: Mapping[str, Value]
) -> tuple[Asked, ...]:
    """The verdicts of the limits that look beyond one decision, where the policy declares them."""
    g, out = policy.guardrails, []
    acting = [rule for rule in chosen if rule.action != NO_ACTION]
    if g.tool_risk is not None:
        out.append(tool_risk(g.tool_risk, [r.tool for r in acting if r.tool is not None], context.tiers, evidence))
    if g.blast_radius is not None:
        out.append(reach(g.blast_radius, context.reached, acts=bool(acting)))
    if g.authority is not None:
        asks = [r.approval != "none" for r in acting if r.offer is not None]
        out.append(authority(g.authority, offer, context.offered_minor, may_ask=all(asks)))
    return tuple(out)


def first_failed(verdicts: tuple[Verdict, ...]) -> str | None:
    """The rule that suppresses: of the first verdict that did not pass, in the fixed order; None when all passed."""
    return next((v.rule for v in verdicts if not v.passed), None)


def mode_for(policy: Policy, mode: Mode, evidence: Mapping[str, Value]) -> tuple[Mode, str | None]:
    """How far the agent may go with this customer, and the segment that says so; None where its own mode does."""
    autonomy = policy.autonomy
    if autonomy is None or autonomy.by is None:
        return mode, None
    segment = evidence.get(autonomy.by)
    most = autonomy.segments.get(str(segment), autonomy.otherwise) if segment is not None else autonomy.otherwise
    if MODES.index(most) >= MODES.index(mode):
        return mode, None
    return most, "unknown" if segment is None else str(segment)


def too_risky(policy: Policy, chosen: Sequence[Rule]) -> bool:
    """Whether a person has to decide, because a row is riskier than the agent may be on its own."""
    appetite = policy.guardrails.appetite
    return appetite is not None and any(rule.tier > TIERS.index(appetite.act) for rule in chosen)


def over_authority(rule: Rule, offer: Offer | None) -> bool:
    """Whether the offer is above what may be promised without a person."""
    return offer is not None and rule.authority_limit_minor is not None and offer.amount_minor > rule.authority_limit_minor


def _say(guardrail: str, rule: str, passed: bool, no: str, yes: str) -> Verdict:
    return Verdict(guardrail=guardrail, rule=rule, passed=passed, reason=yes if passed else no)


def _policy(chosen: Sequence[Rule], no_row: str) -> Verdict:
    if not chosen:
        return _say("policy", f"policy:{no_row}", False, "no row decides here", "")
    acts = chosen[0].action != NO_ACTION
    return _say("policy", f"policy:{chosen[0].id}", acts, "the row says that nothing is to be done", "the row acts")


def _tools(chosen: Sequence[Rule], tools: Mapping[str, ToolRef]) -> list[Verdict]:
    needed = dict.fromkeys(rule.tool for rule in chosen if rule.tool is not None)
    if not needed:
        return [_say("tool", "tool:none", True, "", "no tool is needed")]
    return [_say("tool", f"tool:{tool}", tool in tools, "no such tool is installed", "installed") for tool in needed]


def _probability(floor: ProbabilityFloor, chosen: Sequence[Rule], context: Context) -> Verdict:
    rule, likely = f"probability:{floor.of}>={floor.at_least_percent}%", context.probability_ppm
    if not chosen or chosen[0].action == NO_ACTION:
        return _say("probability", rule, True, "", "nothing is to be done")
    if likely is None:
        return _say("probability", rule, False, "no calibrated model says how likely; a rank is no probability", "")
    text = f"{likely} parts per million"
    return _say("probability", rule, likely >= floor.at_least_percent * 10_000, text, text)


def _authority(chosen: Sequence[Rule], offer: Offer | None) -> Verdict:
    rule = next((r for r in chosen if r.offer is not None), None) or next(iter(chosen), None)
    if rule is None or offer is None:
        return _say("authority", "authority:none", True, "", "nothing is offered")
    above = over_authority(rule, offer)
    ok = not above or rule.approval != "none"
    return _say(
        "authority",
        f"authority:{offer.authority_limit_minor}",
        ok,
        "above the limit, and the row asks no person",
        "a person decides" if above else "within the limit",
    )


def _integer(value: Scalar) -> int | None:
    return value if type(value) is int else None
