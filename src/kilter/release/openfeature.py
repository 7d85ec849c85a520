"""Feature flags and releases know of each other, through OpenFeature (https://openfeature.dev).

**A provider**: an application asks its OpenFeature client which version answers for a user, and gets what the router of
the endpoint would say, without asking the endpoint::

    api.set_provider(ReleaseProvider(kilter))
    client.get_string_value("flight-delay", "none", EvaluationContext(targeting_key="UA 17"))   # "v7"

A flag's key is the endpoint's name. As text it is the version, ``v7``; as a number the version's number; as a truth value
whether somebody else than the champion answers; as an object all of it. The variant is the arm.

**A switch**: a flag of the application's own provider holds a release back. While it is off, the loop is paused, which takes
the challenger's traffic away at once, and it is resumed when the flag is on again.

Needs ``kilter[openfeature]``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata

from kilter.core.errors import KilterError, NotFound
from kilter.serving.answering.router import Router, Split
from kilter.serving.records import TrafficPlan

_FRESH = 0.5


class _Endpoints(Protocol):
    def plan(self, loop: str) -> TrafficPlan: ...


class _Served(Protocol):
    @property
    def endpoints(self) -> _Endpoints: ...


class ReleaseProvider(AbstractProvider):
    """Answers flags with what the routers of endpoints say.

    Args:
        kilter: A store or a server: what ``kilter.connect`` returns.
        fresh: Seconds for which a plan is taken as known.
        clock: Counts seconds.
    """

    def __init__(self, kilter: _Served, *, fresh: float = _FRESH, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._endpoints = kilter.endpoints
        self._fresh = fresh
        self._clock = clock
        self._plans: dict[str, tuple[float, TrafficPlan]] = {}

    def get_metadata(self) -> Metadata:
        """Return the provider's name."""
        return Metadata(name="kilter")

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """Say whether another version than the champion answers."""
        return self._resolve(
            flag_key, default_value, evaluation_context, lambda plan, version: version != plan.champion
        )

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Return the version as text: ``v7``."""
        return self._resolve(flag_key, default_value, evaluation_context, lambda _plan, version: f"v{version}")

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Return the version's number."""
        return self._resolve(flag_key, default_value, evaluation_context, lambda _plan, version: version)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Return the part of the traffic, between 0 and 1, that goes where this key goes: its propensity."""
        return self._resolve(flag_key, default_value, evaluation_context, _share)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """Return version, arm, mode and share."""

        def whole(plan: TrafficPlan, version: int) -> Mapping[str, FlagValueType]:
            return {
                "version": version,
                "arm": _arm(plan, version),
                "mode": plan.mode,
                "share": _share(plan, version),
                "experiment": plan.experiment,
            }

        return self._resolve(flag_key, default_value, evaluation_context, whole)

    def _resolve(
        self, flag: str, default: Any, context: EvaluationContext | None, told: Callable[[TrafficPlan, int], Any]
    ) -> FlagResolutionDetails[Any]:
        try:
            plan = self._plan(flag)
        except NotFound:
            return _failed(default, ErrorCode.FLAG_NOT_FOUND, "there is no such endpoint")
        except KilterError as error:
            return _failed(default, ErrorCode.PROVIDER_NOT_READY, error.message)
        if plan.champion is None:
            return FlagResolutionDetails(value=default, reason=Reason.DISABLED, variant="fallback")
        if plan.mode not in {"canary", "split"}:
            return FlagResolutionDetails(
                value=told(plan, plan.champion), reason=Reason.STATIC, variant="champion", flag_metadata=_noted(plan)
            )
        key = None if context is None else context.targeting_key
        if not key:
            return _failed(default, ErrorCode.TARGETING_KEY_MISSING, "the traffic is split by the row's key")
        version = _version(plan, key)
        return FlagResolutionDetails(
            value=told(plan, version), reason=Reason.SPLIT, variant=_arm(plan, version), flag_metadata=_noted(plan)
        )

    def _plan(self, endpoint: str) -> TrafficPlan:
        now = self._clock()
        known = self._plans.get(endpoint)
        if known is None or now - known[0] >= self._fresh:
            known = self._plans[endpoint] = now, self._endpoints.plan(endpoint)
        return known[1]


def _version(plan: TrafficPlan, key: str) -> int:
    """Return which version answers for a key, as the front routes it."""
    if plan.mode == "split":
        return Split(plan.loop, plan.experiment, plan.split).version(key)
    taken = Router(plan.loop, plan.challenger, plan.share).arm(key) == "challenger"
    return (plan.challenger if taken else plan.champion) or 0


def _arm(plan: TrafficPlan, version: int) -> str:
    if version == plan.champion:
        return "champion"
    return f"v{version}" if plan.mode == "split" else "challenger"


def _share(plan: TrafficPlan, version: int) -> float:
    if plan.mode == "split":
        return plan.split[version]
    share = plan.share / 100.0 if plan.mode == "canary" else 0.0
    return 1.0 - share if version == plan.champion else share


def _noted(plan: TrafficPlan) -> dict[str, bool | int | float | str]:
    return {"generation": plan.generation, "mode": plan.mode}


def _failed(default: Any, code: ErrorCode, message: str) -> FlagResolutionDetails[Any]:
    return FlagResolutionDetails(value=default, error_code=code, error_message=message, reason=Reason.ERROR)


# ---------------------------------------------------------------- the switch


class _Loops(Protocol):
    def status(self, loop: str) -> Any: ...

    def pause(self, loop: str, reason: str = "", by: str = "") -> Any: ...

    def resume(self, loop: str, by: str = "") -> Any: ...


class _Driven(Protocol):
    @property
    def loops(self) -> _Loops: ...


class ReleaseSwitch:
    """Lets a flag of the application hold the releases of a loop back.

    It looks whenever the client's provider says that flags have changed, and whenever ``check`` is called.

    Args:
        client: The application's OpenFeature client.
        kilter: A store or a server: what ``kilter.connect`` returns.
        loop: The loop.
        flag: A flag with a truth value: off takes the challenger's traffic away, and nothing new starts.
        context: With what the flag is evaluated.
    """

    def __init__(
        self,
        client: OpenFeatureClient,
        kilter: _Driven,
        loop: str,
        flag: str,
        context: EvaluationContext | None = None,
    ) -> None:
        self._client = client
        self._loops = kilter.loops
        self._loop = loop
        self._flag = flag
        self._context = context
        self._on = True
        self._guard = threading.Lock()  # the SDK tells of changes on threads of its own
        client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, self._changed)
        client.add_handler(ProviderEvent.PROVIDER_READY, self._changed)

    def check(self) -> bool:
        """Look at the flag, and do what it says; a flag that can't be evaluated changes nothing.

        Returns:
            Whether releases may go on.
        """
        with self._guard:
            found = self._client.get_boolean_details(self._flag, self._on, self._context)
            if found.error_code is None and found.value != self._on:
                by = f"flag {self._flag}"
                if found.value:
                    paused = self._loops.status(self._loop).summary.paused or ""
                    if paused.startswith(f"paused by {by}:"):  # whoever else has paused it keeps it paused
                        self._loops.resume(self._loop, by)
                else:
                    self._loops.pause(self._loop, f"the flag {self._flag} is off", by)
                self._on = found.value
            return self._on

    def close(self) -> None:
        """Look no more."""
        self._client.remove_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, self._changed)
        self._client.remove_handler(ProviderEvent.PROVIDER_READY, self._changed)

    def _changed(self, _details: EventDetails) -> None:
        self.check()
