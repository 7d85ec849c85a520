"""What every stream is to a reader and to a writer.

A stream is read in batches, and a batch is committed when all that was made of its messages is safe. Between the two a reader
may be killed, and then reads the batch again; what it had made of it already must not be made twice. Therefore a commit carries
a *note*: a mark that says how far the written streams were at that moment. Whoever reads on from that commit asks each written
stream what came ``since`` the mark, and leaves those messages out. That needs neither transactions nor a common broker, so any
stream can feed any other; it holds as long as one reader at a time reads a part of a stream, which each engine sees to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol


class Message(NamedTuple):
    """A message that was read.

    Args:
        id: Where it lies: the same for every reader, and for every reading.
        key: Its key; may be empty.
        value: Its bytes.
        reason: Why it is a dead letter; empty otherwise.
    """

    id: str
    key: bytes
    value: bytes
    reason: str = ""


class Outgoing(NamedTuple):
    """A message to write.

    Args:
        id: What it was made of, and for whom; a message with the same id says the same.
        key: Its key; may be empty.
        value: Its bytes.
        reason: Why it is a dead letter; empty otherwise.
    """

    id: str
    key: bytes
    value: bytes
    reason: str = ""


class Taken(NamedTuple):
    """What a reader got.

    Args:
        messages: Messages, in the order of their part of the stream.
        notes: The notes of the commits from which this reader reads on from now on; most of the time there are none.
    """

    messages: list[Message]
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """A stream to read."""

    def take(self, most: int, wait: float) -> Taken:
        """Return the next messages: at most ``most``, none when there are none within ``wait`` seconds.

        Raises:
            Unavailable: When the broker does not answer.
            Conflict: When another reader of the group has taken over.
        """
        ...

    def commit(self, note: str | None) -> None:
        """Note that all messages taken so far are done with; a reader that comes later begins behind them.

        Args:
            note: What that reader is told; None lets each part of the stream keep the note that it has.

        Raises:
            Unavailable: When the broker does not answer.
            Conflict: When another reader of the group has taken over.
        """
        ...

    def awaits(self, id: str) -> bool:  # noqa: A002 - a message's own word
        """Return whether the message of that id may still be taken here."""
        ...

    def lag(self) -> int:
        """Return how many messages wait, as far as that is known."""
        ...

    def close(self) -> None:
        """Let another reader go on at the last commit."""
        ...


class Sink(Protocol):
    """A stream to write."""

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Write messages; they are safe after :meth:`flush`.

        Raises:
            Unavailable: When the broker does not take them.
        """
        ...

    def flush(self) -> None:
        """Wait until everything sent is safe.

        Raises:
            Unavailable: When the broker has not confirmed it.
        """
        ...

    def mark(self) -> str:
        """Return a mark: nothing that is sent from now on lies before it."""
        ...

    def since(self, mark: str) -> Iterator[str]:
        """Yield the ids of all messages behind a mark, by whomever they were written; of all for an empty one."""
        ...

    def close(self) -> None:
        """Let go of the stream."""
        ...
