"""Tables: one item per row, ids that survive sorting and growth, and dirty rows that fail alone and say no value."""

from __future__ import annotations

import random
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postsale.aggregates.identity import ExternalId
from postsale.aggregates.signals import InvoicePaid
from postsale.errors import InvalidInput, MappingInvalid, MissingExtra
from postsale.events import canonical
from postsale.ingest import Item, Mapping, count_hint, keyed_digest, read_table, to_quarantine

from .support import CANARY, DIGEST, outcome, said, write

HEAD = """
name = "shop"
source = "shop"
format = "{format}"
customer = "cust"
"""
SIGNAL = """
[[signal]]
kind = "billing/invoice-paid"
id = {id}
occurred_at = "day"

[signal.fields]
amount_minor = { column = "total", type = "money", currency = "EUR" }
currency = { value = "EUR" }
"""


def mapping(id: str = '["no"]', format: str = "csv", more: str = "", extra: str = "") -> Mapping:
    return Mapping.parse(HEAD.replace("{format}", format) + more + SIGNAL.replace("{id}", id) + extra)


BY_ROW = mapping('"row"')
BY_NUMBER = mapping()
HEADER = "no,cust,day,total\n"
ROW = "1,cus_42,2026-03-01,49.00\n"


def read(folder: Path, text: str | bytes, how: Mapping = BY_NUMBER) -> list[Item]:
    return list(read_table(write(folder, text), how, digest=DIGEST))


def ids(items: list[Item]) -> list[str]:
    return [signal.id for item in items for signal in item.signals]


def test_a_row_becomes_an_item_with_its_signal_customer_and_place(tmp_path: Path) -> None:
    (item,) = read(tmp_path, HEADER + ROW)
    at = datetime(2026, 3, 1, tzinfo=UTC)
    assert item.signals == (InvoicePaid(source="shop", id=ids([item])[0], occurred_at=at, amount_minor=4900, currency="EUR"),)
    assert (item.customer, item.where, item.source) == (ExternalId("customer", "", "cus_42"), "row 2", "shop")
    assert (item.raw, item.context) == (ROW.encode(), HEADER.encode())
    assert item.source_item == canonical({"no": "1", "cust": "cus_42", "day": "2026-03-01", "total": "49.00"})


# ---------------------------------------------------------------- ids

LINE = st.builds("{},c{},2026-03-0{},{}.00\n".format, st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.integers(0, 1))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINE, max_size=12), st.lists(LINE, max_size=4), st.randoms(use_true_random=False))
def test_sorting_or_extending_a_table_changes_no_id_and_equal_rows_stay_distinct(
    tmp_path: Path, lines: list[str], more: list[str], shuffle: random.Random
) -> None:
    before = read(tmp_path, HEADER + "".join(lines), BY_ROW)
    assert len(set(ids(before))) == len(lines)
    longer = lines + more
    shuffle.shuffle(longer)
    after = read(tmp_path, HEADER + "".join(longer), BY_ROW)
    assert len(set(ids(after))) == len(longer)
    assert set(ids(before)) <= set(ids(after))
    content = {signal.id: item.source_item for item in after for signal in item.signals}
    assert all(content[signal.id] == item.source_item for item in before for signal in item.signals)


def test_a_row_that_is_mended_later_does_not_shift_the_numbers_of_its_twins(tmp_path: Path) -> None:
    twins = read(tmp_path, HEADER + ROW * 3, BY_ROW)
    assert [id.partition("#")[2] for id in ids(twins)] == ["", "2", "3"]
    assert len({id.partition("#")[0] for id in ids(twins)}) == 1


def test_ids_need_the_key_and_hold_neither_the_customer_nor_the_number(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + f"7,{CANARY},2026-03-01,1.00\n")
    for how in (BY_ROW, BY_NUMBER):
        one, other = (next(read_table(path, how, digest=keyed_digest(key * 32))) for key in (b"a", b"b"))
        assert ids([one]) != ids([other])
        assert all(CANARY not in id and len(id) == 32 for id in ids([one, other]))


