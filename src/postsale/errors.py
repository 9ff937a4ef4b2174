"""The whole error tree: one root, one shape. Nothing else lives here; this module imports nothing of ours.

Every error says what was found, what was expected and what to do next, carries typed fields, survives pickling, and never
carries a personal value: only names of fields, counts, positions, digests and random references.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar


@dataclass(eq=False, kw_only=True)
class PostSaleError(Exception):
    """Root of every error this library raises on purpose."""

    found: ClassVar[str] = "something went wrong"
    expected: ClassVar[str] = ""
    todo: ClassVar[str] = ""

    def __str__(self) -> str:
        values = {name: "not known" if value is None else value for name, value in self.fields().items()}
        parts = [self.found.format(**values)]
        if self.expected:
            parts.append("expected " + self.expected.format(**values))
        text = "; ".join(parts) + "."
        return f"{text} {self.todo.format(**values)}".rstrip()

    def fields(self) -> dict[str, Any]:
        """The typed fields by name, for programs and for `--json`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.fields()))


def _rebuild(cls: type[PostSaleError], values: dict[str, Any]) -> PostSaleError:
    return cls(**values)


# ---------------------------------------------------------------- input at the boundary


@dataclass(eq=False, kw_only=True)
class InvalidInput(PostSaleError, ValueError):
    """A value at the boundary is not acceptable. Raise it before anything is stored; it names the field, never the value."""

    what: str  # the model or command
    field: str
    reason: str
    found = "{what}.{field}: {reason}"
    todo = "Correct it and try again; nothing was changed."


@dataclass(eq=False, kw_only=True)
class UnknownWireName(PostSaleError):
    """A stored or offered event names a kind that is not registered: never skipped, never imported by name."""

    wire_name: str
    position: int | None = None
    found = "event kind {wire_name!r} (position {position})"
    expected = "a wire name registered by an imported module"
    todo = "Import the module that declares it, or add an upcaster from this version."


@dataclass(eq=False, kw_only=True)
class UpcastFailed(PostSaleError):
    """An upcaster raised or gave no JSON; the stored event and the step are named, and no state changed."""

    wire_name: str  # of the stored event
    position: int | None
    step: str  # the version whose upcaster failed: `wire_name`, or a later one of the chain
    reason: str
    found = "the upcaster from {step!r} failed on {wire_name!r} at position {position} with {reason}"
    expected = "a pure function that accepts every stored event of that version"
    todo = "Mend the upcaster; the stored event is unchanged."


@dataclass(eq=False, kw_only=True)
class BadDeclaration(PostSaleError, TypeError):
    """A class, feature, policy or tool was declared in a way that cannot work. Raised when it is declared, not when it runs."""

    what: str
    reason: str
    found = "{what}: {reason}"
    todo = "Change the declaration."


@dataclass(eq=False, kw_only=True)
class BreakingChange(PostSaleError):
    """A stored version of a kind was changed in the code. The history of schemas is as it was: writing it again does not heal this."""

    changes: str  # a line each: the wire name, what changed, what to do
    found = "the code changes versions of events that are stored"
    expected = "them as they are in the log"
    todo = "What changed:\n{changes}"


# ---------------------------------------------------------------- the log


@dataclass(eq=False, kw_only=True)
class ContentConflict(PostSaleError):
    """The same id arrived with different content. The log keeps the first; the second went to quarantine where there is one."""

    tenant: str
    source: str
    source_id: str
    stored_position: int
    stored_digest: str
    offered_digest: str
    quarantine_id: str | None = None
    found = (
        "{source} item {source_id!r} with content {offered_digest}, but position {stored_position} holds it with content {stored_digest}"
    )
    expected = "the same content for the same id"
    todo = "If the source corrects items, give each revision an id of its own."

    def __str__(self) -> str:
        return super().__str__() + (f" Quarantined as {self.quarantine_id}." if self.quarantine_id else "")


@dataclass(eq=False, kw_only=True)
class VersionConflict(PostSaleError):
    """Somebody else wrote to the decision lane first."""

    stream: str
    expected_version: int
    actual_version: int
    found = "{stream} is at version {actual_version}"
    expected = "version {expected_version}"
    todo = "Load it again and decide again."


@dataclass(eq=False, kw_only=True)
class ConditionFailed(PostSaleError):
    """An append condition no longer held under the lock: a fact of a listed kind arrived after the position that was read."""

    stream: str
    wire_name: str
    after_position: int
    at_position: int
    found = "{wire_name} at position {at_position} on {stream}"
    expected = "no such event after position {after_position}"
    todo = "Fold the values again and decide again."


