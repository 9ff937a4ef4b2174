"""Declarations: a class of features over signals, declared once, checked when it is declared.

Here lives the base class `Features` with its digest. What its leaves are declared with is `declaring`, how a leaf is kept is `algebra`,
how it is folded is `folding`. Imports `algebra`, `derived`, events and errors.

    class Billing(Features, version=1, owner="revops"):
        failed = count(InvoicePaymentFailed, window=days(90))
        paid = count(InvoicePaid, window=days(90))
        owed = total(InvoicePaymentFailed, lambda e: e.amount_minor, by=lambda e: e.currency)

        @derived(unit="ratio")
        def failure_rate(failed: int, paid: int) -> float | None:
            return failed / (failed + paid) if failed + paid else None
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from types import FunctionType
from typing import Any, ClassVar

from postsale.errors import BadDeclaration
from postsale.events import canonical
from postsale.projections.algebra import Across, Leaf
from postsale.projections.derived import Derived, bound, bound_fold, ordered


class Features:
    """Base of every declaration: `class Billing(Features, version=1, owner="revops")`. Never instantiated.

    `deprecated={"paid": "use `settled`; gone in version 3"}` says of features that they will go, and what to read instead.

    `digest` is a content hash of name, version, leaves with their expressions, and derived names with what they need; the order
    of declaration, owner, units, descriptions and deprecations do not count. A change of the digest is a new view.
    """

    version: ClassVar[int]
    owner: ClassVar[str]
    leaves: ClassVar[Mapping[str, Leaf[Any]]]  # by name, sorted: the layout of the state
    relations: ClassVar[Mapping[str, str]]  # names of the leaves that others are read across, with the system whose ids they give
    deriveds: ClassVar[tuple[Derived[Any], ...]]  # each after those it needs
    deprecated: ClassVar[Mapping[str, str]]  # what to do instead, by name of the feature
    digest: ClassVar[str]  # 32 hex digits

    def __init_subclass__(cls, *, version: int, owner: str, deprecated: Mapping[str, str] | None = None) -> None:
        super().__init_subclass__()
        name = cls.__name__
        if cls.__bases__ != (Features,):
            raise BadDeclaration(what=name, reason="subclass Features itself; declarations do not inherit")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise BadDeclaration(what=name, reason="version must be a whole number from 1")
        if not isinstance(owner, str) or not owner:
            raise BadDeclaration(what=name, reason="owner must name who answers for it")
        declared = {n: member for n, member in vars(cls).items() if isinstance(member, (Leaf, Derived))}
        for n, member in vars(cls).items():
            if isinstance(member, FunctionType) and not n.startswith("__"):
                raise BadDeclaration(what=f"{name}.{n}", reason="a plain method; decorate it with @derived() or @fold(…)")
        for n in declared:
            if n.startswith("_") or n in vars(Features) or n in Features.__annotations__:
                raise BadDeclaration(what=f"{name}.{n}", reason="this name is reserved")
        leaves = {n: _named(name, n, m, declared) for n, m in sorted(declared.items()) if isinstance(m, Leaf)}
        relations: dict[str, str] = {}
        for n, leaf in leaves.items():
            if leaf.across is not None and relations.setdefault(*leaf.across) != leaf.across.source:
                reason = f"{leaf.across.relation} names ids of two systems; declare a relation for each"
                raise BadDeclaration(what=f"{name}.{n}", reason=reason)
        deriveds = {
            n: bound(name, n, m) if m.over is None else bound_fold(name, n, m, declared)
            for n, m in declared.items()
            if isinstance(m, Derived)
        }
        if not leaves:
            raise BadDeclaration(what=name, reason="declares no feature over signals")
        for n in declared:
            setattr(cls, n, leaves.get(n) or deriveds[n])
        for n, instead in (deprecated or {}).items():
            if n not in declared or not isinstance(instead, str) or not instead:
                raise BadDeclaration(what=f"{name}.{n}", reason="deprecated= names features of this class, each with what to read instead")
        cls.version, cls.owner, cls.leaves, cls.deprecated = version, owner, leaves, dict(deprecated or {})
        cls.relations = relations
        cls.deriveds = ordered(name, leaves, deriveds)
        content = {
            "name": name,
            "version": version,
            "leaves": [leaf.definition() for leaf in leaves.values()],
            "derived": sorted([d.name, *d.needs] for d in cls.deriveds),
        }
        cls.digest = hashlib.blake2b(canonical(content), digest_size=16).hexdigest()

    def __init__(self) -> None:
        raise BadDeclaration(what=type(self).__name__, reason="declarations are not instantiated; fold them with Fold(...)")


def _named(owner: str, name: str, leaf: Leaf[Any], declared: Mapping[str, object]) -> Leaf[Any]:
    """The leaf as the class keeps it."""
    if leaf.through is None or leaf.across is None:
        return replace(leaf, name=name)
    relation = next((n for n, member in declared.items() if member is leaf.through), None)
    if relation is None:
        raise BadDeclaration(
            what=f"{owner}.{name}", reason=f"its relation is not a feature of {owner}; declare it here, by a name of its own"
        )
    return replace(leaf, name=name, through=None, across=Across(relation, leaf.across.source))
