"""Large files in pieces: only those go over the network that the store doesn't have, and an upload goes on where it was cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kilter.core.errors import InvalidInput
from kilter.engines.objects.staging import Staging
from kilter.engines.objects.store import Writer
from kilter.operations.table import operation
from kilter.tracking.artifacts import ArtifactOperations
from kilter.tracking.logged_models import LoggedModelOperations
from kilter.tracking.records import Artifact

PIECE = 4 << 20
"""No piece is larger."""

ABANDONED = 86_400.0
"""Seconds after which an upload that nobody went on with is swept away."""


class UploadOperations(ArtifactOperations, LoggedModelOperations):
    """The operations on pieces of files; :mod:`kilter.tracking.transfer` uses them on both sides of a network."""

    @operation
    def missing_pieces(self, pieces: Sequence[str]) -> tuple[str, ...]:
        """Return which pieces the store doesn't have.

        Args:
            pieces: Their BLAKE3 digests.
        """
        return self._objects.missing(pieces)

    @operation(writes=True, repeatable=True)
    def put_piece(self, data: bytes) -> str:
        """Keep a piece of a file and return its digest; nobody sees it before :meth:`assemble`.

        Args:
            data: Up to 4 MiB.
        """
        return self._objects.put_piece(data)

    @operation(writes=True, repeatable=True)
    def assemble(self, run: str, name: str, pieces: Sequence[str], digest: str, model: str = "") -> Artifact:
        """Make a file of pieces that were put; the same name again replaces it.

        Args:
            run: The run that has the file; empty for a logged model's.
            name: A relative path: ``model/weights.safetensors``.
            pieces: The digests of its pieces, in order.
            digest: The BLAKE3 digest of the whole file.
            model: The logged model that has the file.

        Raises:
            NotFound: When a piece, the run or the model isn't there.
            InvalidInput: When the pieces give another digest, or the name climbs.
        """
        if bool(run) == bool(model):
            raise InvalidInput("a file belongs to one of them", where="run", allowed="a run or a model")
        size = self._objects.assemble(pieces, digest)
        if model:
            return self.keep_model_written(model, name, digest, size)
        return self.keep_written(run, name, digest, size)

    @operation
    def artifact_part(self, run: str, name: str, start: int, length: int, model: str = "") -> bytes:
        """Return some of a file's bytes.

        Args:
            run: The run that has the file; empty for a logged model's.
            name: The file.
            start: From which byte on.
            length: At most so many, up to 4 MiB.
            model: The logged model that has the file.

        Raises:
            NotFound: When there is no such file.
        """
        if start < 0 or not 0 < length <= PIECE:
            raise InvalidInput(f"{length} bytes from {start} on", where="length", allowed=f"1 to {PIECE} bytes")
        entry = self.model_entry(model, name) if model else self.artifact_entry(run, name)
        return b"".join(self._objects.read(entry.digest, start, min(start + length, entry.size)))

    @operation(writes=True, repeatable=True)
    def sweep_uploads(self, seconds: float = ABANDONED) -> int:
        """Remove what uploads left that were never finished, and return how many bytes that were.

        Args:
            seconds: Only what is older.

        Raises:
            InvalidInput: When it is less than an hour: an upload may be on its way.
        """
        if not seconds >= 3600.0:
            raise InvalidInput(f"{seconds:g}", where="seconds", allowed="3600 or more")
        return self._objects.sweep(seconds)

    # ------------------------------------------------------------ for the faces

    def file_writer(self) -> Writer:
        """Return what keeps a file's bytes that come bit by bit; then it is kept by ``keep_written``."""
        return self._objects.writer()

    def file_bytes(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield a file's bytes, checked, in pieces."""
        return self._objects.read(digest, start, end)

    @property
    def staging(self) -> Staging:
        """Numbered parts of uploads that are not whole yet."""
        return self._objects.staging