@dataclass(eq=False, kw_only=True)
class LeaseLost(PostSaleError):
    """A write was fenced off: the lease it was made under has a newer holder."""

    lease: str
    token: int
    newest_token: int
    found = "lease {lease} with token {newest_token}"
    expected = "token {token}, under which this was written"
    todo = "Stop this worker's run and take the lease again: another worker holds it or held it since."


@dataclass(eq=False, kw_only=True)
class LeaseHeld(PostSaleError):
    """Another worker does this job and did not give it up while it was waited for. Nothing was done."""

    lease: str
    holder: str  # a process and its machine
    until: str  # RFC 3339
    found = "lease {lease} is held by {holder} until {until}"
    expected = "a lease that nobody holds"
    todo = "Let the holder finish, or try again after that time: a holder that died loses the lease then."


@dataclass(eq=False, kw_only=True)
class EventTooLarge(PostSaleError):
    """An event exceeds the size limit of the log."""

    wire_name: str
    size_bytes: int
    limit_bytes: int
    found = "a {wire_name} of {size_bytes} bytes"
    expected = "at most {limit_bytes}"
    todo = "Store the large part elsewhere and record a reference and a digest."


@dataclass(eq=False, kw_only=True)
class LogDamaged(PostSaleError):
    """Stored bytes do not match their commitment."""

    position: int
    reason: str
    found = "position {position}: {reason}"
    expected = "bytes that match their leaf"
    todo = "Stop writing, keep the file, compare with a backup: `postsale log verify` lists every wrong event."


@dataclass(eq=False, kw_only=True)
class NoteInvalid(PostSaleError):
    """A signed note or checkpoint cannot be used: malformed, or not signed by the key it must be signed by."""

    reason: str
    found = "a checkpoint that cannot be used: {reason}"
    expected = "a C2SP signed note, exactly as it was published, with a signature by a known key"
    todo = "Compare it with another copy; print the key with: postsale log key"


@dataclass(eq=False, kw_only=True)
class CheckpointRefused(PostSaleError):
    """The log is not a continuation of what was signed before, so its head is not signed: history was cut off or rewritten."""

    tenant: str
    reason: str
    found = "tenant {tenant!r}: {reason}"
    expected = "a log that continues every checkpoint signed before"
    todo = "Stop writing and keep the file. `postsale log verify` says what differs; a complete backup can be compared with it."


@dataclass(eq=False, kw_only=True)
class NotCheckpointed(PostSaleError, LookupError):
    """No signed checkpoint covers this event yet, so nothing can be proved about it to a third party."""

    tenant: str
    leaf_index: int
    signed_size: int
    found = "the newest checkpoint of tenant {tenant!r} covers {signed_size} events, this one is number {leaf_index} from 0"
    expected = "a checkpoint signed after the event was recorded"
    todo = "Run: postsale log checkpoint --tenant {tenant}"


@dataclass(eq=False, kw_only=True)
class UnknownEvent(PostSaleError, LookupError):
    """No event has this id or position in this tenant."""

    tenant: str
    event: str
    found = "tenant {tenant!r} has no event {event}"
    expected = "an event id, or a position, of this tenant"
    todo = "`postsale customer timeline` shows positions."


@dataclass(eq=False, kw_only=True)
class AnchorUnavailable(PostSaleError):
    """The place outside the log where checkpoints are kept cannot be read or written. A signed checkpoint stays in the log."""

    anchor: str
    reason: str
    found = "anchor {anchor}: {reason}"
    expected = "a file that can be read and appended to"
    todo = "Mend the cause and run `postsale log checkpoint` with this anchor again: what is missing there is published then."


@dataclass(eq=False, kw_only=True)
class StoreUnavailable(PostSaleError):
    """The store cannot be opened or written: disk full, locked for too long, wrong file."""

    url: str
    reason: str
    found = "{url}: {reason}"
    expected = "a writable postsale log"
    todo = "Nothing was half-written. Mend the cause and try again; ids make the retry safe."


@dataclass(eq=False, kw_only=True)
class EngineUnavailable(PostSaleError):
    """The server that drives agents cannot be reached. What it was told before is kept there; the log is not affected."""

    engine: str
    address: str
    reason: str
    found = "{engine} at {address}: {reason}"
    expected = "a running server"
    todo = "Start it or mend the address, then run again: whoever was to be visited is found in the log."


