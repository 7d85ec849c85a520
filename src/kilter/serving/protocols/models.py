"""What the Open Inference Protocol says about models, for REST and gRPC alike: metadata, configuration, statistics, repository.

Numbers are as the messages name them (``inference_count``), values are plain Python. Load and unload act on what this front
serves, never on the registry: which versions an endpoint has is decided by its plan alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from kilter.core.errors import InvalidInput
from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.front.active import Loaded
from kilter.serving.front.intake import Intake, Tally
from kilter.serving.protocols.ports import Port, input_ports, output_ports

EXTENSIONS: Final = (
    "binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters", "statistics"
)  # fmt: skip
_NS: Final = 1_000_000_000
_MS: Final = 1_000


class Models:
    """What is said about the models of a front.

    Args:
        intake: Where the endpoints are.
        ready: Whether the whole front is ready.
    """

    def __init__(self, intake: Intake, ready: Callable[[], bool]) -> None:
        self._intake = intake
        self.ready = ready

    def server(self) -> dict[str, Any]:
        """Return the server's metadata."""
        return {"name": "kilter", "version": kilter_version(), "extensions": list(EXTENSIONS)}

    def find(self, name: str, number: int | None = None) -> tuple[Endpoint, Loaded | None]:
        """Return an endpoint and the version that is meant: the named one, else the champion.

        Raises:
            NotFound: When there is no such endpoint, or the named version is not loaded.
        """
        endpoint = self._intake.endpoint(name)
        return endpoint, self._intake.loaded(endpoint, number)

    def model_ready(self, name: str, number: int | None = None) -> bool:
        """Say whether a model answers.

        Raises:
            NotFound: When there is no such endpoint, or the named version is not loaded.
        """
        endpoint, model = self.find(name, number)
        if number is None or model is None:
            return endpoint.ready and name not in self._intake.unloaded
        return model.pool.ready and name not in self._intake.unloaded

    def metadata(self, name: str, number: int | None = None) -> dict[str, Any]:
        """Return a model's metadata."""
        endpoint, model = self.find(name, number)
        inputs, outputs = _ports(model)
        versions = [str(number)] if number is not None else [str(one) for one in _versions(endpoint)]
        return {
            "name": endpoint.loop,
            "versions": versions,
            "platform": model.manifest.framework.partition("==")[0] if model is not None else "constant",
            "inputs": [_port(port) for port in inputs],
            "outputs": [_port(port) for port in outputs],
        }

    def config(self, name: str, number: int | None = None) -> dict[str, Any]:
        """Return a model's configuration in Triton's form; rows are not a dimension, as ``max_batch_size`` says."""
        endpoint, model = self.find(name, number)
        inputs, outputs = _ports(model)
        plan = endpoint.active.plan if endpoint.active is not None else None
        said = {
            "mode": plan.mode if plan is not None else "",
            "generation": str(plan.generation) if plan is not None else "",
            "bundle": model.digest if model is not None else "",
        }
        return {
            "name": endpoint.loop,
            "platform": model.manifest.framework.partition("==")[0] if model is not None else "constant",
            "backend": "kilter",
            "version_policy": {"specific": {"versions": list(_versions(endpoint))}},
            "max_batch_size": self._intake.limits.rows,
            "input": [_configured(port) for port in inputs],
            "output": [_configured(port) for port in outputs],
            "instance_group": [
                {"name": endpoint.loop, "kind": "KIND_CPU", "count": len(model.pool.pids) if model else 0}
            ],
            "dynamic_batching": {},
            "parameters": {key: {"string_value": value} for key, value in said.items()},
        }

    def statistics(self, name: str = "", number: int | None = None) -> dict[str, Any]:
        """Return what was answered since the front started, per model and version.

        Args:
            name: One model; empty for all.
            number: One of its versions; None for all that are loaded.
        """
        if name:
            self.find(name, number)
        found = [
            _statistics(self._intake, endpoint, one)
            for endpoint in self._endpoints(name)
            for one in _versions(endpoint)
            if number in {None, one}
        ]
        return {"model_stats": found}

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """Return what is loaded.

        Args:
            ready: Only what can answer.
        """
        found = []
        for endpoint in self._endpoints(""):
            models = endpoint.active.models if endpoint.active is not None else {}
            if not models:
                found.append(_entry(endpoint.loop, "", endpoint.ready, endpoint.error))
            for number, model in sorted(models.items()):
                able = model.pool.ready and endpoint.loop not in self._intake.unloaded
                reason = "unloaded" if endpoint.loop in self._intake.unloaded else endpoint.error
                found.append(_entry(endpoint.loop, str(number), able, reason))
        return [one for one in found if one["state"] == "READY" or not ready]

    def load(self, name: str, parameters: Mapping[str, object]) -> None:
        """Let an endpoint answer again that was unloaded; one that answers is left as it is.

        Raises:
            NotFound: When there is no such endpoint.
            InvalidInput: When the request brings a model or a configuration of its own.
        """
        endpoint = self._intake.endpoint(name)
        if parameters:
            raise InvalidInput(
                "a model can't be brought with the request",
                where="parameters",
                allowed="none",
                fix="register a version and set a plan: kilter deploy",
            )
        self._intake.load(endpoint)

    def unload(self, name: str) -> None:
        """Let an endpoint rest: this front doesn't answer for it until it is loaded again, or a new plan is set.

        Raises:
            NotFound: When there is no such endpoint.
        """
        self._intake.unload(self._intake.endpoint(name))

    def _endpoints(self, name: str) -> Iterator[Endpoint]:
        for one, endpoint in sorted(self._intake.endpoints.items()):
            if name in {"", one}:
                yield endpoint


