"""A plan with everything it needs in memory: what a front serves at one moment."""

from __future__ import annotations

from kilter.packaging.bundle import Parts
from kilter.serving.records import TrafficPlan
from kilter.serving.router import Router
from kilter.serving.rows import RowReader
from kilter.serving.rules import ladder
from kilter.serving.workers import Pool


class Loaded:
    """A version in memory.

    Args:
        version: Its number.
        digest: Its bundle's digest.
        parts: Its bundle's bytes.
        pool: Its workers.
    """

    def __init__(self, version: int, digest: str, parts: Parts, pool: Pool) -> None:
        self.version = version
        self.digest = digest
        self.manifest = parts.manifest
        self.reader = RowReader(parts.manifest.signature)
        self.pool = pool


class Active:
    """A plan with all its versions loaded; never changed, only replaced.

    Args:
        plan: The plan.
        models: Its versions.
    """

    def __init__(self, plan: TrafficPlan, models: dict[int, Loaded]) -> None:
        self.plan = plan
        self.models = models
        self.router = Router(plan.loop, plan.challenger, plan.share if plan.mode == "canary" else 0)
        self.champion = models[plan.champion] if plan.champion is not None else None
        self.ladders = {version: ladder(plan, version) for version in (plan.champion, plan.challenger)}
