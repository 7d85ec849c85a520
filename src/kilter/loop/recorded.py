"""Which inputs the monitors of a loop look at: what its endpoint has to record."""

from __future__ import annotations

from kilter.loop.declaration.spec import ColumnsSpec, LoopSpec
from kilter.monitoring.declare import Drift


def watched_inputs(spec: LoopSpec) -> dict[str, tuple[str, ...]]:
    """Return, per input of a loop, the names of the monitors that look at it.

    Args:
        spec: The loop as declared.
    """
    # Decay and calibration look at answers and labels, which are always recorded; drift looks at every input.
    monitors = tuple(
        f"drift({monitor.values.get('method', 'psi')})" for monitor in spec.monitors if monitor.kind == Drift.__name__
    )
    if not monitors:
        return {}
    return {
        name: monitors
        for given in spec.inputs
        for name in (given.names if isinstance(given, ColumnsSpec) else [one.name for one in given.aggregates])
    }
