"""The journey and the product: onboarding steps, milestones, the moment of value, use, logins, errors.

May import `aggregates` and the simulator's layers below.
"""

from __future__ import annotations

from collections.abc import Iterator

from postsale.aggregates import signals as s
from postsale.simulator.state import Customer, Fact, World, clipped

FEATURES = ("reports", "search", "export", "api", "sharing")


def onboarding(c: Customer, world: World) -> Iterator[Fact]:
    """The next step, when it is taken; the moment of value once all are and the product is used."""
    m, day = world.model, world.day
    if c.first_value:
        return
    d = c.stream.of("onboarding", day)
    at = world.at(d.between(480, 1_080))
    if c.steps < m.onboarding_steps:
        chance = min(1.0, c.engagement / m.step_days + c.push_onboarding)
        taken = d.chance(chance)
        world.tally("onboarding steps", taken, chance)
        if taken:
            c.steps += 1
            step = {"step": f"step-{c.steps}", "steps": m.onboarding_steps}
            yield Fact(s.OnboardingStepCompleted, "product", f"{c.name}-step-{c.steps}", at, step)
            if c.steps == (m.onboarding_steps + 1) // 2:
                yield Fact(s.MilestoneReached, "product", f"{c.name}-half-way", at, {"milestone": "half-way"})
            if c.steps == m.onboarding_steps:
                effort = round(7 - 5 * clipped(c.engagement))
                asked = {"survey": "ces", "score": effort, "scale_min": 1, "scale_max": 7, "higher_is_better": False, "contact": c.admin}
                yield Fact(s.SurveyAnswered, "voice", f"{c.name}-ces", at, asked | {"response": f"{c.name}-ces", "about": "onboarding"})
    elif c.used >= 10 * c.seats:
        c.first_value = True
        yield Fact(s.MilestoneReached, "product", f"{c.name}-value", at, {"milestone": "first-outcome", "value": True})


def use(c: Customer, world: World) -> Iterator[Fact]:
    """The day's use, logins and errors."""
    m, day = world.model, world.day
    if c.paused_until is not None:
        return
    d = c.stream.of("use", day)
    mean = c.seats * c.engagement * m.uses_per_seat * world.use
    uses = d.poisson(mean)
    world.tally("uses", uses, mean, poisson=True)
    at = world.at(d.between(420, 1_080))
    active = max(1, round(c.seats * clipped(c.engagement * d.between(0.6, 1.0))))
    feature, second, logins = d.whole(len(FEATURES)), d.uniform(), d.uniform()
    if uses:
        c.used += uses
        two = uses // 3 if second < 0.6 * c.value else 0
        fields = {"feature": FEATURES[feature], "count": uses - two, "active_users": min(active, uses - two)}
        yield Fact(s.UsageObserved, "product", f"{c.name}-use-{day}", at, fields)
        if two:
            other = FEATURES[(feature + 1 + day % 4) % len(FEATURES)]
            fields = {"feature": other, "count": two, "active_users": min(max(1, active // 2), two)}
            yield Fact(s.UsageObserved, "product", f"{c.name}-use-{day}b", at, fields)
        if c.sponsor and logins < clipped(c.engagement) * 0.8:
            yield Fact(s.UserLoggedIn, "product", f"{c.name}-login-{day}", at, {"user": c.champion, "contact": c.champion})
    if world.severity and (hit := trouble(c, world)):
        c.satisfaction = clipped(c.satisfaction - 0.1 * hit)
        fields = {"code": "incident", "count": max(1, round(20 * hit * c.seats * world.use / 10)), "feature": FEATURES[feature]}
        yield Fact(s.ErrorObserved, "product", f"{c.name}-errors-{day}", at, fields)


def trouble(c: Customer, world: World) -> float:
    """How much the vendor's incident of today hits this customer, 0 to 1."""
    if not world.severity:
        return 0.0
    return world.severity if c.stream.of("incident", world.day).chance(world.model.incident_reach) else 0.0
