"""The table of MLflow's calls for applications on language models: traces, assessments, evaluation datasets and scorers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kilter.llm.datasets import EvaluationDatasetService
from kilter.llm.scorers import ScorerService
from kilter.llm.service import TraceService
from kilter.server.mlflow.assessments import Assessments
from kilter.server.mlflow.datasets import Datasets
from kilter.server.mlflow.experiments import Experiments
from kilter.server.mlflow.scorers import Scorers
from kilter.server.mlflow.traces import Traces
from kilter.server.mlflow.traces_of_2 import TracesOf2
from kilter.tracking.service import RunService

Calls = Mapping[str, Mapping[str, Callable[..., dict[str, Any]]]]

READING = frozenset(
    {
        "/traces/search",
        "/traces/batchGetInfos",
        "/traces/metrics",
        "/traces/calculate-filter-correlation",
        "/datasets/search",
    }
)
"""What is posted and yet only read."""


def traces_of_2(runs: RunService, service: TraceService) -> Calls:
    """Return the calls about traces of version 2.0 of the wire: clients before MLflow 3 know no others, later ones send some of them."""
    traces = Traces(service, Experiments(runs))
    before = TracesOf2(service, Experiments(runs))
    return {
        "/traces": {"POST": before.start, "GET": before.search},
        "/traces/delete-traces": {"POST": traces.delete},
        "/traces/link-to-run": {"POST": traces.link_run},
        "/traces/link-prompts": {"POST": traces.link_prompts},
        "/traces/{id}": {"PATCH": before.end},
        "/traces/{id}/info": {"GET": before.info},
        "/traces/{id}/tags": {"PATCH": traces.set_tag, "DELETE": traces.delete_tag},
    }


def calls_of_3(runs: RunService, service: TraceService, of_datasets: EvaluationDatasetService) -> Calls:
    """Return the calls of version 3.0 of the wire."""
    about = Experiments(runs)
    traces, said, datasets = Traces(service, about), Assessments(service), Datasets(of_datasets, about)
    return {
        "/traces": {"POST": traces.start},
        "/traces/get": {"GET": traces.get},
        "/traces/batchGet": {"GET": traces.batch},
        "/traces/batchGetInfos": {"POST": traces.infos},
        "/traces/search": {"POST": traces.search},
        "/traces/delete-traces": {"POST": traces.delete},
        "/traces/link-to-run": {"POST": traces.link_run},
        "/traces/link-prompts": {"POST": traces.link_prompts},
        "/traces/metrics": {"POST": traces.metrics},
        "/traces/calculate-filter-correlation": {"POST": traces.correlation},
        "/traces/{id}": {"GET": traces.info},
        "/traces/{id}/tags": {"PATCH": traces.set_tag, "DELETE": traces.delete_tag},
        "/traces/{id}/assessments": {"POST": said.create},
        "/traces/{id}/assessments/{assessment}": {"GET": said.get, "PATCH": said.update, "DELETE": said.delete},
        "/datasets/create": {"POST": datasets.create},
        "/datasets/search": {"GET": datasets.search, "POST": datasets.search},
        "/datasets/{id}": {"GET": datasets.get, "DELETE": datasets.delete},
        "/datasets/{id}/tags": {"PATCH": datasets.set_tags},
        "/datasets/{id}/tags/{key}": {"DELETE": datasets.delete_tag},
        "/datasets/{id}/records": {
            "GET": datasets.records,
            "POST": datasets.write,
            "DELETE": datasets.delete_records,
        },
        "/datasets/{id}/experiment-ids": {"GET": datasets.experiments},
        "/datasets/{id}/add-experiments": {"POST": datasets.add_experiments},
        "/datasets/{id}/remove-experiments": {"POST": datasets.remove_experiments},
    }


def calls_of_scorers(runs: RunService, service: ScorerService) -> Calls:
    """Return the calls about scorers, of version 3.0 of the wire."""
    scorers = Scorers(service, Experiments(runs))
    return {
        "/scorers/register": {"POST": scorers.register},
        "/scorers/list": {"GET": scorers.list},
        "/scorers/versions": {"GET": scorers.versions},
        "/scorers/get": {"GET": scorers.get},
        "/scorers/delete": {"DELETE": scorers.delete},
        "/scorers/online-configs": {"GET": scorers.schedules},
        "/scorers/online-config": {"PUT": scorers.schedule},
    }
