"""``kilter serve --ray``: the endpoints as an application of Ray Serve, for as long as this process runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from ray import serve
from ray.serve._private import constants
from ray.serve._private import replica as ray_replica
from ray.serve.exceptions import RayServeException

from kilter.core.access import check_bind
from kilter.core.clock import SystemClock
from kilter.core.errors import Conflict, Forbidden, Unavailable
from kilter.engines.sql.database import Database
from kilter.serving.front.process import FrontConfig
from kilter.serving.ray.cluster import LOOPBACK, joined
from kilter.serving.ray.replica import FRONTS, Replica, ReplicaConfig
from kilter.serving.service import EndpointService
from kilter.serving.settings import Settings

NAME = "kilter"
"""The application's name."""
_ONGOING = 16
"""Requests under way per replica that Ray aims at when it scales."""
_MOST_ONGOING = 1_000
"""Requests that a replica is sent at once; how many it takes is its own decision."""
_HEALTH_SECONDS = 2.0


class Endpoints(Replica):
    """The class that Ray Serve deploys."""

    async def __init__(self, config: bytes) -> None:  # type: ignore[misc]  # Ray Serve awaits it, in the loop that serves
        super().__init__(config)
        close_side_door()

    def __serve_build_asgi_app__(self) -> Any:
        """Return what answers requests."""
        return self.application

    def check_health(self) -> None:
        """Say whether it is well, as Ray Serve asks: a replica that is not, for a while, is replaced."""
        self.check()


def close_side_door() -> None:
    """Have this replica's second way in, which nobody uses, listen on the loopback address.

    Each replica of Ray Serve listens for calls of other deployments on all addresses, asks for no token, and unpickles what comes.
    There is no other deployment here, and the proxy comes another way, unless the cluster's owner has set it up otherwise.

    Raises:
        Forbidden: When this version of Ray has the door elsewhere.
    """
    if constants.RAY_SERVE_USE_GRPC_BY_DEFAULT:
        return
    known = getattr(ray_replica, "add_port_to_grpc_server", None)
    if known is None:
        raise Forbidden(
            "this version of Ray Serve is not known, and may listen where it should not",
            where="ray",
            allowed="the version that Kilter's extra names",
            fix='pip install "kilter[ray]"',
        )
    vars(ray_replica)["add_port_to_grpc_server"] = lambda server, _address: known(server, f"{LOOPBACK}:0")


def limits_of(config: FrontConfig) -> tuple[int, int]:
    """Return how many replicas there are at least and at most: the largest that any endpoint asks for.

    A replica serves all endpoints, so it is never put to sleep; its models are, as its endpoints' settings say.
    """
    all_ = [config.settings, *config.endpoints.values()]
    return max(max(one.replicas, 1) for one in all_), max(one.most for one in all_)


def single(config: FrontConfig, most: int) -> FrontConfig:
    """Return how the front of one replica runs: with one worker per version, because Ray does the scaling."""

    def alone(settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, replicas=min(settings.replicas, 1), replicas_max=0)

    return msgspec.structs.replace(
        config,
        settings=alone(config.settings),
        endpoints={name: alone(one) for name, one in config.endpoints.items()},
        memory=config.memory // most,
        token=None,
        guarded_by=config.guarded_by or ("token" if config.token else ""),
    )


def run(config: FrontConfig, address: str, ready: Callable[[str], None]) -> None:
    """Serve on a cluster until SIGTERM or SIGINT.

    Args:
        config: How the fronts run; ``host`` and ``port`` are those of Ray's proxy.
        address: The cluster; empty for one on this machine, which ends with this process.
        ready: Is told the URL when requests are answered.

    Raises:
        Forbidden: When the proxy listens beyond loopback without a token.
        Conflict: When the cluster's proxy is up already, and listens elsewhere.
        Unavailable: When the cluster can't be reached, or no replica can start.
    """
    check_bind(config.host, config.token or config.guarded_by)
    with joined(address), _told_to_stop() as stop:
        if not address:
            forget(config)
        deploy(config)  # what fails here leaves an application alone that another command may have started
        try:
            ready(f"http://{config.host}:{config.port}")
            stop.wait()
        finally:
            withdraw(whole=not address)
            forget(config)


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """Give what is set by SIGTERM and SIGINT, which Ray would end the process for at once."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def forget(config: FrontConfig) -> None:
    """Forget fronts of replicas that died without a word, so that no plan waits for them."""
    database = Database.open(config.database)
    service = EndpointService(database, SystemClock(), Path(config.logs))
    try:
        told = {one.front for loop in service.generations() for one in service.status(loop)}
        for front in told:
            if front.startswith(FRONTS):
                service.forget(front)
    finally:
        database.close()


def deploy(config: FrontConfig) -> None:
    """Start the application on the cluster that this process has joined, and wait until it answers.

    Raises:
        Conflict: When the cluster's proxy is up already, and listens elsewhere.
        Unavailable: When no replica can start.
    """
    least, most = limits_of(config)
    replica = ReplicaConfig(front=single(config, most), token=bool(config.token))
    scale: dict[str, Any] = (
        {"num_replicas": least}
        if least == most
        else {"autoscaling_config": {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": _ONGOING}}
    )
    deployment: serve.Deployment = serve.deployment(
        name="endpoints",
        max_ongoing_requests=_MOST_ONGOING,
        health_check_period_s=_HEALTH_SECONDS,
        graceful_shutdown_timeout_s=config.drain + 10.0,
        ray_actor_options={"num_cpus": 1},
        **scale,
    )(serve.ingress()(Endpoints))
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": config.host, "port": config.port},
            logging_config={"log_level": "ERROR", "enable_access_log": False},
        )
        _check_proxy(config)
        serve.run(deployment.bind(msgspec.json.encode(replica)), name=NAME, route_prefix="/")
    except (RayServeException, RuntimeError, TimeoutError, OSError) as error:
        said = str(error).strip().splitlines()
        raise Unavailable(
            f"the application can't be started: {said[0] if said else type(error).__name__}",
            where="ray",
            fix="look into the cluster's logs of Ray Serve",
        ) from error


def withdraw(*, whole: bool) -> None:
    """Stop the application; its replicas answer what is under way first.

    Args:
        whole: Stop Ray Serve itself, too.
    """
    serve.delete(NAME)
    if whole:
        end: Callable[[], None] = serve.shutdown
        end()


def _check_proxy(config: FrontConfig) -> None:
    """Refuse a proxy that was there before and does not listen where it should."""
    from ray.serve.context import _get_global_client  # noqa: PLC0415 - Serve tells it nowhere else

    client = _get_global_client()
    assert client is not None  # noqa: S101 - it was started
    found = client.http_config
    if (found.host, found.port) != (config.host, config.port):
        raise Conflict(
            f"the cluster's proxy listens on {found.host}:{found.port}",
            where="--port",
            fix="give its host and port, or stop Ray Serve there: serve shutdown",
        )
