"""Outcomes: what came of it all, over a period. Pure functions of finished values of customers; a tenant's are wired in `app`.

`declared` holds the features, `books` reads recurring revenue at any time, `revenue`, `expansion`, `renewals`, `using`, `response` and `cases` make measures,
`intervals` says how sure they are.
"""

from postsale.projections.outcomes.books import Book, Standing
from postsale.projections.outcomes.cases import Case, case_measures, cases
from postsale.projections.outcomes.declared import Adoption, Advocacy, Answers, Onboarding, Revenue, Support
from postsale.projections.outcomes.expansion import Expansion, expansion
from postsale.projections.outcomes.measure import Frame, Interval, Measure, Rates
from postsale.projections.outcomes.renewals import Renewal, hit_rates, renewal_rate, renewals
from postsale.projections.outcomes.response import Coverage, Episode, Happened, coverage, episodes, response, tickets
from postsale.projections.outcomes.revenue import Movements, MrrPoint, logo_churn, movements, mrr_history, retention
from postsale.projections.outcomes.using import Invitations, adoption, invitations, onboarding, referrals, surveys

__all__ = [
    "Adoption",
    "Advocacy",
    "Answers",
    "Book",
    "Case",
    "Coverage",
    "Episode",
    "Expansion",
    "Frame",
    "Happened",
    "Interval",
    "Invitations",
    "Measure",
    "Movements",
    "MrrPoint",
    "Onboarding",
    "Rates",
    "Renewal",
    "Revenue",
    "Standing",
    "Support",
    "adoption",
    "case_measures",
    "cases",
    "coverage",
    "episodes",
    "expansion",
    "hit_rates",
    "invitations",
    "logo_churn",
    "movements",
    "mrr_history",
    "onboarding",
    "referrals",
    "renewal_rate",
    "renewals",
    "response",
    "retention",
    "surveys",
    "tickets",
]
