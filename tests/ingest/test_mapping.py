"""Mapping files: whatever is wrong is found when the file is loaded, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from postsale.errors import MappingInvalid
from postsale.ingest import Mapping

from .support import EXAMPLES

GOOD = """
name = "shop"
source = "shop"
format = "csv"
customer = "cust"

[[signal]]
kind = "billing/invoice-paid"
id = ["no"]
occurred_at = "day"

[signal.fields]
amount_minor = { column = "total", type = "money", currency = "EUR" }
currency = { value = "EUR" }
"""


def test_the_shipped_mappings_load() -> None:
    assert len([Mapping.load(path) for path in sorted(EXAMPLES.glob("*.toml")) if path.name.startswith(("cdnow", "ravenstack"))]) == 7


def test_a_column_name_alone_is_text_or_an_iso_time() -> None:
    (rule,) = Mapping.parse(GOOD).signal
    assert (rule.occurred_at.column, rule.occurred_at.format) == ("day", "iso")


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('name = "shop"', "", "name"),
        ('name = "shop"', 'name = "Shop with blanks"', "name"),
        ('format = "csv"', 'format = "xls"', "format"),
        ('customer = "cust"', 'customer = "cust"\nsurprise = 1', "surprise"),
        ('customer = "cust"', "customer = []", "customer"),
        ('customer = "cust"', 'customer = "cust"\ntime_zone = "Mars/Olympus"', "time_zone"),
        ('customer = "cust"', 'customer = "cust"\ntime_zone = "../../etc/passwd"', "time_zone"),
        ('customer = "cust"', 'customer = "cust"\ndelimiter = ";;"', "delimiter"),
        ('customer = "cust"', 'customer = "cust"\nheader = false', "columns"),
        ('customer = "cust"', 'customer = "cust"\ncolumns = ["a"]', "columns"),
        ("billing/invoice-paid", "billing/invoice-imagined", "signal.0.kind"),
        ("billing/invoice-paid", "billing/invoice-paid@9", "signal.0.kind"),
        ('["no"]', '"all"', "signal.0.id"),
        ('["no"]', "[]", "signal.0.id"),
        ('"day"', '{ column = "day", format = "%Q" }', "signal.0.occurred_at.format"),
        ('"day"', '{ column = "day", format = "%H:%M" }', "signal.0.occurred_at.format"),
        ('type = "money"', 'type = "cash"', "signal.0.fields.amount_minor"),
        ('currency = "EUR" }', 'currency = "EURO" }', "signal.0.fields.amount_minor.currency"),
        (', currency = "EUR" }', " }", "signal.0.fields.amount_minor"),
        ('currency = { value = "EUR" }', "", "signal.0.fields"),
        ('currency = { value = "EUR" }', 'currency = { value = "euro" }', "signal.0.fields.currency"),
        ('currency = { value = "EUR" }', 'currency = { value = "EUR" }\nitems = { value = -1 }', "signal.0.fields.items"),
        ('currency = { value = "EUR" }', 'currency = { value = "EUR" }\ncolour = "c"', "signal.0.fields.colour"),
        ('currency = { value = "EUR" }', 'currency = { value = "EUR" }\nid = "c"', "signal.0.fields.id"),
        ('occurred_at = "day"', 'occurred_at = "day"\nwhen = [{ column = "a" }]', "signal.0.when.0"),
        ("[[signal]]", "[[signal]", "file"),
        ('customer = "cust"', "customer = " + "[" * 50_000, "file"),
    ],
)
def test_a_mistake_is_named_by_its_place(old: str, new: str, where: str) -> None:
    assert old in GOOD
    with pytest.raises(MappingInvalid) as caught:
        Mapping.parse(GOOD.replace(old, new, 1), "shop.toml")
    assert (caught.value.mapping, caught.value.where.startswith(where)) == ("shop.toml", True), str(caught.value)


def test_several_signals_need_names_because_they_share_a_row() -> None:
    with pytest.raises(MappingInvalid, match="different names"):
        Mapping.parse(GOOD + GOOD[GOOD.index("[[signal]]") :])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    for name, reason in (("absent.toml", "cannot be read"), ("latin.toml", "UTF-8")):
        with pytest.raises(MappingInvalid, match=reason):
            Mapping.load(tmp_path / name)
