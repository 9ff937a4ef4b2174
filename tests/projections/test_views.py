"""Every implementation of views keeps the contract: one transaction, compare and set, and nothing that cannot be thrown away."""

from __future__ import annotations

import os
import pickle
import sqlite3
import stat
import threading
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.errors import InvalidInput, LeaseLost, StoreUnavailable, ViewMoved
from postsale.projections import MemoryViews, SqliteViews
from postsale.projections.views import Move
from postsale.projections.views_postgres import PostgresViews


def test_a_view_that_is_not_there_is_empty_at_position_0(views):
    assert views.checkpoint("v") == 0
    assert views.get("v", "k") is None
    assert views.get_many("v", ["k"]) == {}
    assert list(views.scan("v")) == []
    assert views.views() == []
    views.drop("v")


def test_rows_and_checkpoint_are_written_together_and_read_back(views):
    views.write("v", {"a": b"1", "b": b"2"}, checkpoint=5, expected=0)
    views.write("v", {"a": b"3", "b": None, "gone": None, "c": b""}, checkpoint=9, expected=5)
    assert views.checkpoint("v") == 9
    assert views.get("v", "a") == b"3"
    assert views.get_many("v", ["c", "b", "a"]) == {"a": b"3", "c": b""}
    assert list(views.scan("v")) == [("a", b"3"), ("c", b"")]
    assert views.views() == [("v", 9, 2)]


def test_a_writer_that_started_from_another_checkpoint_writes_nothing_and_is_told(views):
    views.write("v", {"a": b"1"}, checkpoint=5, expected=0)
    with pytest.raises(ViewMoved) as caught:
        views.write("v", {"a": b"stale", "z": b"z"}, checkpoint=9, expected=0, also={"w": {"a": b"stale"}})
    assert caught.value.fields() == {"view": "v", "expected_checkpoint": 0, "actual_checkpoint": 5}
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert list(views.scan("v")) == [("a", b"1")]
    assert list(views.scan("w")) == []
    assert views.checkpoint("v") == 5


def test_a_checkpoint_never_goes_back_but_rows_may_change_where_it_stands(views):
    views.write("v", {"a": b"1"}, checkpoint=5, expected=0)
    with pytest.raises(InvalidInput, match="only advances"):
        views.write("v", {"a": b"2"}, checkpoint=4, expected=5)
    views.write("v", {"b": b"2"}, checkpoint=5, expected=5)
    assert list(views.scan("v")) == [("a", b"1"), ("b", b"2")]


def test_rows_of_other_views_go_in_the_same_transaction_and_their_checkpoint_stays(views):
    views.write("w", {"x": b"0"}, checkpoint=3, expected=0)
    views.write("v", {"a": b"1"}, checkpoint=5, expected=0, also={"w": {"x": None, "y": b"1"}, "u": {"z": b"1"}})
    assert list(views.scan("w")) == [("y", b"1")]
    assert views.views() == [("u", 0, 1), ("v", 5, 1), ("w", 3, 1)]


def test_checkpoints_of_several_views_move_together_or_none_does(views):
    views.write("v", {}, checkpoint=5, expected=0, moves=[Move("w", 6, 0, 3), Move("x", 0, 0)])
    assert [views.checkpoint(view) for view in "vwx"] == [5, 6, 0]
    for moves, error in (
        ([Move("w", 9, 5)], ViewMoved),
        ([Move("w", 9, 6, 2)], LeaseLost),
        ([Move("x", 0, 0), Move("w", 5, 6)], InvalidInput),
        ([Move("x", 1, 1)], ViewMoved),
    ):
        with pytest.raises(error):
            views.write("v", {"a": b"1"}, checkpoint=8, expected=5, moves=moves)
        assert [views.checkpoint(view) for view in "vwx"] == [5, 6, 0]
        assert list(views.scan("v")) == []
    with pytest.raises(LeaseLost):
        views.write("w", {}, checkpoint=7, expected=6, token=2)


def test_views_do_not_see_each_other(views):
    views.write("v", {"a": b"1"}, checkpoint=5, expected=0)
    views.write("w", {"a": b"2"}, checkpoint=6, expected=0)
    views.write("x", {"a": b"3"}, checkpoint=7, expected=0)
    views.drop("v", "x", "not there")
    assert views.get("v", "a") is None
    assert views.checkpoint("v") == 0
    assert views.views() == [("w", 6, 1)]


def test_a_scan_goes_by_key_within_a_prefix_over_any_number_of_rows(views):
    rows = {f"t/{i:05}": b"%d" % i for i in range(1_700)} | {"t": b"", "s/1": b"", "t0": b"", "ü/1": b"", "t/\U0001f600": b""}
    views.write("v", rows, checkpoint=1, expected=0)
    assert list(views.scan("v")) == sorted(rows.items())
    assert list(views.scan("v", "t/")) == sorted((k, v) for k, v in rows.items() if k.startswith("t/"))
    assert list(views.scan("v", "none")) == []
    assert views.get_many("v", [*rows, "no"]) == rows