@dataclass(eq=False, kw_only=True)
class UnsafeDatabase(PostSaleError):
    """A database, or the login used for it, is not set up so that the log's promises hold. Refused before anything is read or written."""

    what: str
    wanted: str
    fix: str  # what to type
    found = "{what}"
    expected = "{wanted}"
    todo = "{fix}"


@dataclass(eq=False, kw_only=True)
class SegmentUnreadable(PostSaleError):
    """The file of an archived chapter is missing or is not the one that was archived. Other chapters stay readable."""

    chapter: int
    path: str
    reason: str
    found = "chapter {chapter} is archived in {path}: {reason}"
    expected = "the file that was archived, byte for byte"
    todo = "Restore that file from a backup; or, if the files were moved, name their folder with archive= or POSTSALE_ARCHIVE. `postsale log verify` checks it."


@dataclass(eq=False, kw_only=True)
class ChapterOpen(PostSaleError):
    """A chapter that may still grow cannot be archived."""

    chapter: int
    last_position: int
    head: int
    found = "chapter {chapter} is not complete: the log is at position {head}"
    expected = "position {last_position} or more"
    todo = "Archive an earlier chapter: `postsale log chapters` lists them."


@dataclass(eq=False, kw_only=True)
class ArchiveBusy(PostSaleError):
    """Another process is archiving the same chapter just now."""

    chapter: int
    directory: str
    found = "another process is archiving chapter {chapter} to {directory}"
    todo = "Wait until it is done; nothing was changed."


@dataclass(eq=False, kw_only=True)
class ArchiveUnwritable(PostSaleError):
    """The directory of the archive cannot be written: disk full, no permission, not a directory. The log is unchanged."""

    directory: str
    reason: str
    found = "the archive cannot be written to {directory}: {reason}"
    expected = "a directory with room for the chapter"
    todo = "Mend the cause and archive again; the chapter is still in the log."


@dataclass(eq=False, kw_only=True)
class ExportUnwritable(PostSaleError):
    """The place of an export cannot be read or written: disk full, no permission, not reachable. What is listed in its manifest stays."""

    url: str
    reason: str
    found = "the export at {url} cannot be read or written: {reason}"
    expected = "a folder with room for it"
    todo = "Mend the cause and run the export again: it goes on from where it was."


@dataclass(eq=False, kw_only=True)
class ExportRefused(PostSaleError):
    """What is at the place of an export cannot be continued. Nothing was written."""

    url: str
    reason: str
    found = "{url}: {reason}"
    expected = "an empty folder, or an earlier export of the same tenant of the same log"
    todo = "Export to another folder, or empty this one: the log has every event."


@dataclass(eq=False, kw_only=True)
class ViewMoved(PostSaleError):
    """Somebody else moved a view's checkpoint: this writer was paused, or the view was dropped meanwhile. Nothing was written."""

    view: str
    expected_checkpoint: int
    actual_checkpoint: int
    found = "view {view!r} is at position {actual_checkpoint}"
    expected = "position {expected_checkpoint}"
    todo = "Read the view again and fold on from there; the log has every event."


@dataclass(eq=False, kw_only=True)
class StaleRead(PostSaleError):
    """A read had to be at least as new as a write, and was not in the time allowed. Nothing older was returned in its place."""

    what: str  # the log, or a view
    position: int  # the one it has
    at_least: int  # the one demanded
    within_s: float
    found = "{what} is at position {position}, {within_s} s after it was asked"
    expected = "position {at_least} or later"
    todo = "Read again, allow more time, or leave out at_least= to take what is there."


@dataclass(eq=False, kw_only=True)
class NotLive(PostSaleError):
    """An agent would have acted on a version of a projection that nobody has put live. It did nothing; its triggers wait."""

    projection: str
    version: int
    digest: str  # of the declaration
    live_version: int
    live_digest: str
    found = "{projection} version {version} (declaration {digest}) is not live"
    expected = "version {live_version} (declaration {live_digest}), which is"
    todo = "Build it, compare it, and put it live: postsale projection rebuild, diff, switch. Or run the code that declares what is live."


@dataclass(eq=False, kw_only=True)
class Unsupported(PostSaleError):
    """A URL scheme, format or option that this version does not have."""

    what: str
    supported: str
    found = "{what}"
    expected = "{supported}"


