"""Runs side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kilter.core.errors import InvalidInput, KilterError, NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.server.ui.differences import side_by_side, text_diff
from kilter.server.ui.importance import METHOD, importance
from kilter.server.ui.previews import ending, image_type, too_large
from kilter.server.ui.tracking_records import Changed, Compared, Comparison, Shared, Weights
from kilter.tracking.filters import View
from kilter.tracking.records import Run
from kilter.tracking.service import RunService

MOST = 500
"""So many runs are compared at most."""

_MOST_NAMED = 60
_IDENTITY = re.compile(r"^[\w.:@-]{1,64}$")
_MOST_FILES = 60
_TABLES = {"csv", "tsv", "parquet"}
_TEXTS = {"py", "toml", "yaml", "yml", "txt", "diff", "patch", "lock", "cfg", "ini", "sh", "sql", "md", "json"}
_MOST_TEXT = 400_000
_SYSTEM = ("mlflow.", "kilter.")


def chosen(runs: RunService, query: Mapping[str, Any]) -> tuple[tuple[Run, ...], int]:
    """Return the runs that a query names, and how many more fit.

    Raises:
        InvalidInput: When it names none.
        NotFound: When one of them is not there.
    """
    named = [one for one in str(query.get("runs", "")).split(",") if one]
    if named:
        if len(named) > _MOST_NAMED:
            raise InvalidInput(
                f"{len(named)} runs", where="runs", allowed=f"at most {_MOST_NAMED} by id, or a filter of an experiment"
            )
        return _named(runs, named), 0
    experiment = str(query.get("experiment", ""))
    if not experiment:
        raise InvalidInput(
            "no runs to compare", where="runs", allowed="?runs=ID,ID or ?experiment=NAME&filter=EXPRESSION",
            fix="select runs in an experiment's table and press c",
        )  # fmt: skip
    view: View = "alive"
    filter_ = str(query.get("filter", ""))
    page = runs.list(experiment, filter=filter_, order=str(query.get("order") or "-started"), limit=MOST, view=view)
    if not page.runs:
        raise NotFound("no run fits", where="runs", fix="take the filter away")
    more = runs.rows(experiment, filter=filter_, limit=1).total - len(page.runs)
    return page.runs, max(more, 0)


def _named(runs: RunService, named: Sequence[str]) -> tuple[Run, ...]:
    for one in named:
        if not _IDENTITY.match(one):
            raise NotFound(f"there is no run {one[:80]!r}", where="runs")
    listed = ", ".join(f"'{one}'" for one in named)
    found = {run.id: run for run in runs.list(filter=f"run_id IN ({listed})", view="all", limit=len(named)).runs}
    return tuple(found[one] if one in found else runs.get(one) for one in dict.fromkeys(named))


def comparison(runs: Sequence[Run], left_out: int) -> Comparison:
    """Return runs side by side."""
    counted = [{one.name: one.count for one in run.metrics} for run in runs]
    measured = [{one.name: float(one.last) for one in run.metrics} for run in runs]
    names = sorted({name for one in measured for name in one})
    params = side_by_side([run.params for run in runs])
    varying = [f"params.{one.name}" for one in params if one.differs]
    tags = side_by_side([run.tags for run in runs])
    varying += [f"tags.{one.name}" for one in tags if one.differs and not one.name.startswith(_SYSTEM)]
    return Comparison(
        runs=tuple(_compared(run) for run in runs),
        left_out=left_out,
        curves=tuple(name for name in names if any(one.get(name, 0) > 1 for one in counted)),
        metrics=side_by_side(measured),
        numbers={name: tuple(_finite(one.get(name)) for one in measured) for name in names},
        params=params,
        given=tuple(dict(run.params) for run in runs),
        tags=tags,
        digests=side_by_side([_digests(run) for run in runs]),
        images=_shared(runs, image_type),
        tables=_shared(runs, lambda name: ending(name) in _TABLES),
        grouping=tuple(varying[:60]),
    )


def groupable(run: Run) -> dict[str, Any]:
    """Return what a run can be grouped by."""
    return {f"params.{name}": value for name, value in run.params.items()} | {
        f"tags.{name}": value for name, value in run.tags.items()
    }


def weights(runs: Sequence[Run], metric: str) -> Weights:
    """Return which params go with a metric.

    Raises:
        NotFound: When no run has the metric.
    """
    values = [run.metric(metric) for run in runs]
    if all(one is None for one in values):
        raise NotFound(f"no run has a metric {metric[:60]!r}", where="metric")
    found = importance([run.params for run in runs], values)
    return Weights(metric, sum(one is not None for one in values), METHOD, found)


def changed(runs: RunService, objects: ObjectStore, left: Run, right: Run) -> Changed:
    """Return what is different in the code, the environment and the text files of two runs."""
    sides = [{name: value for name, value in run.tags.items() if name.startswith("mlflow.source.")} | _digests(run)
             for run in (left, right)]  # fmt: skip
    files = []
    if left.environment != right.environment:
        texts = [_object(objects, run.environment) for run in (left, right)]
        if all(text is not None for text in texts):
            files.append(text_diff("environment", texts[0] or "", texts[1] or ""))
    mine, theirs = ({one.name: one for one in run.artifacts} for run in (left, right))
    for name in sorted(mine.keys() | theirs.keys()):
        one, other = mine.get(name), theirs.get(name)
        if ending(name) not in _TEXTS or (one and other and one.digest == other.digest) or len(files) >= _MOST_FILES:
            continue
        if any(file is not None and (file.size > _MOST_TEXT or too_large(file.size)) for file in (one, other)):
            continue
        before = "" if one is None else runs.artifact(left.id, name).decode(errors="replace")
        after = "" if other is None else runs.artifact(right.id, name).decode(errors="replace")
        files.append(text_diff(name, before, after))
    return Changed(left.id, right.id, side_by_side(sides), tuple(files))


def environment_lines(objects: ObjectStore, run: Run) -> tuple[str, ...]:
    """Return the lock of a run's installed distributions, if it is kept."""
    text = _object(objects, run.environment)
    return () if text is None else tuple(text.splitlines()[:2000])


def _object(objects: ObjectStore, digest: str) -> str | None:
    if not digest:
        return ""
    try:
        return objects.get(digest).decode(errors="replace")
    except KilterError:  # a lock that was never kept, or by another store
        return None


def _compared(run: Run) -> Compared:
    seconds = None if run.ended_at is None else (run.ended_at - run.started_at).total_seconds()
    return Compared(run.id, run.name, run.status, run.experiment, run.started_at, seconds)


def _digests(run: Run) -> dict[str, Any]:
    found = {
        "data": run.data_digest[:16],
        "features": run.feature_digest[:16],
        "code": run.code_digest[:16],
        "environment": run.environment[:16],
        "declaration": run.spec[:16],
        "seed": "" if run.seed is None else str(run.seed),
    }
    found |= {f"input {one.name}": one.digest for one in run.inputs.datasets}
    return {name: value for name, value in found.items() if value}


def _finite(value: float | None) -> float | None:
    return None if value is None or value - value != 0 else value


def _shared(runs: Sequence[Run], fits: Any) -> tuple[Shared, ...]:
    places: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        for file in run.artifacts:
            if fits(file.name):
                places.setdefault(file.name, []).append(place)
    most = sorted(places.items(), key=lambda one: (-len(one[1]), one[0]))
    return tuple(Shared(name, tuple(found)) for name, found in most[:_MOST_FILES])
