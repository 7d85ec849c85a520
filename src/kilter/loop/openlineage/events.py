"""From an event of the journal to OpenLineage's run events."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec

from kilter.core.evidence import Finding
from kilter.journal.records import Event
from kilter.loop.declaration.spec import LoopSpec
from kilter.loop.openlineage.context import Context
from kilter.loop.openlineage.facets import (
    EVENT,
    Json,
    assertions,
    column_lineage,
    engine,
    facet,
    failure,
    job_facets,
    parameters,
    producer,
    schema,
    tags,
)
from kilter.registry.records import ModelVersion

State = Literal["START", "COMPLETE", "FAIL", "ABORT"]

_TRAFFIC = frozenset({"SetTraffic", "Promote", "RollBack"})
_JOBS = {"StartTraining": "train", "JudgeGates": "gates", "JudgeShadow": "shadow", "RunBatch": "batch"}
_TYPES = {"train": "TRAINING", "gates": "EVALUATION", "shadow": "EVALUATION", "batch": "SCORING", "release": "RELEASE"}
_OPEN = 10_000


class _Run(NamedTuple):
    """A run that has begun.

    Args:
        action: What names it.
        job: Its job's name.
        version: The version that it is about, or 0.
        spec: Digest of its declaration, or nothing.
    """

    action: str
    job: str
    version: int
    spec: str


class Translator:
    """Tells the journal's events one by one, in their order.

    It remembers which runs are open, so that an answer can say what it ends, and a traffic action that a newer one replaced is
    aborted. One that begins in the middle of the journal is first given some of what lies before, with :meth:`feed`, and what that
    tells is thrown away.

    Args:
        context: Looks up what events name.
        namespace: The namespace of jobs and datasets.
    """

    def __init__(self, context: Context, namespace: str) -> None:
        self._context = context
        self._namespace = namespace
        self._open: dict[str, _Run] = {}

    def feed(self, event: Event) -> list[Json]:
        """Return what an event of the journal says about lineage; mostly nothing."""
        loop = event.subject.partition("@")[0]
        data = event.data
        if event.kind in _JOBS or event.kind in _TRAFFIC:
            return self._begun(event, loop, data)
        if "action" in data:
            return self._answered(event, loop, data)
        match event.kind:
            case "Deployed":
                return self._at_once(event, f"{loop}.deploy", "DEPLOYMENT", *self._deployed(event, loop))
            case "VersionPromoted":
                return self._at_once(event, f"{loop}.promote", "PROMOTION", *self._promoted(event, loop))
            case "TableVersioned":
                return self._at_once(event, f"{data['table']}.ingest", "INGESTION", *self._ingested(data))
            case _:
                return []

    # ------------------------------------------------------------ loops

    def _begun(self, event: Event, loop: str, data: Json) -> list[Json]:
        action = data["id"]
        if action in self._open:  # another attempt at the same deed
            return []
        kind = "release" if event.kind in _TRAFFIC else _JOBS[event.kind]
        job = f"{loop}.batch.{data['batch']}" if kind == "batch" else f"{loop}.{kind}"
        version = int(data.get("challenger") or data.get("version") or data.get("champion") or 0)
        run = _Run(action, job, version, str(data.get("spec", "")))
        told = []
        if kind == "release":
            for older in [one for one in self._open.values() if one.job == job]:
                del self._open[older.action]
                reason = "a newer decision about the traffic took its place"
                told.append(self._said(event, "ABORT", older, kind, facets=failure(reason)))
        if len(self._open) >= _OPEN:
            del self._open[next(iter(self._open))]
        self._open[action] = run
        facets: Json = {}
        if kind == "train":
            facets = tags({"trigger": data["trigger"], "declaration": run.spec})
        elif kind == "batch":
            facets = facet("nominalTime", nominalStartTime=_moment(_time(data["slot"])))
        elif kind == "release":
            facets = tags({"mode": data.get("mode", event.kind), "share": data.get("share", 0)})
        inputs = self._tables(run.spec) if kind == "train" else self._models(loop, version)
        told.append(self._said(event, "START", run, kind, facets=facets, inputs=inputs))
        return told

    def _answered(self, event: Event, loop: str, data: Json) -> list[Json]:
        if event.kind == "ActionFailed" and data.get("retryable", True):
            return []  # it is tried again, as the same run
        run = self._open.pop(data["action"], None) or self._forgotten(event, loop, data)
        told = None if run is None else self._ended(event, loop, run, data)
        return [] if told is None else [told]

    def _forgotten(self, event: Event, loop: str, data: Json) -> _Run | None:
        """Return a run that began too long ago to be remembered, where its end alone says enough."""
        kind = {"TrainingFinished": "train", "TrainingFailed": "train", "GatesJudged": "gates"}.get(event.kind)
        return None if kind is None else _Run(data["action"], f"{loop}.{kind}", int(data.get("version", 0)), "")

    def _ended(self, event: Event, loop: str, run: _Run, data: Json) -> Json | None:
        kind = _kind(run.job)
        state: State = "COMPLETE"
        facets: Json = {}
        inputs, outputs = self._models(loop, run.version), []
        match event.kind:
            case "TrainingFinished":
                return self._trained(event, loop, run._replace(version=int(data["version"])), data)
            case "TrainingFailed":
                state, inputs = "FAIL", self._tables(run.spec)
                facets = failure(data["reason"]) | tags({"cpu_seconds": data.get("cpu_seconds")})
            case "GatesJudged" | "ShadowJudged":
                found = assertions(msgspec.convert(data.get("findings") or [data["finding"]], tuple[Finding, ...]))
                inputs, facets = self._models(loop, run.version, found), tags({"verdict": data["verdict"]})
            case "TrafficSet":
                outputs = [self._endpoint(loop, self._context.version(loop, run.version))]
            case "BatchFinished":
                where = facet("dataSource", name=str(data["output"])[:500]) if data.get("output") else {}
                rows = facet("outputStatistics", rowCount=data["rows"])
                outputs = [self._dataset(f"batches/{loop}/{data['batch']}", facets=where, output=rows)]
            case "ActionFailed":
                state, facets = "ABORT", failure(data["reason"])
            case _:
                return None
        return self._said(event, state, run, kind, facets=facets, inputs=inputs, outputs=outputs)

    def _trained(self, event: Event, loop: str, run: _Run, data: Json) -> Json:
        version = self._context.version(loop, run.version)
        if version is None:
            return self._said(event, "COMPLETE", run, "train")
        lineage = version.lineage
        facets = parameters(lineage.params) | tags(
            {
                "run": lineage.run,
                "data_digest": lineage.data_digest,
                "feature_digest": lineage.feature_digest,
                "code_digest": lineage.code_digest,
                "declaration": lineage.spec,
                "environment": lineage.environment,
                "seed": str(lineage.seed),
                "trigger": version.trigger,
                "cpu_seconds": data["cpu_seconds"],
            }
        )
        run = run._replace(spec=lineage.spec)
        inputs = self._tables(lineage.spec, lineage.data_digest)
        return self._said(
            event, "COMPLETE", run, "train", facets=facets, inputs=inputs, outputs=self._models(loop, version.version)
        )

    def _said(
        self,
        event: Event,
        state: State,
        run: _Run,
        kind: str,
        *,
        facets: Json | None = None,
        inputs: list[Json] | None = None,
        outputs: list[Json] | None = None,
    ) -> Json:
        spec = self._spec(run)
        parent = {} if kind == "train" else self._parent(run)
        return _event(
            event.at,
            state,
            {"runId": self._id(run.action), "facets": engine() | parent | (facets or {})},
            self._job(run.job, job_facets(_TYPES[kind], spec, source=kind == "train")),
            inputs or [],
            outputs or [],
        )

    def _spec(self, run: _Run) -> LoopSpec | None:
        if run.spec:
            return self._context.spec(run.spec)
        version = self._context.version(run.job.partition(".")[0], run.version) if run.version else None
        return None if version is None else self._context.spec(version.lineage.spec)

    def _parent(self, run: _Run) -> Json:
        """Return the training that a later run belongs to."""
        loop = run.job.partition(".")[0]
        version = self._context.version(loop, run.version) if run.version else None
        action = "" if version is None else self._context.training(version)
        if not action:
            return {}
        return facet("parent", run={"runId": self._id(action)}, job=self._job(f"{loop}.train"))

    # ------------------------------------------------------------ what is done at once

    def _at_once(
        self, event: Event, job: str, kind: str, inputs: list[Json], outputs: list[Json], facets: Json
    ) -> list[Json]:
        run = {"runId": self._id(event.digest), "facets": engine() | facets}
        named = self._job(job, job_facets(kind, None))
        return [
            _event(event.at, "START", run, named, inputs, []),
            _event(event.at, "COMPLETE", run, named, inputs, outputs),
        ]

    def _deployed(self, event: Event, model: str) -> tuple[list[Json], list[Json], Json]:
        number = int(event.subject.rpartition("@v")[2])
        version = self._context.version(model, number)
        facets = tags({"by": event.data.get("by"), "made_from": event.data.get("parent")})
        return self._models(model, number), [self._endpoint(model, version)], facets

    def _promoted(self, event: Event, model: str) -> tuple[list[Json], list[Json], Json]:
        origin = event.data["origin"]
        there = {
            "namespace": origin["store"] or self._namespace,
            "name": f"models/{model}",
            "facets": facet("version", datasetVersion=event.data["bundle"]),
        }
        facets = tags(
            {
                "origin": origin["version"],
                "environment": origin["environment"],
                "by": event.data.get("by"),
                "run": event.data.get("run"),
                "data_digest": event.data.get("data_digest"),
            }
        )
        return [there], self._models(model, int(event.data["version"])), facets

    def _ingested(self, data: Json) -> tuple[list[Json], list[Json], Json]:
        rows = facet("outputStatistics", rowCount=data["parts"])
        outputs = [self._table(data["table"], f"v{data['version']}", output=rows)]
        return [], outputs, tags({"position": str(data["position"])})

    # ------------------------------------------------------------ datasets

    def _tables(self, spec_digest: str, data_digest: str = "") -> list[Json]:
        spec = self._context.spec(spec_digest) if spec_digest else None
        return [] if spec is None else [self._table(table.name, data_digest) for table in spec.tables]

    def _table(self, name: str, version: str = "", output: Json | None = None) -> Json:
        facets = facet("dataSource", name=f"Delta table {name}", uri=f"{_uri(self._context.tables)}/{name}")
        facets |= facet("datasetType", datasetType="TABLE") | schema(self._context.columns(name))
        if version:
            facets |= facet("version", datasetVersion=version)
        return self._dataset(f"tables/{name}", facets=facets, output=output)

    def _models(self, model: str, number: int, found: Json | None = None) -> list[Json]:
        version = self._context.version(model, number) if number else None
        if version is None:
            return []
        facets = facet("datasetType", datasetType="MODEL") | facet("version", datasetVersion=version.bundle)
        spec = self._context.spec(version.lineage.spec) if version.lineage.spec else None
        if spec is not None:
            facets |= schema([("prediction", "float")]) | column_lineage(spec, self._namespace)
        made = self._dataset(f"models/{model}", facets=facets)
        if found:
            made["inputFacets"] = found
        return [made]

    def _endpoint(self, name: str, version: ModelVersion | None) -> Json:
        facets = facet("datasetType", datasetType="MODEL", subType="ENDPOINT")
        if version is not None:
            facets |= facet("version", datasetVersion=version.reference)
        return self._dataset(f"endpoints/{name}", facets=facets)

    def _dataset(self, name: str, *, facets: Json, output: Json | None = None) -> Json:
        found: Json = {"namespace": self._namespace, "name": name, "facets": facets}
        if output:
            found["outputFacets"] = output
        return found

    def _job(self, name: str, facets: Json | None = None) -> Json:
        return {"namespace": self._namespace, "name": name, **({} if facets is None else {"facets": facets})}

    def _id(self, name: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self._context.store}/{name}"))


def _event(at: datetime, state: State, run: Json, job: Json, inputs: list[Json], outputs: list[Json]) -> Json:
    return {
        "eventType": state,
        "eventTime": _moment(at),
        "run": run,
        "job": job,
        "inputs": inputs,
        "outputs": outputs,
        "producer": producer(),
        "schemaURL": EVENT,
    }


def _kind(job: str) -> str:
    return job.split(".")[1]


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _time(text: Any) -> datetime:
    return msgspec.convert(text, datetime)


def _uri(place: str) -> str:
    """Return a place as a URI, without options that may be secret."""
    return place.partition("?")[0] if "://" in place else f"file://{place}"
