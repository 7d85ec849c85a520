"""Following the plans: load what a new plan names, warm it, swap it in, then let go of what it no longer names.

A plan that can't be applied changes nothing: the reason goes to SQL, the old plan is served on, and it is tried again later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from kilter.core.errors import KilterError
from kilter.engines.objects.store import ObjectStore
from kilter.packaging.bundle import fetch
from kilter.serving.active import Active, Loaded
from kilter.serving.endpoint import Endpoint
from kilter.serving.records import TrafficPlan
from kilter.serving.service import EndpointService
from kilter.serving.workers import Pool

log = logging.getLogger("kilter.serving")
T = TypeVar("T")

_RETRY_FIRST, _RETRY_MOST = 0.5, 30.0


class Follower:
    """Keeps a front at the plans.

    Args:
        front: The front's name.
        service: Where the plans are.
        objects: Where the bundles are.
        endpoints: The front's endpoints, by name; filled here.
        make: Makes an endpoint.
        poll: Seconds between two looks.
        load_timeout: Seconds that a version may take to become ready.
        stall: Seconds without an answer after which a worker is ended.
        replicas: Workers per version.
    """

    def __init__(
        self,
        front: str,
        service: EndpointService,
        objects: ObjectStore,
        endpoints: dict[str, Endpoint],
        make: Callable[[str], Endpoint],
        *,
        poll: float,
        load_timeout: float,
        stall: float,
        replicas: int,
    ) -> None:
        self._front = front
        self._service = service
        self._objects = objects
        self._endpoints = endpoints
        self._make = make
        self._poll = poll
        self._load_timeout = load_timeout
        self._stall = stall
        self._replicas = replicas
        # SQL and the object store block; one thread keeps their order and leaves the event loop alone.
        self._thread = ThreadPoolExecutor(1, "kilter-serving-plans")
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
        try:
            generations = await self._blocking(self._service.generations)
        except KilterError as error:
            if self._reachable:
                log.warning("the plans can't be read, serving goes on: %s", error)
            self._reachable = False
            return
        self._reachable = True
        now = asyncio.get_running_loop().time()
        for loop, generation in generations.items():
            due = self._retry.get(loop, (0.0, 0.0))[0]
            if self._served.get(loop) != generation and loop not in self._applying and now >= due:
                task = asyncio.create_task(self._apply(loop))
                self._applying[loop] = task
                task.add_done_callback(partial(self._applied, loop))
        for endpoint in self._endpoints.values():
            for model in endpoint.active.models.values() if endpoint.active else ():
                model.pool.kill_stalled(self._stall)

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
        pools = [model.pool for one in self._endpoints.values() if one.active for model in one.active.models.values()]
        await asyncio.gather(*(pool.stop() for pool in pools))
        self._thread.shutdown()

    async def _apply(self, loop: str) -> None:
        served = self._served.get(loop, 0)
        generation = served
        try:
            plan = await self._blocking(partial(self._service.plan, loop))
            generation = plan.generation
            endpoint = self._endpoints.get(loop)
            if endpoint is None:
                endpoint = self._endpoints[loop] = self._make(loop)
            active = await self._load(plan, endpoint.active)
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

    async def _load(self, plan: TrafficPlan, before: Active | None) -> Active:
        """Return the plan with every version loaded and warm; what is loaded already is kept."""
        models: dict[int, Loaded] = {}
        fresh: list[Loaded] = []
        try:
            for version in plan.versions():
                digest = plan.bundles[version]
                known = before.models.get(version) if before else None
                if known is not None and known.digest == digest:
                    models[version] = known
                    continue
                parts = await self._blocking(partial(fetch, digest, self._objects))
                model = Loaded(version, digest, parts, Pool(parts, self._replicas, partial(self._wake, plan.loop)))
                fresh.append(model)
                models[version] = model
            await asyncio.gather(*(model.pool.start(self._load_timeout) for model in fresh))
        except BaseException:
            await asyncio.gather(*(model.pool.stop() for model in fresh))
            raise
        return Active(plan, models)

    async def _retire(self, endpoint: Endpoint, model: Loaded) -> None:
        """Stop a version's workers once nothing is under way to them."""
        await asyncio.sleep(self._poll)
        while endpoint.uses(model):
            await asyncio.sleep(self._poll)
            model.pool.kill_stalled(self._stall)
        await model.pool.stop()

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
