"""What NVML says of graphics processors, when its Python package and a driver are there."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def nvml() -> Any:
    """Return the package, made ready, or None when there is nothing to ask."""
    try:
        found = import_module("pynvml")
        found.nvmlInit()
    except Exception:  # noqa: BLE001 - no package, no driver, no card: all the same here
        return None
    return found


def names() -> tuple[tuple[str, ...], str]:
    """Return the models of the graphics processors, and the driver's version."""
    found = nvml()
    if found is None:
        return (), ""
    try:
        handles = [found.nvmlDeviceGetHandleByIndex(place) for place in range(found.nvmlDeviceGetCount())]
        return tuple(_text(found.nvmlDeviceGetName(handle)) for handle in handles), _text(
            found.nvmlSystemGetDriverVersion()
        )
    except Exception:  # noqa: BLE001 - a driver that goes away must not end a training
        return (), ""


def usage(found: Any) -> dict[str, float]:
    """Return how busy each graphics processor is."""
    values: dict[str, float] = {}
    try:
        for place in range(found.nvmlDeviceGetCount()):
            handle = found.nvmlDeviceGetHandleByIndex(place)
            memory = found.nvmlDeviceGetMemoryInfo(handle)
            values[f"gpu{place}_percent"] = float(found.nvmlDeviceGetUtilizationRates(handle).gpu)
            values[f"gpu{place}_memory_mb"] = memory.used / 1e6
            values[f"gpu{place}_power_watts"] = found.nvmlDeviceGetPowerUsage(handle) / 1000
    except Exception:  # noqa: BLE001 - see above
        return values
    return values


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
