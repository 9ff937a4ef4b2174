"""Benchmarks: `python -m benchmarks.NAME --json` prints one JSON line of measures; ours and a peer on the same work."""
