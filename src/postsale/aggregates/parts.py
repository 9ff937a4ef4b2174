"""Frozen values inside events, and the types of their fields. May import nothing of ours."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Ppm = Annotated[int, Field(ge=0, le=1_000_000)]
Arguments = Annotated[str, Field(max_length=100_000)]  # canonical JSON


class Part(BaseModel):
    """A frozen value inside an event."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)
