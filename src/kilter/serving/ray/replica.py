"""A replica: a whole front without a port of its own, in an actor of Ray Serve.

It follows the plans, has its models in processes of their own, records what it answers, and looks after all that as every front
does. Ray starts it, asks whether it is well, sends it requests, and stops it.
"""

from __future__ import annotations

import logging
import os
from asyncio import wait_for
from contextlib import suppress

import msgspec

from kilter.core.errors import Conflict, Forbidden, KilterError, Unavailable
from kilter.serving.front.faces import Faces
from kilter.serving.front.process import Front, FrontConfig
from kilter.serving.ray.asgi import Application

log = logging.getLogger("kilter.serving")

FRONTS = "ray_"
"""How the names of these fronts begin."""
_MOST = 1024
_FIRST_LOAD_SECONDS = 30.0


class ReplicaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a replica runs.

    Args:
        front: How its front runs. Its name is chosen by the replica, and its token is not in here.
        token: Whether callers must send a token, which every machine of the cluster has in ``KILTER_TOKEN``.
    """

    front: FrontConfig
    token: bool


class Portless(Front):
    """A front that others listen for."""

    async def start(self) -> None:
        """Serve the plans that are there.

        Raises:
            Unavailable: When the store can't be read.
        """
        if not await self._upkeep.look():
            raise Unavailable(
                "the store's keys can't be read", where="front", fix="try again when its database is back"
            )
        await self._follower.look()
        with suppress(TimeoutError):
            await wait_for(self._follower.settle(), _FIRST_LOAD_SECONDS)
        self._tasks = [self._loop.create_task(self._follower.follow()), self._loop.create_task(self._upkeep.run())]

    async def stop(self) -> None:
        """Stop everything; plans need not wait for this front any more."""
        with suppress(KilterError):
            self._service.forget(self.config.front)
        await super().stop()


class Replica:
    """What Ray Serve makes of each replica.

    Args:
        config: A :class:`ReplicaConfig`, as JSON.

    Raises:
        Forbidden: When callers must send a token, and this machine does not have it.
    """

    def __init__(self, config: bytes) -> None:
        self._config = msgspec.json.decode(config, type=ReplicaConfig)
        self._front: Portless | None = None
        self._well: set[str] = set()
        if self._config.token and not os.environ.get("KILTER_TOKEN"):
            raise Forbidden(
                "callers must send a token, and this machine does not know it",
                where="KILTER_TOKEN",
                fix="set it in the environment of every machine of the cluster",
            )
        self.application = Application(self._start, self._stop)

    def check(self) -> None:
        """Say whether it is well: what once could answer still can.

        Raises:
            Unavailable: When the champion of an endpoint is dead.
        """
        endpoints = self._front.faces.endpoints if self._front is not None else {}
        self._well.update(name for name, one in endpoints.items() if one.ready)
        dead = sorted(name for name, one in endpoints.items() if name in self._well and not one.ready)
        if dead:
            raise Unavailable("the champion can't answer", where=dead[0])

    async def _start(self) -> Faces:
        self._front = _front(self._config)
        await self._front.start()
        log.info("the front %s serves", self._front.config.front)
        return self._front.faces

    async def _stop(self) -> None:
        if self._front is not None:
            await self._front.drain()
            await self._front.stop()


def _front(config: ReplicaConfig) -> Portless:
    """Return a front under the first name that is free: few names, so that few logs, however often replicas come and go.

    Raises:
        Conflict: When all names are taken.
    """
    token = os.environ.get("KILTER_TOKEN") if config.token else None
    for number in range(_MOST):
        try:
            return Portless(msgspec.structs.replace(config.front, front=f"{FRONTS}{number}", token=token))
        except Conflict:
            continue
    raise Conflict(f"{_MOST} fronts run on this store", where="front")
