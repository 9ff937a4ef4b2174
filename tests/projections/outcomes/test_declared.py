"""The declarations behind outcomes give one answer live, in parts, and over all history."""

from __future__ import annotations

import pytest

from postsale.projections import Features
from postsale.projections.outcomes.declared import Adoption, Advocacy, Answers, Onboarding, Revenue, Support
from postsale.projections.outcomes.expansion import Expansion
from postsale.testing.parity import assert_parity


@pytest.mark.parametrize("features", [Revenue, Expansion, Onboarding, Adoption, Advocacy, Answers, Support], ids=lambda f: f.__name__)
def test_every_way_of_computing_them_agrees(features: type[Features]) -> None:
    assert_parity(features)
