"""What a call would change, by name: so that a role on one project counts for it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from kilter.core.errors import NotFound
from kilter.operations.identity import named
from kilter.tracking.service import RunService

_RUNS = ("run", "run_id", "run_uuid", "source_run_id")


class Targets:
    """Finds what a call is about.

    Args:
        services: The services by noun.
    """

    def __init__(self, services: Mapping[str, object]) -> None:
        runs = services.get("runs")
        self._runs = runs if isinstance(runs, RunService) else None

    def of(self, arguments: Mapping[str, object]) -> tuple[str, ...]:
        """Return the names of loops, models, endpoints and experiments that an operation's arguments are about."""
        return (*named(arguments), *self._of_runs(arguments))

    def of_wire(self, path: str, fields: Mapping[str, object], parts: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names that a call over MLflow's wire is about.

        Args:
            path: Below the API's own.
            fields: What was sent.
            parts: The arguments in the path.
        """
        # This wire passes over fields that a call doesn't know: only those count here that the call acts on.
        found: list[str] = []
        if path.startswith("/runs/"):
            found += self._of_runs(fields)
        if path.startswith("/experiments/") or path in {"/runs/create", "/logged-models"}:
            experiment = fields.get("experiment_id")
            found += self.experiment(experiment) if isinstance(experiment, str) else ()
        if path.startswith("/logged-models/") and parts:
            found += self.logged_model(parts[0])
        if path.startswith(("/registered-models/", "/model-versions/")) or path == "/experiments/create":
            name = fields.get("name")
            found += [name] if isinstance(name, str) else []
        return tuple(found)

    def of_file(self, path: str) -> tuple[str, ...]:
        """Return the experiment that an artifact's path lies in: its first part is the experiment's number."""
        return self.experiment(path.strip("/").partition("/")[0])

    def experiment(self, number: str) -> tuple[str, ...]:
        """Return an experiment's name by its number, as a tuple of one or none."""
        if self._runs is None or not (number.isdecimal() and len(number) < 19):
            return ()
        with suppress(NotFound):
            return (self._runs.experiment(number=int(number)).name,)
        return ()

    def logged_model(self, model: str) -> tuple[str, ...]:
        """Return the name of the experiment that a logged model belongs to, as a tuple of one or none."""
        if self._runs is None:
            return ()
        with suppress(NotFound):
            return self.experiment(str(self._runs.logged_model(model, deleted=True).experiment_number))
        return ()

    def _of_runs(self, arguments: Mapping[str, object]) -> tuple[str, ...]:
        found: list[str] = []
        for argument in _RUNS:
            run = arguments.get(argument)
            if isinstance(run, str) and run and self._runs is not None:
                with suppress(NotFound):
                    found.append(self._runs.get(run).experiment)
        return tuple(found)
