"""HyperLogLog: about how many different values there are, from a bounded set of small integers that merge by their maxima.

Flajolet, Fusy, Gandouet, Meunier, "HyperLogLog: the analysis of a near-optimal cardinality estimation algorithm" (AofA 2007): the raw
estimate α·m²/Σ2^-rank, and linear counting below 2.5·m while a register is empty. Their correction for large ranges is for hashes of 32
bits; these have 128. Knows no leaf and no engine; imports nothing of ours.

The hash is the MD5 of the value's text in UTF-8, because Python, DuckDB and Spark all have it: an integer or a time (UTC microseconds)
in decimal, a text as it is, a boolean as `true` or `false`. It is no protection: whoever sees registers may test guesses against them.
The first 3 hex digits are the register, the rank is 1 + the zero bits that the other 116 begin with.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

REGISTERS: Final = 4_096
ERROR_PPM: Final = 16_250  # relative standard error: 1.04 / √4,096
REGISTER_DIGITS: Final = 3
_RANKED_BITS: Final = 116

_ALPHA: Final = round(0.7213 / (1 + 1.079 / REGISTERS) * 10**12)  # of the paper, in 10^-12
_SMALL: Final = tuple(0 if empty == 0 else round(REGISTERS * math.log(REGISTERS / empty)) for empty in range(REGISTERS + 1))


def text_of(value: object) -> str:
    """The text that is hashed. TypeError for what no feature holds, such as a float."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, str)):
        return str(value)
    raise TypeError(type(value).__name__)


def register_and_rank(digest: str) -> tuple[int, int]:
    """What a hash, as hex, says."""
    ranked = int(digest[REGISTER_DIGITS:], 16)
    return int(digest[:REGISTER_DIGITS], 16), _RANKED_BITS + 1 - ranked.bit_length()


def mark(registers: dict[int, int], value: object) -> dict[int, int]:
    """Add one value, in place."""
    register, rank = register_and_rank(hashlib.md5(text_of(value).encode(), usedforsecurity=False).hexdigest())
    if rank > registers.get(register, 0):
        registers[register] = rank
    return registers


def merged(a: dict[int, int], b: dict[int, int]) -> dict[int, int]:
    """The registers of the values of both."""
    out = dict(a)
    for register, rank in b.items():
        if rank > out.get(register, 0):
            out[register] = rank
    return out


def estimate(registers: dict[int, int]) -> int:
    """About how many different values were marked, a whole number by integer arithmetic alone: the same wherever it is computed."""
    empty = REGISTERS - len(registers)
    one = 1 << (_RANKED_BITS + 1)
    harmonic = empty * one + sum(one >> rank for rank in registers.values())
    above, below = _ALPHA * REGISTERS * REGISTERS * one, harmonic * 10**12
    raw = (2 * above + below) // (2 * below)
    return _SMALL[empty] if empty and 2 * raw <= 5 * REGISTERS else raw
