"""postsale: signals and agent decisions as one immutable log; health, agents inside policy, and proofs.

Names are loaded when they are first asked for, so that importing the package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from postsale.access import Person
    from postsale.aggregates.identity import ExternalId, contact, foreign
    from postsale.app import PostSale, Receipt, RecordReport, Tenant
    from postsale.app.aio import AsyncPostSale, AsyncTenant
    from postsale.errors import PostSaleError

__all__ = [
    "AsyncPostSale",
    "AsyncTenant",
    "ExternalId",
    "Person",
    "PostSale",
    "PostSaleError",
    "Receipt",
    "RecordReport",
    "Tenant",
    "contact",
    "foreign",
]

_HOMES = {
    "AsyncPostSale": "postsale.app.aio",
    "AsyncTenant": "postsale.app.aio",
    "ExternalId": "postsale.aggregates.identity",
    "Person": "postsale.access",
    "PostSale": "postsale.app",
    "PostSaleError": "postsale.errors",
    "Receipt": "postsale.app",
    "RecordReport": "postsale.app",
    "Tenant": "postsale.app",
    "contact": "postsale.aggregates.identity",
    "foreign": "postsale.aggregates.identity",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
