"""`postsale prompt …`: what planners are told. List versions, print one, compare two, activate one. Prints; decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.markup import escape

from postsale.agents.prompts import Prompt
from postsale.cli.common import DEFAULT_DB, EXIT_CODES, Commands, Db, Json, Reason, TenantName, emit, opened, out, person, table, tenant_of
from postsale.errors import InvalidInput

prompt_app = Commands(
    no_args_is_help=True, help="Prompts of planners: list versions, print one, see what changes, activate one.", epilog=EXIT_CODES
)

PromptName = Annotated[str, typer.Argument(metavar="PROMPT", help="A prompt file (.toml), or NAME@VERSION for one in the log.")]


def prompt_named(name: str, db: str, tenant: str | None) -> Prompt:
    """The prompt of a file, or the published version of the log. InvalidInput for anything else."""
    if name.endswith(".toml") and Path(name).is_file():
        return Prompt.load(name)
    if "@" in name:
        with opened(db) as ps:
            for known in tenant_of(ps, tenant).prompts(name.partition("@")[0]):
                if known.prompt.id == name:
                    return known.prompt
        raise InvalidInput(what="argument", field="prompt", reason="no such version was published here")
    raise InvalidInput(what="argument", field="prompt", reason="expected a prompt file (.toml), or NAME@VERSION")


@prompt_app.command("list")
def prompt_list(db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """Every version that was published, and since when it may be used."""
    with opened(db) as ps:
        known = tenant_of(ps, tenant).prompts()
    if json:
        emit([one.to_dict() for one in known])
        return
    rows = [
        (
            escape(one.prompt.id),
            one.prompt.digest[:12],
            escape(one.prompt.owner),
            f"{one.activated_at:%Y-%m-%d %H:%M}" if one.activated_at else "never",
            escape(one.approver),
            escape(one.prompt.description),
        )
        for one in known
    ]
    table("Prompts", ("prompt", "digest", "owner", "activated", "by", "description"), rows)


@prompt_app.command("show")
def prompt_show(name: PromptName, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """The prompt, whole."""
    prompt = prompt_named(name, db, tenant)
    if json:
        emit({"digest": prompt.digest, **orjson.loads(prompt.content)})
        return
    out.print(escape(f"{prompt.id} ({prompt.digest[:12]}), owner {prompt.owner}\n{prompt.description}"), soft_wrap=True)
    out.print(escape(f"variables: {', '.join(prompt.variables) or 'none'}\n"), soft_wrap=True)
    out.print(escape(prompt.instructions.rstrip("\n")), soft_wrap=True)


@prompt_app.command("diff")
def prompt_diff(a: PromptName, b: PromptName, db: Db = DEFAULT_DB, tenant: TenantName = None, json: Json = False) -> None:
    """What changes from A to B, line by line."""
    old, new = prompt_named(a, db, tenant), prompt_named(b, db, tenant)
    lines = old.diff(new)
    if json:
        emit({"from": _who(old), "to": _who(new), "diff": lines})
        return
    out.print(escape("\n".join(lines)) if lines else "No difference.", soft_wrap=True)


@prompt_app.command("activate")
def prompt_activate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A prompt file (.toml).")],
    reason: Reason,
    db: Db = DEFAULT_DB,
    tenant: TenantName = None,
    json: Json = False,
) -> None:
    """Let policies that name this version use it from now on. You approve it. Another content under a published version is refused."""
    if not file.is_file():
        raise InvalidInput(what="argument", field="file", reason="there is no such file")
    prompt = Prompt.load(file)
    with opened(db) as ps:
        by = person(ps)
        done = tenant_of(ps, tenant, new=True).activate_prompt(prompt, reason=reason, by=by)
        if json:
            emit({**_who(prompt), "activated": done, "by": by.login})
            return
        said = f"may be used from now on, said {escape(by.login)}." if done else "may be used already."
        out.print(f"{escape(prompt.id)} ({prompt.digest[:12]}) {said}")


def _who(prompt: Prompt) -> dict[str, str | int]:
    return {"name": prompt.name, "version": prompt.version, "digest": prompt.digest}
