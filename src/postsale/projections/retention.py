"""Which views of earlier versions of a projection may go, and their going. A view is derived: the worst that a drop can cost is time.

Kept are: what is live, what a switch back leads to, whatever has a version number at or above the lower of the two (it may be the
next one), what a projector folds now, and what is being rebuilt. Imports deployments, the views' contract and leases.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final

from postsale.events import SYSTEM_TENANT
from postsale.projections.deployments import Deployments, Live
from postsale.projections.projector import share_lease
from postsale.projections.views import Views
from postsale.store.contract import LeaseName
from postsale.store.leases import Leases

_NAME: Final = r"{}\.v(?P<version>[0-9]+)\.[0-9a-f]{{12}}"  # as `Reader` names a view
_PLACE: Final = re.compile(r"(?P<view>(?:\.of(?P<shares>[0-9]+))?(?:~[0-9]+)?)(?:![a-z]+|\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Version:
    """The views of one declaration, in all their builds and shares."""

    name: str  # of the view, without build and shares
    version: int
    position: int  # the greatest of its checkpoints
    rows: int
    kept: str | None  # why it must stay; None: it may go
    views: tuple[str, ...] = field(repr=False)  # all that belongs to it
    leases: tuple[LeaseName, ...] = field(repr=False)  # of whoever folds or rebuilds it


def versions(views: Views, deployments: Deployments, leases: Leases, projection: str) -> list[Version]:
    """Every declaration of a projection that has a view, by version."""
    pattern = re.compile(_NAME.format(re.escape(projection)))
    found: dict[str, Version] = {}
    for info in views.views():
        named = pattern.match(info.view)
        place = _PLACE.fullmatch(info.view, named.end()) if named else None
        if named is None or place is None:
            continue
        name = named[0]
        one = found.get(name) or Version(name, int(named["version"]), 0, 0, None, (), (LeaseName(SYSTEM_TENANT, f"rebuild/{name}"),))
        beside = "!" in info.view
        view, shares = name + place["view"], int(place["shares"] or 1)
        found[name] = replace(
            one,
            position=one.position if beside else max(one.position, info.checkpoint),
            rows=one.rows if beside else one.rows + info.rows,
            views=(*one.views, info.view),
            leases=tuple(dict.fromkeys((*one.leases, *(share_lease(view, n) for n in range(shares))))),
        )
    live = deployments.live(projection)
    judged = (replace(one, kept=_kept(one, live, leases)) for one in found.values())
    return sorted(judged, key=lambda one: (one.version, one.name))


def prune(views: Views, deployments: Deployments, leases: Leases, projection: str) -> list[Version]:
    """Drop what may go; every declaration as `versions` gave it. Each is looked at again just before it goes."""
    found = versions(views, deployments, leases, projection)
    for one in found:
        if one.kept is None and _kept(one, deployments.live(projection), leases) is None:
            views.drop(*one.views)
    return found


def _kept(one: Version, live: Live | None, leases: Leases) -> str | None:
    if live is None:
        return "nothing was ever put live"
    if one.version == live.declared.version:
        return "it is live"
    if live.previous is not None and one.version == live.previous.version:
        return "a switch back leads to it"
    lowest = min(live.declared.version, live.previous.version if live.previous is not None else live.declared.version)
    if one.version > lowest:
        return f"it is newer than version {lowest}, and may be the next one"
    if one.name in live.building:
        return "a rebuild of it is under way or was given up half-way"
    holders = sorted({held.holder for name in one.leases if (held := leases.look(name)) is not None})
    return f"it is folded by {', '.join(holders)}" if holders else None
