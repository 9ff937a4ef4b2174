"""Prompts in the log: published and activated like policies, each an event with owner, approver and reason.

A policy names exactly one version, which may be used once it was activated. May import the desk, control's checks, prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postsale.access import Person
from postsale.agents.control import require_reason
from postsale.agents.desk import TRIES, Desk
from postsale.agents.prompts import Prompt
from postsale.aggregates.artifacts import PROMPTS, ArtifactActivated, ArtifactPublished, content_digest, prompt_stream
from postsale.errors import ContentConflict, PromptInvalid, VersionConflict
from postsale.events import SYSTEM, Event, Lane, derive_id
from postsale.store.contract import Query
from postsale.store.log import Cause


@dataclass(frozen=True, slots=True)
class Known:
    """One published version, and its newest activation."""

    prompt: Prompt
    activated_at: datetime | None = None  # None: nobody activated it, so nothing may use it
    approver: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        at = None if self.activated_at is None else self.activated_at.isoformat()
        head = {"name": self.prompt.name, "version": self.prompt.version, "digest": self.prompt.digest, "owner": self.prompt.owner}
        return {**head, "description": self.prompt.description, "activated_at": at, "approver": self.approver, "reason": self.reason}


def known_prompts(desk: Desk, tenant: str, name: str | None = None) -> dict[str, Known]:
    """Every version that a tenant's log holds, by `name@version`, sorted; of one name, or of all."""
    streams = () if name is None else (prompt_stream(tenant, name),)
    found: dict[str, Known] = {}
    by_digest: dict[str, str] = {}
    for recorded in desk.log.events(Query(tenant=tenant, category=PROMPTS, streams=streams, lane=Lane.DECISION)):
        match recorded.data:
            case ArtifactPublished(of="prompt", content=content, digest=digest) if content_digest(content) == digest:
                prompt = Prompt.from_json(content)
                by_digest[digest] = prompt.id
                found[prompt.id] = Known(prompt)
            case ArtifactActivated(of="prompt", digest=digest, approver=approver, reason=reason) if digest in by_digest:
                known = found[by_digest[digest]]
                found[by_digest[digest]] = Known(known.prompt, recorded.occurred_at, approver, reason)
    return dict(sorted(found.items(), key=lambda item: (item[1].prompt.name, item[1].prompt.version)))


def activate_prompt(
    desk: Desk, tenant: str, prompt: Prompt, *, person: Person | None = None, reason: str = "installed with the agent"
) -> bool:
    """Publish a version and let policies use it; False when it is so already. Without a person nobody approved it, and the event says so.

    Raises PromptInvalid for a version that is published with other content.
    """
    require_reason(reason, "prompt")
    stream = prompt_stream(tenant, prompt.name)
    approver = "nobody" if person is None else person.login
    for attempt in range(1, TRIES + 1):
        (version,) = desk.log.store.versions([stream])
        known = known_prompts(desk, tenant, prompt.name).get(prompt.id)
        if known is not None and known.prompt.digest != prompt.digest:
            raise PromptInvalid(prompt=prompt.id, where="version", reason="it is published with other content; give this one a new version")
        if known is not None and known.activated_at is not None:
            return False
        events: list[Event] = []
        if known is None:
            events.append(ArtifactPublished(of="prompt", name=prompt.name, digest=prompt.digest, content=prompt.content))
        events.append(
            ArtifactActivated(of="prompt", name=prompt.name, digest=prompt.digest, owner=prompt.owner, approver=approver, reason=reason)
        )
        drafts = [(e, derive_id(stream, version + i, e.wire_name, prompt.digest)) for i, e in enumerate(events)]
        try:
            desk.append_to(stream, version, drafts, Cause(actor=SYSTEM if person is None else person.actor, origin=desk.origin))
        except (ContentConflict, VersionConflict):
            if attempt == TRIES:
                raise
            continue
        return True
    raise AssertionError("unreachable")
