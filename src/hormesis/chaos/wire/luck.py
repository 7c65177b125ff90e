"""Luck that repeats: numbers drawn from a hash of what they decide about, so that the same seed gives the same run."""

from __future__ import annotations

import hashlib

__all__ = ["luck"]


def luck(*key: object) -> float:
    """Draw a number in [0, 1) from a key, always the same one.

    >>> luck(1, "payments", "slow", 7) == luck(1, "payments", "slow", 7) != luck(2, "payments", "slow", 7)
    True
    """
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    # 53 bits, as many as a float holds: a number that is rounded up to 1 would escape a share of 1.
    return (int.from_bytes(digest) >> 11) / 2**53