@dataclass(eq=False, kw_only=True)
class MissingExtra(PostSaleError, ImportError):
    """An optional part is not installed."""

    feature: str
    extra: str
    found = "{feature} needs packages that are not installed"
    todo = "Run: pip install 'postsale[{extra}]'"


# ---------------------------------------------------------------- identity and access


@dataclass(eq=False, kw_only=True)
class UnknownCustomer(PostSaleError, LookupError):
    """No customer is linked to this id in this tenant. The id is not repeated here: it may be an e-mail address."""

    tenant: str
    found = "tenant {tenant!r} has no customer with the given id"
    expected = "an id that was recorded or linked"
    todo = "Run: postsale customer list --tenant {tenant}"


@dataclass(eq=False, kw_only=True)
class UnknownDecision(PostSaleError, LookupError):
    """No decision has this id in this tenant."""

    tenant: str
    decision_id: str
    found = "tenant {tenant!r} has no decision {decision_id}"
    todo = "Run: postsale decision list --tenant {tenant}"


@dataclass(eq=False, kw_only=True)
class IdentityConflict(PostSaleError):
    """A link, merge or split contradicts what is linked already."""

    tenant: str
    reason: str
    found = "{reason}"
    todo = "Split or merge first, with a reason; nothing was changed."


@dataclass(eq=False, kw_only=True)
class KeyUnavailable(PostSaleError):
    """The key vault is missing, locked, or the key was destroyed. Reads are masked; writes of personal data fail closed."""

    what: str
    reason: str
    found = "{what}: {reason}"
    expected = "the key file of this log, mode 0600"
    todo = "Restore it (beside a SQLite log) or name it (--keys or POSTSALE_KEYS, for PostgreSQL). `postsale log verify` needs no keys."


@dataclass(eq=False, kw_only=True)
class SealBroken(PostSaleError):
    """A sealed field does not open under its key and place: altered, or copied from another row."""

    field: str
    position: int | None = None
    found = "sealed field {field!r} at position {position} does not open"
    expected = "the ciphertext that was sealed for this event, tenant and field"
    todo = "Run: postsale log verify"


@dataclass(eq=False, kw_only=True)
class NotAllowed(PostSaleError, PermissionError):
    """The actor may not do this."""

    actor: str
    action: str
    reason: str
    found = "{actor} may not {action}: {reason}"


# ---------------------------------------------------------------- agents


@dataclass(eq=False, kw_only=True)
class ApprovalRefused(PostSaleError):
    """An approval cannot be used: already used, expired, its arguments or the values it was bound to changed."""

    decision_id: str
    reason: str
    found = "decision {decision_id}: {reason}"
    expected = "an open request with unchanged arguments and evidence"
    todo = "Run: postsale approval list"


@dataclass(eq=False, kw_only=True)
class UndoRefused(PostSaleError):
    """An undo cannot be proposed, approved or carried out: nothing to do, not approved, expired, or the log moved under its plan."""

    undo: str  # the beginning of its plan's digest
    reason: str
    found = "undo {undo}: {reason}"
    expected = "an approved plan that still fits the log"
    todo = "Run: postsale undo plan"


@dataclass(eq=False, kw_only=True)
class ToolUnreachable(PostSaleError):
    """Something tried to reach a tool in replay, rebuild, import or audit. Loud on purpose: this is a defect in the caller."""

    tool: str
    during: str
    found = "an attempt to call {tool} during {during}"
    expected = "no effect to leave"
    todo = "Move the call into a tool that the outbox dispatches."


@dataclass(eq=False, kw_only=True)
class ToolRefused(PostSaleError):
    """A tool will not do this, now or later: raise it in a tool when nothing happened and a retry is useless.

    `reason` is kept in the log: no personal data in it.
    """

    tool: str
    reason: str
    found = "{tool} refused: {reason}"


@dataclass(eq=False, kw_only=True)
class ToolUnavailable(PostSaleError):
    """A tool could not act for now: raise it in a tool when certainly nothing happened and a retry may help.

    When something may have happened, raise ToolUncertain, or anything else. `reason` is kept in the log: no personal data in it.
    """

    tool: str
    reason: str
    retry_after_s: float | None = None  # what the other side asked for: until then no effect of this tenant goes there
    found = "{tool} is not available: {reason}"
    todo = "It is tried again later, a bounded number of times."


