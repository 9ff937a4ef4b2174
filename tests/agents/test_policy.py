"""Policies: what is refused and where, what is kept, how they print and differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from postsale.agents import Agent, ChurnOutreach, Policy, RenewalRescue
from postsale.agents.templates import fill, placeholders
from postsale.aggregates.artifacts import content_digest
from postsale.errors import BadDeclaration, PolicyInvalid
from tests.agents.world import DUNNING


def rule(text: str) -> str:
    """The policy with one more row in front."""
    return DUNNING.replace('[[rule]]\nid = "credit"', f'[[rule]]\n{text}\n\n[[rule]]\nid = "credit"')


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("name = ", "the file", "not TOML"),
        ("name = " + "[" * 50_000, "the file", "too deeply"),
        ("", "name", "required"),
        (DUNNING.replace('name = "dunning"', 'name = "Not a name!"'), "name", "pattern"),
        (DUNNING.replace("version = 1", "version = 1.5"), "version", "integer"),
        (DUNNING + "\n[extra]\nx = 1", "extra", "not permitted"),
        (DUNNING.replace('"integer"', '"number"', 1), "inputs.failed_payments", "integer"),
        (DUNNING.replace("[inputs]", '[inputs]\n"a.b" = "text"'), "inputs.a.b", "named with"),
        (DUNNING.replace("[inputs]", '[inputs]\ncustomer = "text"'), "inputs.customer", "taken"),
        (DUNNING.replace('when = { failed_payments = ">= 1" }', "when = {}"), "trigger 'failing', when", "always true"),
        (DUNNING.replace('when = { failed_payments = ">= 1" }', 'when = { health = ">= 1" }'), "trigger 'failing', when.health", "not declared"),
        (DUNNING.replace('when = { failed_payments = ">= 1" }', 'when = { failed_payments = "many" }'), "trigger 'failing', when.failed_payments", "not an integer"),
        (DUNNING + '\n[[trigger]]\nid = "failing"\nwhen = { segment = "x" }', "trigger 'failing'", "twice"),
        (rule('id = "task"\naction = "none"\nbecause = "x"\nwhen = { segment = "y" }'), "rule 'task'", "twice"),
        (rule('id = "no-rule"\naction = "none"\nbecause = "x"'), "rule 'no-rule'", "choose another"),
        (rule('id = "all"\naction = "none"\nbecause = "x"'), "rule 'credit'", "never be reached"),
        (rule('id = "same"\naction = "none"\nbecause = "x"\nwhen = { segment = "vip" }'), "rule 'credit'", "same conditions"),
        (rule('id = "r"\naction = "none"\nbecause = " "\nwhen = { segment = "y" }'), "rule 'r', because", "reason"),
        (rule('id = "r"\naction = "none"\nbecause = "{mood}"\nwhen = { segment = "y" }'), "rule 'r', because", "not a declared input"),
        (rule('id = "r"\naction = "none"\nbecause = "{segment.__class__}"\nwhen = { segment = "y" }'), "rule 'r', because", "only be the name"),
        (rule('id = "r"\naction = "none"\nbecause = "{segment!r}"\nwhen = { segment = "y" }'), "rule 'r', because", "only be the name"),
        (rule('id = "r"\naction = "none"\nbecause = "open {"\nwhen = { segment = "y" }'), "rule 'r', because", "brace|'{'|expected"),
        (rule('id = "r"\naction = "none"\nbecause = "x"\nrisk_case = true\nwhen = { segment = "y" }'), "rule 'r', risk_case", "does nothing"),
        (rule('id = "r"\naction = "none"\nbecause = "x"\ntool = "a@1"\nwhen = { segment = "y" }'), "rule 'r', tool", "does nothing"),
        (rule('id = "r"\naction = "do"\nbecause = "x"\nchannel = "email"\nwhen = { segment = "y" }'), "rule 'r', tool", "needs the tool"),
        (rule('id = "r"\naction = "do"\nbecause = "x"\ntool = "email.send"\nwhen = { segment = "y" }'), "rule 1 'r', tool", "pattern"),
        (rule('id = "r"\naction = "do"\nbecause = "x"\nauthority_limit_minor = 5\nwhen = { segment = "y" }'), "rule 'r', authority_limit_minor", "only an offer"),
        (rule('id = "r"\naction = "do"\nbecause = "x"\nauthority_limit_minor = -5\nwhen = { segment = "y" }'), "rule 1 'r', authority_limit_minor", "greater"),
        (rule('id = "r"\naction = "do"\nbecause = "x"\napproval = "maybe"\nwhen = { segment = "y" }'), "rule 1 'r', approval", "required"),
        (DUNNING.replace('"$customer", template', '"$mood", template'), "rule 'mail', arguments.customer", "neither"),
        (DUNNING.replace('template = "dunning"', 'template = "$offer.terms"'), "rule 'mail', arguments.template", "needs an"),
        (DUNNING.replace('template = "dunning"', 'template = "{mood}"'), "rule 'mail', arguments.template", "not a declared input"),
        (DUNNING.replace('"$mrr_minor"', '"$segment"'), "rule 'credit', offer.amount_minor", "expected integer"),
        (DUNNING.replace('"$mrr_minor"', '"4900"'), "rule 'credit', offer.amount_minor", "of a declared input"),
        (DUNNING.replace('currency = "EUR", terms = "One month." }', 'currency = "USD", terms = "x" }'), "rule 'credit', offer.currency", "budget is in EUR"),
        (DUNNING.replace('currency = "EUR", terms = "One month." }', 'currency = "XYZ", terms = "x" }'), "rule 1 'credit', offer.currency", "ISO 4217"),
        (DUNNING.replace("authority_limit_minor = 1000\n", ""), "rule 'credit', authority_limit_minor", "needs the amount"),
        (DUNNING.replace('"$mrr_minor"', "4900").replace("authority_limit_minor = 1000", 'authority_limit_minor = 1000\napproval = "none"'), "rule 'credit', approval", "could never act"),
        (DUNNING[: DUNNING.index("[[budget]]")] + DUNNING[DUNNING.index("[outcome]") :], "budget", "needs a budget"),
        (DUNNING.replace('start = "20:00"', 'start = "8pm"'), "guardrails.quiet_hours.start", "HH:MM"),
        (DUNNING.replace('end = "08:00"', 'end = "24:00"'), "guardrails.quiet_hours.end", "HH:MM"),
        (DUNNING.replace('end = "08:00"', 'end = "20:00"'), "guardrails.quiet_hours.end", "same as the start"),
        (DUNNING.replace("Europe/Berlin", "Europe/Bielefeld"), "guardrails.quiet_hours.default_zone", "IANA"),
        (DUNNING.replace('time_zone = "text"\n', ""), "guardrails.quiet_hours", "declare time_zone"),
        (DUNNING.replace("count = 2", "count = 51"), "guardrails.frequency.0.count", "50"),
        (DUNNING.replace("days = 30", "days = 0"), "guardrails.frequency.0.days", "greater"),
        (DUNNING.replace("[guardrails.quiet_hours]", "[[guardrails.frequency]]\ncount = 2\ndays = 30\n\n[guardrails.quiet_hours]"), "guardrails.frequency", "twice"),
        (DUNNING.replace('bound_to = ["failed_payments"]', 'bound_to = ["mood"]'), "guardrails.bound_to", "not a declared"),
        (DUNNING.replace('["billing/invoice-paid"]\nbound', '["InvoicePaid"]\nbound'), "guardrails.must_not_have_changed.0", "pattern"),
        (DUNNING.replace('per = "month"', 'per = "week"'), "budget 1 'retention', per", "month"),
        (DUNNING.replace("max_depth = 2", "max_depth = 17"), "guardrails.max_depth", "16"),
        (DUNNING.replace('hit = "first"', 'hit = "unique"'), "rule 'task', when", "overlaps with rule 'credit'"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_by_its_place(text: str, where: str, says: str) -> None:
    with pytest.raises(PolicyInvalid, match=says) as caught:
        Policy.from_toml(text)
    assert caught.value.where == where


def test_a_catch_all_beside_other_rows_clashes_under_unique() -> None:
    text = DUNNING.replace('hit = "first"', 'hit = "unique"')
    text = text.replace('[[rule]]\nid = "credit"', '[[rule]]\nid = "all"\naction = "none"\nbecause = "x"\n\n[[rule]]\nid = "credit"')
    with pytest.raises(PolicyInvalid, match="chooses none"):
        Policy.from_toml(text)


@pytest.mark.parametrize("policy", [Policy.from_toml(DUNNING), RenewalRescue().policy, ChurnOutreach().policy], ids=lambda p: p.name)
def test_a_policy_is_rebuilt_from_its_content_alone(policy: Policy) -> None:
    again = Policy.from_json(policy.content)
    assert again == policy
    assert (again.content, again.digest) == (policy.content, policy.digest)
    assert policy.digest == content_digest(policy.content)
    assert again.table() == policy.table()
    assert policy.diff(again) == []


def test_layout_and_comments_do_not_change_the_digest() -> None:
    assert Policy.from_toml("# a comment\n" + DUNNING.replace(" = ", "=")).digest == Policy.from_toml(DUNNING).digest


def test_every_change_is_listed_by_its_row() -> None:
    old = Policy.from_toml(DUNNING)
    new = Policy.from_toml(
        DUNNING.replace("authority_limit_minor = 1000", "authority_limit_minor = 9000")
        .replace('id = "wait"', 'id = "later"')
        .replace("count = 2", "count = 3")
        .replace('segment = "smb"', 'segment = "in [smb, mid]"')
    )
    assert old.diff(new) == [
        "guardrails.frequency: [{'count': 2, 'days': 30}] → [{'count': 3, 'days': 30}]",
        "rule 'wait' removed",
        "rule 'later' added",
        "rule 'credit'.authority_limit_minor: 1000 → 9000",
        "rule 'mail'.when.segment: smb → in [smb, mid]",
    ]


def test_a_policy_prints_as_a_table_that_names_every_row_and_limit() -> None:
    text = str(Policy.from_toml(DUNNING))
    for part in (
        "credit",
        "mail",
        "task",
        "wait",
        "failed_payments >= 2",
        "at most 2 contacts in 30 days",
        "20:00 to 08:00",
        "retention",
        "within 14 days",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) < 170


def test_a_file_that_is_not_there_is_an_os_error_and_one_that_is_loads(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Policy.load(tmp_path / "none.toml")
    (tmp_path / "mine.toml").write_text(DUNNING, encoding="utf-8")
    assert Agent(policy=Policy.load(tmp_path / "mine.toml")).name == "dunning"


def test_an_agent_needs_a_policy_and_a_name_of_its_own() -> None:
    with pytest.raises(BadDeclaration, match="needs a policy"):
        Agent()
    policy = Policy.from_toml(DUNNING)
    for name in ("all", "Not A Name", "x" * 65):
        with pytest.raises(BadDeclaration):
            Agent(policy, name=name)


def test_templates_say_unknown_yes_and_no() -> None:
    assert fill("{a} {b} {c} {{d}} {e}", {"a": 5, "b": None, "c": True, "e": False}) == "5 unknown yes {d} no"
    assert placeholders("{a} {{x}} {b_c}") == ("a", "b_c")


def test_the_example_policy_is_valid_and_runs_with_what_ships() -> None:
    from tests.agents.world import World

    policy = Policy.load(Path(__file__).parents[2] / "examples" / "custom_policy.toml")
    w = World([Agent(policy)])
    w.mode("act", "kind-words")
    w.attend(w.failed(attempt=3))
    assert [(d.rule, d.disposition) for d in w.decisions()] == [("call", "acted")]
