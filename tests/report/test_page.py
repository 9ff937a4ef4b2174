"""The page: it needs nothing else, says everything in words and tables too, and takes no text for markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.report import Report, page, plots
from postsale.report.html import text
from postsale.report.words import rule_words
from tests.report.sample import nothing, sample

_VOID = {"meta", "br"}


class Element:
    def __init__(self, name: str, attributes: dict[str, str | None], parent: Element | None) -> None:
        self.name, self.attributes, self.parent = name, attributes, parent
        self.children: list[Element] = []
        self.text = ""

    def all(self, name: str) -> list[Element]:
        return [found for child in self.children for found in ([child] if child.name == name else []) + child.all(name)]

    @property
    def said(self) -> str:
        return self.text + "".join(child.said for child in self.children)


class Strict(HTMLParser):
    """Raises where an element is not closed in its place."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.at = Element("", {}, None)
        self.feed(content)
        self.close()
        assert self.at is self.root, f"<{self.at.name}> was not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        element = Element(tag, dict(attrs), self.at)
        self.at.children.append(element)
        if tag not in _VOID:
            self.at = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.at.children.append(Element(tag, dict(attrs), self.at))

    def handle_endtag(self, tag: str) -> None:
        assert self.at.name == tag, f"</{tag}> where <{self.at.name}> is open"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.text += data


def parsed(report: Report) -> Element:
    return Strict(page(report)).root


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style><svg onload=alert(1)>",
    "a & b < c",
    "&lt;script&gt;",
    "'\u202edrowssap\x00",
]


@pytest.mark.parametrize("said", HOSTILE)
def test_text_of_somebody_is_never_markup(said: str) -> None:
    """The elements and attributes are those of the same report with a plain word in its place; the text is all there."""
    root, plain = parsed(sample(said)), parsed(sample("word"))

    def shape(element: Element) -> object:
        return element.name, sorted(element.attributes), [shape(child) for child in element.children]

    assert shape(root) == shape(plain)
    assert root.all("script") == []
    assert not list(root.all("img"))
    if said.isprintable():
        assert root.all("h1")[0].said == said
    else:
        assert not set(page(sample(said))) & {"\u202e", "\x00"}


@given(st.text())
def test_any_text_is_escaped_and_comes_back(said: str) -> None:
    made = text(said)
    assert not set(made) & set("<>\"'")
    if said.isprintable():
        assert Strict(f"<p>{made}</p>").root.said == said


