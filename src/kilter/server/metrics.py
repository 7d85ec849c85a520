"""Counters of the server in the text format of Prometheus."""

from __future__ import annotations

import time
from collections import defaultdict

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """What the edge counts; it is only touched from the event loop, so it needs no lock."""

    def __init__(self) -> None:
        self.running = 0
        self.streams = 0
        self._started = time.time()
        self._requests: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._buckets: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(_BUCKETS) + 1))
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def count(self, area: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            area: Which part of the server: ``api``, ``page``, ``health``, ``stream``, ``refused``.
            status: The HTTP status.
            seconds: How long the answer took.
        """
        self._requests[area, status] += 1
        self._seconds[area] += seconds
        place = next((position for position, bound in enumerate(_BUCKETS) if seconds <= bound), len(_BUCKETS))
        self._buckets[area][place] += 1

    def text(self) -> str:
        """Return all counters."""
        lines = [
            "# HELP kilter_server_start_time_seconds When the server started, Unix time.",
            "# TYPE kilter_server_start_time_seconds gauge",
            f"kilter_server_start_time_seconds {self._started:.3f}",
            "# HELP kilter_server_requests_running Requests being answered now.",
            "# TYPE kilter_server_requests_running gauge",
            f"kilter_server_requests_running {self.running}",
            "# HELP kilter_server_streams Open streams of journal events.",
            "# TYPE kilter_server_streams gauge",
            f"kilter_server_streams {self.streams}",
            "# HELP kilter_server_requests_total Answered requests.",
            "# TYPE kilter_server_requests_total counter",
        ]
        lines += [
            f'kilter_server_requests_total{{area="{area}",status="{status}"}} {count}'
            for (area, status), count in sorted(self._requests.items())
        ]
        lines += [
            "# HELP kilter_server_request_seconds Time until the answer was complete.",
            "# TYPE kilter_server_request_seconds histogram",
        ]
        for area, counts in sorted(self._buckets.items()):
            below = 0
            for bound, count in zip((*_BUCKETS, float("inf")), counts, strict=True):
                below += count
                edge = "+Inf" if bound == float("inf") else f"{bound:g}"
                lines.append(f'kilter_server_request_seconds_bucket{{area="{area}",le="{edge}"}} {below}')
            lines.append(f'kilter_server_request_seconds_sum{{area="{area}"}} {self._seconds[area]:.6f}')
            lines.append(f'kilter_server_request_seconds_count{{area="{area}"}} {below}')
        return "\n".join(lines) + "\n"
