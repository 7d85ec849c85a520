"""The workers of one version: started and warmed, fed from one backlog, restarted, made more or fewer, put to sleep.

All workers take from the same backlog, so none is idle while rows wait. A worker has one batch in hand; a second is sent ahead only
when a whole one is waiting, because until then the next batch can still grow.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine

import msgspec

from kilter.core.errors import Unavailable
from kilter.packaging.bundle import Parts
from kilter.serving.answering.batching import NORMAL, Backlog, Batch, Done, Pace, Question, Slice
from kilter.serving.settings import Settings
from kilter.serving.workers.frames import HELLO, LENGTHS, frame
from kilter.serving.workers.process import Worker
from kilter.serving.workers.scaling import Seen, Trend, wanted

log = logging.getLogger("kilter.serving")

# A worker that had been ready comes back soon, because requests wait for it; one that never was is not tried in a hurry.
_BACKOFF_FIRST, _BACKOFF_READY, _BACKOFF_MOST = 0.05, 0.5, 5.0
_STABLE_SECONDS = 10.0
_LOADS = 3
"""How many processes may die in the middle of loading a model, without a word, before that is taken for its fault."""
_BUSY_SECONDS = 1.0
"""Over how long the busy share is averaged."""


class Pool:
    """All workers of one version.

    Args:
        settings: How many, and how large a batch may be.
        changed: Called when a worker has become ready.
    """

    def __init__(self, settings: Settings, changed: Callable[[], None]) -> None:
        running = asyncio.get_running_loop()
        self.clock = time.monotonic
        self.restarts = 0
        self.start_seconds = 0.0
        self.awake = False
        self.pace = Pace(settings.batch_rows, settings.batch_stretch)
        self._settings = settings
        self._changed = changed
        self._hello = b""
        self._target = 0
        self._workers: list[Worker] = []
        self._leaving: list[Worker] = []
        self._backlog = Backlog()
        self._again: deque[list[Slice]] = deque()
        self._first: asyncio.Future[None] = running.create_future()
        self._starting: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._life = asyncio.Lock()
        self._backoff = 0.0
        self._lost_loads = 0
        self._trend = Trend()
        self._busy = 0.0
        self._looked = self.clock()

    # ------------------------------------------------------------ how it is

    @property
    def ready(self) -> bool:
        """Whether a worker can be asked."""
        return self.awake and any(worker.ready for worker in self._workers)

    @property
    def started(self) -> bool:
        """Whether all its workers have been ready since it was started; not while it sleeps or is being loaded."""
        return self.awake and self._first.done()

    @property
    def waiting(self) -> int:
        """How many rows no worker has in hand yet."""
        return self._backlog.rows

    @property
    def rows(self) -> int:
        """How many rows wait or are in flight."""
        return self._backlog.rows + sum(worker.rows for worker in (*self._workers, *self._leaving))

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that are ready."""
        return [worker.pid for worker in self._workers if worker.ready]

    @property
    def workers(self) -> int:
        """How many workers there are to be."""
        return self._target

    def seconds(self, rows: int, urgency: int = NORMAL) -> float:
        """Return how long ``rows`` would take behind what waits already and goes first; 0 while nothing is known."""
        ahead = self._backlog.ahead(urgency)
        return self.pace.seconds(ahead + rows) / max(len(self.pids), 1) if ahead else 0.0

    # ------------------------------------------------------------ asking

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
        """Ask for the answers to rows.

        Args:
            payload: The matrix, row-major float64.
            rows: How many rows.
            done: Told once, whatever happens.
            urgency: 0, first, to 7.
            due: When it is no longer worth sending, on the loop's clock.
            alone: Whether the rows share no batch with others: a worker died with them in hand.
        """
        self._backlog.add(Question(payload, rows, done, urgency, due, alone=alone))
        self._feed()

    def explain(self, payload: bytes, rows: int, done: Done) -> None:
        """Ask what each column adds to the answers: float64, rows x outputs x (columns + 1); ``gone`` when no worker is ready.

        Explanations are few and dear: they share no batch with predictions and don't count for their pace.

        Args:
            payload: The matrix, row-major float64.
            rows: How many rows.
            done: Told once, whatever happens; ``refused`` when this model can't be explained.
        """
        question = Question(payload, rows, done)
        ready = [worker for worker in self._workers if worker.ready]
        if not ready:
            question.close(None, "gone")
            return
        worker = min(ready, key=lambda one: one.batches)
        worker.send(Batch([Slice(question, 0, rows)], self.clock(), explains=True))

    def shed(self, rows: int, urgency: int) -> None:
        """Give up rows that are less urgent than ``urgency``, until ``rows`` of them are gone."""
        for question in self._backlog.shed(rows, urgency):
            question.close(None, "shed")

    def tend(self, now: float, stall: float, *, grow: bool = True) -> None:
        """Look after the workers: end those that hang, give up what is late, follow the load.

        Args:
            now: The time.
            stall: Seconds without an answer after which a worker is ended; its rows are asked elsewhere.
            grow: Whether there is memory for more workers.
        """
        for worker in (*self._workers, *self._leaving):
            if worker.stalled(now, stall):
                log.error("worker %d has not answered for %g s and is ended", worker.pid, stall)
                worker.kill()
        for question in self._backlog.late(now):
            question.close(None, "late")
        if not self.awake or not self._first.done():
            return
        ready = [worker for worker in self._workers if worker.ready]
        share = sum(worker.batches > 0 for worker in ready) / len(ready) if ready else 0.0
        new = min((now - self._looked) / _BUSY_SECONDS, 1.0)
        self._busy, self._looked = (1.0 - new) * self._busy + new * share, now
        seen = Seen(self._target, len(self._starting) + len(self._workers) - len(ready), self._busy)
        least = max(self._settings.replicas, 1)
        count, self._trend = wanted(seen, self._trend, least, self._settings.most, now)
        if count < self._target or (count > self._target and grow):
            self.resize(count)

    def _feed(self) -> None:
        """Send what waits to whoever is free."""
        while self._again or self._backlog.rows:
            whole = self._backlog.rows >= self.pace.most
            worker = self._free(2 if whole else 1)
            if worker is None:
                return
            now = self.clock()
            if self._again:
                batch = Batch(self._again.popleft(), now)
            else:
                for question in self._backlog.late(now):
                    question.close(None, "late")
                batch = self._backlog.take(self.pace.most, now)
            if batch.slices:
                worker.send(batch)

    def _free(self, most: int) -> Worker | None:
        """Return the ready worker with the least in hand, if that is less than ``most`` batches."""
        best: Worker | None = None
        for worker in self._workers:
            if worker.ready and worker.batches < most and not worker.alone:
                best, most = worker, worker.batches
        return best

    # ------------------------------------------------------------ what workers tell

    def answered(self, worker: Worker, batch: Batch, values: bytes | None, seconds: float) -> None:
        """Take a batch's answers; None when the model refused it."""
        if not batch.explains:
            self.pace.observe(batch.rows, seconds)
        slices = batch.slices
        split = values is None and len(slices) > 1 and not batch.failed
        if split:  # one of them is the culprit: halve until it stands alone
            middle = len(slices) // 2
            self._again.extend((slices[:middle], slices[middle:]))
        # The worker goes on while its answers are handed out.
        self._feed()
        if values is not None:
            batch.answer(values)
        elif not split:
            batch.fail("refused")
        if worker in self._leaving and not worker.batches:
            _keep(worker.stop(), self._ending)

    def became_ready(self) -> None:
        """Count a worker in."""
        if not self._first.done() and sum(one.ready for one in self._workers) >= self._target:
            self._first.set_result(None)
        self._feed()
        self._changed()

    def died(self, worker: Worker, lost: list[Batch]) -> None:
        """Count a worker out; before the pool was ever ready that is its failure, afterwards it is started again."""
        for group in (self._workers, self._leaving):
            if worker in group:
                group.remove(worker)
        _keep(worker.reap(), self._ending)
        if self.awake:
            self._replace(worker)
        for batch in lost:
            batch.fail("died")
        if not self.ready:
            again, self._again = self._again, deque()
            for slices in again:
                Batch(slices, 0.0).fail("died")
            for question in self._backlog.clear():
                question.close(None, "gone")

    def _replace(self, worker: Worker) -> None:
        self._lost_loads += not self._first.done()
        if not self._first.done() and (worker.refusal or self._lost_loads >= _LOADS):
            reason = worker.refusal or "the worker process died while it loaded the model"
            self._first.set_exception(Unavailable(reason, where="worker"))
            self._first.exception()  # it is taken note of here: nobody may be waiting any more
            return
        if len(self._workers) + len(self._starting) >= self._target:
            return  # one that was to leave
        self.restarts += 1
        stable = self.clock() - worker.started > _STABLE_SECONDS
        most = _BACKOFF_READY if worker.served else _BACKOFF_MOST
        delay = 0.0 if stable else min(self._backoff, most)
        self._backoff = _BACKOFF_FIRST if stable else min(max(self._backoff * 2, _BACKOFF_FIRST), most)
        log.warning("worker %d died; the next one starts in %.2f s", worker.pid, delay)
        _keep(self._respawn(delay), self._starting)

    # ------------------------------------------------------------ life

    async def start(self, parts: Parts, seconds: float) -> None:
        """Start the workers and wait until every one is ready.

        Args:
            parts: The bundle's bytes; kept, so that a worker can be started again when the store is down.
            seconds: How long to wait.

        Raises:
            Unavailable: When a worker can't load the model, dies, or isn't ready in time. Nothing is left running.
        """
        async with self._life:
            begun = self.clock()
            self._hello = _hello(parts)
            self.awake = True
            self._target = max(self._settings.replicas, 1)
            self._lost_loads, self._backoff, self._trend = 0, 0.0, Trend()
            self._first = asyncio.get_running_loop().create_future()
            try:
                for _ in range(self._target):
                    await self._spawn()
                await asyncio.wait_for(asyncio.shield(self._first), seconds)
            except BaseException as error:
                await self._end()
                if isinstance(error, TimeoutError):
                    raise Unavailable(f"the model was not ready within {seconds:g} seconds", where="worker") from error
                if isinstance(error, OSError):
                    raise Unavailable("a worker process can't be started", where="worker") from error
                raise
            self.start_seconds = self.clock() - begun

    def resize(self, count: int) -> None:
        """Have another number of workers; those that leave finish what they have in hand."""
        log.info("%d workers instead of %d", count, self._target)
        for _ in range(count - self._target):
            _keep(self._respawn(0.0), self._starting)
        for _ in range(self._target - count):
            worker = min(self._workers, key=lambda one: (one.ready, one.batches))
            self._workers.remove(worker)
            self._leaving.append(worker)
            if not worker.batches:
                _keep(worker.stop(), self._ending)
        self._target = count

    async def stop(self) -> None:
        """Hang up on all workers, wait until they have gone, and let go of the model's bytes. ``start`` wakes it again."""
        async with self._life:
            await self._end()

    async def _end(self) -> None:
        self.awake = False
        self._hello = b""
        self._target = 0
        for task in tuple(self._starting):
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in (*self._workers, *self._leaving)))
        await asyncio.gather(*self._ending)
        if not self._first.done():
            self._first.cancel()

    async def _spawn(self) -> None:
        worker = Worker(self, self._hello)
        self._workers.append(worker)
        await worker.start()

    async def _respawn(self, delay: float) -> None:
        if delay:
            await asyncio.sleep(delay)
        while self.awake:
            try:
                await self._spawn()
            except OSError:
                log.exception("a worker process can't be started")
                await asyncio.sleep(_BACKOFF_MOST)
            else:
                return


def _hello(parts: Parts) -> bytes:
    """Return the frame that carries a model to its worker."""
    spec = msgspec.json.encode(parts.manifest.spec())
    lengths = LENGTHS.pack(len(spec), len(parts.model), len(parts.example))
    return frame(
        HELLO, 0, parts.manifest.example_rows, b"".join((lengths, spec, parts.model, parts.example, parts.explainer))
    )


def _keep(work: Coroutine[None, None, None], tasks: set[asyncio.Task[None]]) -> None:
    """Start a task and hold on to it: the loop alone would let it be collected."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
