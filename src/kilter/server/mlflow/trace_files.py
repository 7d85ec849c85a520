"""The files of traces: ``traces.json`` is the trace's spans in another form, all others are kept as they are."""

from __future__ import annotations

from collections.abc import Iterator

from blake3 import blake3

from kilter.core.errors import InvalidInput, NotFound
from kilter.llm.documents import document_of, read_document
from kilter.llm.records import TraceInfo
from kilter.llm.service import TraceService
from kilter.server.mlflow.problems import MISSING, Refused
from kilter.server.problems import TooLarge
from kilter.tracking.records import Artifact

DATA = "traces.json"
_LARGEST = 64 << 20


class TraceFiles:
    """The files of one trace.

    Args:
        traces: The operations on traces.
        trace: The trace's id.
    """

    def __init__(self, traces: TraceService, trace: str) -> None:
        self._traces = traces
        self._trace = trace

    def check(self) -> TraceInfo:
        """Return the trace, or refuse when it is not there."""
        try:
            return self._traces.info(self._trace)
        except NotFound:
            raise Refused(MISSING, f"Trace with ID '{self._trace}' not found.") from None

    def listed(self) -> tuple[Artifact, ...]:
        """Return the files, the spans among them."""
        try:
            found = self._traces.get(self._trace)
        except NotFound:
            return ()
        if not found.spans:
            return self._traces.files(self._trace)
        data = document_of(found.spans)
        own = Artifact(name=DATA, digest=blake3(data).hexdigest(), size=len(data), at=found.info.started_at)
        return (*self._traces.files(self._trace), own)

    def entry(self, name: str) -> Artifact:
        """Return what is known of a file; the spans as they are now.

        Raises:
            NotFound: When there is none of that name.
        """
        found = next((one for one in self.listed() if one.name == name), None)
        if found is None:
            raise NotFound(f"trace {self._trace} has no file {name!r}", where="traces")
        return found

    def read(self, entry: Artifact, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of a file from a place to a place."""
        if entry.name == DATA:
            yield document_of(self._traces.get(self._trace).spans)[start:end]
        else:
            yield from self._traces.file_bytes(entry.digest, start, end)

    def keep(self, name: str, digest: str, size: int) -> object:
        """Keep a file whose bytes are written; spans are kept as spans, and are one with those that came another way."""
        if name != DATA:
            return self._traces.keep_file(self._trace, name, digest, size)
        if size > _LARGEST:
            raise TooLarge("the file is too large", where="body", allowed=f"{_LARGEST:,} bytes")
        batch = read_document(b"".join(self._traces.file_bytes(digest)), self._trace)
        if not batch:
            raise InvalidInput("the file has no spans", where=DATA)
        return self._traces.ingest(batch, self.check().experiment)

    def drop(self, name: str) -> object:
        """Take a file away; the spans go with their trace alone."""
        return self._traces.drop_files(self._trace, name)
