"""Prompts: what planners are told. Data with declared variables, named by version and content hash, compared line by line.

Lives here: the shape of a prompt and filling it in. Customer text never becomes part of the instructions but as a quoted value of a
declared variable. Publishing is in `prompts_log`. Pure; may import policy, aggregates, events.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from postsale.agents.tables import Name
from postsale.agents.templates import placeholders
from postsale.aggregates.artifacts import content_digest
from postsale.aggregates.decisions import Scalar
from postsale.errors import PromptInvalid
from postsale.events import Id, Text, canonical

MAX_VALUE_CHARS = 500  # of one text that comes from outside


class Prompt(BaseModel):
    """One version of a prompt. Immutable; equal content has an equal digest, wherever it was written.

    `instructions` may name variables in braces, evidence of the row that uses it; each is declared in `variables`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    name: Name
    version: Annotated[int, Field(ge=1, le=999_999)]
    owner: Id
    description: Text
    variables: tuple[Id, ...] = ()
    instructions: Annotated[str, Field(min_length=1, max_length=50_000)]

    def model_post_init(self, context: Any, /) -> None:  # noqa: ARG002
        """Every prompt object is a valid one: what it names is declared, and what it declares is named."""
        try:
            named = set(placeholders(self.instructions))
        except ValueError as error:
            raise PromptInvalid(prompt=self.id, where="instructions", reason=str(error)) from None
        for name in sorted(named - set(self.variables)):
            raise PromptInvalid(prompt=self.id, where="instructions", reason=f"{{{name}}} is not declared under variables")
        for name in sorted(set(self.variables) - named):
            raise PromptInvalid(prompt=self.id, where="variables", reason=f"{name!r} is not used in the instructions")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The prompt in a TOML file. Raises PromptInvalid naming the place, OSError when there is no such file."""
        path = Path(path)
        try:
            return cls.from_toml(path.read_text(encoding="utf-8"), name=path.name)
        except UnicodeDecodeError:
            raise PromptInvalid(prompt=path.name, where="the file", reason="not valid UTF-8") from None

    @classmethod
    def from_toml(cls, text: str, *, name: str = "prompt") -> Self:
        """The prompt in a TOML text; `name` stands for it in errors until its own name is known."""
        try:
            return cls._validated(canonical(tomllib.loads(text)).decode(), name)
        except (tomllib.TOMLDecodeError, RecursionError, TypeError):
            raise PromptInvalid(prompt=name, where="the file", reason="not TOML of texts, numbers and lists") from None

    @classmethod
    def from_json(cls, content: str) -> Self:
        """The prompt that `content` of an earlier one holds. Round trip: `Prompt.from_json(p.content) == p`."""
        return cls._validated(content, "prompt")

    @classmethod
    def _validated(cls, content: str, name: str) -> Self:
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise PromptInvalid(prompt=name, where=where, reason=first["msg"].removeprefix("Value error, ")) from None

    @property
    def id(self) -> str:
        """`name@version`, as policies name it."""
        return f"{self.name}@{self.version}"

    @cached_property
    def content(self) -> str:
        """Canonical JSON: what the log keeps."""
        return canonical(self.model_dump(mode="json")).decode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `content`, hex: the name of exactly this version."""
        return content_digest(self.content)

    def fill(self, values: Mapping[str, Scalar]) -> str:
        """The instructions with variables replaced: numbers and yes or no as they are, texts quoted, cleaned and cut.

        Raises PromptInvalid for a variable that `values` lacks.
        """
        missing = [name for name in self.variables if name not in values]
        if missing:
            raise PromptInvalid(prompt=self.id, where="variables", reason=f"{missing[0]!r} is not among the evidence of the row")
        return self.instructions.format_map({name: shown(values[name]) for name in self.variables})

    def diff(self, other: Prompt) -> list[str]:
        """What changes from this prompt to `other`, as a unified diff of their fields and lines; [] for equal digests."""
        if self.digest == other.digest:
            return []
        return list(difflib.unified_diff(self._lines(), other._lines(), self.id, other.id, lineterm="", n=2))

    def _lines(self) -> list[str]:
        head = [f"owner: {self.owner}", f"description: {self.description}", f"variables: {', '.join(self.variables)}"]
        return [*head, *self.instructions.splitlines()]


def shown(value: Scalar) -> str:
    """A value inside instructions. A text from outside stays one quoted line, so that it cannot pass for an instruction's own."""
    match value:
        case None:
            return "unknown"
        case bool():
            return "yes" if value else "no"
        case int():
            return str(value)
    return json.dumps(clean(value))


def clean(text: str) -> str:
    """A text from outside without control and format characters, at most MAX_VALUE_CHARS long."""
    return "".join(ch if ch.isprintable() else " " for ch in text[:MAX_VALUE_CHARS])
