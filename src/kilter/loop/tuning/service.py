"""The operations on studies: they only read, because a search runs where its trials run."""

from __future__ import annotations

from kilter.core.errors import NotFound
from kilter.loop.tuning.records import StudyReport, StudySummary
from kilter.loop.tuning.report import report
from kilter.loop.tuning.study import SPEC, STUDY, find
from kilter.operations.table import operation
from kilter.tracking.service import RunService

_MOST = 500


class StudyService:
    """Studies, as their runs say.

    Args:
        runs: The runs.
    """

    def __init__(self, runs: RunService) -> None:
        self._runs = runs

    @operation
    def list(self, experiment: str = "") -> tuple[StudySummary, ...]:
        """Return the studies, the newest first, at most 500.

        Args:
            experiment: Only of this experiment.
        """
        found = self._runs.list(experiment, f"tags.`{STUDY}` IS NOT NULL", "-started", _MOST).runs
        return tuple(
            StudySummary(
                name=run.tags[STUDY],
                run=run.id,
                experiment=run.experiment,
                kind=str(run.params.get("trials_of", "")),
                status=run.status,
                started_at=run.started_at,
            )
            for run in found
        )

    @operation
    def get(self, study: str) -> StudyReport:
        """Return what a study found so far: its trials, the best, importance and parallel coordinates.

        Args:
            study: Its name, or the id of its run.

        Raises:
            NotFound: When there is no such study.
        """
        try:
            parent = self._runs.get(study) if study.startswith("run") else find(self._runs, study)
        except NotFound:
            parent = find(self._runs, study)
        if all(one.name != SPEC for one in parent.artifacts):
            raise NotFound(f"{study!r} is no study", where="study", fix="see `kilter tune list`")
        return report(self._runs, parent)
