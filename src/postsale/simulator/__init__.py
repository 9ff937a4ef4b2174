"""A documented generative model of a software vendor's customers, seeded: what the demo shows and tests feed on.

Pure: a seed gives the same deliveries everywhere. May import `aggregates` and `events`; nothing here reaches a log.
"""

from postsale.simulator.vendor import ARCHETYPES, Archetype, ConsentGivenAt, Delivery, Vendor

__all__ = ["ARCHETYPES", "Archetype", "ConsentGivenAt", "Delivery", "Vendor"]
