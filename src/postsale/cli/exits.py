"""The exit status that each error ends a command with; `common.EXIT_CODES` says in words what each means. Imports `errors` only."""

from __future__ import annotations

from postsale.errors import (
    AnchorUnavailable,
    ApprovalRefused,
    ArchiveBusy,
    ArchiveUnwritable,
    BreakingChange,
    CheckpointRefused,
    EngineUnavailable,
    ExportRefused,
    ExportUnwritable,
    IdentityConflict,
    InvalidInput,
    KeyUnavailable,
    LeaseHeld,
    LeaseLost,
    LogDamaged,
    MappingInvalid,
    ModelRefused,
    NotAllowed,
    NotCheckpointed,
    NoteInvalid,
    NotLive,
    PolicyInvalid,
    PolicyWidens,
    PostSaleError,
    ReplayDiverged,
    SandboxFailed,
    SandboxViolation,
    SealBroken,
    SegmentUnreadable,
    StoreUnavailable,
    TooFewOutcomes,
    UndoRefused,
    UnknownCustomer,
    UnknownDecision,
    UnknownEvent,
    UnknownModel,
    UnsafeDatabase,
)

_STATUS: tuple[tuple[tuple[type[PostSaleError], ...], int], ...] = (
    ((LogDamaged, ReplayDiverged, SealBroken, BreakingChange, CheckpointRefused, NoteInvalid, SandboxViolation), 1),
    ((InvalidInput, MappingInvalid, PolicyInvalid, IdentityConflict, TooFewOutcomes), 2),
    ((ApprovalRefused, NotAllowed, ExportRefused, NotLive, PolicyWidens, ModelRefused, UndoRefused), 3),
    ((UnknownCustomer, UnknownDecision, UnknownEvent, UnknownModel, NotCheckpointed), 4),
    (
        (
            StoreUnavailable,
            UnsafeDatabase,
            KeyUnavailable,
            AnchorUnavailable,
            EngineUnavailable,
            LeaseHeld,
            LeaseLost,
            SegmentUnreadable,
            ArchiveBusy,
            ArchiveUnwritable,
            ExportUnwritable,
            SandboxFailed,
        ),
        5,
    ),
)


def status_of(error: PostSaleError) -> int:
    """The exit status of an error; see common.EXIT_CODES."""
    return next((code for kinds, code in _STATUS if isinstance(error, kinds)), 2)
