"""The write model: pure. Signals, decisions, identity, artifacts, and the customer that evolves over them.

Rules live in decide functions, never in evolve; no clock, no random, no I/O. Imports `events` and `errors` only.
"""
