"""For the whole suite: no test may depend on how fast the machine is, and a failing property prints how to repeat it."""

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

_ANYWHERE = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("suite", max_examples=25, **_ANYWHERE)  # for a property that names no number of its own
settings.register_profile("torture", max_examples=1000, **_ANYWHERE)
settings.load_profile("torture" if os.environ.get("POSTSALE_TORTURE") else "suite")

if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    # Hundreds of tests start a process of their own, and each would compile the whole library again: half of its start.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode"))