@pytest.mark.parametrize("how", ['"row"', '["no"]'])
def test_two_tables_of_one_source_share_no_ids(how: str, tmp_path: Path) -> None:
    other = Mapping.parse((HEAD.replace("{format}", "csv") + SIGNAL.replace("{id}", how)).replace('name = "shop"', 'name = "shop-2"', 1))
    assert ids(read(tmp_path, HEADER + ROW, mapping(how))) != ids(read(tmp_path, HEADER + ROW, other))


def test_the_same_id_with_other_content_shows_and_with_the_same_content_too(tmp_path: Path) -> None:
    items = read(tmp_path, HEADER + ROW + ROW + ROW.replace("49", "50"))
    assert len(set(ids(items))) == 1
    assert [item.source_item == items[0].source_item for item in items] == [True, True, False]


def test_where_columns_stand_how_cells_are_quoted_and_delivery_columns_are_no_content(tmp_path: Path) -> None:
    how = mapping(more='delivery = ["exported"]\n')
    first = read(tmp_path, "no,cust,day,total,exported\n1,cus_42,2026-03-01,49.00,monday\n", how)
    again = read(tmp_path, 'exported,total,"day",no,cust\ntuesday,49.00,"2026-03-01",1,cus_42\n', how)
    assert first[0].source_item == again[0].source_item
    assert ids(first) == ids(again)


def test_a_changed_mapping_changes_neither_ids_nor_content(tmp_path: Path) -> None:
    changed = mapping(more='time_zone = "Europe/Berlin"\n', extra='items = { column = "no", type = "int" }\n')
    before, after = read(tmp_path, HEADER + ROW), read(tmp_path, HEADER + ROW, changed)
    assert before[0].signals != after[0].signals
    assert (ids(before), before[0].source_item) == (ids(after), after[0].source_item)


TWO = Mapping.parse(
    HEAD.replace("{format}", "csv")
    + SIGNAL.replace("{id}", '["no"]').replace("occurred_at", 'name = "paid"\noccurred_at')
    + """
[[signal]]
kind = "ticketing/ticket-escalated"
name = "escalated"
id = ["no"]
when = [{ column = "flag", equals = "TRUE" }]
occurred_at = "day"
fields = { ticket_id = "no" }

[[signal]]
kind = "ticketing/ticket-solved"
name = "solved"
id = ["no"]
when = [{ column = "closed", empty = false }, { column = "flag", one_of = ["TRUE", "FALSE"] }]
occurred_at = "closed"
fields = { ticket_id = "no" }
"""
)


def test_signals_of_one_row_have_ids_and_indexes_that_do_not_depend_on_each_other(tmp_path: Path) -> None:
    text = "no,cust,day,total,flag,closed\n1,c,2026-03-01,1,{},2026-03-02\n"
    plain, escalated = (read(tmp_path, text.format(flag), TWO)[0] for flag in ("FALSE", "TRUE"))
    assert [signal.kind for signal in escalated.signals] == [
        "billing/invoice-paid",
        "ticketing/ticket-escalated",
        "ticketing/ticket-solved",
    ]
    assert {signal.id: index for index, signal in plain.indexed()}.items() <= {
        signal.id: index for index, signal in escalated.indexed()
    }.items()


def test_a_row_to_which_no_signal_applies_is_ignored_with_the_reason(tmp_path: Path) -> None:
    only = Mapping.parse(
        HEAD.replace("{format}", "csv")
        + SIGNAL.replace("{id}", '"row"').replace("occurred_at", 'when = [{ column = "total", not_equals = "0" }]\noccurred_at')
    )
    items = read(tmp_path, HEADER + ROW + "2,c,2026-03-01,0\n", only)
    assert [outcome(item) for item in items] == ["signals", "ignored"]


