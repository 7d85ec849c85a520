"""The pages of experiments, runs and comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kilter.core.digests import digest
from kilter.core.errors import InvalidInput, KilterError, NotFound
from kilter.loop.workspace import Workspace
from kilter.server.ui import comparing, notes, run_view, words
from kilter.server.ui.comparing import comparison
from kilter.server.ui.drawing import Draughtsman, drawing, group_names
from kilter.server.ui.endpoint_pages import Pulse
from kilter.server.ui.tracking_address import Asked, asked, experiment_of, experiment_path, place_of
from kilter.server.ui.tracking_records import (
    Changed,
    Comparison,
    Curves,
    ExperimentCard,
    RunTable,
    Weights,
)
from kilter.tracking.records import ColumnNames, Experiment, RunGroup, RunRows

RUN_PARTS = ("overview", "numbers", "files", "origin")
"""The parts of a run's page, each brought up to date by itself."""

_MOST_EXPERIMENTS = 2000
_TELLING = ("valid", "val_", "val/", "test", "loss", "auc", "acc", "rmse", "score")
_CHOSEN = 4


class TrackingPages:
    """Experiments, runs and comparisons.

    Args:
        workspace: The store's services.
        render: Fills a template.
        simulated: The store's clock is not the machine's.
    """

    def __init__(self, workspace: Workspace, render: Callable[..., str], *, simulated: bool) -> None:
        self._workspace = workspace
        self._runs = workspace.runs
        self._render = render
        self._simulated = simulated
        self._draughtsman = Draughtsman(workspace.runs)

    def _clock(self) -> dict[str, object]:
        return {"now": self._workspace.clock.now(), "simulated": self._simulated}

    # ------------------------------------------------------------ experiments

    def experiments(self, query: Mapping[str, Any]) -> str:
        """Return the page of all experiments."""
        problem = ""
        cards: tuple[ExperimentCard, ...] = ()
        try:
            cards = self.cards(query)
        except InvalidInput as error:
            problem = str(error)
        return self._render("tracking/experiments.html", cards=cards, query=query, problem=problem, **self._clock())

    def cards(self, query: Mapping[str, Any]) -> tuple[ExperimentCard, ...]:
        """Return all experiments, the one with the newest run first.

        Raises:
            InvalidInput: When the filter can't be read.
        """
        wish = asked(query)
        text = wish.filter.strip()
        if text and all(letter.isalnum() or letter in " _-." for letter in text) and " is " not in text.lower():
            text = f"name ILIKE '%{text}%'"
        page = self._runs.search_experiments(filter=text, view=wish.view, limit=_MOST_EXPERIMENTS)
        known = {one.name: one for one in self._runs.experiments()}
        found = []
        for one in page.experiments:
            having = known.get(one.name)
            if having is None and one.number == 0 and not one.tags:
                continue  # the one that is there from the beginning, as long as nobody uses it
            found.append(
                ExperimentCard(
                    number=one.number,
                    name=one.name,
                    path=experiment_path(one.name, one.number),
                    runs=having.runs if having else 0,
                    newest=having.newest if having else None,
                    created=one.created_at,
                    note=one.tags.get(notes.NOTE, "").strip().partition("\n")[0].lstrip("# ")[:160],
                    deleted=one.deleted_at is not None,
                )
            )
        return tuple(sorted(found, key=lambda one: one.newest or one.created, reverse=True))

    def experiment(self, name: str, query: Mapping[str, Any], *, acts: bool) -> str:
        """Return an experiment's page."""
        table = self.table(name, query)
        note = notes.rendered(table.note) if table.note else ""
        usual = _columns(table.names)
        return self._render("tracking/experiment.html", table=table, usual=usual, note=note, acts=acts, **self._clock())

    def table(self, name: str, query: Mapping[str, Any]) -> RunTable:
        """Return an experiment's table of runs; what is wrong with a filter is said in it.

        Raises:
            NotFound: When there is no such experiment.
        """
        found = experiment_of(self._runs, name)
        wish = asked(query)
        names = self._runs.columns(found.name)
        columns = wish.columns if wish.columns is not None else _columns(names)
        problem, other, place, rows = "", "", None, RunRows(total=0, rows=())
        try:
            rows = self._rows(found, wish, columns)
        except InvalidInput as error:
            if error.where == "filter":
                problem, place = error.message, place_of(wish.filter, error)
            else:
                other = str(error)
        return RunTable(
            number=found.number,
            name=found.name,
            path=experiment_path(found.name, found.number),
            note=found.tags.get(notes.NOTE, ""),
            tags={name: value for name, value in found.tags.items() if name != notes.NOTE},
            deleted=found.deleted_at is not None,
            names=names,
            columns=columns,
            rows=rows,
            filter_problem=problem,
            filter_place=place,
            other_problem=other,
        )

    def rows(self, name: str, query: Mapping[str, Any]) -> RunRows:
        """Return a part of an experiment's table of runs.

        Raises:
            InvalidInput: When the filter, the order or a column can't be read.
        """
        wish = asked(query)
        return self._rows(experiment_of(self._runs, name), wish, wish.columns or ())

    def _rows(self, found: Experiment, wish: Asked, columns: tuple[str, ...]) -> RunRows:
        grouped = bool(wish.group) and (wish.value is not None or wish.ungrouped)
        return self._runs.rows(
            found.name,
            filter=wish.filter,
            order=wish.order,
            columns=[column for column in columns if "." in column],
            offset=wish.offset,
            limit=wish.limit,
            view=wish.view,
            tree=wish.tree,
            parent=wish.parent,
            group=wish.group if grouped else "",
            group_value=None if wish.ungrouped else wish.value,
        )

    def row(self, run: str, query: Mapping[str, Any]) -> RunRows:
        """Return one run as a line of a table: the one that others are held against."""
        return self._runs.rows(columns=asked(query).columns or (), among=[run], view="all", limit=1)

    def groups(self, name: str, query: Mapping[str, Any]) -> tuple[RunGroup, ...]:
        """Return the groups of an experiment's table of runs."""
        wish = asked(query)
        found = experiment_of(self._runs, name)
        return self._runs.groups(wish.group, found.name, filter=wish.filter, columns=wish.columns or (), view=wish.view)

    # ------------------------------------------------------------ a run

    def run(self, identity: str, query: Mapping[str, Any], *, acts: bool) -> str:
        """Return a run's page."""
        view = self.run_data(identity)
        digests = self._parts(view)
        made = {part: self._part(part, view, query) for part in RUN_PARTS}
        return self._render(
            "tracking/run.html",
            view=view,
            run=view.run,
            parts=made,
            digests=digests,
            note=notes.rendered(view.note) if view.note else "",
            acts=acts,
            query=query,
            **self._clock(),
        )

    def run_data(self, identity: str) -> Any:
        """Return what a run's page shows."""
        return run_view.run_view(self._workspace, self._runs.get(identity))

    def run_part(self, identity: str, part: str, query: Mapping[str, Any]) -> str:
        """Return a part of a run's page.

        Raises:
            NotFound: When there is no such part.
        """
        if part not in RUN_PARTS:
            raise NotFound(f"a run's page has no part {part[:40]!r}", where="part", allowed=", ".join(RUN_PARTS))
        return self._part(part, self.run_data(identity), query)

    def _part(self, part: str, view: Any, query: Mapping[str, Any]) -> str:
        values: dict[str, object] = {"view": view, "run": view.run, "now": self._workspace.clock.now()}
        if part == "files":
            folder = str(query.get("folder", "")).strip("/")
            file = str(query.get("file", ""))
            values |= {"files": run_view.files(view.run, folder), "shown": None, "problem": ""}
            try:
                values["shown"] = run_view.shown(self._workspace, view.run, file) if file else None
            except KilterError as error:
                values["problem"] = error.message
        return self._render(f"tracking/run_{part}.html", **values)

    def run_pulse(self, identity: str) -> Pulse:
        """Return which parts of a run's page are how."""
        now = self._workspace.clock.now()
        return Pulse(words.iso(now), self._simulated, self._parts(self.run_data(identity)))

    def _parts(self, view: Any) -> dict[str, str]:
        run = view.run
        said = {
            "overview": (run.status, run.ended_at, run.name, view.own_tags, view.params, run.deleted_at, view.children),
            "numbers": run.metrics,
            "files": run.artifacts,
            "origin": (view.system_tags, view.versions, view.models, run.inputs),
        }
        return {part: digest(msgspec.json.encode(value))[:12] for part, value in said.items()}

    # ------------------------------------------------------------ comparing

    def compare(self, query: Mapping[str, Any]) -> str:
        """Return the page that compares runs."""
        found = self.compare_data(query)
        return self._render(
            "tracking/compare.html",
            found=found,
            query=query,
            named={key: query[key] for key in ("runs", "experiment", "filter", "order") if query.get(key)},
            goal=_goal(list(found.numbers)),
            back=self._back(found),
            **self._clock(),
        )

    def _back(self, found: Comparison) -> tuple[str, str] | None:
        names = {one.experiment for one in found.runs}
        if len(names) != 1:
            return None
        one = self._runs.experiment(names.pop())
        return one.name, experiment_path(one.name, one.number)

    def compare_data(self, query: Mapping[str, Any]) -> Comparison:
        """Return what the comparison shows."""
        return comparison(*comparing.chosen(self._runs, query))

    def curves(self, query: Mapping[str, Any]) -> Curves:
        """Return a metric of runs as lines or bands."""
        how = drawing(query)
        runs, _ = comparing.chosen(self._runs, query)
        having = [run for run in runs if any(one.name == how.metric for one in run.metrics)]
        field = str(query.get("group", ""))
        if field:
            groups = group_names([comparing.groupable(run) for run in having], field)
            return self._draughtsman.curves(having, how, groups)
        return self._draughtsman.curves(having, how)

    def weights(self, query: Mapping[str, Any]) -> Weights:
        """Return which params go with a metric."""
        runs, _ = comparing.chosen(self._runs, query)
        return comparing.weights(runs, str(query.get("metric", "")))

    def changed(self, query: Mapping[str, Any]) -> Changed:
        """Return what is different in the code of two runs.

        Raises:
            InvalidInput: When there are not two runs.
        """
        left, right = str(query.get("left", "")), str(query.get("right", ""))
        if not left or not right:
            raise InvalidInput("two runs are compared", where="left, right", allowed="?left=ID&right=ID")
        return comparing.changed(self._runs, self._workspace.objects, self._runs.get(left), self._runs.get(right))

    def changed_part(self, query: Mapping[str, Any]) -> str:
        """Return what is different in the code of two runs, as HTML."""
        return self._render("tracking/changed.html", found=self.changed(query))

    def table_part(self, identity: str, file: str) -> str:
        """Return the preview of one file of a run, as HTML."""
        run = self._runs.get(identity)
        return self._render(
            "tracking/preview.html", shown=run_view.shown(self._workspace, run, file), run=run, bare=True
        )


def _columns(names: ColumnNames) -> tuple[str, ...]:
    """Return the columns that a table begins with: the commonest metrics, and the params that differ."""
    varying = [one for one in names.params if one.values > 1] or list(names.params)
    who = ("tags.mlflow.user",) if any(one.name == "mlflow.user" for one in names.tags) else ()
    return (
        "started",
        "duration",
        *who,
        *(f"metrics.{one.name}" for one in names.metrics[:_CHOSEN]),
        *(f"params.{one.name}" for one in varying[:_CHOSEN]),
    )


def _goal(metrics: Sequence[str]) -> str:
    """Return the metric that a comparison begins with: one of held-out data, or at least of quality."""
    for word in _TELLING:
        found = next((name for name in metrics if word in name.lower()), None)
        if found is not None:
            return found
    return metrics[0] if metrics else ""
