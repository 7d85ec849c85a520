"""Joining a Ray cluster, or running one on this machine for as long as it is needed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants

from kilter.core.errors import Unavailable

LOOPBACK = "127.0.0.1"
_OBJECT_STORE = 100 << 20
"""Bytes of Ray's object store on this machine: no rows and no models pass through it."""


@contextmanager
def joined(address: str, *, processors: int = 0) -> Iterator[None]:
    """Be in a cluster; one that this process has joined already is used and left as it is.

    Args:
        address: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; empty starts one on this machine, which ends with this.
        processors: Of a cluster on this machine: how many it uses; 0 for all.

    Raises:
        Unavailable: When it can't be reached.
    """
    if ray.is_initialized():
        yield
        return
    try:
        if address:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            with _loopback():
                ray.init(
                    "local",
                    num_cpus=processors or None,
                    object_store_memory=_OBJECT_STORE,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _node_ip_address=LOOPBACK,
                )
    except (ConnectionError, RuntimeError, TimeoutError, OSError, ValueError) as error:
        said = str(error).strip().splitlines()
        raise Unavailable(
            f"the cluster can't be reached: {said[0] if said else type(error).__name__}",
            where=address or "ray",
            fix="check the address, and that Ray of the same version runs there",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _loopback() -> Iterator[None]:
    """Have all parts of Ray listen on the loopback address: as it does where it knows no clusters of several machines."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
