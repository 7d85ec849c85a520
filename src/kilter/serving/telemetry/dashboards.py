"""The metrics that dashboards made for other servers look for, under the names and labels that those servers use.

Only what a front really knows is told: there is no time in a queue or in a decoder here that would be told as nought.
Source: Triton Inference Server, docs/user_guide/metrics.md; MLServer, docs/user-guide/metrics.md; KServe,
python/kserve/kserve/metrics.py; process metrics of the Prometheus client libraries.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.front.intake import Intake
from kilter.serving.telemetry.metrics import Gauges, newest

_OLDER = "older"
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Dashboards:
    """Tells a front's metrics under the names of Triton, MLServer and KServe, and those of its process.

    Args:
        intake: Where the requests are counted.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._began = time.time()

    def measure(self, gauges: Gauges) -> None:
        """Add the samples."""
        for name, endpoint in sorted(self._intake.endpoints.items()):
            self._answered(gauges, name, endpoint)
            _failed(gauges, name, endpoint)
            text = "predict request latency"
            gauges.latency("request_predict_seconds", text, endpoint.metrics, (("model_name", name),))
        _process(gauges, self._began)

    def _answered(self, gauges: Gauges, name: str, endpoint: Endpoint) -> None:
        found = {version: tally for (loop, version), tally in self._intake.tallies.items() if loop == name}
        loaded = endpoint.active.models if endpoint.active is not None else {}
        told = newest(found, loaded)
        sums: dict[str, list[float]] = {}
        for version, tally in sorted(found.items()):
            label = str(version) if version in told else _OLDER
            held = sums.setdefault(label, [0.0, 0.0, 0.0, 0.0])
            for place, value in enumerate((tally.requests, tally.rows, tally.groups, tally.seconds)):
                held[place] += value
        for label, (requests, rows, groups, seconds) in sums.items():
            labels = (("model", name), ("version", label))
            for metric, text, value in (
                ("nv_inference_request_success", "Number of successful inference requests, all batch sizes", requests),
                ("nv_inference_count", "Number of inferences performed", rows),
                ("nv_inference_exec_count", "Number of model executions performed", groups),
                (
                    "nv_inference_request_duration_us",
                    "Cumulative inference request duration in microseconds",
                    seconds * 1e6,
                ),
                ("model_infer_request_success_total", "Model infer request success count", requests),
            ):
                gauges.sample(metric, "counter", text, value, labels)
            duration = "model_infer_request_duration"
            gauges.summary(duration, "Model infer request duration", seconds, int(requests), labels)


def _failed(gauges: Gauges, name: str, endpoint: Endpoint) -> None:
    version = endpoint.active.plan.champion if endpoint.active is not None else None
    reasons = dict.fromkeys(("REJECTED", "BACKEND", "OTHER"), 0)
    for status, count in endpoint.metrics.requests.items():
        if status >= 400:
            reasons["REJECTED" if status in {429, 503, 504} else "BACKEND" if status >= 500 else "OTHER"] += count
    labels = (("model", name), ("version", str(version or 0)))
    for reason, count in reasons.items():
        text = "Number of failed inference requests, all batch sizes"
        gauges.sample("nv_inference_request_failure", "counter", text, count, (*labels, ("reason", reason)))
    text = "Model infer request failure count"
    gauges.sample("model_infer_request_failure_total", "counter", text, sum(reasons.values()), labels)


def _process(gauges: Gauges, began: float) -> None:
    usage = os.times()
    text = "Total user and system CPU time spent in seconds."
    gauges.sample("process_cpu_seconds_total", "counter", text, usage.user + usage.system)
    text = "Start time of the process since unix epoch in seconds."
    gauges.sample("process_start_time_seconds", "gauge", text, round(began, 3))
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
        files = sum(1 for _ in os.scandir("/proc/self/fd"))
    except (OSError, ValueError, IndexError):  # another system than Linux
        return
    gauges.sample("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", resident)
    gauges.sample("process_open_fds", "gauge", "Number of open file descriptors.", files)
