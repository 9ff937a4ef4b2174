"""Looking up a signal kind by the name that a source or a mapping gives it. An allow-list: nothing is imported by name."""

from __future__ import annotations

import re
from typing import Final

from postsale.aggregates.signals import Signal
from postsale.errors import InvalidInput
from postsale.events import registry

_KIND: Final = re.compile(r"([a-z0-9-]+(?:\.[a-z0-9-]+)*/[a-z0-9-]+)(?:@([1-9][0-9]{0,3}))?\Z")


def kind_named(wire_name: str, what: str, field: str) -> tuple[str, type[Signal]]:
    """The full wire name and the class of a signal kind; without `@version` the newest. InvalidInput names an unknown kind.

    The class is that of the version named, as long as one declares it: what a source says in an older version is stored in it, so
    that processes which know no newer one can read it. Else it is the class of the version that upcasters lead to.
    """
    parts = _KIND.match(wire_name) if len(wire_name) <= 200 else None
    if parts is None:
        raise InvalidInput(what=what, field=field, reason="expected a wire name such as billing/invoice-paid or billing/invoice-paid@1")
    name = wire_name
    if parts[2] is None:
        versions = [int(known.partition("@")[2]) for known in registry if known.partition("@")[0] == parts[1]]
        name = f"{parts[1]}@{max(versions, default=1)}"
    if name not in registry:
        raise InvalidInput(what=what, field=field, reason=f"{wire_name} is not a registered kind; import the module that declares it")
    cls = registry.declared(name) or registry.get(name)
    if not issubclass(cls, Signal):
        raise InvalidInput(what=what, field=field, reason=f"{wire_name} is not a signal: a source cannot send it")
    return name, cls