@pytest.mark.parametrize("report", [sample(), nothing()], ids=["everything", "nothing"])
def test_the_page_asks_for_nothing(report: Report) -> None:
    """No request can come of it: links go within the page, no element loads anything, and its own policy forbids it besides."""
    root, content = parsed(report), page(report)
    assert {
        name
        for name in ("script", "link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "image", "use")
        if root.all(name)
    } == set()
    assert {e.attributes["href"][:1] for e in root.all("a")} <= {"#"}  # type: ignore[index]
    assert not re.search(r"url\(|@import|https?:|\bsrc=|\bon[a-z]+=", content)
    policies = [e.attributes["content"] for e in root.all("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_every_plot_has_a_title_a_description_and_the_table_behind_it() -> None:
    root = parsed(sample())
    plots = root.all("svg")
    assert len(plots) >= 2 * 8
    ids = [e.attributes["id"] for name in ("title", "desc", "h2") for e in root.all(name) if "id" in e.attributes]
    assert len(set(ids)) == len(ids)
    for figure in root.all("figure"):
        assert [e.attributes["class"] for e in figure.all("svg")] == ["wide", "narrow"]
        for plot in figure.all("svg"):
            (title,), (told,) = plot.all("title"), plot.all("desc")
            assert plot.attributes["role"] == "img"
            assert title.said
            assert told.said
            assert plot.attributes["aria-labelledby"] == f"{title.attributes['id']} {told.attributes['id']}"
        (table,) = figure.all("table")
        assert table.all("caption")[0].said
        assert len(table.all("tr")) > 1
    assert all(e.parent is not None and e.parent.name == "figure" for e in plots)


def test_every_link_leads_to_a_section_that_is_there() -> None:
    for report in (sample(), nothing(), replace(sample(), twin=None, budgets=())):
        root = parsed(report)
        there = {e.attributes["id"] for e in root.all("h2")}
        assert {str(e.attributes["href"])[1:] for e in root.all("a")} == there


def test_it_says_of_what_log_and_what_time_it_is() -> None:
    said = parsed(sample("acme")).said
    for word in (
        "acme",
        "As of 2026-07-01 00:00 UTC",
        "known at 2026-07-01 00:00 UTC",
        "position 1,234",
        "1,200 events",
        "ab" * 32,
        "3: these customers are made up",
    ):
        assert word in said


def test_a_tenant_of_which_nothing_is_known_has_a_page_without_figures() -> None:
    root = parsed(nothing())
    assert root.all("svg") == []
    assert "No agent was asked" in root.said
    assert [e.said for e in root.all("h2")] == ["About this report"]


def test_the_same_report_gives_the_same_bytes() -> None:
    assert page(sample()) == page(sample())
    assert page(sample()) != page(replace(sample(), seed=4))


def test_only_the_model_decides_what_is_said() -> None:
    """Each figure of the report that is changed changes the page: nothing on it comes from elsewhere, and nothing is left out."""
    report = sample()
    first = report.agents[0]
    changed = [
        replace(report, approvals=replace(report.approvals, rejected=77)),
        replace(report, referrals=replace(report.referrals, clicked=9)),
        replace(report, agents=(replace(first, dispositions={**first.dispositions, "acted": 5}), *report.agents[1:])),
        replace(report, health=(*report.health[:-1], replace(report.health[-1], poor=17))),
        replace(report, risk=(replace(report.risk[0], lost=3), *report.risk[1:])),
        replace(report, budgets=(replace(report.budgets[0], months={"2026-01": (20_001, 0)}),)),
        replace(report, root="cd" * 32),
        replace(report, position=9),
    ]
    assert len({page(r) for r in [report, *changed]}) == 1 + len(changed)


def test_what_people_said_sums_up_in_words_also_when_nobody_answered() -> None:
    report = sample()
    left = replace(report.approvals, asked=1, approved=0, edited=0, rejected=0, lapsed=0, overtaken=0, waiting=1, hours=())
    assert "People were asked 1 time: 1 still waits." in page(replace(report, approvals=left))
    assert "People were asked 8 times: 8 overtaken." in page(replace(report, approvals=replace(left, asked=8, overtaken=8, waiting=0)))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("holdout:everybody", "left alone at random, by the hold-out everybody, so that effects can be told"),
        ("kill-switch:retired", "its agent is retired"),
        ("kill-switch:policy-retired", "its policy is retired"),
        ("kill-switch:tenant", "the kill switch was thrown"),
        ("blast-radius:100/1h", "it had decided 100 times within 1 h already"),
    ],
)
def test_rules_have_words(rule: str, words: str) -> None:
    assert rule_words(rule) == words


def test_open_cases_of_customers_who_left_are_told_apart() -> None:
    report = sample()
    listed = sum(r.open_case for r in report.at_risk)
    months = (*report.risk[:-1], replace(report.risk[-1], open=listed + 3))
    assert f"{listed + 3} are open at the end, 3 of them of customers who have left." in page(replace(report, risk=months))


@pytest.mark.parametrize("n", [1, 2, 7, 12, 13, 24])
@pytest.mark.parametrize("width", [plots.WIDE, plots.NARROW])
def test_labels_of_an_axis_are_evenly_spaced_and_end_with_the_last(n: int, width: float) -> None:
    labels = [f"M{no:02d} 26" for no in range(n)]
    _, inside = plots.areas(labels, [plots.Series("s", [1.0] * n, "good")])(width)
    shown = [int(found) for found in re.findall(r">M(\d\d) 26<", "".join(str(part) for part in inside))]
    assert shown[-1] == n - 1
    assert len({b - a for a, b in pairwise(shown)}) <= 1