def test_one_bad_signal_refuses_the_whole_row(tmp_path: Path) -> None:
    (item,) = read(tmp_path, "no,cust,day,total,flag,closed\n1,c,2026-03-01,1,TRUE,yesterday\n", TWO)
    assert item.error is not None
    assert (item.error.fields()["field"], item.signals) == ("closed", ())


# ---------------------------------------------------------------- dirty files

BAD_ROWS: dict[str, tuple[bytes, str]] = {
    "too few cells": (b"2,cus_1,2026-03-01\n", "(row)"),
    "too many cells": (b"2,cus_1,2026-03-01,1.00,extra\n", "(row)"),
    "invalid UTF-8": (b"2,cus_\xff,2026-03-01,1.00\n", "cust"),
    "NUL": (b"2,cus_1,2026-03-01,1.\x0000\n", "total"),
    "10 MB": (b"2,cus_" + b"1" * 10_000_000 + b",2026-03-01,1.00\n", "(row)"),
    "open quote": (b'2,"cus_1,2026-03-01,1.00\n', "(row)"),
    "text after a quote": (b'2,"cus"_1,2026-03-01,1.00\n', "(row)"),
    "empty customer": (b"2, ,2026-03-01,1.00\n", "cust"),
    "customer with a control character": (b"2,cus\x07,2026-03-01,1.00\n", "cust"),
    "look-alike customer": ("2,ｃus,2026-03-01,1.00\n".encode(), "cust"),
    "over-long customer": (b"2," + b"c" * 201 + b",2026-03-01,1.00\n", "cust"),
    "empty id": (b",cus_1,2026-03-01,1.00\n", "no"),
    "empty time": (b"2,cus_1,,1.00\n", "day"),
    "no time": (f"2,cus_1,{CANARY},1.00\n".encode(), "day"),
    "no money": (f"2,cus_1,2026-03-01,{CANARY}\n".encode(), "total"),
    "NaN": (b"2,cus_1,2026-03-01,NaN\n", "total"),
    "negative": (b"2,cus_1,2026-03-01,-1.00\n", "total"),
    "2^60": (b"2,cus_1,2026-03-01,1152921504606847\n", "total"),
    "missing amount": (b"2,cus_1,2026-03-01,\n", "total"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_one_refused_item_named_by_its_column_and_the_rest_continues(case: str, tmp_path: Path) -> None:
    raw, column = BAD_ROWS[case]
    items = read(tmp_path, (HEADER + ROW).encode() + raw + b"3,cus_1,2026-03-01,1.00\n4,cus_1,2026-03-01,1.00\n")
    assert [outcome(item) for item in items] == ["signals", "error", "signals", "signals"]
    bad = items[1]
    assert bad.error is not None
    assert (bad.where, bad.error.fields()["field"]) == ("row 3", column)
    assert bad.raw == raw or (len(raw) > len(bad.raw) and raw.startswith(bad.raw))
    assert CANARY not in said(bad)


def test_two_stray_quotes_refuse_their_two_rows_and_not_what_lies_between(tmp_path: Path) -> None:
    stray = '2,"cus_1,2026-03-01,1.00\n'
    for text in (stray + ROW * 3 + stray + ROW, stray + ROW * 3 + '5,cus_1",x\n' + ROW, stray + ROW * 2_000 + 'a",2026-03-01,1.00\n' + ROW):
        found = read(tmp_path, HEADER + text)
        assert len(found) == text.count("\n")
        assert [item.where for item in found if outcome(item) == "signals"] == [
            f"row {n}" for n, line in enumerate(text.splitlines(), 2) if line + "\n" == ROW
        ]


def test_a_refusal_keeps_no_frames_and_no_errors_behind_it_because_they_hold_values(tmp_path: Path) -> None:
    text = HEADER + f"2,{CANARY}\x07,2026-03-01,1\n2,c,{CANARY},1\n2,c,2026-03-01,-5\n"
    for item in read(tmp_path, text):
        assert item.error is not None
        assert (item.error.__traceback__, item.error.__context__, item.error.__cause__) == (None, None, None)


def test_all_bad_rows_together_are_as_many_items(tmp_path: Path) -> None:
    text = HEADER.encode() + b"".join(raw for raw, _ in BAD_ROWS.values()) + ROW.encode()
    assert Counter(outcome(item) for item in read(tmp_path, text)) == {"error": len(BAD_ROWS), "signals": 1}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            [b",", b'"', b"\n", b"\r", b"\r\n", b"a", b"1", b"2026-03-01", b"\xff", b"\x00", b" ", "é".encode(), CANARY.encode()]
        ),
        max_size=30,
    )
)
def test_any_bytes_are_read_to_their_end_and_no_message_says_a_value(tmp_path: Path, parts: list[bytes]) -> None:
    items = read(tmp_path, HEADER.encode() + b"".join(parts) + b"\n" + ROW.encode())
    assert outcome(items[-1]) == "signals" or b'"' in b"".join(parts)
    for item in items:
        if outcome(item) != "signals":
            assert CANARY not in said(item)


