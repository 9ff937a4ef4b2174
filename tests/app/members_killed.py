"""A process that folds a view across customers until it is killed, or done; run by test_members.

python members_killed.py URL OPTIONS        says "commit" after each batch of three facts of a share
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from postsale import PostSale
from postsale.projections import Fold, Kin, Runner
from tests.app.test_related import Circle


def runner_of(ps: PostSale) -> Runner:
    """Three shares, in small batches."""
    return Runner(ps.log.store, ps.views, Fold(Circle), batch=3, partitions=3, kin=Kin(ps.log.store, ps.views, ps.log.vault))


def say(_: object) -> None:
    sys.stdout.write("commit\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with PostSale.open(sys.argv[1], **json.loads(sys.argv[2])) as opened:
        runner_of(opened).catch_up(on_progress=say)
