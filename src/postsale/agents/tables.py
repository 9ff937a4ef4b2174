"""The types that every table of a policy is made of. Imports events and errors only, so that each table can have a module of its own."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Kind = Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)*/[a-z0-9-]+$")]  # a wire name without its version
Clock = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]  # HH:MM, 00:00 to 23:59


class Table(BaseModel):
    """A part of a policy: frozen, and without keys that nobody knows."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True, populate_by_name=True
    )


class Within(Table):
    """A length of time in one of three words: days of 24 hours, hours, or hours of the policy's `[calendar]`."""

    within_days: Annotated[int, Field(ge=1, le=3_650)] | None = None
    within_h: Annotated[int, Field(ge=1, le=24 * 3_650)] | None = None
    within_business_h: Annotated[int, Field(ge=1, le=10_000)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(x is not None for x in (self.within_days, self.within_h, self.within_business_h)) != 1:
            raise ValueError("expected exactly one of within_days, within_h, within_business_h")
        return self

    @property
    def within(self) -> str:
        """For people."""
        if self.within_days is not None:
            return f"{self.within_days} days"
        return f"{self.within_h} h" if self.within_h is not None else f"{self.within_business_h} business hours"
