"""Which version a row goes to: pure, sticky, and independent from one release to the next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Literal

_BITS = 53
_SCALE = 1.0 / (1 << _BITS)


class Router:
    """The split of one release.

    A row's place in [0, 1) is a keyed hash of its routing key; the challenger takes the places below its share. The
    hash's key is the loop and the challenger, not the plan's generation, so a row that has come to the challenger stays there
    while the share grows, and another release deals the rows anew.

    Args:
        loop: The endpoint.
        challenger: The challenger's version, or None.
        share: Its share of traffic in per cent, 0 to 100.
    """

    def __init__(self, loop: str, challenger: int | None, share: int) -> None:
        self._hash = _keyed(f"{loop}\0{challenger}")
        self._limit = 0.0 if challenger is None else share / 100.0

    def place(self, key: str) -> float:
        """Return the place of a routing key in [0, 1)."""
        return _place(self._hash, key)

    def arm(self, key: str) -> Literal["champion", "challenger"]:
        """Return who answers for a routing key."""
        if self._limit <= 0.0:
            return "champion"
        return "challenger" if self.place(key) < self._limit else "champion"


class Split:
    """The split of an experiment over several versions, by weighted rendezvous hashing.

    Each arm draws an exponential time from a keyed hash of the routing key, at the rate of its share, and the first one
    answers: it does so with exactly its share (Efraimidis & Spirakis 2006, IPL 97). When shares change, only as many keys
    move as have to.

    Args:
        loop: The endpoint.
        experiment: What the split is for: each experiment deals the keys anew.
        shares: Per version its share, above 0.
    """

    def __init__(self, loop: str, experiment: str, shares: Mapping[int, float]) -> None:
        self._arms = [
            (version, -1.0 / share, _keyed(f"{loop}\0{experiment}\0{version}"))
            for version, share in sorted(shares.items())
        ]

    def version(self, key: str) -> int:
        """Return which version answers for a routing key."""
        return min((rate * math.log1p(-_place(hashed, key)), version) for version, rate, hashed in self._arms)[1]


def _keyed(salt: str) -> blake2b:
    return blake2b(key=blake2b(salt.encode(), digest_size=32).digest(), digest_size=8)


def _place(hashed: blake2b, key: str) -> float:
    state = hashed.copy()
    state.update(key.encode("utf-8", "surrogatepass"))
    return (int.from_bytes(state.digest(), "big") >> (64 - _BITS)) * _SCALE
