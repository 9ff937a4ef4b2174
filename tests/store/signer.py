"""A process that appends and signs checkpoints; run by the race and crash tests. Prints each checkpoint's size and root, flushed.

python signer.py race PATH KEYS ANCHOR SEED ROUNDS   appends and signs, ROUNDS times
python signer.py die PATH KEYS ANCHOR SEED STEP      appends, and kills itself with SIGKILL at this step of signing
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable

from postsale.access import FileVault
from postsale.events import SystemClock
from postsale.store import Checkpoint, FileAnchor, SQLiteStore, checkpoints, sign_checkpoint
from postsale.testing import Events
from postsale.testing.store_building import each


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def race(store: SQLiteStore, vault: FileVault, anchor: FileAnchor, seed: int, rounds: int) -> None:
    events, rand = Events(seed), random.Random(seed)
    say("ready")
    sys.stdin.readline()
    for turn in range(rounds):
        store.append(each(*(events.fact() for _ in range(rand.choice([0, 1, 1, 5]) if turn else 1))))
        signed = sign_checkpoint(store, vault, SystemClock(), "acme", anchor)
        say(f"{signed.size} {signed.root.hex()}")


def die(store: SQLiteStore, vault: FileVault, anchor: FileAnchor, seed: int, step: str) -> None:
    events = Events(seed)
    store.append(each(*(events.fact() for _ in range(3))))
    for name, where in {"sign": vault, "_file": checkpoints, "publish": anchor}.items():
        setattr(where, name, dying(getattr(where, name), name, step))
    sign_checkpoint(store, vault, SystemClock(), "acme", anchor)


def dying(work: Callable[..., object], name: str, step: str) -> Callable[..., object]:
    def instead(*arguments: object) -> object:
        # The checkpoint before is filed again first: what is meant is the new one, of eight events.
        meant = name != "_file" or (isinstance(arguments[2], Checkpoint) and arguments[2].size == 8)
        if meant and step == f"before {name}":
            os.kill(os.getpid(), signal.SIGKILL)
        done = work(*arguments)
        if meant and step == f"after {name}":
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return instead


if __name__ == "__main__":
    what, path, keys, anchor, seed, last = sys.argv[1:]
    opened = SQLiteStore(path, busy_timeout_s=60), FileVault(keys), FileAnchor(anchor), int(seed)
    if what == "race":
        race(*opened, int(last))
    else:
        die(*opened, last)
