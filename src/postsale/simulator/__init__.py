"""A documented generative model of a software vendor's customers, seeded: what the demo shows and tests feed on.

A seed gives the same deliveries everywhere. `Vendor` reaches no log; `EffectsLeft` and `fit` read one, `Year` lives in one. May import `app` and below.
"""

from postsale.simulator.compared import compared
from postsale.simulator.fit import Fitted, Moment, fit, fit_statistics
from postsale.simulator.loop import MEANINGS, EffectsLeft, Meaning
from postsale.simulator.model import ACTIONS, SOURCES, TROUBLED, Action, Archetype, Response, Source, VendorModel
from postsale.simulator.sources import Arrival, Delivery
from postsale.simulator.state import ConsentGivenAt, ErasureRequestedAt, Tally
from postsale.simulator.statistics import Stat, Statistics, statistics_of, statistics_of_story
from postsale.simulator.truth import Effects, Outcome, Truth
from postsale.simulator.vendor import Effect, Vendor
from postsale.simulator.year import Step, Story, Year, year_agents

__all__ = [
    "ACTIONS",
    "MEANINGS",
    "SOURCES",
    "TROUBLED",
    "Action",
    "Archetype",
    "Arrival",
    "ConsentGivenAt",
    "Delivery",
    "Effect",
    "Effects",
    "EffectsLeft",
    "ErasureRequestedAt",
    "Fitted",
    "Meaning",
    "Moment",
    "Outcome",
    "Response",
    "Source",
    "Stat",
    "Statistics",
    "Step",
    "Story",
    "Tally",
    "Truth",
    "Vendor",
    "VendorModel",
    "Year",
    "compared",
    "fit",
    "fit_statistics",
    "statistics_of",
    "statistics_of_story",
    "year_agents",
]
