"""Sending and fetching large files, over a network or within one machine: in parallel, in pieces, and on from where it was cut off."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from kilter.core.errors import Damaged
from kilter.engines.objects.cutting import Cutter
from kilter.tracking.records import Artifact
from kilter.tracking.uploads import PIECE, UploadOperations

_READ = 1 << 20
_THREADS = 4

Progress = Callable[[int, int], None]
"""Told how many bytes are done, and how many of them had to be sent."""


def send_file(
    runs: UploadOperations,
    file: str | os.PathLike[str],
    run: str = "",
    name: str = "",
    *,
    model: str = "",
    threads: int = _THREADS,
    progress: Progress | None = None,
) -> Artifact:
    """Keep a file of a run or of a logged model, sending only the pieces that the store doesn't have.

    Those of an earlier version are there, and those that were sent before an upload was cut off.

    Args:
        runs: The operations on runs, of a workspace or of a server.
        file: Where it lies.
        run: The run.
        name: What it is called there; its own name, if not said.
        model: The logged model, when it is not a run's.
        threads: How many pieces are on their way at once.
        progress: Told after each group of pieces.

    Raises:
        InvalidInput: When the file changes meanwhile, or the name climbs.
        NotFound: When there is no such run or model.
    """
    path = Path(file)
    with path.open("rb") as source:
        found = send_pieces(
            iter(lambda: source.read(_READ), b""),
            runs.missing_pieces,
            runs.put_piece,
            threads=threads,
            progress=progress,
        )
    return runs.assemble(run, name or path.name, found.pieces, found.digest, model)


class Sent(NamedTuple):
    """What was sent of a file.

    Args:
        pieces: The digests of its pieces, in order.
        digest: The digest of the whole.
        size: Its bytes.
        sent: How many of them had to be sent.
    """

    pieces: list[str]
    digest: str
    size: int
    sent: int


def send_pieces(
    data: Iterable[bytes],
    missing: Callable[[Sequence[str]], Sequence[str]],
    put: Callable[[bytes], str],
    *,
    threads: int = _THREADS,
    progress: Progress | None = None,
) -> Sent:
    """Send a file's bytes in pieces, those alone that the other side doesn't have.

    Args:
        data: The bytes, in any lengths.
        missing: Says which pieces the other side doesn't have.
        put: Sends one.
        threads: How many pieces are on their way at once.
        progress: Told after each group of pieces.
    """
    hashing, pieces, done, sent = blake3(), [], 0, 0
    with ThreadPoolExecutor(threads) as pool:
        for group in _groups(data):
            hashes = []
            for piece in group:
                hashing.update(piece)
                hashes.append(blake3(piece).hexdigest())
            lacking = set(missing(list(dict.fromkeys(hashes))))
            wanted = {digest: piece for digest, piece in zip(hashes, group, strict=True) if digest in lacking}
            for _ in pool.map(put, wanted.values()):
                pass
            pieces += hashes
            done += sum(len(piece) for piece in group)
            sent += sum(len(piece) for piece in wanted.values())
            if progress is not None:
                progress(done, sent)
    return Sent(pieces, hashing.hexdigest(), done, sent)


def fetch_file(
    runs: UploadOperations,
    file: str | os.PathLike[str],
    entry: Artifact,
    run: str = "",
    *,
    model: str = "",
    threads: int = _THREADS,
    progress: Progress | None = None,
) -> Path:
    """Fetch a file of a run or of a logged model; what an earlier attempt left beside it is kept.

    Args:
        runs: The operations on runs, of a workspace or of a server.
        file: Where to put it; it appears there when it is whole.
        entry: What is known of it: ``runs.get(run).artifacts`` has them.
        run: The run.
        model: The logged model, when it is not a run's.
        threads: How many pieces are on their way at once.
        progress: Told after each piece.

    Raises:
        Damaged: When it has another digest than it should.
    """
    path = Path(file)
    part = path.with_name(f"{path.name}.{entry.digest[:16]}.part")
    hashing, begin = blake3(), 0
    with part.open("a+b") as target:
        target.seek(0)
        while piece := target.read(_READ):
            hashing.update(piece)
            begin += len(piece)
        with ThreadPoolExecutor(threads) as pool:
            ahead: list[Future[bytes]] = []
            starts = iter(range(begin, entry.size, PIECE))
            while True:
                while len(ahead) < threads and (start := next(starts, None)) is not None:
                    ahead.append(pool.submit(runs.artifact_part, run, entry.name, start, PIECE, model))
                if not ahead:
                    break
                piece = ahead.pop(0).result()
                hashing.update(piece)
                target.write(piece)
                begin += len(piece)
                if progress is not None:
                    progress(begin, begin)
        target.flush()
        os.fsync(target.fileno())
    if begin != entry.size or hashing.hexdigest() != entry.digest:
        part.unlink()
        raise Damaged("what was fetched has another digest", where=str(path), fix="fetch it again")
    part.replace(path)
    return path


def _groups(data: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield a file's pieces, some at a time: about 16 MiB."""
    cutter, group, held = Cutter(), [], 0

    def pieces() -> Iterator[bytes]:
        for part in data:
            yield from cutter.feed(part)
        yield from cutter.end()

    for piece in pieces():
        group.append(piece)
        held += len(piece)
        if held >= 4 * PIECE:
            yield group
            group, held = [], 0
    if group:
        yield group
