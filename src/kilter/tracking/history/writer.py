"""Turns what sources say into runs, each piece once.

A run is found again by its origin, which is its idempotency key and its tag. The points of a metric come in the source's order, so
their number in the store says how many of them to pass over; each batch is all or none, so a kill at any moment leaves a number
that is true. Where the points that were passed over are not those that are there (a source that was edited), the run is read once
more and each point compared with what is there. A run is marked as whole by its version, last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kilter.core.errors import Conflict, KilterError, Unavailable
from kilter.tracking.history.batches import Edited
from kilter.tracking.history.importing import BROKEN, ORIGIN, PARENT, SOURCE, VERSION, RunImport, Shared
from kilter.tracking.history.names import Names, origin, text
from kilter.tracking.history.records import Broken, Brought, Failure, LeftOut, RunSeen, Source
from kilter.tracking.history.selection import Selection
from kilter.tracking.records import ModelUse, Run
from kilter.tracking.service import RunService

_PATIENCE = 3600.0


class Writer:
    """Brings runs into a store.

    Args:
        runs: The room's operations, here or on a server.
        experiment: What all runs shall belong to; the source's own experiments, if not said.
        selection: Which runs.
        dry_run: Read everything and write nothing.
    """

    def __init__(
        self,
        runs: RunService,
        *,
        experiment: str = "",
        selection: Selection | None = None,
        dry_run: bool = False,
    ) -> None:
        self._shared = Shared(runs, dry_run=dry_run)
        self._runs = runs
        self._experiment = experiment
        self._selection = selection or Selection("")
        self._dry_run = dry_run
        self._failed: list[Failure] = []
        self._experiments: set[str] = set()

    def bring(
        self, source: Source, place: str, advance: Callable[[int], None], runs: Sequence[RunSeen | Broken | LeftOut]
    ) -> Brought:
        """Bring the runs of a source.

        Args:
            source: The source.
            place: Where it is, for the report.
            advance: Is told how much more of the work is done.
            runs: Its runs.

        Returns:
            What was done; runs that are broken are in it, and the others have come.

        Raises:
            Unavailable: When the store or the source goes away; the same import goes on where it was.
        """
        began = time.monotonic()
        for seen in runs:
            if isinstance(seen, Broken):
                self._failed.append(Failure(seen.where, seen.why))
            elif isinstance(seen, LeftOut):
                self._shared.leave_out(seen.kind, seen.count)
            elif self._selection.takes(seen):
                self._one(source, seen, advance)
            else:
                self._shared.add("passed_over")
                advance(seen.work)
        self._say_later(source.kind)
        self._tag_experiments(source)
        return Brought(
            source=source.kind,
            place=place,
            dry_run=self._dry_run,
            experiments=len(self._experiments),
            left_out=dict(sorted(self._shared.left_out.items())),
            failed=tuple(self._failed),
            seconds=round(time.monotonic() - began, 3),
            **self._shared.count,
        )

    # ------------------------------------------------------------ one run

    def _one(self, source: Source, seen: RunSeen, advance: Callable[[int], None]) -> None:
        known = origin(source.kind, seen.origin)
        found = self._find(known)
        name = text(self._experiment or seen.experiment)[:500] or "Default"
        self._experiments.add(name if found is None else found.experiment)
        if found is not None:
            self._shared.known[seen.origin] = found.id
            if found.deleted_at is not None and found.tags.get(VERSION) is None:
                if not self._dry_run:
                    self._runs.restore(found.id)  # it was cut off just before its end
            elif found.deleted_at is not None or (seen.version and found.tags.get(VERSION) == seen.version):
                self._shared.add("unchanged")
                advance(seen.work)
                return
        done = [0]

        def progress(work: int) -> None:
            done[0] += work
            advance(work)

        try:
            run = found or self._start(source.kind, known, name, seen)
            self._shared.known[seen.origin] = run.id
            fresh = found is None or VERSION not in found.tags
            before = dict(self._shared.count)
            importing = RunImport(self._shared, run, seen, progress)
            try:
                importing.read(source)
            except Edited:
                self._shared.count = before
                importing = RunImport(self._shared, run, seen, progress, compare=True)
                importing.read(source)
            self._shared.add("runs" if fresh else "grown" if importing.changed else "unchanged")
        except Unavailable:
            raise
        except BROKEN as error:
            said = str(error) if isinstance(error, KilterError) else f"{type(error).__name__}: {error}"
            self._failed.append(Failure(f"{seen.name or seen.origin} ({seen.origin})", said[:500]))
        advance(max(seen.work - done[0], 0))

    def _find(self, known: str) -> Run | None:
        page = self._runs.list(filter=f"tags.`{ORIGIN}` = '{known}'", view="all", limit=1)
        return page.runs[0] if page.runs else None

    def _start(self, kind: str, known: str, experiment: str, seen: RunSeen) -> Run:
        if self._dry_run:
            return Run(
                id=known,
                experiment=experiment,
                name=seen.name,
                status="RUNNING",
                started_at=seen.started_at,
                ended_at=None,
                params={},
                tags={},
                metrics=(),
                artifacts=(),
            )
        return self._runs.start(
            experiment,
            text(seen.name)[:1000],
            tags={SOURCE: kind, ORIGIN: known},
            key=f"import/{known}",
            started_at=seen.started_at,
            patience=_PATIENCE,
        )

    # ------------------------------------------------------------ afterwards

    def _say_later(self, kind: str) -> None:
        """Tie runs to parents and to models that came after them, or with an import before this one."""
        if self._dry_run or not self._shared.later:
            return
        numbers = [self._runs.experiment(name).number for name in sorted(self._experiments)]
        for one in self._shared.later:
            said = {VERSION: one.version} if one.version else {}
            if one.parent:
                other = None if one.parent in self._shared.known else self._find(origin(kind, one.parent))
                found = self._shared.known.get(one.parent) or (other.id if other is not None else "")
                said |= {PARENT: found} if found else {}
                if not found:
                    self._shared.leave_out("parent run that was not imported")
            for read in one.models:
                model = self._shared.find_model(numbers, origin(kind, read))
                if model is None:
                    self._shared.leave_out("model that a run read and that was not imported")
                else:
                    self._runs.log_inputs(one.run, models=[ModelUse(model=model.id, role="input")])
            if said:
                self._runs.log_tags(one.run, said)

    def _tag_experiments(self, source: Source) -> None:
        if self._experiment:
            return
        for name, tags in source.experiments():
            names = Names()
            kept = {names(key): text(value) for key, value in tags.items()}
            if name not in self._experiments or not kept or self._dry_run:
                continue
            found = self._runs.experiment(name)
            if new := {key: value for key, value in kept.items() if found.tags.get(key) != value}:
                try:
                    self._runs.tag_experiment(found.number, new)
                except Conflict as error:
                    self._failed.append(Failure(f"experiment {name}", str(error)))