def kilter_version() -> str:
    """Return the version of this software; ``0`` when it runs without having been installed."""
    try:
        return version("kilter")
    except PackageNotFoundError:
        return "0"


def _versions(endpoint: Endpoint) -> list[int]:
    return sorted(endpoint.active.models) if endpoint.active is not None else []


def _ports(model: Loaded | None) -> tuple[list[Port], list[Port]]:
    if model is None:
        return [], [Port("value", "FP64", (-1, 1))]
    signature = model.reader.signature
    return input_ports(signature, model.reader.direct), output_ports(signature)


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "datatype": port.datatype, "shape": list(port.shape)}


def _configured(port: Port) -> dict[str, Any]:
    kind = "STRING" if port.datatype == "BYTES" else port.datatype
    return {"name": port.name, "data_type": f"TYPE_{kind}", "dims": list(port.shape[1:])}


def _entry(name: str, number: str, ready: bool, reason: str) -> dict[str, str]:
    return {
        "name": name,
        "version": number,
        "state": "READY" if ready else "UNAVAILABLE",
        "reason": "" if ready else reason or "not ready",
    }


def _statistics(intake: Intake, endpoint: Endpoint, number: int) -> dict[str, Any]:
    tally = intake.tallies.get((endpoint.loop, number), Tally())
    failed = sum(count for status, count in endpoint.metrics.requests.items() if status >= 400)
    plan = endpoint.active.plan if endpoint.active is not None else None
    nothing = {"count": 0, "ns": 0}
    took = {"count": tally.requests, "ns": int(tally.seconds * _NS)}
    return {
        "name": endpoint.loop,
        "version": str(number),
        "last_inference": int(tally.last * _MS),
        "inference_count": tally.rows,
        "execution_count": tally.groups,
        "inference_stats": {
            "success": took,
            # a request that fails is no version's; it is counted at the one that answers most
            "fail": {"count": failed, "ns": 0} if plan is not None and plan.champion == number else nothing,
            "queue": nothing,
            "compute_input": nothing,
            "compute_infer": took,
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [],
        "memory_usage": [],
    }
