"""Counters of one endpoint, and their Prometheus text."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

_BOUNDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class EndpointMetrics:
    """What happened at one endpoint since the front started. Labels have few values: never a key, a path or an address."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.rows: Counter[tuple[str, int]] = Counter()
        self.shadow_rows = 0
        self.shadow_dropped = 0
        self.retried_rows = 0
        self.input_errors = 0
        self.replayed = 0
        self.buckets = [0] * (len(_BOUNDS) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count the latency of an answered request."""
        self.buckets[bisect_left(_BOUNDS, seconds)] += 1
        self.seconds += seconds


class Gauges:
    """Lines of the exposition format (version 0.0.4), grouped by metric as it asks.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/
    """

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def add(self, name: str, kind: str, text: str, value: float, labels: Iterable[tuple[str, object]] = ()) -> None:
        """Add one sample.

        Args:
            name: The metric, without ``kilter_serving_``.
            kind: ``counter`` or ``gauge``.
            text: What it counts.
            value: The sample.
            labels: Names and values; values are names from plans, which need no escaping.
        """
        full = f"kilter_serving_{name}"
        lines = self._lines.setdefault(full, [f"# HELP {full} {text}", f"# TYPE {full} {kind}"])
        lines.append(f"{full}{_labels(labels)} {value:.17g}")

    def histogram(self, metrics: EndpointMetrics, loop: str) -> None:
        """Add the latency histogram of an endpoint."""
        full = "kilter_serving_latency_seconds"
        lines = self._lines.setdefault(
            full, [f"# HELP {full} From the request's first byte to its answer.", f"# TYPE {full} histogram"]
        )
        total = 0
        for bound, count in zip((*_BOUNDS, "+Inf"), metrics.buckets, strict=True):
            total += count
            lines.append(f'{full}_bucket{{loop="{loop}",le="{bound}"}} {total}')
        lines.append(f'{full}_sum{{loop="{loop}"}} {metrics.seconds:.17g}')
        lines.append(f'{full}_count{{loop="{loop}"}} {total}')

    def text(self) -> bytes:
        """Return the exposition."""
        return ("\n".join(line for lines in self._lines.values() for line in lines) + "\n").encode()


def _labels(labels: Iterable[tuple[str, object]]) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""
