"""Audit: explain a decision, replay it, certify many replays, verify the log. Reads only; nothing here reaches a tool."""

from postsale.audit.backtest import AgentBacktest
from postsale.audit.budgets import BudgetReport, check_budgets
from postsale.audit.certificate import Certificate, CheckedCertificate, certificate, check_certificate
from postsale.audit.dispositions import DispositionReport, check_dispositions
from postsale.audit.estimate import Difference, Estimate, difference
from postsale.audit.explain import Explanation, explain
from postsale.audit.replay import Replayed, replay
from postsale.audit.replay_report import ReplayReport, Scope
from postsale.audit.replay_run import replay_many
from postsale.audit.streams import stream_hash
from postsale.audit.whatif import what_if
from postsale.audit.whatif_results import WhatIf
from postsale.store import VerifyReport, verify

__all__ = [
    "AgentBacktest",
    "BudgetReport",
    "Certificate",
    "CheckedCertificate",
    "Difference",
    "DispositionReport",
    "Estimate",
    "Explanation",
    "ReplayReport",
    "Replayed",
    "Scope",
    "VerifyReport",
    "WhatIf",
    "certificate",
    "check_budgets",
    "check_certificate",
    "check_dispositions",
    "difference",
    "explain",
    "replay",
    "replay_many",
    "stream_hash",
    "verify",
    "what_if",
]
