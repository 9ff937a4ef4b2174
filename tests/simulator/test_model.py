"""The parameters: typed, frozen, bounded, documented, and as JSON the same again. Random numbers by name."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from postsale.errors import InvalidInput
from postsale.simulator import ACTIONS, SOURCES, TROUBLED, Response, VendorModel
from postsale.simulator.draws import Draws, Stream


@pytest.mark.parametrize("model", [VendorModel(), TROUBLED, VendorModel(seats_median=33.0, responses={"offer": Response(goodwill=-1.0)})])
def test_a_model_of_its_json_is_the_model(model: VendorModel) -> None:
    assert VendorModel.from_json(model.to_json()) == model


def test_what_json_leaves_out_has_its_default() -> None:
    assert VendorModel.from_json('{"seats_median": 33.0}') == VendorModel(seats_median=33.0)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: VendorModel(wrong=1.5), "wrong"),
        (lambda: VendorModel(wrong=float("nan")), "wrong"),
        (lambda: VendorModel(onboarding_steps=0), "onboarding_steps"),
        (lambda: VendorModel().changed(late=-0.1), "late"),
        (lambda: VendorModel.from_json('{"late": "x"}'), "late"),
        (lambda: VendorModel.from_json('{"lat": 1}'), "lat"),
        (lambda: VendorModel(delay_h={"crm": 1.0}), "(whole)"),
        (lambda: VendorModel(currency="XYZ"), "currency"),
        (lambda: VendorModel(archetypes=()), "archetypes"),
    ],
)
def test_a_parameter_out_of_its_range_is_refused_by_name(make: Callable[[], VendorModel], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make()
    assert caught.value.field == field


def test_a_model_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        VendorModel().late = 0.5  # type: ignore[misc]


def test_every_number_has_a_unit_and_says_where_its_range_comes_from() -> None:
    for name, (_, said) in VendorModel.parameters().items():
        unit, _, why = said.partition("; ")
        assert unit, name
        assert why, name
    assert len(VendorModel.parameters()) > 60


def test_every_action_has_a_known_response_and_every_source_a_delay() -> None:
    assert set(VendorModel().responses) == set(ACTIONS)
    assert set(VendorModel().delay_h) == set(SOURCES)


# ---------------------------------------------------------------- random numbers by name


@given(seed=st.integers(0, 2**64), names=st.lists(st.text(max_size=5), max_size=3), number=st.integers(0, 10**6))
def test_numbers_of_a_name_are_the_same_whatever_was_drawn_before(seed: int, names: list[str], number: int) -> None:
    first = [Stream(seed, *names).of("x", number).uniform() for _ in range(3)]
    stream = Stream(seed, *names)
    for other in range(5):
        stream.of("y", other).uniform()
    assert {*first} == {stream.of("x", number).uniform()}
    draws = stream.of("x", number)
    many = [draws.uniform() for _ in range(40)]
    assert len({*many}) == 40
    assert all(0 < u < 1 for u in many)


def test_other_names_numbers_and_seeds_have_numbers_of_their_own() -> None:
    streams = [Stream(seed, name).of(purpose, n) for seed in (1, 2) for name in ("a", "b") for purpose in ("x", "y") for n in (0, 1, 11)]
    assert len({d.uniform() for d in streams}) == 24
    assert Stream(1, "a", "b").of("x").uniform() != Stream(1, "a\x1f", "b").of("x").uniform() != Stream(1, "ab").of("x").uniform()


@pytest.mark.parametrize(
    ("draw", "mean", "deviation"),
    [
        (lambda d: d.uniform(), 0.5, 12**-0.5),
        (lambda d: d.normal(), 0.0, 1.0),
        (lambda d: d.exponential(3.0), 3.0, 3.0),
        (lambda d: d.poisson(0.3), 0.3, 0.3**0.5),
        (lambda d: d.poisson(12.0), 12.0, 12**0.5),
        (lambda d: d.poisson(400.0), 400.0, 20.0),
        (lambda d: d.chance(0.2), 0.2, 0.4),
        (lambda d: d.whole(5), 2.0, 2**0.5),
        (lambda d: d.weighted((1.0, 3.0)), 0.75, (3 / 16) ** 0.5),
        (lambda d: d.between(2.0, 4.0), 3.0, 2 / 12**0.5),
    ],
)
def test_each_distribution_has_its_mean_and_spread(draw: Callable[[Draws], float], mean: float, deviation: float) -> None:
    n, seed = 8_000, 3
    stream = Stream(seed, "moments")
    values = [float(draw(stream.of("x", k))) for k in range(n)]
    found = sum(values) / n
    spread = (sum((v - found) ** 2 for v in values) / n) ** 0.5
    assert abs(found - mean) < 4.5 * deviation / n**0.5, f"seed {seed}"
    assert spread == pytest.approx(deviation, rel=0.06), f"seed {seed}"


@given(u=st.integers(0, 10**6), mean=st.floats(0.01, 25), more=st.floats(0, 4.9))
def test_a_larger_mean_never_gives_a_smaller_number(u: int, mean: float, more: float) -> None:
    assert Stream(u, "p").of("x").poisson(mean + more) >= Stream(u, "p").of("x").poisson(mean)
