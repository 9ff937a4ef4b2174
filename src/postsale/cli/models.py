"""`postsale model`: train on the log, publish, activate, retire; what an active model says of a customer, and whether it still holds."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from postsale.agents.models import ModelHistory
from postsale.cli.common import (
    DEFAULT_DB,
    EXIT_CODES,
    AsOf,
    Commands,
    Db,
    Json,
    KnownAt,
    Reason,
    TenantName,
    emit,
    hint,
    opened,
    out,
    parse_time,
    person,
    table,
    tenant_of,
)
from postsale.errors import InvalidInput
from postsale.events import from_us, iso
from postsale.projections.model_card import ModelCard, figure
from postsale.projections.scoring import LogisticModel, Number
from postsale.projections.training import Knowledge

model_app = Commands(
    no_args_is_help=True,
    help="Models of churn, renewal, expansion and referral: trained on the log, published and activated by people.",
    epilog=EXIT_CODES,
)

Name = Annotated[str, typer.Argument(help="A target: churn, renewal, expansion, referral, or one of your own.")]
Version = Annotated[str, typer.Argument(help="The first characters of its digest, as `model list` shows it.")]
Known = Annotated[
    str, typer.Option("--knowledge", help="recorded: what this log knew. claimed: what sources say was knowable; for imported histories.")
]
_SPAN = re.compile(r"([1-9][0-9]{0,3})d\Z")


def days_of(value: str, option: str) -> timedelta:
    """Days, written as 90d. InvalidInput otherwise."""
    found = _SPAN.match(value)
    if found is None:
        raise InvalidInput(what="option", field=option, reason="expected days, such as 90d")
    return timedelta(days=int(found[1]))


def knowledge_of(value: str) -> Knowledge:
    """What an option names. InvalidInput otherwise."""
    if value == "claimed":
        return "claimed"
    if value == "recorded":
        return "recorded"
    raise InvalidInput(what="option", field="--knowledge", reason="expected recorded or claimed")


def _card(path: Path) -> ModelCard:
    try:
        return ModelCard.from_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(what="model", field="file", reason=f"cannot be read: {type(error).__name__}") from None


@model_app.command("train")
def model_train(
    target: Annotated[str, typer.Option("--target", help="churn, renewal, expansion, referral, or one of your own.")],
    split_at: Annotated[str, typer.Option("--split-at", help="Fitted on what was over by then, measured on rows from then on.")],
    horizon: Annotated[str, typer.Option("--horizon", help="Within how many days the outcome counts.")] = "90d",
    every: Annotated[str, typer.Option("--every", help="How far apart a customer's rows are.")] = "30d",
    since: Annotated[str | None, typer.Option("--since", help="No rows before. [default: two years before the split]")] = None,
    knowledge: Known = "recorded",
    to: Annotated[Path | None, typer.Option("--out", dir_okay=False, help="Where to write it. [default: TARGET.model.json]")] = None,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Fit a model on this log and measure it on later rows. Writes a file; nothing scores until it is published and activated."""
    split, first = parse_time(split_at), parse_time(since)
    assert split is not None
    with opened(db) as ps:
        models = tenant_of(ps, tenant).models
        card = models.train(
            target, horizon=days_of(horizon, "--horizon"), split_at=split, every=days_of(every, "--every"), since=first, knowledge=knowledge_of(knowledge)
        )  # fmt: skip
        path = to or Path(f"{target}.model.json")
        path.write_text(card.content)
        if json:
            emit({"file": str(path), "digest": card.digest, "card": card.model_dump(mode="json", by_alias=True)})
            return
        _show(card, card.digest)
        out.print(f"Written to [bold]{escape(str(path))}[/].")
        hint(f"postsale model publish {escape(str(path))} --reason 'trained on …'")


