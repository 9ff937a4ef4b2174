"""Audit: explain a decision, replay it, verify the log. Reads only; nothing here reaches a tool."""

from postsale.audit.dispositions import DispositionReport, check_dispositions
from postsale.audit.explain import Explanation, explain
from postsale.audit.replay import Replayed, replay
from postsale.store import VerifyReport, verify

__all__ = ["DispositionReport", "Explanation", "Replayed", "VerifyReport", "check_dispositions", "explain", "replay", "verify"]
