"""Which models of a front are in memory: loaded when they are wanted, put to sleep when they are not or when memory is short.

Without a budget every model of a plan is in memory. With one, a model whose endpoint is at rest is loaded by its first request, and
the least recently used of them goes when another needs the room. What a release needs, and the way back from it, always stays.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from kilter.core.errors import KilterError
from kilter.engines.objects.store import ObjectStore
from kilter.packaging.bundle import Parts, fetch
from kilter.serving.answering.cache import Cache
from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.front.active import Loaded
from kilter.serving.rules import at_rest
from kilter.serving.settings import Settings
from kilter.serving.telemetry.metrics import Gauges
from kilter.serving.workers.memory import Held, guessed, held_by, to_evict
from kilter.serving.workers.pool import Pool

log = logging.getLogger("kilter.serving")
T = TypeVar("T")

_MEASURE_SECONDS = 1.0
_RETRY_SECONDS = 1.0


class Keeper:
    """The models of a front.

    Args:
        endpoints: The front's endpoints, by name.
        objects: Where the bundles are.
        thread: Where what blocks is done.
        settings: Returns the settings of an endpoint.
        budget: What all workers may hold together, in bytes; 0 for no bound.
        recent: Seconds for which a model stays after it was asked, however short memory is.
        load_timeout: Seconds that a version may take to become ready.
        stall: Seconds without an answer after which a worker is ended.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        objects: ObjectStore,
        thread: Executor,
        settings: Callable[[str], Settings],
        *,
        budget: int,
        recent: float,
        load_timeout: float,
        stall: float,
    ) -> None:
        self.budget = budget
        self.evictions = 0
        self._endpoints = endpoints
        self._objects = objects
        self._thread = thread
        self._settings = settings
        self._recent = recent
        self._load_timeout = load_timeout
        self._stall = stall
        self._running = asyncio.get_running_loop()
        self._loops: dict[Loaded, str] = {}
        self._sizes: dict[str, int] = {}
        self._caches: dict[str, Cache] = {}
        self._waking: dict[Loaded, asyncio.Task[None]] = {}
        self._sleeping: set[asyncio.Task[None]] = set()
        self._measured = 0.0
        self._measuring: asyncio.Task[None] | None = None
        self._room = asyncio.Lock()

    @property
    def bytes(self) -> int:
        """What all workers hold together, as last measured."""
        return sum(self.size(model) for model in self._loops if model.pool.awake)

    def size(self, model: Loaded) -> int:
        """Return what a model's workers hold, as last measured; a guess before that."""
        each = self._sizes.get(model.digest) or guessed(model.manifest.model.size, 1)
        return each * max(model.pool.workers, self._settings(self._loops.get(model, "")).replicas, 1)

    def lazy(self, loop: str) -> bool:
        """Say whether an endpoint at rest waits for its first request before its model is loaded."""
        return self.budget > 0 or self._settings(loop).replicas == 0

    def cache(self, loop: str) -> Cache | None:
        """Return where an endpoint keeps answers; None when it keeps none."""
        most = self._settings(loop).cache
        return self._caches.setdefault(loop, Cache(most)) if most else None

    # ------------------------------------------------------------ loading

    async def make(self, loop: str, version: int, digest: str) -> tuple[Loaded, Parts]:
        """Return a version that sleeps, and the bytes to start it with.

        Raises:
            KilterError: When its bundle can't be read.
        """
        parts = await self._blocking(partial(fetch, digest, self._objects))
        pool = Pool(self._settings(loop), partial(self._changed, loop))
        model = Loaded(version, digest, parts.manifest, pool, self.cache(loop), self.wake)
        self._loops[model] = loop
        return model, parts

    async def start(self, model: Loaded, parts: Parts, *, insist: bool = True) -> bool:
        """Load a version and wait until it is ready.

        Args:
            model: The version.
            parts: Its bundle's bytes.
            insist: Load it even when there is no room, because a plan needs it.

        Returns:
            False when there is no room.

        Raises:
            Unavailable: When it can't be loaded.
        """
        async with self._room:
            if not await self._make_room(model, insist=insist):
                return False
            starting = self._running.create_task(model.pool.start(parts, self._load_timeout))
            await asyncio.sleep(0)  # from here on it counts
        try:
            await starting
        except asyncio.CancelledError:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            raise
        self._measured = 0.0
        return True

    def wake(self, model: Loaded) -> None:
        """Begin to load a version that sleeps."""
        if model not in self._waking and model in self._loops:
            self._waking[model] = self._running.create_task(self._wake(model))

    async def ensure(self, model: Loaded) -> None:
        """Load a version that may sleep, because a plan needs it, and wait until it is ready.

        Raises:
            KilterError: When it can't be loaded.
        """
        waking = self._waking.get(model)
        if waking is not None:
            await asyncio.wait((waking,))
        if not model.pool.awake:
            parts = await self._blocking(partial(fetch, model.digest, self._objects))
            await self.start(model, parts)
            model.error = ""

    async def _wake(self, model: Loaded) -> None:
        name = self._name(model)
        try:
            parts = await self._blocking(partial(fetch, model.digest, self._objects))
            if await self.start(model, parts, insist=False):
                model.error = ""
                log.info("%s is awake", name)
            else:
                model.not_before = self._running.time() + _RETRY_SECONDS
                log.warning("there is no memory for %s now", name)
        except KilterError as error:
            model.error = str(error)
            model.not_before = self._running.time() + _RETRY_SECONDS
            log.warning("%s can't be woken: %s", name, error)
        finally:
            self._waking.pop(model, None)
            self._changed(self._loops[model])

    async def drop(self, model: Loaded) -> None:
        """Stop a version that no plan names any more."""
        waking = self._waking.pop(model, None)
        if waking is not None:
            waking.cancel()
            await asyncio.gather(waking, return_exceptions=True)
        model.not_before = math.inf
        await model.pool.stop()
        self._loops.pop(model, None)
        if all(other.digest != model.digest for other in self._loops):
            self._sizes.pop(model.digest, None)

    async def stop(self) -> None:
        """Stop all versions."""
        if self._measuring is not None:
            self._measuring.cancel()
        await asyncio.gather(*(self.drop(model) for model in tuple(self._loops)))

    # ------------------------------------------------------------ looking after them

    def tend(self, now: float) -> None:
        """Look after all workers, and after memory."""
        for model, loop in tuple(self._loops.items()):
            grow = not self.budget or self.bytes + self._sizes.get(model.digest, 0) <= self.budget
            model.pool.tend(now, self._stall, grow=grow)
            settings = self._settings(loop)
            if settings.replicas == 0 and now - model.used > settings.idle and self._may_sleep(model):
                self._sleep(model)
        if now - self._measured >= _MEASURE_SECONDS and self._measuring is None:
            self._measured = now
            self._measuring = self._running.create_task(self._measure())

    async def _measure(self) -> None:
        """Ask the kernel what the workers hold, and let models go when that is too much by now."""
        try:
            pids = {model.digest: model.pool.pids for model in self._loops if model.pool.started}
            found = await self._blocking(lambda: {name: [held_by(pid) for pid in all_] for name, all_ in pids.items()})
            for digest, sizes in found.items():
                if any(sizes):
                    self._sizes[digest] = max(sizes)
            for model in self._loops:
                model.memory = sum(found.get(model.digest, ())) if model.pool.awake else 0
            if self.budget:
                names, _ = to_evict(self._held(), 0, self.budget, self._running.time(), self._recent)
                self._evict(names)
        finally:
            self._measuring = None

    def measure(self, gauges: Gauges) -> None:
        """Add what the models hold and how busy they are to the metrics."""
        gauges.add("memory_budget_bytes", "gauge", "What all workers may hold together; 0 for no bound.", self.budget)
        gauges.add("evictions_total", "counter", "Models put to sleep because memory was short.", self.evictions)
        for model, loop in self._loops.items():
            labels = (("loop", loop), ("version", model.version))
            gauges.add("workers", "gauge", "Worker processes that there are to be.", model.pool.workers, labels)
            gauges.add("queued_rows", "gauge", "Rows that no worker has in hand yet.", model.pool.waiting, labels)
            gauges.add("memory_bytes", "gauge", "What the workers hold: their proportional set.", model.memory, labels)
            gauges.add("batch_seconds", "gauge", "What one call of the model takes, without its rows.",
                       model.pool.pace.fixed, labels)  # fmt: skip
            gauges.add("row_seconds", "gauge", "What each row adds to it.", model.pool.pace.each, labels)
        for loop, cache in self._caches.items():
            which = (("loop", loop),)
            gauges.add("cache_hits_total", "counter", "Rows answered from what is kept.", cache.hits, which)
            gauges.add("cache_misses_total", "counter", "Rows that the model was asked for.", cache.misses, which)
            gauges.add("cache_bytes", "gauge", "What the kept answers hold.", cache.bytes, which)

    def _held(self) -> list[Held]:
        return [
            Held(self._name(model), self.size(model), model.used, not self._may_sleep(model))
            for model in self._loops
            if model.pool.awake
        ]

    def _may_sleep(self, model: Loaded) -> bool:
        endpoint = self._endpoints.get(self._loops[model])
        active = endpoint.active if endpoint is not None else None
        return (
            active is not None
            and active.models.get(model.version) is model
            and at_rest(active.plan)
            and model.pool.started
            and not model.pool.rows
        )

    async def _make_room(self, model: Loaded, *, insist: bool) -> bool:
        if not self.budget:
            return True
        now, need = self._running.time(), self.size(model)
        if model.digest not in self._sizes:
            need = min(need, self.budget)  # a guess alone keeps no model out
        names, fits = to_evict(self._held(), need, self.budget, now, 0.0 if insist else self._recent)
        if not fits and not insist:
            return False
        if not fits:
            log.warning("with %s the models hold more than the %d bytes they may", self._name(model), self.budget)
        self._evict(names)
        await asyncio.gather(*self._sleeping)
        return True

    def _evict(self, names: tuple[str, ...]) -> None:
        self.evictions += len(names)
        for model in tuple(self._loops):
            if self._name(model) in names:
                self._sleep(model)

    def _sleep(self, model: Loaded) -> None:
        log.info("%s is put to sleep", self._name(model))
        task = self._running.create_task(model.pool.stop())
        model.pool.awake = False
        self._sleeping.add(task)
        task.add_done_callback(self._sleeping.discard)

    def _name(self, model: Loaded) -> str:
        return f"{self._loops[model]}@v{model.version}"

    def _changed(self, loop: str) -> None:
        endpoint = self._endpoints.get(loop)
        if endpoint is not None:
            endpoint.wake()

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await self._running.run_in_executor(self._thread, call)
