"""Messages of a subscription of Pub/Sub as they come, under leases that are extended until they are acknowledged.

The client's own way to read gives the next message of a key when the one before is acknowledged; a turn takes many and acknowledges
them together. So the stream is read here, and the server sees to the bounds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import grpc  # type: ignore[import-untyped]  # its types are a package of their own
from google.api_core import exceptions
from google.pubsub_v1 import types

from kilter.core.errors import Conflict

_PATIENCE = 30.0
_OUTSTANDING = 10_000
_BYTES = 16 << 20
_HEARTBEAT = 20.0
_AT_ONCE = 1_000
_AWAY = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "ABORTED", "UNKNOWN"}
"""Why a stream of messages ends that is simply opened again."""


class Receiver:
    """Messages of a subscription as they come, at most 10,000 or 16 MB that are not acknowledged.

    Args:
        client: The subscriber client.
        subscription: The subscription's full name.
        lease: How long a message is nobody else's, in seconds; extended while this process lives.
    """

    def __init__(self, client: Any, subscription: str, lease: float) -> None:
        self._client = client
        self._subscription = subscription
        self._lease = lease
        self._came = threading.Condition()
        self._stopping = threading.Event()
        self._failed: Exception | None = None
        self._call: Any = None
        self._waiting: deque[Any] = deque()
        self._ids: set[str] = set()
        self._leased: set[str] = set()
        self._threads = [
            threading.Thread(target=one, name="kilter-pubsub", daemon=True) for one in (self._receive, self._extend)
        ]
        for thread in self._threads:
            thread.start()

    def take(self, most: int, wait: float) -> list[Any]:
        """Return the next messages: at most ``most``, none when there are none within ``wait`` seconds.

        Raises:
            GoogleAPICallError: When the stream has ended for good.
        """
        with self._came:
            self._came.wait_for(lambda: self._waiting or self._failed, wait)
            if self._failed is not None and not self._waiting:
                raise self._failed
            found = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self._ids.difference_update(one.message.message_id for one in found)
            return found

    def count(self, wait: float) -> int:
        """Return how many messages came and were not taken; where there are none, wait a while for one."""
        with self._came:
            self._came.wait_for(lambda: self._waiting or self._failed, wait)
            return len(self._waiting)

    def has(self, number: str) -> bool:
        """Return whether a message came and was not taken."""
        with self._came:
            return number in self._ids

    def forget(self, leases: Sequence[str]) -> None:
        """Extend some leases no more."""
        with self._came:
            self._leased.difference_update(leases)

    def stop(self) -> bool:
        """End the stream, and let everything go that was not acknowledged; return whether the server knows."""
        self._stopping.set()
        with self._came:
            if self._call is not None:
                self._call.cancel()
        for thread in self._threads:
            thread.join()
        return self._change(list(self._leased), 0)

    def _receive(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._came:
                    if self._stopping.is_set():
                        return
                    self._call = self._client.transport.streaming_pull(self._requests())
                for response in self._call:
                    found = types.StreamingPullResponse.pb(response).received_messages
                    with self._came:
                        self._waiting.extend(found)
                        self._ids.update(one.message.message_id for one in found)
                        self._leased.update(one.ack_id for one in found)
                        self._came.notify_all()
            except grpc.RpcError as error:
                if error.code().name not in _AWAY and not self._stopping.is_set():
                    self._fail(exceptions.from_grpc_error(error))  # type: ignore[no-untyped-call]  # its author's
                    return
            except Exception as error:  # noqa: BLE001 - the edge of a thread: whoever takes is told
                self._fail(error)
                return
            self._stopping.wait(0.5)

    def _fail(self, error: Exception) -> None:
        with self._came:
            self._failed = error
            self._came.notify_all()

    def _requests(self) -> Iterator[Any]:
        yield types.StreamingPullRequest(
            subscription=self._subscription,
            stream_ack_deadline_seconds=int(self._lease),
            max_outstanding_messages=_OUTSTANDING,
            max_outstanding_bytes=_BYTES,
        )
        while not self._stopping.wait(_HEARTBEAT):
            yield types.StreamingPullRequest()

    def _extend(self) -> None:
        while not self._stopping.wait(self._lease / 3):
            with self._came:
                leases = list(self._leased)
            self._change(leases, int(self._lease))

    def _change(self, leases: Sequence[str], seconds: int) -> bool:
        """Set how long leases last; one that is lost is noticed when it is acknowledged."""
        is_done = True
        for start in range(0, len(leases), _AT_ONCE):
            try:
                self._client.modify_ack_deadline(
                    subscription=self._subscription,
                    ack_ids=leases[start : start + _AT_ONCE],
                    ack_deadline_seconds=seconds,
                    timeout=_PATIENCE,
                )
            except exceptions.GoogleAPICallError:
                is_done = False
        return is_done


def acknowledge(client: Any, subscription: str, leases: Sequence[str]) -> None:
    """Acknowledge messages until the server has confirmed each.

    Args:
        client: The subscriber client.
        subscription: The subscription's full name.
        leases: The messages' leases.

    Raises:
        Conflict: When a lease was lost: its message may be with another reader by now.
        GoogleAPICallError: When the server does not confirm.
    """
    for start in range(0, len(leases), _AT_ONCE):
        _acknowledge(client, subscription, list(leases[start : start + _AT_ONCE]))


def _acknowledge(client: Any, subscription: str, leases: list[str]) -> None:
    end = time.monotonic() + _PATIENCE
    while leases:
        try:
            client.acknowledge(subscription=subscription, ack_ids=leases, timeout=_PATIENCE)
            leases = []
        except exceptions.GoogleAPICallError as error:
            told: dict[str, str] = dict(error.metadata or {})
            if any(said.startswith("PERMANENT") for said in told.values()):
                raise Conflict(
                    "the lease of messages was lost", where=subscription, fix="make ?lease= longer than any turn"
                ) from error
            leases = [one for one, said in told.items() if said.startswith("TRANSIENT")]
            if not leases or time.monotonic() > end:
                raise
            time.sleep(0.5)
