"""Which version a row goes to: pure, sticky, and independent from one release to the next."""

from __future__ import annotations

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
        salt = blake2b(f"{loop}\0{challenger}".encode(), digest_size=32).digest()
        self._hash = blake2b(key=salt, digest_size=8)
        self._limit = 0.0 if challenger is None else share / 100.0

    def place(self, key: str) -> float:
        """Return the place of a routing key in [0, 1)."""
        state = self._hash.copy()
        state.update(key.encode("utf-8", "surrogatepass"))
        return (int.from_bytes(state.digest(), "big") >> (64 - _BITS)) * _SCALE

    def arm(self, key: str) -> Literal["champion", "challenger"]:
        """Return who answers for a routing key."""
        if self._limit <= 0.0:
            return "champion"
        return "challenger" if self.place(key) < self._limit else "champion"
