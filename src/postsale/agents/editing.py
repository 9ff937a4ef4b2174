"""An edit of a proposal: what a person changed, as part of the new decision, so that it can be made again byte by byte.

The changes of the offer, and the names of changed arguments, stand among the flags of the decision (`edit.…`); the values of arguments
only among its sealed arguments; who edited, in the events beside it. Everything else comes from the policy and the evidence, as in every decision. Pure; may import
aggregates, events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson

from postsale.aggregates.decisions import Offer, Scalar
from postsale.errors import InvalidInput

REPLACES: Final = "edit.replaces"
COMMAND: Final = "edit-proposal"  # what the person asks for: the condition of the new decision's trigger
_MARK: Final = "edit."
_ARGUMENTS: Final = "edit.arguments"


@dataclass(frozen=True, slots=True)
class Edit:
    """Everything that people changed of what the policy proposed, by all edits so far."""

    replaces: UUID
    rule: str  # the row whose proposal it is; no other row may take its place
    amount_minor: int | None = None
    terms: str | None = None
    arguments: tuple[str, ...] = ()  # names of changed ones, such as `0.note`: the first effect's note

    def flags(self) -> dict[str, Scalar]:
        """The edit as a decision records it. `edit_of` is the inverse."""
        out: dict[str, Scalar] = {REPLACES: str(self.replaces), "edit.rule": self.rule}
        if self.amount_minor is not None:
            out["edit.amount_minor"] = self.amount_minor
        if self.terms is not None:
            out["edit.terms"] = self.terms
        if self.arguments:
            out[_ARGUMENTS] = ",".join(self.arguments)
        return out

    def offer(self, made: Offer | None) -> Offer | None:
        """The offer as edited; what was not changed is the policy's."""
        if made is None:
            return None
        changed: dict[str, Any] = {} if self.amount_minor is None else {"amount_minor": self.amount_minor}
        changed |= {} if self.terms is None else {"terms": self.terms}
        return made.model_copy(update=changed)

    def fill(self, index: int, made: dict[str, Any], edited: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
        """The arguments of one effect as edited. Without the edited ones (they are erased) as the policy made them."""
        if edited is None or index >= len(edited):
            return made
        names = {name.partition(".")[2] for name in self.arguments if name.partition(".")[0] == str(index)}
        return {k: edited[index].get(k, v) if k in names else v for k, v in made.items()}


def edit_of(flags: Mapping[str, Scalar] | None) -> Edit | None:
    """The edit that a decision records; None for a decision that nobody edited."""
    if not flags or REPLACES not in flags:
        return None
    amount, terms = flags.get("edit.amount_minor"), flags.get("edit.terms")
    names = str(flags.get(_ARGUMENTS) or "")
    return Edit(
        UUID(str(flags[REPLACES])),
        str(flags["edit.rule"]),
        amount if isinstance(amount, int) else None,
        terms if isinstance(terms, str) else None,
        tuple(names.split(",")) if names else (),
    )


def edited_values(flags: Mapping[str, Scalar] | None, arguments: object) -> str | None:
    """JSON of what people wrote into the arguments, and nothing else of them; None where nobody did, or they cannot be read."""
    edit = edit_of(flags)
    if edit is None or not edit.arguments or not isinstance(arguments, str):
        return None
    listed: list[dict[str, Any]] = orjson.loads(arguments)
    return orjson.dumps([{k: v for k, v in one.items() if f"{index}.{k}" in edit.arguments} for index, one in enumerate(listed)]).decode()


def changed_arguments(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], fixed: Sequence[frozenset[str]]
) -> tuple[str, ...]:
    """Names of the arguments that differ. InvalidInput for another shape, another type, or one that is not a person's to change."""
    if len(old) != len(new):
        raise InvalidInput(what="edit", field="arguments", reason=f"expected {len(old)} sets of arguments, one for each effect")
    names: list[str] = []
    for index, (before, after) in enumerate(zip(old, new, strict=True)):
        if set(before) != set(after):
            raise InvalidInput(what="edit", field="arguments", reason=f"expected exactly the arguments {', '.join(sorted(before))}")
        for name in sorted(before):
            if after[name] == before[name] and type(after[name]) is type(before[name]):
                continue
            if type(after[name]) is not type(before[name]):
                raise InvalidInput(what="edit", field=f"arguments.{name}", reason=f"expected a {type(before[name]).__name__}")
            if not _said(after[name]):
                raise InvalidInput(what="edit", field=f"arguments.{name}", reason="expected what JSON has, without lone surrogates")
            if name in fixed[index]:
                raise InvalidInput(
                    what="edit", field=f"arguments.{name}", reason="it follows from the customer or the offer: change the offer instead"
                )
            names.append(f"{index}.{name}")
    return tuple(names)


def _said(value: object) -> bool:
    """Whether a value can be stored and sent as it is."""
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
