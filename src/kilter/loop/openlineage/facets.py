"""OpenLineage's facets and datasets, as plain JSON values. Source: openlineage.io/spec, versions as named in each URL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any, TypeAlias

from kilter.core.evidence import Finding
from kilter.loop.declaration.spec import ColumnsSpec, LoopSpec, ViewSpec

Json: TypeAlias = dict[str, Any]

EVENT = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
_SCHEMAS = {
    "columnLineage": ("1-2-0", "ColumnLineageDatasetFacet"),
    "dataQualityAssertions": ("1-1-0", "DataQualityAssertionsDatasetFacet"),
    "dataSource": ("1-0-1", "DatasourceDatasetFacet"),
    "datasetType": ("1-0-1", "DatasetTypeDatasetFacet"),
    "documentation": ("1-1-0", "DocumentationJobFacet"),
    "errorMessage": ("1-0-1", "ErrorMessageRunFacet"),
    "executionParameters": ("1-0-0", "ExecutionParametersRunFacet"),
    "jobType": ("2-0-4", "JobTypeJobFacet"),
    "nominalTime": ("1-0-1", "NominalTimeRunFacet"),
    "outputStatistics": ("1-0-2", "OutputStatisticsOutputDatasetFacet"),
    "ownership": ("1-0-1", "OwnershipJobFacet"),
    "parent": ("1-2-0", "ParentRunFacet"),
    "processing_engine": ("1-1-1", "ProcessingEngineRunFacet"),
    "schema": ("1-2-0", "SchemaDatasetFacet"),
    "sourceCode": ("1-0-1", "SourceCodeJobFacet"),
    "tags": ("1-0-0", "TagsRunFacet"),
    "version": ("1-0-1", "DatasetVersionDatasetFacet"),
}
_LONGEST_SOURCE = 64 << 10


@lru_cache(maxsize=1)
def release() -> str:
    """Return which Kilter this is."""
    try:
        return installed("kilter")
    except PackageNotFoundError:
        return "0"


def producer() -> str:
    """Return the URI that says who tells this."""
    return f"urn:kilter:{release()}"


def facet(name: str, /, **fields: Any) -> Json:
    """Return a facet under its name; what is None is left out."""
    number, kind = _SCHEMAS[name]
    said = {key: value for key, value in fields.items() if value is not None}
    return {name: {"_producer": producer(), "_schemaURL": f"{_FACETS}/{number}/{kind}.json#/$defs/{kind}", **said}}


def engine() -> Json:
    """Return the facet of what runs."""
    return facet("processing_engine", name="Kilter", version=release())


def tags(values: Mapping[str, Any]) -> Json:
    """Return what names a run's inputs to the bit: digests and ids; empty ones are left out."""
    found = [{"key": key, "value": str(value), "source": "KILTER"} for key, value in values.items() if value]
    return facet("tags", tags=found) if found else {}


def parameters(values: Mapping[str, Any]) -> Json:
    """Return the parameters of a training."""
    found = [{"key": key, "value": str(value)} for key, value in sorted(values.items())]
    return facet("executionParameters", parameters=found) if found else {}


def failure(reason: str) -> Json:
    """Return why a run failed."""
    return facet("errorMessage", message=reason, programmingLanguage="python")


def job_facets(kind: str, spec: LoopSpec | None, *, source: bool = False) -> Json:
    """Return what is known of a job: its type and, of a loop's, owner, purpose and source."""
    found = facet("jobType", processingType="BATCH", integration="KILTER", jobType=kind)
    if spec is None:
        return found
    found |= facet("ownership", owners=[{"name": spec.owner, "type": "OWNER"}])
    if spec.purpose:
        found |= facet("documentation", description=spec.purpose, contentType="text/plain")
    text = f"{spec.label.expression.source}\n\n\n{spec.train.source}"
    if source and len(text) <= _LONGEST_SOURCE:
        found |= facet("sourceCode", language="python", sourceCode=text)
    return found


def schema(columns: Iterable[tuple[str, str]]) -> Json:
    """Return the columns of a dataset."""
    fields = [
        {"name": name, "type": kind, "ordinal_position": place} for place, (name, kind) in enumerate(columns, start=1)
    ]
    return facet("schema", fields=fields) if fields else {}


def assertions(findings: Iterable[Finding]) -> Json:
    """Return what gates found, each as an assertion about the model."""
    found = [
        {
            "assertion": finding.name,
            "success": finding.verdict == "pass",
            "severity": "error",
            "description": f"{finding.sentence()}. {finding.rule}",
            "expected": finding.allowed,
            "actual": "" if finding.value is None else f"{finding.value.estimate:.6g}",
        }
        for finding in findings
    ]
    return facet("dataQualityAssertions", assertions=found) if found else {}


def column_lineage(spec: LoopSpec, namespace: str) -> Json:
    """Return which columns of which tables a model's answer comes from, and which the label came from."""
    direct = [
        _field(namespace, item.table, name, "TRANSFORMATION")
        for item in spec.inputs
        if isinstance(item, ColumnsSpec)
        for name in item.names
    ]
    aggregated = {
        (item.table, one.column or item.entity): None
        for item in spec.inputs
        if isinstance(item, ViewSpec)
        for one in item.aggregates
    }
    direct += [_field(namespace, table, column, "AGGREGATION") for table, column in aggregated]
    joined = [
        _field(namespace, item.table, item.entity, "JOIN", "INDIRECT")
        for item in spec.inputs
        if isinstance(item, ViewSpec)
    ]
    return facet("columnLineage", fields={"prediction": {"inputFields": direct}}, dataset=joined)


def _field(namespace: str, table: str, column: str, subtype: str, kind: str = "DIRECT") -> Json:
    return {
        "namespace": namespace,
        "name": f"tables/{table}",
        "field": column,
        "transformations": [{"type": kind, "subtype": subtype, "description": "", "masking": False}],
    }
