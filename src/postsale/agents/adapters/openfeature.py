"""Flags from any OpenFeature provider. Needs the extra `flags`. The provider is set up by the application, as its own documents say."""

from __future__ import annotations

from typing import Any

from postsale.agents.flags import FlagReading, FlagValue
from postsale.errors import MissingExtra


class OpenFeatureFlags:
    """A `FlagSource` over the OpenFeature client of a domain. The customer's random reference is the targeting key."""

    def __init__(self, domain: str | None = None) -> None:
        """Raises MissingExtra."""
        try:
            from openfeature import api
            from openfeature.evaluation_context import EvaluationContext
        except ImportError:
            raise MissingExtra(feature="OpenFeature flags", extra="flags") from None
        self._client = api.get_client(domain)
        self._context = EvaluationContext

    def read(self, key: str, default: FlagValue, *, tenant: str, customer: str) -> FlagReading:
        """The flag as the provider resolves it; what the client says when it cannot is the reason."""
        context = self._context(targeting_key=customer, attributes={"tenant": tenant})
        found: Any
        if isinstance(default, bool):
            found = self._client.get_boolean_details(key, default, context)
        elif isinstance(default, int):
            found = self._client.get_integer_details(key, default, context)
        else:
            found = self._client.get_string_details(key, default, context)
        reason = str(getattr(found.reason, "value", found.reason) or "")
        if found.error_code is not None:
            reason = f"ERROR: {getattr(found.error_code, 'value', found.error_code)}"
        return FlagReading(found.value, found.variant or "", reason)