@model_app.command("publish")
def model_publish(
    source: Annotated[str, typer.Argument(help="A file that `model train` wrote, or prior:NAME for the rank that ships.")],
    reason: Reason,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Put a model into the log. It scores when it is activated."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant, new=True), person(ps)
        card = t.models.prior(source.removeprefix("prior:")) if source.startswith("prior:") else _card(Path(source))
        new = t.models.publish(card, reason=reason, by=by)
        if json:
            emit({"model": card.name, "digest": card.digest, "published": new, "by": by.login})
            return
        out.print(f"{escape(card.name)} {card.digest[:12]} {'published' if new else 'was published already'}, said {escape(by.login)}.")
        hint(f"postsale model activate {escape(card.name)} {card.digest[:12]} --reason '…'")


@model_app.command("activate")
def model_activate(
    name: Name, version: Version, reason: Reason, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False
) -> None:
    """Make a published version the one that scores. Activating the former one again is the way back. Exit status 3 when it does not fit."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant), person(ps)
        _said(name, t.models.activate(name, version, reason=reason, by=by), "active", by.login, t.models.history(name), json)


@model_app.command("retire")
def model_retire(name: Name, reason: Reason, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Let no version of a name score any more: its probability is not known from now on, and satisfies no floor."""
    with opened(db) as ps:
        t, by = tenant_of(ps, tenant), person(ps)
        _said(name, t.models.retire(name, reason=reason, by=by), "retired", by.login, t.models.history(name), json)


def _said(name: str, changed: bool, state: str, by: str, history: ModelHistory, json: bool) -> None:
    active = history.active
    if json:
        emit({"model": name, "active": active.digest if active else None, "changed": changed, "by": by})
        return
    which = f" {active.digest[:12]}" if active else ""
    out.print(f"{escape(name)}{which}: {state}{'' if changed else ' already'}, said {escape(by)}.")


@model_app.command("list")
def model_list(db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Every published version, oldest first, and which one scores."""
    with opened(db) as ps:
        models = tenant_of(ps, tenant).models
        histories = [models.history(name) for name in models.names()]
        if json:
            emit([_versions(h) for h in histories])
            return
        rows = [
            (
                escape(h.name),
                p.digest[:12],
                "[green]active[/]" if h.active is p else "",
                p.card.gives,
                escape(p.card.outcome),
                iso(p.published_us)[:10],
                escape(p.by),
            )
            for h in histories
            for p in h.published
        ]
        table("Models", ("model", "version", "", "gives", "outcome", "published", "by"), rows)
        if not rows:
            hint("postsale model publish prior:churn --reason 'a start'")


def _versions(h: ModelHistory) -> dict[str, Any]:
    return {
        "model": h.name,
        "active": h.active.digest if h.active else None,
        "versions": [
            {"digest": p.digest, "gives": p.card.gives, "outcome": p.card.outcome, "published_at": iso(p.published_us), "by": p.by}
            for p in h.published
        ],
        "turns": [{"digest": t.digest or None, "at": iso(t.at_us), "approver": t.approver, "reason": t.reason} for t in h.turns],
    }


@model_app.command("show")
def model_show(
    name: Name,
    version: Annotated[str | None, typer.Argument(help="The first characters of its digest. [default: the active one]")] = None,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """A model's card: what it may be used for, how good it was on later rows, its coefficients, who activated what and why."""
    with opened(db) as ps:
        models = tenant_of(ps, tenant).models
        history = models.history(name)
        found = models.find(name, version) if version is not None else (history.active or history.published[-1])
        if json:
            emit({"digest": found.digest, "card": found.card.model_dump(mode="json", by_alias=True), "history": _versions(history)})
            return
        _show(found.card, found.digest)
        turns = [
            (f"{from_us(t.at_us):%Y-%m-%d %H:%M}", t.digest[:12] or "[dim]retired[/]", escape(t.approver), escape(t.reason))
            for t in history.turns
        ]
        table("Who activated what", ("when", "version", "by", "because"), turns)


def _percent(ppm: int) -> str:
    return f"{ppm / 10_000:.1f} %"


def _show(card: ModelCard, digest: str) -> None:
    out.print(f"[bold]{escape(card.name)}[/] {digest[:12]}: {escape(card.outcome)}")
    out.print(f"[bold]Gives a {card.gives}.[/] {escape(card.use)}")
    made = from_us(card.made_at_us)
    out.print(f"Made {made:%Y-%m-%d}, good for {card.valid_days} days, over {card.features.name} version {card.features.version}.")
    if (t := card.trained) is not None:
        split = iso(t.split_us)[:10]
        out.print(
            f"Fitted on {t.rows:,} rows of {t.customers:,} customers whose outcome was over by {split}, {t.positives:,} with it ({t.knowledge})."
        )
    if (m := card.measures) is not None:
        rows = [
            ("rows after the split", f"{m.rows:,} of {m.customers:,} customers"),
            ("with the outcome", f"{m.positives:,} ({_percent(m.base_rate_ppm)})"),
            ("AUC", f"{m.auc_ppm / 1e6:.3f}  ({m.auc_low_ppm / 1e6:.3f} to {m.auc_high_ppm / 1e6:.3f}, 95 %, by customers)"),
            ("Brier", f"{m.brier_ppm / 1e6:.4f}"),
            ("Brier skill", f"{m.brier_skill_ppm / 1e6:+.3f}  (0: no better than the base rate)"),
            ("said on average", _percent(m.said_ppm)),
            ("calibration error", _percent(m.calibration_error_ppm)),
            ("lift, top tenth", f"{m.lift_ppm / 1e6:.1f} ×"),
        ]
        table("Measured on later rows", ("measure", "value"), rows)
        bins = [
            (b.rows, f"{_percent(b.lowest_ppm)} to {_percent(b.highest_ppm)}", _percent(b.said_ppm), _percent(b.happened_ppm))
            for b in m.calibration
        ]
        table("Calibration", ("rows", "between", "said", "happened"), bins, right=("rows", "said", "happened"))
        times = [(iso(p.as_of_us)[:10], p.rows, _percent(p.said_ppm), _percent(p.happened_ppm)) for p in m.periods]
        table("By time", ("as of", "rows", "said", "happened"), times, right=("rows", "said", "happened"))
    if isinstance(card.model, LogisticModel):
        table(
            "Coefficients",
            ("feature", "counts as", "coefficient"),
            [(t.feature, *_term(t)) for t in card.model.terms],
            right=("coefficient",),
        )


def _term(term: Any) -> tuple[str, str]:
    if isinstance(term, Number):
        unit = {"value": "its value", "age_days": "days since", "size": "how many"}[term.of]
        return f"{unit}, (x - {term.center:.4g}) / {term.scale:.4g}", f"{term.coefficient:+.4f}"
    return "its level", f"{len(term.levels)} levels"


@model_app.command("diff")
def model_diff(name: Name, old: Version, new: Version, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Two published versions side by side: measures, and coefficients per standard deviation of what they were fitted on."""
    with opened(db) as ps:
        models = tenant_of(ps, tenant).models
        pair = [models.find(name, digest) for digest in (old, new)]
        rows = _differences(*(p.card for p in pair))
        if json:
            emit({"old": pair[0].digest, "new": pair[1].digest, "differs": [{"what": w, "old": a, "new": b} for w, a, b in rows]})
            return
        table(f"{escape(name)}: {pair[0].digest[:12]} and {pair[1].digest[:12]}", ("what", "old", "new"), rows, right=("old", "new"))


def _differences(old: ModelCard, new: ModelCard) -> list[tuple[str, str, str]]:
    """What is not the same, by name."""
    flat = [_flat(card) for card in (old, new)]
    names = sorted({*flat[0], *flat[1]})
    return [(n, flat[0].get(n, ""), flat[1].get(n, "")) for n in names if flat[0].get(n) != flat[1].get(n)]


def _flat(card: ModelCard) -> dict[str, str]:
    found = {
        "gives": card.gives,
        "outcome": card.outcome,
        "features": f"{card.features.name}/{card.features.version}",
        "good for": f"{card.valid_days} d",
    }
    if (m := card.measures) is not None:
        found |= {"AUC": f"{m.auc_ppm / 1e6:.3f}", "Brier skill": f"{m.brier_skill_ppm / 1e6:+.3f}", "lift": f"{m.lift_ppm / 1e6:.1f}"}
        found |= {"base rate": _percent(m.base_rate_ppm), "rows": f"{m.rows:,}"}
    if isinstance(card.model, LogisticModel):
        found |= {f"coefficient {t.feature}": _term(t)[1] for t in card.model.terms} | {"intercept": f"{card.model.intercept:+.4f}"}
    return found


@model_app.command("check")
def model_check(name: Name, knowledge: Known = "recorded", db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Whether the active model still holds: its age, drift since it was trained, calibration since it was activated. Exit status 1 when not."""
    with opened(db) as ps:
        found = tenant_of(ps, tenant).models.check(name, knowledge=knowledge_of(knowledge))
        if json:
            emit(found.to_dict())
        else:
            colour = "green" if found.ok else "red"
            out.print(f"{escape(name)} {found.digest[:12]}: [{colour}]{found.says}[/], {found.age_days} of {found.valid_days} days old.")
            for why in found.why:
                out.print(f"  {escape(why)}")
            rows = [
                (d.of or "the score", f"{d.index_ppm / 1e6:.3f}", f"{d.chance_ppm / 1e6:.3f}", "[red]shifted[/]" if d.shifted else "")
                for d in found.drift
            ]
            table(f"Drift, {found.rows:,} customers now", ("of", "index", "by chance", ""), rows, right=("index", "by chance"))
            if (m := found.later) is not None:
                out.print(f"Since its activation: {m.rows:,} rows, said {_percent(m.said_ppm)}, {_percent(m.base_rate_ppm)} happened.")
        raise typer.Exit(0 if found.ok else 1)


@model_app.command("score")
def model_score(
    customer: Annotated[str, typer.Argument(help="The customer's id.")],
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    json: Json = False,
) -> None:
    """What each active model says of a customer, and what each feature puts in."""
    with opened(db) as ps:
        scores = tenant_of(ps, tenant).models.scores(customer, as_of=parse_time(as_of), known_at=parse_time(known_at))
        if json:
            emit([score.to_dict() for score in scores])
            return
        for s in scores:
            status = "" if s.status == "active" else f" [yellow]{s.status}[/]"
            out.print(f"[bold]{escape(s.name)}[/] {s.digest[:12]}: {figure(s.scored)}{status}  [dim]{escape(s.outcome)}[/]")
            rows = [(escape(p.feature) or "[dim]everybody[/]", f"{p.log_odds_micro / 1e6:+.6f}") for p in s.parts if p.log_odds_micro]
            if rows:
                table(f"Log-odds {s.log_odds_micro / 1e6:+.6f}: exactly the sum of", ("feature", "puts in"), rows, right=("puts in",))
        if not scores:
            out.print("No model is active.")
            hint("postsale model list")
