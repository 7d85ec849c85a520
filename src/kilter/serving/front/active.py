"""A plan with everything it needs: what a front serves at one moment."""

from __future__ import annotations

import math
from collections.abc import Callable

from kilter.packaging.records import Manifest
from kilter.serving.answering.batching import NORMAL, Done
from kilter.serving.answering.cache import Cache
from kilter.serving.answering.router import Router, Split
from kilter.serving.answering.rows import RowReader
from kilter.serving.records import TrafficPlan
from kilter.serving.rules import ladder
from kilter.serving.workers.pool import Pool


class Loaded:
    """A version that can be asked, or woken.

    Args:
        version: Its number.
        digest: Its bundle's digest.
        manifest: Its bundle's manifest.
        pool: Its workers.
        cache: Where the endpoint keeps answers; None when it keeps none.
        wake: Begins to load it when it sleeps; nothing while it is being loaded.
    """

    def __init__(
        self,
        version: int,
        digest: str,
        manifest: Manifest,
        pool: Pool,
        cache: Cache | None = None,
        wake: Callable[[Loaded], None] | None = None,
    ) -> None:
        self.version = version
        self.digest = digest
        self.manifest = manifest
        self.reader = RowReader(manifest.signature)
        self.pool = pool
        self.used = pool.clock()
        self.memory = 0
        self.error = ""
        self.not_before = 0.0
        self._cache = cache if manifest.signature.deterministic else None
        self._wake = wake

    @property
    def ready(self) -> bool:
        """Whether it answers: its workers do, or it sleeps and the first row wakes it."""
        return self.pool.ready or not (self.pool.started or self.error)

    def rouse(self) -> bool:
        """Wake it if it sleeps, and say whether it is being loaded: rows may wait for it longer then."""
        self.used = now = self.pool.clock()
        if self._wake is None or self.pool.started or now < self.not_before:
            return False
        self._wake(self)
        return True

    def ask(
        self,
        payload: bytes,
        rows: int,
        done: Done,
        urgency: int = NORMAL,
        due: float = math.inf,
        *,
        alone: bool = False,
    ) -> None:
        """Ask for the answers to rows, of what is kept or of the workers; the arguments are those of :meth:`Pool.ask`."""
        self.used = self.pool.clock()
        if self._cache is None:
            self.pool.ask(payload, rows, done, urgency, due, alone=alone)
            return

        def forward(payload: bytes, rows: int, done: Done) -> None:
            self.pool.ask(payload, rows, done, urgency, due, alone=alone)

        self._cache.ask(self.digest, payload, rows, done, forward)


class Active:
    """A plan with all its versions; never changed, only replaced.

    Args:
        plan: The plan.
        models: Its versions.
    """

    def __init__(self, plan: TrafficPlan, models: dict[int, Loaded]) -> None:
        self.plan = plan
        self.models = models
        self.router = Router(plan.loop, plan.challenger, plan.share if plan.mode == "canary" else 0)
        self.split = Split(plan.loop, plan.experiment, plan.split) if plan.mode == "split" else None
        self.champion = models[plan.champion] if plan.champion is not None else None
        self.ladders = {version: ladder(plan, version) for version in (plan.champion, plan.challenger, *plan.split)}
        answering = dict.fromkeys((plan.champion, plan.challenger if plan.mode == "canary" else None, *plan.split))
        self.answering = tuple(models[version].pool for version in answering if version is not None)
