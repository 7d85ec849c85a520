"""Answers that are kept for rows that come again.

Only for models whose signature says that the same row always gets the same answer, and only where an endpoint is set so. The key
is all that the answer depends on: the bundle's digest and the row's numbers as the model sees them, features included. So a new
version starts with nothing, a changed feature misses, and nothing ever has to be taken back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from kilter.serving.answering.batching import Done, Outcome

_OVERHEAD = 250
"""What an entry costs beside its bytes: a tuple, two byte strings, a place in the dictionary."""

Forward = Callable[[bytes, int, Done], None]


class Cache:
    """The answers of one endpoint, the least recently used dropped first.

    Args:
        most: Their bound in bytes.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[tuple[str, bytes], bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def ask(self, digest: str, payload: bytes, rows: int, done: Done, forward: Forward) -> None:
        """Answer the rows that are known, and ask for the others.

        Args:
            digest: The bundle's.
            payload: The matrix, row-major float64.
            rows: How many rows.
            done: Told when all are answered, or how it failed.
            forward: Asks the model.
        """
        width = len(payload) // rows
        keys = [(digest, payload[place : place + width]) for place in range(0, rows * width, width)]
        found = [self._find(key) for key in keys]
        missing = [place for place, value in enumerate(found) if value is None]
        self.hits += rows - len(missing)
        self.misses += len(missing)
        if not missing:
            done(b"".join([value for value in found if value is not None]), "answered")
            return

        def asked(values: bytes | None, outcome: Outcome) -> None:
            if values is None:
                done(None, outcome)
                return
            step = len(values) // len(missing)
            for number, place in enumerate(missing):
                found[place] = value = values[number * step : (number + 1) * step]
                self._keep(keys[place], value)
            done(b"".join([value for value in found if value is not None]), "answered")

        wanted = payload if len(missing) == rows else b"".join([keys[place][1] for place in missing])
        forward(wanted, len(missing), asked)

    def _find(self, key: tuple[str, bytes]) -> bytes | None:
        value = self._kept.get(key)
        if value is not None:
            self._kept.move_to_end(key)
        return value

    def _keep(self, key: tuple[str, bytes], value: bytes) -> None:
        if key in self._kept:
            return
        size = len(key[1]) + len(value) + _OVERHEAD
        if size > self.most:
            return
        self._kept[key] = value
        self.bytes += size
        while self.bytes > self.most:
            (_, row), gone = self._kept.popitem(last=False)
            self.bytes -= len(row) + len(gone) + _OVERHEAD
