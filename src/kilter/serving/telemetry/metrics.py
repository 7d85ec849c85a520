"""Counters of one endpoint, and their Prometheus text."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

_BOUNDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_TOLD = 8

Labels = Sequence[tuple[str, object]]


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

    def add(self, name: str, kind: str, text: str, value: float, labels: Labels = ()) -> None:
        """Add one sample.

        Args:
            name: The metric, without ``kilter_serving_``.
            kind: ``counter`` or ``gauge``.
            text: What it counts.
            value: The sample.
            labels: Names and values; values are names from plans, which need no escaping.
        """
        self.sample(f"kilter_serving_{name}", kind, text, value, labels)

    def sample(self, name: str, kind: str, text: str, value: float, labels: Labels = ()) -> None:
        """Add one sample of a metric by its full name."""
        self._of(name, kind, text).append(f"{name}{_labels(labels)} {value:.17g}")

    def histogram(self, metrics: EndpointMetrics, loop: str) -> None:
        """Add the latency histogram of an endpoint."""
        text = "From the request's first byte to its answer."
        self.latency("kilter_serving_latency_seconds", text, metrics, (("loop", loop),))

    def latency(self, name: str, text: str, metrics: EndpointMetrics, labels: Labels) -> None:
        """Add the latency histogram of an endpoint under a name."""
        lines = self._of(name, "histogram", text)
        total = 0
        for bound, count in zip((*_BOUNDS, "+Inf"), metrics.buckets, strict=True):
            total += count
            lines.append(f"{name}_bucket{_labels((*labels, ('le', bound)))} {total}")
        lines.append(f"{name}_sum{_labels(labels)} {metrics.seconds:.17g}")
        lines.append(f"{name}_count{_labels(labels)} {total}")

    def summary(self, name: str, text: str, total: float, count: int, labels: Labels) -> None:
        """Add a summary without quantiles."""
        lines = self._of(name, "summary", text)
        lines.append(f"{name}_sum{_labels(labels)} {total:.17g}")
        lines.append(f"{name}_count{_labels(labels)} {count}")

    def _of(self, name: str, kind: str, text: str) -> list[str]:
        return self._lines.setdefault(name, [f"# HELP {name} {text}", f"# TYPE {name} {kind}"])

    def text(self) -> bytes:
        """Return the exposition."""
        return ("\n".join(line for lines in self._lines.values() for line in lines) + "\n").encode()


def newest(versions: Iterable[int], loaded: Iterable[int], most: int = _TOLD) -> set[int]:
    """Return the versions that have samples of their own: what is loaded, the constant, and the newest of the others.

    A front that has served hundreds of versions would else tell of each for ever; the others are told together.
    """
    kept = {0, *loaded}
    return kept | set(sorted(set(versions) - kept, reverse=True)[:most])


def _labels(labels: Labels) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""
