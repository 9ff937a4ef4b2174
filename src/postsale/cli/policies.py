"""`postsale policy …`: list the versions, print one, compare two, activate one, retire one. Prints; decides nothing."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape

from postsale.agents import SHIPPED, Policy
from postsale.agents.prompts import Prompt
from postsale.cli.common import (
    DEFAULT_DB,
    EXIT_CODES,
    Commands,
    Db,
    Json,
    Reason,
    TenantName,
    emit,
    hint,
    opened,
    out,
    person,
    table,
    tenant_of,
)
from postsale.errors import InvalidInput, PolicyInvalid, PromptInvalid

policy_app = Commands(
    no_args_is_help=True,
    help="Policies: list versions, print one, see what changes from one to another, activate one, retire one.",
    epilog=EXIT_CODES,
)

PolicyName = Annotated[
    str, typer.Argument(metavar="POLICY", help=f"A policy file (.toml), {', '.join(SHIPPED)}, or active:NAME for the one that decides now.")
]
_ACTIVE = "active:"


def policy_named(name: str, db: str, tenant: str | None) -> Policy:
    """The policy of a file, a shipped agent's, or the active one of this name in the log. InvalidInput for anything else."""
    if name.startswith(_ACTIVE):
        with opened(db) as ps:
            policy = tenant_of(ps, tenant).policy(name.removeprefix(_ACTIVE))
        if policy is None:
            raise InvalidInput(what="argument", field="policy", reason="no policy of this name is active here")
        return policy
    if name in SHIPPED:
        return SHIPPED[name]().policy
    if name.endswith(".toml") and Path(name).is_file():
        try:
            return Policy.load(name)
        except PolicyInvalid:
            with suppress(PromptInvalid, UnicodeDecodeError):
                Prompt.load(name)
                reason = f"this file is a prompt, not a policy; see: postsale prompt show {name}"
                raise InvalidInput(what="argument", field="policy", reason=reason) from None
            raise
    raise InvalidInput(what="argument", field="policy", reason=f"expected a policy file (.toml), {', '.join(SHIPPED)}, or {_ACTIVE}NAME")


@policy_app.command("list")
def policy_list(db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Every version that was published here, and which one decides, since when and by whom."""
    with opened(db) as ps:
        known = tenant_of(ps, tenant).policies()
    if json:
        emit([one.to_dict() for one in known])
        return
    rows = [
        (
            escape(f"{one.policy.name} v{one.policy.version}"),
            one.policy.digest[:12],
            f"[green]{one.status}[/]" if one.status == "active" else one.status,
            f"{one.said_at:%Y-%m-%d %H:%M}" if one.said_at else "never",
            escape(one.approver),
            escape(one.reason),
        )
        for one in known
    ]
    table("Policies", ("policy", "digest", "status", "said at", "by", "because"), rows)
    if not rows:
        hint("postsale policy activate FILE --reason …   (or name a shipped agent: postsale agent propose AGENT --reason …)")


@policy_app.command("show")
def policy_show(name: PolicyName, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """The policy as a table: when it is asked, its rows, its limits."""
    policy = policy_named(name, db, tenant)
    if json:
        emit({"digest": policy.digest, **orjson.loads(policy.content)})
        return
    out.print(escape(policy.table()), soft_wrap=True)


@policy_app.command("diff")
def policy_diff(a: PolicyName, b: PolicyName, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """What changes from A to B: rows by their id, sections field by field."""
    old, new = policy_named(a, db, tenant), policy_named(b, db, tenant)
    changes = old.changes(new)
    if json:
        emit({"from": _who(old), "to": _who(new), "changes": [change.to_dict() for change in changes]})
        return
    rows = [(escape(c.where), c.what, escape(c.field), _cell(c.before), _cell(c.after)) for c in changes]
    table(f"{old.name} v{old.version} → {new.name} v{new.version}", ("where", "what", "field", "before", "after"), rows)


@policy_app.command("activate")
def policy_activate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy file (.toml).")],
    reason: Reason,
    widens: Annotated[bool, typer.Option("--widens", help="Declare that it lets its agent do more than the active one.")] = False,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Make a policy the one that decides from now on. You approve it. Refused (exit status 3) when it allows more and nobody says so."""
    if not file.is_file():
        raise InvalidInput(what="argument", field="file", reason="there is no such file")
    policy = Policy.load(file)
    with opened(db) as ps:
        by = person(ps)
        done = tenant_of(ps, tenant, new=True).activate(policy, reason=reason, by=by, widens=widens)
        if json:
            emit({**_who(policy), "activated": done, "by": by.login})
            return
        said = f"decides from now on, said {escape(by.login)}." if done else "decides already."
        out.print(f"{escape(policy.name)} v{policy.version} ({policy.digest[:12]}) {said}")


@policy_app.command("retire")
def policy_retire(
    digest: Annotated[
        str, typer.Argument(metavar="DIGEST", help="Of the version, whole or its first characters; see: policy show active:NAME.")
    ],
    reason: Reason,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Let nothing more be decided under a version: what waits under it is set aside, its money is released. It is replayed as ever.

    Its agents decide nothing until somebody activates a version. Safe to repeat after a crash.
    """
    with opened(db) as ps:
        by = person(ps)
        settled = tenant_of(ps, tenant).retire_policy(digest, reason=reason, by=by)
        if json:
            emit({"digest": digest, "settled": settled, "by": by.login})
            return
        out.print(f"{escape(digest[:12])} decides nothing more, said {escape(by.login)}; {settled} open matters were settled.")


def _who(policy: Policy) -> dict[str, Any]:
    return {"name": policy.name, "version": policy.version, "digest": policy.digest}


def _cell(value: Any) -> str:
    """A value for a table; a whole row shows what it does, anything else itself."""
    if isinstance(value, dict):
        value = {name: value[name] for name in ("when", "action", "tool") if value.get(name)} or value
    return "" if value is None else escape(value if isinstance(value, str) else orjson.dumps(value).decode())
