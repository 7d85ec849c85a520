"""What tracking's pages show, as data."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from kilter.server.ui.differences import Line, TextDiff
from kilter.server.ui.importance import Importance
from kilter.server.ui.previews import Entry
from kilter.tracking.records import ColumnNames, LoggedModel, Run, RunRows


class ExperimentCard(msgspec.Struct, frozen=True):
    """An experiment in the list of all.

    Args:
        number: Its number.
        name: Its name.
        path: Its address.
        runs: How many runs it has.
        newest: When the newest began.
        created: When it was made.
        note: The first line of its note.
        deleted: It was put away.
    """

    number: int
    name: str
    path: str
    runs: int
    newest: datetime | None
    created: datetime
    note: str = ""
    deleted: bool = False


class RunTable(msgspec.Struct, frozen=True):
    """The page of an experiment.

    Args:
        number: The experiment's number.
        name: Its name.
        path: Its address.
        note: Its note, as it was written.
        tags: What people say about it.
        deleted: It was put away.
        names: What the table can show.
        columns: What it shows.
        rows: The first rows.
        filter_problem: Why the filter can't be read.
        filter_place: At which character.
        other_problem: Why the table can't be shown otherwise.
    """

    number: int
    name: str
    path: str
    note: str
    tags: dict[str, str]
    deleted: bool
    names: ColumnNames
    columns: tuple[str, ...]
    rows: RunRows
    filter_problem: str = ""
    filter_place: int | None = None
    other_problem: str = ""


class Made(msgspec.Struct, frozen=True):
    """A version that came from a run."""

    model: str
    version: int
    stage: str
    aliases: tuple[str, ...]
    endpoint: bool


class RunView(msgspec.Struct, frozen=True):
    """The page of a run.

    Args:
        run: The run.
        path: The experiment's address.
        who: Who started it.
        note: Its note, as it was written.
        params: Its params as people read them.
        own_tags: What people say about it.
        system_tags: What clients say about it.
        code: Where its source is: commit, branch, repository, entry point.
        recorded: What the native client noted of the machine, the code and the seeds.
        diff: It keeps what was changed since the commit.
        environment: The lock of installed distributions, one a line.
        parent: The run that it belongs under: its id and name.
        children: How many runs belong under it.
        models: Models that it made or read.
        versions: Versions that came from it.
        curves: The metrics with more than one point.
    """

    run: Run
    path: str
    who: str
    note: str
    params: tuple[tuple[str, str], ...]
    own_tags: dict[str, str]
    system_tags: dict[str, str]
    code: tuple[tuple[str, str], ...]
    recorded: tuple[tuple[str, str], ...]
    diff: bool
    environment: tuple[str, ...]
    parent: tuple[str, str] | None
    children: int
    models: tuple[tuple[str, LoggedModel], ...]
    versions: tuple[Made, ...]
    curves: tuple[str, ...]


class Files(msgspec.Struct, frozen=True):
    """A folder of a run."""

    folder: str
    entries: tuple[Entry, ...]
    total: int


class Compared(msgspec.Struct, frozen=True):
    """A run in a comparison.

    Args:
        id: Its id.
        name: What people call it.
        status: How it stands.
        experiment: What it belongs to.
        started_at: When it began.
        seconds: How long it took.
    """

    id: str
    name: str
    status: str
    experiment: str
    started_at: datetime
    seconds: float | None


class Shared(msgspec.Struct, frozen=True):
    """A file that several of the compared runs have: its name and which runs, by their places."""

    name: str
    places: tuple[int, ...]


class Comparison(msgspec.Struct, frozen=True):
    """The page that compares runs.

    Args:
        runs: The runs.
        left_out: How many more fit, and are not shown.
        curves: Metrics with more than one point.
        metrics: Every metric's newest value in each run.
        numbers: The same as numbers, by metric and run.
        params: Every param in each run.
        given: The params as they are, of each run.
        tags: Every tag in each run.
        digests: Data, features, code, environment, seed and declaration of each run.
        images: Images that at least one has.
        tables: Tables that at least one has.
        grouping: Fields that bands can be made over.
    """

    runs: tuple[Compared, ...]
    left_out: int
    curves: tuple[str, ...]
    metrics: tuple[Line, ...]
    numbers: dict[str, tuple[float | None, ...]]
    params: tuple[Line, ...]
    given: tuple[dict[str, Any], ...]
    tags: tuple[Line, ...]
    digests: tuple[Line, ...]
    images: tuple[Shared, ...]
    tables: tuple[Shared, ...]
    grouping: tuple[str, ...]


class Drawn(msgspec.Struct, frozen=True):
    """A line as it is drawn.

    Args:
        name: What it is: a run, or a group of runs.
        runs: The runs behind it.
        x: Places.
        y: Values; the mean of a group.
        low: The band's lower edge, of a group.
        high: The band's upper edge.
        faint: The values before smoothing, thinned on their own: places and values.
        points: How many points there are between the ends of the picture.
        odd: How many of them are not finite.
    """

    name: str
    runs: tuple[str, ...]
    x: list[float]
    y: list[float]
    low: list[float | None] | None = None
    high: list[float | None] | None = None
    faint: tuple[list[float], list[float]] | None = None
    points: int = 0
    odd: int = 0


class Curves(msgspec.Struct, frozen=True):
    """A metric of several runs.

    Args:
        metric: Its name.
        x: ``step``, ``time`` or ``relative``.
        lines: The lines.
        spread: What the bands show, in words.
        ends: The first and the last place of all lines.
    """

    metric: str
    x: str
    lines: tuple[Drawn, ...]
    spread: str = ""
    ends: tuple[float, float] | None = None


class Weights(msgspec.Struct, frozen=True):
    """Which params go with a metric."""

    metric: str
    runs: int
    method: str
    found: tuple[Importance, ...]


class Changed(msgspec.Struct, frozen=True):
    """What is different in the code of two runs."""

    left: str
    right: str
    notes: tuple[Line, ...]
    files: tuple[TextDiff, ...]


class Reign(msgspec.Struct, frozen=True):
    """When a version was champion.

    Args:
        version: The version.
        since: From when.
        until: Until when; None while it is.
        reason: Why it became so.
    """

    version: int
    since: datetime
    until: datetime | None
    reason: str
