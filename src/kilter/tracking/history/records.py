"""What every source of history says, in the same few words: a run, and then its pieces in a stable order.

A source reads and never writes; it yields a run's points in the same order each time, so that how many of a metric's points
are there already says where an import goes on. What it yields is bounded: a run of ten million points is never held whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO, Protocol, TypeAlias

import msgspec

from kilter.tracking.records import DatasetInput, LoggedStatus, MetricPoint, ModelMetric, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSeen:
    """A run of a source, before its pieces are read.

    Args:
        origin: What the source calls it, the same for ever.
        experiment: The experiment, project or folder that it belongs to.
        name: What people call it.
        started_at: When it began.
        version: Changes when the run does; an import of the same version has nothing to do. Empty when the source can't tell.
        work: How much there is to read, in the source's own measure.
        status: How it stands, in the source's own word.
        tags: What is known of it before it is read, for filters.
        at: What the source needs to find it again.
    """

    origin: str
    experiment: str
    name: str
    started_at: datetime
    version: str = ""
    work: int = 1
    status: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    at: Any = None


@dataclass(frozen=True, slots=True)
class Broken:
    """A run that can't even be named, or a part of a source that can't be read.

    Args:
        where: Which.
        why: What is wrong with it.
    """

    where: str
    why: str


@dataclass(frozen=True, slots=True)
class Measured:
    """Some points, of one or several metrics, in the source's order.

    Args:
        points: The points; each says when.
        work: How much of the run's work they are.
    """

    points: list[MetricPoint]
    work: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What was said about a run.

    Args:
        params: What it was given.
        tags: What people say about it.
        name: What people call it, when the source learns it late.
        parent: The origin of the run that it belongs to.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    parent: str = ""


@dataclass(frozen=True, slots=True)
class FileSeen:
    """A file of a run.

    Args:
        name: A relative path.
        open: Opens its bytes, which are read in pieces.
    """

    name: str
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class DataSeen:
    """Data that a run read."""

    inputs: Sequence[DatasetInput]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSeen:
    """A model as a run left it.

    Args:
        origin: What the source calls it.
        name: What people call it.
        type: What kind of model it is.
        status: ``READY`` once all of its files are there.
        params: What it was made with.
        tags: What people say about it.
        metrics: What was measured of it; their ``run`` is an origin.
        files: Its files.
        role: Whether the run made it or read it.
        step: At which step.
    """

    origin: str
    name: str
    type: str = ""
    status: LoggedStatus = "READY"
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[ModelMetric] = ()
    files: Sequence[FileSeen] = ()
    step: int = 0


@dataclass(frozen=True, slots=True)
class ModelRead:
    """A model that a run read.

    Args:
        origin: What the source calls it.
    """

    origin: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run stands; it comes last.

    Args:
        status: How it stands.
        ended_at: When it ended, or None.
        deleted: It was put away.
    """

    status: Status
    ended_at: datetime | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something without an equivalent here.

    Args:
        kind: Of what kind: ``image that is not in the folder``.
        count: How many.
    """

    kind: str
    count: int = 1


Piece: TypeAlias = Measured | Said | FileSeen | DataSeen | ModelSeen | ModelRead | Ended | LeftOut


class Source(Protocol):
    """Where history comes from."""

    @property
    def kind(self) -> str:
        """What it is: ``mlflow``."""
        ...

    def experiments(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield the experiments that have tags of their own: name and tags."""
        ...

    def runs(self) -> Iterator[RunSeen | Broken | LeftOut]:
        """Yield its runs, none of which is read yet, and what is beside them without an equivalent."""
        ...

    def read(self, run: RunSeen) -> Iterator[Piece]:
        """Yield a run's pieces, in the same order each time.

        Raises:
            KilterError: When something in it is broken; what came before it holds.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class Failure(msgspec.Struct, frozen=True):
    """A run that could not be brought as a whole.

    Args:
        run: Which.
        why: What is wrong with it.
    """

    run: str
    why: str


class Brought(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did.

    Args:
        source: What kind of source.
        place: Where it is.
        dry_run: Nothing was written: this is what would have been.
        experiments: Experiments that have runs from it.
        runs: Runs that are new.
        grown: Runs that were there and got more.
        unchanged: Runs that were there as they are.
        passed_over: Runs that the filter left out.
        points: Metric points that were added.
        params: Params that were added.
        tags: Tags that were added or changed.
        files: Files that were added or replaced.
        bytes: Their size.
        datasets: Descriptions of data that were added.
        models: Logged models that were added.
        renamed: Names that can't be used here as they were; each run's tag ``kilter.import.names`` has them.
        left_out: What has no equivalent, by kind.
        failed: Runs that could not be brought as a whole.
        seconds: How long it took.
    """

    source: str
    place: str
    dry_run: bool = False
    experiments: int = 0
    runs: int = 0
    grown: int = 0
    unchanged: int = 0
    passed_over: int = 0
    points: int = 0
    params: int = 0
    tags: int = 0
    files: int = 0
    bytes: int = 0
    datasets: int = 0
    models: int = 0
    renamed: int = 0
    left_out: dict[str, int] = {}
    failed: tuple[Failure, ...] = ()
    seconds: float = 0.0
