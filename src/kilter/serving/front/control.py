"""Following the plans: load what a new plan names, warm it, swap it in, then let go of what it no longer names.

A plan that can't be applied changes nothing: the reason goes to SQL, the old plan is served on, and it is tried again later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from kilter.core.errors import KilterError
from kilter.packaging.bundle import Parts
from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.front.active import Active, Loaded
from kilter.serving.front.rehearsal import rehearse
from kilter.serving.records import TrafficPlan
from kilter.serving.rules import at_rest
from kilter.serving.service import EndpointService
from kilter.serving.workers.keeper import Keeper

log = logging.getLogger("kilter.serving")
T = TypeVar("T")

_RETRY_FIRST, _RETRY_MOST = 0.5, 30.0


class Follower:
    """Keeps a front at the plans.

    Args:
        front: The front's name.
        service: Where the plans are.
        keeper: The front's models.
        thread: Where what blocks is done.
        endpoints: The front's endpoints, by name; filled here.
        make: Makes an endpoint.
        poll: Seconds between two looks.
    """

    def __init__(
        self,
        front: str,
        service: EndpointService,
        keeper: Keeper,
        thread: Executor,
        endpoints: dict[str, Endpoint],
        make: Callable[[str], Endpoint],
        *,
        poll: float,
    ) -> None:
        self._front = front
        self._service = service
        self._keeper = keeper
        self._thread = thread
        self._endpoints = endpoints
        self._make = make
        self._poll = poll
        self._looked = False
        self._served: dict[str, int] = {}
        self._applying: dict[str, asyncio.Task[None]] = {}
        self._retry: dict[str, tuple[float, float]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._reachable = True

    async def follow(self) -> None:
        """Follow until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._poll)

    async def look(self) -> None:
        """Look once, and begin to apply every plan that is new."""
        now = asyncio.get_running_loop().time()
        self._keeper.tend(now)
        try:
            generations = await self._blocking(self._service.generations)
        except KilterError as error:
            if self._reachable:
                log.warning("the plans can't be read, serving goes on: %s", error)
            self._reachable = False
            return
        self._reachable = True
        for loop, generation in generations.items():
            due = self._retry.get(loop, (0.0, 0.0))[0]
            if self._served.get(loop) != generation and loop not in self._applying and now >= due:
                task = asyncio.create_task(self._apply(loop, fresh=self._looked))
                self._applying[loop] = task
                task.add_done_callback(partial(self._applied, loop))
        self._looked = True

    async def settle(self) -> None:
        """Wait for the plans that are being applied."""
        while self._applying:
            await asyncio.wait(tuple(self._applying.values()))
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """Stop applying and stop all workers."""
        for task in (*self._applying.values(), *self._retiring):
            task.cancel()
        await asyncio.gather(*self._applying.values(), *self._retiring, return_exceptions=True)
        await self._keeper.stop()

    async def _apply(self, loop: str, *, fresh: bool) -> None:
        served = self._served.get(loop, 0)
        generation = served
        try:
            plan = await self._blocking(partial(self._service.plan, loop))
            generation = plan.generation
            endpoint = self._endpoints.get(loop)
            if endpoint is None:
                endpoint = self._endpoints[loop] = self._make(loop)
            active = await self._load(plan, endpoint.active, fresh=fresh)
            if plan.rehearsed is not None:
                await rehearse(active.models[plan.rehearsed])
        except KilterError as error:
            self._failed(loop, error)
            await self._report(loop, generation, served, str(error))
            return
        before = endpoint.active
        endpoint.swap(active)
        endpoint.error = ""
        self._served[loop] = plan.generation
        self._retry.pop(loop, None)
        log.info("%s serves generation %d: %s", loop, plan.generation, plan)
        await self._report(loop, plan.generation, plan.generation, "")
        kept = {id(model) for model in active.models.values()}
        for model in before.models.values() if before else ():
            if id(model) not in kept:
                task = asyncio.create_task(self._retire(endpoint, model))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)

    async def _load(self, plan: TrafficPlan, before: Active | None, *, fresh: bool) -> Active:
        """Return the plan with every version loaded and warm; what is loaded already is kept.

        A plan that a front finds when it starts was served before: an endpoint at rest may then sleep until its first request.
        One that is set while the front runs is proven to load first.
        """
        models: dict[int, Loaded] = {}
        new: list[tuple[Loaded, Parts]] = []
        kept: list[Loaded] = []
        try:
            for version in plan.versions():
                digest = plan.bundles[version]
                known = before.models.get(version) if before else None
                if known is not None and known.digest == digest:
                    models[version] = known
                    kept.append(known)
                    continue
                model, parts = await self._keeper.make(plan.loop, version, digest)
                new.append((model, parts))
                models[version] = model
            if fresh or not (at_rest(plan) and self._keeper.lazy(plan.loop)):
                await asyncio.gather(*(self._keeper.start(model, parts) for model, parts in new))
                await asyncio.gather(*(self._keeper.ensure(model) for model in kept))
        except BaseException:
            await asyncio.gather(*(self._keeper.drop(model) for model, _ in new))
            raise
        return Active(plan, models)

    async def _retire(self, endpoint: Endpoint, model: Loaded) -> None:
        """Stop a version's workers once nothing is under way to them."""
        await asyncio.sleep(self._poll)
        while endpoint.uses(model):  # noqa: ASYNC110 - nobody is told when the last row has gone
            await asyncio.sleep(self._poll)
        await self._keeper.drop(model)

    async def _report(self, loop: str, generation: int, applied: int, error: str) -> None:
        try:
            await self._blocking(partial(self._service.report, loop, self._front, generation, applied, error))
        except KilterError as failure:
            log.warning("the status of %s can't be written: %s", loop, failure)
            if not error:  # nobody would know that the plan is served: apply it again, which costs nothing
                self._served.pop(loop, None)
                self._retry[loop] = (asyncio.get_running_loop().time() + _RETRY_FIRST, _RETRY_FIRST)

    def _failed(self, loop: str, error: KilterError) -> None:
        log.error("the plan of %s can't be applied: %s", loop, error)
        delay = min(max(self._retry.get(loop, (0.0, 0.0))[1] * 2, _RETRY_FIRST), _RETRY_MOST)
        self._retry[loop] = (asyncio.get_running_loop().time() + delay, delay)
        if loop in self._endpoints:
            self._endpoints[loop].error = str(error)

    def _applied(self, loop: str, task: asyncio.Task[None]) -> None:
        self._applying.pop(loop, None)
        if not task.cancelled() and task.exception() is not None:
            log.error("applying the plan of %s failed", loop, exc_info=task.exception())
            self._retry[loop] = (asyncio.get_running_loop().time() + _RETRY_MOST, _RETRY_MOST)

    def _wake(self, loop: str) -> None:
        endpoint = self._endpoints.get(loop)
        if endpoint is not None:
            endpoint.wake()

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
