"""Simulations: where they may go, and as of when."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from postsale.agents import RenewalRescue
from postsale.errors import InvalidInput

from .support import NOON, head, opened, subscribed


@pytest.mark.parametrize(
    ("as_of", "into", "field"),
    [
        (NOON.replace(year=9999), None, "as_of"),
        (NOON + timedelta(days=400), None, "as_of"),
        (NOON, "memory:", "into"),
        (NOON, "there.db", "into"),
        (NOON, "postgresql://there", "into"),
    ],
)
def test_a_simulation_that_cannot_be_is_refused_before_anything_is_made(
    tmp_path: Path, as_of: datetime, into: str | None, field: str
) -> None:
    """A time beyond all clocks, or a place that is no database file, is bad input; no file appears and the log is unchanged."""
    with opened(tmp_path) as ps:
        ps.tenant("acme").record("cus_1", subscribed("s1", NOON - timedelta(days=100)))
        before, files = head(ps), sorted(p.name for p in tmp_path.iterdir())
        with pytest.raises(InvalidInput) as caught:
            ps.simulate("acme", as_of, agents=[RenewalRescue()], into=into)
        assert caught.value.field == field
        assert (head(ps), sorted(p.name for p in tmp_path.iterdir())) == (before, files)
    assert not Path("memory:").exists()


def test_a_simulation_as_of_the_end_of_today_is_allowed(tmp_path: Path) -> None:
    """A date means its last microsecond, which today is still to come."""
    with opened(tmp_path) as ps:
        ps.tenant("acme").record("cus_1", subscribed("s1", NOON - timedelta(days=100)))
        assert ps.simulate("acme", NOON.replace(hour=23), agents=[RenewalRescue()]).copied
