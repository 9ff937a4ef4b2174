"""Changed copies of frozen dataclasses, against `dataclasses.replace`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.customer import RiskCase
from postsale.aggregates.frozen import replace

CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "stage": st.text(max_size=5),
        "stage_since_us": st.integers(),
        "acted_us": st.none() | st.integers(),
        "missed": st.just(frozenset({("a", "b", 1, "warned")})),
    },
)
CASE = RiskCase("case", "at-risk", 1, 2, "why")  # type: ignore[arg-type]


@given(CHANGES)
def test_a_changed_copy_is_what_dataclasses_make_of_it(changes: dict[str, object]) -> None:
    changed = replace(CASE, **changes)
    assert changed == dataclasses.replace(CASE, **changes)  # type: ignore[arg-type]
    assert type(changed) is RiskCase
    assert RiskCase("case", "at-risk", 1, 2, "why") == CASE, "what was copied stays as it was"  # type: ignore[arg-type]


def test_a_field_that_is_not_there_is_refused() -> None:
    with pytest.raises(TypeError, match="RiskCase has no field 'staeg'"):
        replace(CASE, staeg="saved")


def test_a_class_that_checks_what_it_is_made_of_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Checked:
        a: int
        b: int

        def __post_init__(self) -> None:
            assert self.a < self.b

    with pytest.raises(TypeError, match="goes through its constructor"):
        replace(Checked(1, 2), a=3)