def test_quotes_may_hold_delimiters_quotes_and_line_ends(tmp_path: Path) -> None:
    how = mapping(extra='invoice_id = "no"\n')
    items = read(tmp_path, HEADER + '"a ""1"", b",cus_1,2026-03-01,1.00\r\n"2",cus_1,2026-03-01,"\n1.00"\n' + ROW, how)
    assert [signal.invoice_id for item in items for signal in item.signals if isinstance(signal, InvoicePaid)] == ['a "1", b', "2", "1"]
    assert [item.where for item in items] == ["row 2", "row 3", "row 5"]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + HEADER + ROW,
        (HEADER + ROW).replace("\n", "\r\n"),
        HEADER + ROW.rstrip("\n"),
        HEADER + "\n" + ROW + "\n \n",
        (HEADER + ROW).replace(",", " , "),
    ],
)
def test_a_byte_order_mark_crlf_a_missing_last_end_blank_lines_and_outer_blanks_do_not_matter(text: str, tmp_path: Path) -> None:
    (item,) = read(tmp_path, text)
    (expected,) = read(tmp_path, HEADER + ROW)
    assert item.signals == expected.signals


def test_other_delimiters_and_encodings_are_read_when_named(tmp_path: Path) -> None:
    how = mapping(more='delimiter = ";"\nencoding = "latin-1"\n')
    (item,) = read(tmp_path, (HEADER + ROW).replace(",", ";").replace("cus_42", "cus_é").encode("latin-1"), how)
    assert item.customer is not None
    assert item.customer.id == "cus_é"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "empty"),
        (b"no,cust,day\n", "no column 'total'"),
        (b"no,cust,day,total,no\n", "twice"),
        ("no,cust".encode("utf-16"), "UTF-16"),
        (b"\xff\n", "not readable"),
    ],
)
def test_a_file_that_does_not_fit_the_mapping_raises_at_once(text: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(MappingInvalid, match=reason):
        read_table(write(tmp_path, text), BY_NUMBER, digest=DIGEST)


def test_a_message_about_columns_does_not_repeat_the_file_whose_first_row_may_be_data(tmp_path: Path) -> None:
    with pytest.raises(MappingInvalid) as caught:
        read_table(write(tmp_path, f"1,{CANARY},2026-03-01,1.00\n"), BY_NUMBER, digest=DIGEST)
    assert CANARY not in str(caught.value)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_table(tmp_path / "absent.csv", BY_NUMBER, digest=DIGEST)


def test_whitespace_tables_are_read_with_and_without_a_header(tmp_path: Path) -> None:
    with_header = mapping(format="whitespace")
    without = mapping(format="whitespace", more='header = false\ncolumns = ["no", "cust", "day", "total"]\n')
    rows = " 1 cus_42  2026-03-01\t49.00\r\n"
    (one,), (other,) = read(tmp_path, "  no cust day total\r\n" + rows, with_header), read(tmp_path, rows, without)
    assert one.signals == other.signals
    assert (one.where, other.where) == ("row 2", "row 1")


# ---------------------------------------------------------------- null, default, map, several columns


def test_null_markers_defaults_and_value_maps(tmp_path: Path) -> None:
    how = mapping(
        more='null = ["", "n/a"]\n',
        extra='items = { column = "n", type = "int", default = "1", map = { dozen = "12" } }\ninvoice_id = "ref"\n',
    )
    text = "no,cust,day,total,n,ref\n" + "".join(
        f"{i},c,2026-03-01,1,{n},{ref}\n" for i, (n, ref) in enumerate([("n/a", "n/a"), ("dozen", "r"), ("3", "")])
    )
    found = [(s.items, s.invoice_id) for item in read(tmp_path, text, how) for s in item.signals if isinstance(s, InvoicePaid)]
    assert found == [(1, None), (12, "r"), (3, None)]


def test_a_customer_of_several_columns_is_joined_and_cannot_be_forged(tmp_path: Path) -> None:
    how = Mapping.parse(
        (HEAD.replace("{format}", "csv") + SIGNAL.replace("{id}", '"row"')).replace(
            'customer = "cust"', 'customer = ["cust", "no"]\ncustomer_source = "eu"'
        )
    )
    good, forged = read(tmp_path, HEADER + ROW + "1,a/b,2026-03-01,1\n", how)
    assert good.customer == ExternalId("customer", "eu", "cus_42/1")
    assert forged.error is not None


# ---------------------------------------------------------------- lookups and checks

LOOKUP = """
[lookup.subs]
file = "subs.csv"
by = "no"
key = "id"
columns = ["account", "since"]

[[check]]
name = "too-early"
column = "day"
not_before = "subs.since"
action = "ACTION"
"""


def joined(action: str = "flag") -> Mapping:
    return Mapping.parse(
        (HEAD.replace("{format}", "csv") + LOOKUP.replace("ACTION", action) + SIGNAL.replace("{id}", '"row"')).replace(
            '"cust"', '"subs.account"', 1
        )
    )


def test_a_lookup_gives_the_customer_and_a_row_without_one_goes_to_quarantine(tmp_path: Path) -> None:
    write(tmp_path, "id,account,since\n1,A-1,2026-03-01\n2,A-2,2026-03-02\n3,A-3,\n", "subs.csv")
    items = read(tmp_path, HEADER + "".join(f"{n},x,2026-03-01,1\n" for n in (1, 2, 3, 4)), joined())
    assert [item.customer.id if item.customer else None for item in items] == ["A-1", "A-2", "A-3", None]
    assert [item.flags for item in items] == [(), ("too-early",), (), ()]
    assert items[3].error is not None
    assert (items[3].error.fields()["field"], items[3].error.fields()["reason"]) == ("no", "not found in lookup subs")


def test_a_check_can_keep_rows_out(tmp_path: Path) -> None:
    write(tmp_path, "id,account,since\n1,A-1,2026-01-01\n2,A-2,2026-04-01\n", "subs.csv")
    items = read(tmp_path, HEADER + "1,x,2026-03-01,1\n2,x,2026-03-01,1\n", joined("quarantine"))
    assert [outcome(item) for item in items] == ["signals", "error"]
    assert items[1].error is not None
    assert items[1].error.fields()["reason"] == "fails check too-early"


@pytest.mark.parametrize(
    ("text", "reason"), [("id,account\n1,A\n", "no column 'since'"), ("id,account,since\n1,A,\n1,B,\n", "repeats a key"), ("", "empty")]
)
def test_a_lookup_that_does_not_fit_raises_at_once(text: str, reason: str, tmp_path: Path) -> None:
    write(tmp_path, text, "subs.csv")
    with pytest.raises(MappingInvalid, match=reason):
        read(tmp_path, HEADER + ROW, joined())


def test_a_missing_lookup_file_raises_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(tmp_path, HEADER + ROW, joined())


# ---------------------------------------------------------------- quarantine and Parquet


def test_a_quarantined_row_can_be_read_again_with_a_mended_mapping(tmp_path: Path) -> None:
    text = HEADER + 'x,"cus_42",2026-03-01,"1,049.00"\n'
    (bad,) = read(tmp_path, text)
    kept = to_quarantine("acme", bad, 1, bytes, digest=DIGEST)
    mended = Mapping.parse(
        (HEAD.replace("{format}", "csv") + SIGNAL.replace("{id}", '["no"]')).replace(
            'currency = "EUR" }', 'currency = "EUR", thousands = "," }', 1
        )
    )
    (good,) = read(tmp_path, kept.body, mended)
    assert [signal.model_dump()["amount_minor"] for signal in good.signals] == [104_900]
    assert ids([good]) == ids(read(tmp_path, text, mended))


def parquet(folder: Path, columns: dict[str, Any]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "table.parquet", row_group_size=2)
    return folder / "table.parquet"


PARQUET = mapping(format="parquet", extra='items = { column = "n", type = "int" }\n')


def test_a_parquet_table_gives_typed_columns_row_by_row(tmp_path: Path) -> None:
    import pyarrow

    days = [datetime(2026, 3, 1, 1, tzinfo=UTC)] * 3
    path = parquet(
        tmp_path,
        {
            "no": [1, 2, 3],
            "cust": ["a", "b", None],
            "day": pyarrow.array(days, pyarrow.timestamp("ns", tz="Europe/Berlin")),
            "total": [11.77, 0.1, 5.0],
            "n": [1.0, None, 3.0],
        },
    )
    items = list(read_table(path, PARQUET, digest=DIGEST))
    assert [outcome(item) for item in items] == ["signals", "signals", "error"]
    assert [(s.amount_minor, s.items, s.occurred_at) for item in items for s in item.signals if isinstance(s, InvoicePaid)] == [
        (1177, 1, days[0]),
        (10, None, days[0]),
    ]
    assert [item.where for item in items] == ["row 1", "row 2", "row 3"]
    assert count_hint("table", path, PARQUET) == 3


def test_a_parquet_cell_without_a_text_refuses_its_row_alone(tmp_path: Path) -> None:
    nested = {"no": [1, 2], "cust": ["a", "b\0"], "day": ["2026-03-01"] * 2, "total": ["1", "1"], "n": [1, 1]}
    items = list(read_table(parquet(tmp_path, nested), PARQUET, digest=DIGEST))
    assert [outcome(item) for item in items] == ["signals", "error"]
    floats = {"no": [1, 2, 3], "cust": ["a"] * 3, "day": ["2026-03-01"] * 3, "total": [float("nan"), float("inf"), 1e300], "n": [1, 1, 1]}
    assert [outcome(item) for item in read_table(parquet(tmp_path, floats), PARQUET, digest=DIGEST)] == ["error"] * 3
    lists = {"no": [1], "cust": ["a"], "day": ["2026-03-01"], "total": [[1]], "n": [1]}
    (item,) = read_table(parquet(tmp_path, lists), PARQUET, digest=DIGEST)
    assert item.error is not None
    assert item.error.fields()["field"] == "total"


def test_a_file_that_is_no_parquet_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not a Parquet file"):
        read_table(write(tmp_path, b"PAR1 not really"), PARQUET, digest=DIGEST)


def test_parquet_without_its_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as where it is not installed
    with pytest.raises(MissingExtra, match=r"postsale\[table\]"):
        read_table(path, PARQUET, digest=DIGEST)
