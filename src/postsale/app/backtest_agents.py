"""Back-tests of agents over a tenant's own log: a rehearsal, the tenant's real actions, and what came of everybody.

Part of the wiring: may import everything below `app`. What the figures are is `audit.backtest`.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING

from postsale.agents import Agent, Policy
from postsale.aggregates.artifacts import Mode
from postsale.app.backtest_scores import Labels, Progress, Span, Tally
from postsale.app.histories import Histories
from postsale.app.rehearsal import rehearse
from postsale.audit.backtest import AgentBacktest, AskedOfAgent, Stood, Would, judge_agent
from postsale.audit.estimate import Estimate
from postsale.audit.whatif_results import result_of
from postsale.events import from_us, to_us
from postsale.projections.journal import Entry, read_journal

if TYPE_CHECKING:
    from postsale.app.tenant import Tenant

_LEFT = frozenset({"ready", "started", "retry", "unknown", "succeeded"})


def agent_of(tenant: Tenant, what: Agent | Policy) -> Agent:
    """The agent that is meant: for a policy, the one this was opened with whose policy has its name, deciding by this one instead."""
    if isinstance(what, Agent):
        return what
    own = next((agent for agent in tenant._ps.engine.agents.values() if agent.policy.name == what.name), None)
    if own is None:
        return Agent(what)
    agent = copy.copy(own)
    agent.policy = what
    return agent


def backtest_agent(
    tenant: Tenant, what: Agent | Policy, span: Span, *, mode: Mode = "act", on_progress: Progress | None = None
) -> AgentBacktest:
    """The agent over the tenant's log. Writes nothing of the tenant's. An exception from `on_progress` ends it, and leaves nothing behind."""
    tell, steps, agent = on_progress or (lambda _done, _all: None), span.cutoffs_us, agent_of(tenant, what)
    agent.check(agent.policy, tenant._ps.readings.features)
    histories = Histories.read(tenant._ps.log, tenant.name, span.knowledge)
    total, done = len(steps) + len(histories.customers), 0

    def stepped(_at: int) -> None:
        nonlocal done
        done += 1
        tell(done, total)

    rehearsed = rehearse(tenant, agent, steps, knowledge=span.knowledge, mode=mode, on_step=stepped)
    would = [Would(e.stream.id, steps[bisect_right(steps, to_us(e.decided_at)) - 1], result_of(e.recorded)) for e in rehearsed.decisions]
    recorded = [e for e in read_journal(tenant._ps.log.store, tenant.name) if e.agent == agent.name]
    touched: dict[str, list[int]] = {}
    for entry in recorded:
        if _acted(entry):
            at = to_us(entry.decided_at)
            touched.setdefault(histories.whole(entry.stream.id, at), []).append(at)

    def stood() -> Iterator[Stood]:
        labels, tally = Labels(span), Tally()
        for subject in histories.of(steps, labels.kinds):
            for label in labels.of(subject, tally):
                if label is not None:
                    yield Stood(subject.customer, label.at_us, label.positive, label.came_us)
            stepped(0)

    asked = AskedOfAgent(
        agent=agent.name,
        policy=f"{agent.policy.name} v{agent.policy.version}",
        policy_digest=agent.policy.digest,
        mode=mode,
        target=span.target.name,
        outcome=span.target.outcome.format(days=span.days),
        horizon_us=span.horizon_us,
        knowledge=span.knowledge,
        steps_us=steps,
    )
    return judge_agent(asked, would, stood(), touched, problems=rehearsed.problems, worth=_worth(tenant, agent.policy, recorded, span))


def _acted(entry: Entry) -> bool:
    """Whether something left for the customer, or may still have."""
    return entry.disposition == "acted" and entry.action is not None and not _LEFT.isdisjoint(entry.effects.values())


def _worth(tenant: Tenant, policy: Policy, recorded: list[Entry], span: Span) -> Estimate | str:
    """What its recorded decisions say it is worth, where their probabilities support that."""
    if not recorded:
        return "the log holds no decision of this agent: nothing can be told of what its actions change"
    found = tenant.what_if(policy, begin=from_us(span.cutoffs_us[0]), end=from_us(span.until_us))
    return found.value
