"""Audit: explain a decision, replay it, verify the log. Reads only; nothing here reaches a tool."""

from postsale.audit.dispositions import DispositionReport, check_dispositions
from postsale.audit.estimate import Estimate
from postsale.audit.explain import Explanation, explain
from postsale.audit.replay import Replayed, replay
from postsale.audit.streams import stream_hash
from postsale.audit.whatif import WhatIf, what_if
from postsale.store import VerifyReport, verify

__all__ = [
    "DispositionReport",
    "Estimate",
    "Explanation",
    "Replayed",
    "VerifyReport",
    "WhatIf",
    "check_dispositions",
    "explain",
    "replay",
    "stream_hash",
    "verify",
    "what_if",
]