def test_of_many_writers_from_one_checkpoint_exactly_one_wins(views):
    outcomes = []
    barrier = threading.Barrier(8, timeout=20)

    def write(n):
        barrier.wait()
        try:
            views.write("v", {"winner": b"%d" % n, f"only-{n}": b"x"}, checkpoint=1, expected=0)
            outcomes.append(n)
        except ViewMoved:
            pass

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    (winner,) = outcomes
    assert list(views.scan("v")) == [(f"only-{winner}", b"x"), ("winner", b"%d" % winner)]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_of_many_openers_of_one_place_exactly_one_wins_and_the_others_are_told_why(kind, tmp_path, request):
    if kind == "sqlite":
        openers = [SqliteViews(tmp_path / "x.views", "log-1") for _ in range(6)]
    else:
        (url, schema), log_id = request.getfixturevalue("pg"), uuid4().hex
        openers = [PostgresViews(url, log_id, schema=schema) for _ in range(6)]
    lost = []
    barrier = threading.Barrier(6, timeout=20)

    def write(views, n):
        for turn in range(20):
            barrier.wait()
            try:
                views.write("v", {str(turn): b"%d" % n}, checkpoint=turn + 1, expected=turn)
            except ViewMoved as error:
                lost.append((turn, error.actual_checkpoint))

    threads = [threading.Thread(target=write, args=(v, n)) for n, v in enumerate(openers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(lost) == [(turn, turn + 1) for turn in range(20) for _ in range(5)]
    assert openers[0].views() == [("v", 20, 20)]
    for views in openers:
        views.close()


@given(
    st.lists(
        st.tuples(
            st.sampled_from("vw"),
            st.dictionaries(st.sampled_from("abc"), st.one_of(st.none(), st.binary(max_size=3))),
            st.integers(0, 3),
            st.integers(0, 4),
            st.one_of(st.none(), st.integers(0, 2)),
        )
    )
)
def test_all_implementations_answer_alike_after_any_sequence_of_writes(tmp_path_factory, pg, writes):
    sqlite = SqliteViews(tmp_path_factory.mktemp("v") / "x.views", "log-1")
    server = PostgresViews(pg[0], uuid4().hex, schema=pg[1])
    memory = MemoryViews()
    for view, rows, expected, checkpoint, token in writes:
        results = []
        for place in (sqlite, server, memory):
            try:
                results.append(place.write(view, rows, checkpoint=checkpoint, expected=expected, also={"u": rows}, token=token))
            except (LeaseLost, ViewMoved, InvalidInput) as error:
                results.append(str(error))
        assert results[0] == results[1] == results[2]
        assert sqlite.views() == server.views() == memory.views()
        for name in "uvw":
            assert list(sqlite.scan(name)) == list(server.scan(name)) == list(memory.scan(name))
    sqlite.close()
    server.close()


# ---------------------------------------------------------------- the file


def test_the_file_is_readable_by_its_owner_only(tmp_path):
    views = SqliteViews(tmp_path / "x.views", "log-1")
    views.write("v", {"a": b"1"}, checkpoint=1, expected=0)
    for name in os.listdir(tmp_path):
        assert stat.S_IMODE(os.stat(tmp_path / name).st_mode) == 0o600, name
    views.close()


def test_a_file_keeps_its_views_for_its_own_log_and_starts_afresh_for_another(tmp_path):
    for log, rows in (("log-1", []), ("log-1", [("a", b"1")]), ("log-2", []), ("log-1", [])):
        views = SqliteViews(tmp_path / "x.views", log)
        assert list(views.scan("v")) == rows
        if not rows:
            views.write("v", {"a": b"1"}, checkpoint=1, expected=0)
        views.close()


def test_a_deleted_file_is_made_again(tmp_path):
    path = tmp_path / "x.views"
    views = SqliteViews(path, "log-1")
    views.write("v", {"a": b"1"}, checkpoint=1, expected=0)
    views.close()
    path.unlink()
    views = SqliteViews(path, "log-1")
    assert views.checkpoint("v") == 0
    views.close()


def test_a_file_that_is_not_ours_is_refused_and_not_touched(tmp_path):
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE events (id)")
    db.close()
    text = tmp_path / "letter.txt"
    text.write_text("Dear Ada, " * 200)
    for path in (other, text):
        before = path.read_bytes()
        with pytest.raises(StoreUnavailable):
            SqliteViews(path, "log-1")
        assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_a_typed_error(tmp_path):
    with pytest.raises(StoreUnavailable):
        SqliteViews(tmp_path / "missing" / "x.views", "log-1")
    views = SqliteViews(tmp_path / "x.views", "log-1")
    views.close()
    with pytest.raises(StoreUnavailable):
        views.checkpoint("v")


def test_two_openers_of_one_file_see_each_others_commits_and_are_fenced(tmp_path):
    one, two = (SqliteViews(tmp_path / "x.views", "log-1") for _ in range(2))
    one.write("v", {"a": b"1"}, checkpoint=4, expected=0)
    with pytest.raises(ViewMoved):
        two.write("v", {"a": b"2"}, checkpoint=4, expected=0)
    two.write("v", {"a": b"2"}, checkpoint=6, expected=4)
    assert one.get("v", "a") == b"2"
    one.close()
    two.close()