@dataclass(eq=False, kw_only=True)
class ToolUncertain(PostSaleError):
    """A tool may or may not have acted: raise it in a tool when a call broke off after the request had left.

    Any other exception means the same; this one may say why. `reason` is kept in the log: no personal data in it.
    """

    tool: str
    reason: str
    retry_after_s: float | None = None  # what the other side asked for
    found = "{tool} may or may not have acted: {reason}"
    todo = "An idempotent or queryable tool is tried again; for an unsafe one a person must look."


@dataclass(eq=False, kw_only=True)
class ReplayDiverged(PostSaleError):
    """Re-running a decision gave other bytes than were recorded."""

    decision_id: str
    where: str
    recorded: str
    regenerated: str
    found = "decision {decision_id} differs at {where}: regenerated {regenerated}"
    expected = "recorded {recorded}"
    todo = "Run: postsale log verify. If the log is sound, install the decider version the decision names."


@dataclass(eq=False, kw_only=True)
class SandboxViolation(PostSaleError):
    """Deciding code that is replayed tried to reach beyond its values. It was stopped there; the replay gives no result."""

    decision_id: str
    decider: str  # module:qualname
    tried: str  # the system call, or Python's name of what it was about to do
    sandbox: str
    found = "deciding {decision_id} again, {decider} tried {tried} in the sandbox {sandbox}"
    expected = "code that reads the values it is given, and nothing else"
    todo = "Make its evidence pure, and import what it needs at the top of its module."


@dataclass(eq=False, kw_only=True)
class SandboxFailed(PostSaleError):
    """The process that decides again could not be started, ended, stood still, or gave no answer. The replay gives no result."""

    decision_id: str | None  # that it was at
    reason: str
    found = "the sandbox of the replay, at decision {decision_id}: {reason}"
    expected = "an answer for each decision"
    todo = "Replay that decision alone; if its agent is your own, look there for a loop, or for more memory than a replay has."


@dataclass(eq=False, kw_only=True)
class PolicyInvalid(PostSaleError):
    """A policy file does not pass validation."""

    policy: str
    where: str
    reason: str
    found = "policy {policy!r}, {where}: {reason}"
    todo = "Correct the file; the active policy is unchanged."


@dataclass(eq=False, kw_only=True)
class PromptInvalid(PostSaleError):
    """A prompt is wrong, or names what nobody declared: nothing is asked with it."""

    prompt: str
    where: str
    reason: str
    found = "prompt {prompt!r}, {where}: {reason}"
    todo = "Correct the prompt and load it again."


@dataclass(eq=False, kw_only=True)
class PolicyWidens(PostSaleError):
    """A policy lets its agent do more than the active one, and does not say so. The active one stays."""

    policy: str
    widens: int  # in how many places
    first: str  # the first of them
    found = "policy {policy!r} allows more than the active one, in {widens} place(s); the first: {first}"
    expected = "a policy that allows no more, or one that declares it"
    todo = "See whom it would touch with `postsale decision whatif`; then say widens = true in the file, or --widens."


# ---------------------------------------------------------------- models


@dataclass(eq=False, kw_only=True)
class UnknownModel(PostSaleError, LookupError):
    """No model of this name or digest was published in this tenant."""

    tenant: str
    model: str
    found = "tenant {tenant!r} has no model {model}"
    todo = "Run: postsale model list --tenant {tenant}"


@dataclass(eq=False, kw_only=True)
class ModelRefused(PostSaleError):
    """A model may not score here. What was active stays."""

    model: str
    digest: str
    reason: str
    todo_next: str
    found = "model {model!r} ({digest}): {reason}"
    todo = "{todo_next}"


@dataclass(eq=False, kw_only=True)
class TooFewOutcomes(PostSaleError):
    """There is not enough to learn from, or to measure on. Nothing was fitted."""

    target: str
    part: str  # training or measuring
    customers_with: int  # with the outcome, in rows of this part
    customers_without: int
    least: int
    todo_next: str
    found = "target {target!r}: {customers_with} customers with and {customers_without} without the outcome in the rows for {part}"
    expected = "at least {least} of each"
    todo = "{todo_next}"


# ---------------------------------------------------------------- ingest


@dataclass(eq=False, kw_only=True)
class MappingInvalid(PostSaleError):
    """A mapping file, or the file it is applied to, does not fit."""

    mapping: str
    where: str
    reason: str
    found = "mapping {mapping!r}, {where}: {reason}"
    todo = "Correct the mapping; nothing was recorded."
