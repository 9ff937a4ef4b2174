"""Asking planners: the question is recorded, then the planner is asked, then its answer is recorded, and only then is it used.

Two workers ask once: the question's id derives from the trigger and the attempt. An answer that is recorded is never asked for again; a
question whose worker died is asked again, as often as its row allows. Not here: judging the answer. May import the desk, the toolbox.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from postsale.agents import reach
from postsale.agents.agent import Agent
from postsale.agents.decide import Case, Mac, planned_call, to_ask
from postsale.agents.desk import NOTHING, Change, Desk
from postsale.agents.gate import Gate
from postsale.agents.guardrails import mode_for
from postsale.agents.planner import Answer, Planner, Question
from postsale.agents.planner_answer import Asked, Status, options_of
from postsale.agents.planner_context import content_of, question, recent_facts
from postsale.agents.planner_gate import settle, shut, spent
from postsale.agents.planner_policy import FROM_PLAN, PlanRow, Slot
from postsale.agents.policy import Policy
from postsale.agents.policy_sections import Rule
from postsale.agents.prompts import Prompt, clean
from postsale.agents.prompts_log import activate_prompt, known_prompts
from postsale.agents.tools.toolbox import Toolbox, within
from postsale.aggregates.artifacts import policy_stream
from postsale.aggregates.customer import CustomerAggregate, OpenPlan, PendingTrigger
from postsale.aggregates.plans import PlanReceived, PlanRequested
from postsale.errors import ContentConflict, LeaseLost, PolicyInvalid, ToolUnreachable
from postsale.events import MAX_INT, SECOND_US, Actor, derive_id, from_us, registry, to_us
from postsale.store.contract import StreamAt
from postsale.store.log import Cause, Draft

_ABANDONED_AFTER_S = 60  # beyond the time-out: then nobody waits for the answer any more
_BACKOFF_S = 30  # before the second question; doubles
_MILLI_US = 1_000


class NotYet(Exception):
    """A trigger cannot be decided with what was read. `again`: what was asked is recorded now, read anew; else somebody else asks, wait."""

    def __init__(self, *, again: bool) -> None:
        self.again = again


class Planning:
    """Questions to planners for one desk."""

    def __init__(self, desk: Desk, toolbox: Toolbox) -> None:
        self._desk = desk
        self._toolbox = toolbox
        self._gate = Gate(desk.log.store.kv, desk.log.clock)

    def at(self, desk: Desk) -> Self:
        """The same for another desk."""
        return type(self)(desk, self._toolbox)

    # ------------------------------------------------------------ before anything runs

    def check(self, agent: Agent, policy: Policy) -> None:
        """Return when every planner is here, and what it is shown and may fill in exists; else PolicyInvalid names the place."""
        for rule in policy.rules:
            if rule.plan is None:
                continue
            at = f"rule {rule.id!r}, plan"
            if rule.plan.planner not in agent.planners:
                raise PolicyInvalid(
                    policy=policy.name,
                    where=f"{at}.planner",
                    reason=f"agent {agent.name!r} has no planner {rule.plan.planner!r}; a file brings none: make it in a module, Agent(policy, planners=[…]), and name that: --agent module:NAME",
                )
            self._check_facts(policy, rule.plan, at)
            self._check_slots(policy, rule.plan, at)
            prompt = agent.prompts.get(rule.plan.prompt)
            for name in prompt.variables if prompt is not None else ():
                if name not in rule.plan.evidence:
                    raise PolicyInvalid(policy=policy.name, where=f"{at}.evidence", reason=f"{rule.plan.prompt} needs {name!r}")

    def _check_facts(self, policy: Policy, plan: PlanRow, at: str) -> None:
        for kind, fields in plan.facts.items():
            known: set[str] = set()
            versions = [w for w in registry if w.partition("@")[0] == kind]
            for wire_name in versions:
                known |= {*registry.get(wire_name).model_fields}
            if not versions:
                raise PolicyInvalid(policy=policy.name, where=f"{at}.facts", reason=f"no module that is imported declares {kind!r}")
            for name in fields:
                if name not in known:
                    raise PolicyInvalid(policy=policy.name, where=f"{at}.facts", reason=f"{kind!r} has no field {name!r}")

    def _check_slots(self, policy: Policy, plan: PlanRow, at: str) -> None:
        """Every bound of a slot lies within the contract of the tools that are called with it."""
        for option in policy.options or ():
            tool = self._toolbox.get(option.tool) if option.id in plan.options and option.tool is not None else None
            for name, value in option.arguments.items() if tool is not None else ():
                if tool is None or not (isinstance(value, str) and value.startswith(FROM_PLAN)):
                    continue
                info = tool.input.model_fields[name]
                fits: TypeAdapter[object] = TypeAdapter(_annotated(info.annotation, info.metadata))
                slot = value.removeprefix(FROM_PLAN)
                for extreme in _extremes(plan.slots[slot]):
                    try:
                        fits.validate_python(extreme, strict=True)
                    except ValidationError:
                        reason = f"it may hold what {option.tool} does not take as {name!r}"
                        raise PolicyInvalid(policy=policy.name, where=f"{at}.slots.{slot}", reason=reason) from None

    # ------------------------------------------------------------ about one trigger

    def prepare(self, c: CustomerAggregate, pending: PendingTrigger, agent: Agent, policy: Policy, case: Case) -> Case:
        """The case, with what its planner answered where a row hands over. Asks when it is its turn, recording question and answer.

        Raises NotYet when there is nothing to decide with, ToolUnreachable where no planner may be asked, VersionConflict and ConditionFailed when something came first.
        """
        row = to_ask(policy, case) if any(rule.plan is not None for rule in policy.rules) else None
        if row is None or row.plan is None:
            return case
        plan, known, now_us = row.plan, pending.plan, self._desk.now_us()
        attempt = known.attempt + 1 if known is not None else 1
        if known is not None and (known.policy, known.rule) == (policy.digest, row.id):
            if known.status in {"answered", "too-long"} or (known.status == "failed" and known.retry_at_us is None):
                return self._decided_on(c, known, policy, case)
            if _due_us(known) > now_us:
                raise NotYet(again=False)
        if attempt > plan.attempts and known is not None:
            return replace(case, asked=self._asked(c.stream.tenant, known, "silent"))
        planner, prompt, reason = agent.planners.get(plan.planner), None, f"{plan.planner} is not installed"
        if planner is not None:
            prompt, reason = self._prompt(c.stream.tenant, agent, plan)
        if planner is None or prompt is None:
            return replace(case, asked=Asked(status="not-asked", reason=reason, planner=plan.planner, oldest_at_us=now_us))
        reach.check_model(planner.name, simulated=planner.simulated)
        reason, status = self._barred(c.stream.tenant, agent, policy, plan, case)
        if reason:
            return replace(case, asked=Asked(status=status, reason=reason, planner=plan.planner, attempts=attempt - 1, oldest_at_us=now_us))
        if not self._ask(c, pending, policy, row, plan, case, planner, prompt, attempt):
            reason = "what it would have to be told is too long"
            return replace(case, asked=Asked(status="not-asked", reason=reason, planner=plan.planner, oldest_at_us=now_us))
        raise NotYet(again=True)

    def _barred(self, tenant: str, agent: Agent, policy: Policy, plan: PlanRow, case: Case) -> tuple[str, Status]:
        """Why its planner is not asked although it is here: its circuit is open, or an observing agent has asked enough."""
        gate, observes = self._gate, mode_for(policy, case.mode, case.evidence)[0] == "observe"
        if observes and (reason := spent(gate, tenant, agent.name, plan.planner, plan.observed_per_day)):
            return reason, "over-budget"
        return shut(gate, tenant, plan.planner, plan.timeout_s), "not-asked"

    def next_due_us(self, c: CustomerAggregate, agents: Container[str]) -> float:
        """When a trigger of these agents whose planner was asked needs a visit; infinity: never."""
        return min((_due_us(t.plan) for t in c.pending.values() if t.plan and t.raised.agent in agents), default=float("inf"))

    def _prompt(self, tenant: str, agent: Agent, plan: PlanRow) -> tuple[Prompt | None, str]:
        """The prompt of the row as the log holds it, or why it may not be used. An agent's own is installed where its name is new."""
        name = plan.prompt.partition("@")[0]
        known = known_prompts(self._desk, tenant, name)
        own = agent.prompts.get(plan.prompt)
        if not known and own is not None:
            activate_prompt(self._desk, tenant, own)
            known = known_prompts(self._desk, tenant, name)
        found = known.get(plan.prompt)
        if found is None or found.activated_at is None:
            return None, f"prompt {plan.prompt} was never activated"
        missing = [name for name in found.prompt.variables if name not in plan.evidence]
        return (None, f"prompt {plan.prompt} needs {missing[0]}") if missing else (found.prompt, "")

    def _ask(
        self,
        c: CustomerAggregate,
        pending: PendingTrigger,
        policy: Policy,
        row: Rule,
        plan: PlanRow,
        case: Case,
        planner: Planner,
        prompt: Prompt,
        attempt: int,
    ) -> bool:
        """Ask, and record both sides; False where the question does not fit into the log even without facts."""
        desk, options = self._desk, options_of(policy, row, case.evidence)
        shown = recent_facts(desk.log.store, desk.unseal, c, plan, desk.now_us())
        key = derive_id(pending.trigger_id, "plan", attempt)
        facts = shown.facts
        while (content := content_of(asked := question(key, prompt, plan, options, case.evidence, facts))) is None and facts:
            facts = facts[len(facts) // 2 + 1 :]  # the newest
        if content is None:
            return False
        mac = desk.mac(c.stream.tenant)
        requested = PlanRequested(
            trigger_id=pending.trigger_id,
            agent=pending.raised.agent,
            policy=policy.digest,
            rule=row.id,
            attempt=attempt,
            timeout_s=plan.timeout_s,
            planner=planner.name,
            model=planner.model,
            settings={name: str(value) for name, value in sorted(planner.settings.items())},
            prompt=prompt.digest,
            prompt_version=prompt.id,
            options=asked.options,
            facts=len(facts),
            oldest_at=from_us(shown.oldest_at_us),
            fact_position=case.read_set[0].fact_position,
            content=content,
            content_mac=mac(content.encode()),
        )
        switches = desk.switches(c.stream.tenant, pending.raised.agent)
        active, version = desk.active_policy(c.stream.tenant, policy.name)
        if switches.paused or active is None or active.digest != policy.digest:
            return True  # changed since the case was read
        conditions = (*switches.conditions, StreamAt(policy_stream(c.stream.tenant, policy.name), version))
        try:
            done = desk.append(c, Change((self._draft(c, pending, requested, key),), conditions))
        except ContentConflict:
            raise NotYet(again=False) from None  # another worker is asking
        if not done.stored:
            raise NotYet(again=False)
        began_us = desk.now_us()
        said = self._call(planner, asked)
        self._record(c, pending, self._received(said, pending, asked, plan, attempt, mac, began_us))
        settle(self._gate, c.stream.tenant, plan.planner, plan.timeout_s, said)
        return True

    # ------------------------------------------------------------ the answer

    def _call(self, planner: Planner, asked: Question) -> Answer | str:
        """What it said, or the kind of fault; never its words, which may hold personal data."""
        try:
            if self._desk.lease is not None:
                self._desk.lease.renew()  # so that it outlives the time-out
            answer = within(asked.timeout_s, lambda: planner.plan(asked))
            said: object = answer.text if isinstance(answer, Answer) else answer
            if not isinstance(answer, Answer) or not isinstance(said, str | bytes):
                return f"it answered with {type(said).__name__}"
            answer = replace(answer, model=clean(str(answer.model))[:200])
        except (ToolUnreachable, LeaseLost):
            raise
        except TimeoutError:
            return f"no answer within {asked.timeout_s:g} s"
        except Exception as error:
            return type(error).__name__
        return answer

    def _received(
        self, answer: Answer | str, pending: PendingTrigger, asked: Question, plan: PlanRow, attempt: int, mac: Mac, began_us: int
    ) -> PlanReceived:
        now_us = self._desk.now_us()
        ids: dict[str, Any] = {"trigger_id": pending.trigger_id, "request_id": UUID(asked.key), "attempt": attempt}
        took_ms = max(0, now_us - began_us) // _MILLI_US
        if isinstance(answer, str):
            retry_at = None if attempt >= plan.attempts else from_us(now_us + _BACKOFF_S * SECOND_US * 2 ** (attempt - 1))
            return PlanReceived(**ids, status="failed", took_ms=took_ms, reason=answer[:200], retry_at=retry_at)
        text = _readable(answer.text)
        kept = text[: plan.max_answer_chars]
        return PlanReceived(
            **ids,
            status="answered" if len(text) <= plan.max_answer_chars else "too-long",
            answer=kept,
            answer_mac=mac(kept.encode()),
            answer_chars=len(text),
            model=answer.model,
            input_tokens=_number(answer.input_tokens, MAX_INT),
            output_tokens=_number(answer.output_tokens, MAX_INT),
            took_ms=took_ms,
            propensity_ppm=_number(answer.propensity_ppm, 1_000_000),
        )

    def _record(self, c: CustomerAggregate, pending: PendingTrigger, received: PlanReceived) -> None:
        """Keep the answer, whoever holds the lease by now; one that nobody waits for any more is dropped."""

        def rule(now: CustomerAggregate) -> Change:
            waiting = now.pending.get(pending.trigger_id)
            if waiting is None or waiting.plan is None or waiting.plan.request_id != received.request_id or waiting.plan.received_id:
                return NOTHING
            draft = self._draft(now, pending, received, derive_id(received.request_id, "received"))
            return Change((draft,), happened=True)

        self._desk.change(c.stream, rule)

    def _draft(self, c: CustomerAggregate, pending: PendingTrigger, event: PlanRequested | PlanReceived, event_id: UUID) -> Draft:
        cause = Cause(
            actor=Actor("agent", pending.raised.agent),
            causation_id=pending.trigger_id,
            correlation_id=pending.trigger_id,
            depth=pending.raised.depth,
            origin=self._desk.origin,
        )
        return self._desk.draft(event, event_id, cause, c.ref)

    # ------------------------------------------------------------ what came of it

    def _decided_on(self, c: CustomerAggregate, known: OpenPlan, policy: Policy, case: Case) -> Case:
        """The case with what was recorded; where the arguments that follow do not fit their tool's contract, it says so."""
        status: Status = known.status  # type: ignore[assignment]
        case = replace(case, asked=self._asked(c.stream.tenant, known, status))
        made = planned_call(policy, case)
        misfit = "" if made is None else self._toolbox.misfit(*made)
        if misfit and case.asked is not None:
            case = replace(case, asked=replace(case.asked, misfit=misfit))
        return case

    def _asked(self, tenant: str, known: OpenPlan, status: Status) -> Asked:
        requested = self._desk.event(tenant, known.request_id)
        assert isinstance(requested, PlanRequested)
        asked = Asked(
            status=status,
            planner=requested.planner,
            model=requested.model,
            prompt=requested.prompt,
            request=known.request_id,
            attempts=known.attempt,
            oldest_at_us=to_us(requested.oldest_at),
        )
        if known.received_id is None:
            return asked
        received = self._desk.event(tenant, known.received_id)
        assert isinstance(received, PlanReceived)
        return replace(
            asked,
            reason=received.reason,
            received=known.received_id,
            model=received.model or requested.model,
            answer=received.answer if isinstance(received.answer, str) and status == "answered" else None,
            propensity_ppm=received.propensity_ppm,
        )


def _due_us(known: OpenPlan) -> float:
    """The next attempt, or when an answer is no longer waited for. What is answered waits for no time: the visit that recorded it decides."""
    if known.status == "asked":
        return known.asked_at_us + (known.timeout_s + _ABANDONED_AFTER_S) * SECOND_US
    return float("inf") if known.retry_at_us is None else known.retry_at_us


def _annotated(annotation: Any, metadata: list[Any]) -> Any:
    for part in metadata:
        annotation = Annotated[annotation, part]
    return annotation


def _extremes(slot: Slot) -> tuple[str | int | bool, ...]:
    """Values at the bounds of a slot."""
    match slot.type:
        case "boolean":
            return (False, True)
        case "integer":
            return (slot.min or 0, slot.max or 0)
        case "text":
            return slot.one_of if slot.one_of is not None else ("x", "x" * (slot.max_chars or 1))


def _readable(said: str | bytes) -> str:
    """The words as text that can be kept: bytes that are not UTF-8, and lone surrogates, are written out."""
    return said.decode("utf-8", "backslashreplace") if isinstance(said, bytes) else said.encode("utf-8", "backslashreplace").decode()


def _number(said: object, most: int) -> int | None:
    return said if type(said) is int and 0 <= said <= most else None
