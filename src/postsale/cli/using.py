"""Lines of `customer show` about onboarding, use, expansion and advocacy. Formats; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from postsale.events import DAY_US
from postsale.projections import FeatureValues


def using_lines(onboarding: FeatureValues, adoption: FeatureValues, advocacy: FeatureValues, expansion: FeatureValues) -> list[str]:
    """How far a customer's onboarding is, how it uses the product, what it did for us; a line is left out where nothing is known."""
    lines = []
    if onboarding["progress"] is not None or onboarding["time_to_value"] is not None:
        steps = f"{onboarding['steps_done']} of {onboarding['steps_planned']} steps" if onboarding["progress"] is not None else "no plan"
        ttv = onboarding["time_to_value"]
        lines.append(f"onboarding: {steps}, " + ("no value yet" if ttv is None else f"value after {ttv / DAY_US:.0f} days"))
    if adoption["uses"] or adoption["people"]:
        told = [f"{adoption['breadth']} features", f"{adoption['uses']:,} uses"]
        told += [f"{adoption['active']:,} people active"] if adoption["active"] is not None else []
        told += [f"{100 * adoption['utilisation']:.0f} % of {adoption['seats']:,} licences"] if adoption["utilisation"] is not None else []
        told += [f"stickiness {adoption['stickiness']:.2f}"] if adoption["stickiness"] is not None else []
        lines.append(f"adoption, 30 days: {', '.join(told)}")
    if expansion["utilisation"] is not None or expansion["deals"]:
        told = (
            [] if expansion["utilisation"] is None else [f"{100 * expansion['utilisation']:.0f} % of {expansion['seats']:,} seats in use"]
        )
        told += ["value reached" if expansion["value_at"] is not None else "no value yet"]
        told += ["ready for more"] if expansion["ready"] else []
        told += [f"{len(expansion['open_deals'])} open deal(s) about more"] if expansion["open_deals"] else []
        lines.append(f"expansion: {', '.join(told)}")
    if advocacy["given"] or advocacy["invited"]:
        lines.append(
            f"advocacy: {advocacy['given']} acts and reviews, {advocacy['invited']} invited, {advocacy['converted']} of them converted"
        )
    return lines


def using_dict(values: FeatureValues) -> dict[str, object]:
    """Finished values for programs, without the facts that some are derived from."""
    return {name: dict(v) if isinstance(v, Mapping) else v for name, v in values.items() if not isinstance(v, tuple)}
