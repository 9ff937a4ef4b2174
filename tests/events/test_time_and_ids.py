"""Times are integer microseconds without loss; derived ids depend on their parts and nothing else."""

import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from uuid import UUID, uuid5

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postsale.errors import InvalidInput
from postsale.events import (
    DAY_US,
    SECOND_US,
    Lane,
    ManualClock,
    StreamId,
    SystemClock,
    check_tenant,
    derive_id,
    from_us,
    iso,
    iso_of,
    to_us,
    uuid_of,
)
from postsale.events.ids import NAMESPACE

FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
anytime = st.datetimes(timezones=st.just(UTC))


@given(anytime)
@example(FIRST)
@example(LAST)
@example(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
def test_microseconds_and_datetimes_convert_without_loss_over_the_whole_range(at: datetime) -> None:
    assert from_us(to_us(at)) == at
    assert datetime.fromisoformat(iso(to_us(at))) == at
    assert len(iso(to_us(at))) == len("2026-03-01T12:00:00.000000Z")


@given(anytime, anytime)
def test_microseconds_keep_the_order_and_the_distance_of_times(a: datetime, b: datetime) -> None:
    assert (to_us(a) < to_us(b)) == (a < b)
    assert timedelta(microseconds=to_us(b) - to_us(a)) == b - a


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)), st.integers(-1439, 1439))
def test_the_time_zone_of_a_time_does_not_matter(naive: datetime, offset_min: int) -> None:
    local = naive.replace(tzinfo=timezone(timedelta(minutes=offset_min)))
    assert to_us(local) == to_us(local.astimezone(UTC))
    assert iso_of(local) == iso(to_us(local))


class NoOffset(tzinfo):
    def utcoffset(self, dt: datetime | None) -> None:
        return None


@pytest.mark.parametrize("naive", [datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=NoOffset())])
def test_a_time_without_an_offset_is_refused_rather_than_guessed(naive: datetime) -> None:
    with pytest.raises(InvalidInput) as caught:
        to_us(naive)
    assert caught.value.field == "tzinfo"


@pytest.mark.parametrize("us", [to_us(FIRST) - 1, to_us(LAST) + 1, 2**63, -(2**63)])
def test_microseconds_outside_the_calendar_are_a_typed_error(us: int) -> None:
    with pytest.raises(InvalidInput):
        from_us(us)


def test_a_manual_clock_moves_only_when_told_backwards_too() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    start = clock.now_us()
    clock.advance(timedelta(days=1, microseconds=1))
    assert clock.now_us() == start + DAY_US + 1
    clock.move_to(start - SECOND_US)
    assert clock.now_us() == start - SECOND_US
    with pytest.raises(InvalidInput):
        clock.move_to(datetime(2026, 1, 1))


def test_the_system_clock_counts_microseconds_since_1970() -> None:
    assert from_us(SystemClock().now_us()).year >= 2026


parts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=5).map(tuple)


@given(parts, parts)
@example(("ab", "c"), ("a", "bc"))
@example(("1:a",), ("a",))
@example(("a", ""), ("a",))
@example((), ("",))
@example(("a1:b",), ("a", "b"))
def test_two_lists_of_parts_have_the_same_id_only_when_they_are_the_same(a: tuple[str, ...], b: tuple[str, ...]) -> None:
    assert (derive_id(*a) == derive_id(*b)) == (a == b)


@given(st.integers(0, 2**128 - 1))
def test_a_uuid_made_of_a_number_is_a_uuid_like_any_other(number: int) -> None:
    made, plain = uuid_of(number), UUID(int=number)
    assert (type(made), made, hash(made), str(made), made.is_safe) == (UUID, plain, hash(plain), str(plain), plain.is_safe)
    assert pickle.loads(pickle.dumps(made)) == plain


def test_derived_ids_never_change() -> None:
    assert derive_id("renewal-rescue", "payment-failed", UUID(int=7)) == UUID("3ce9c63e-ae36-5e46-adec-037b1c95b2d4")
    code = "from postsale.events import derive_id; print(derive_id('a', 1))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == str(derive_id("a", 1))


@pytest.mark.parametrize("good", ["acme", "a", "0", "acme-eu.1_x", "a" * 64])
def test_a_tenant_is_a_short_plain_name(good: str) -> None:
    assert check_tenant(good) == good


@pytest.mark.parametrize("bad", ["", "Acme", "a b", "-a", ".a", "a/b", "ä", "a\n", "a" * 65, "a\x00", "а", None, 3, b"acme"])
def test_any_other_tenant_is_refused(bad: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_tenant(bad)  # type: ignore[arg-type]
    assert (caught.value.what, caught.value.field) == ("tenant", "name")


def test_the_numbers_of_the_lanes_and_the_text_of_a_stream_are_the_storage_format() -> None:
    assert (int(Lane.FACT), int(Lane.DECISION)) == (0, 1)
    assert str(StreamId("acme", "customers", "c1")) == "acme/customers/c1"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.integers() | st.uuids(), max_size=4))
def test_a_derived_id_is_a_version_5_uuid_over_its_parts(parts: list[object]) -> None:
    assert derive_id(*parts) == uuid5(NAMESPACE, "".join(f"{len(str(part))}:{part}" for part in parts))
