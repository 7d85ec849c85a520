"""Google Cloud Pub/Sub in this process, as its documentation describes it: what the engine of streams asks of it.

Topics that retain; subscriptions with leases, order by key and exactly-once acknowledgement; seeking to a time; streams of messages
with a bound on what is outstanding. Set ``PUBSUB_EMULATOR_HOST`` to its address and the real client talks to it.
"""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest


class _Lease:
    """A message that was given to somebody."""

    def __init__(self, ack_id, until):
        self.ack_id, self.until = ack_id, until


class _Subscription:
    """What one subscription has given and has had acknowledged."""

    def __init__(self, declared, begin):
        self.declared = declared
        self.first = begin
        self.acknowledged = set()
        self.leases = {}
        self.places = {}

    def next(self, messages, most, seconds, now):
        """Lease messages in their order; where one comes again, those of its key that came behind it do as well."""
        found, again = [], set()
        outstanding = sum(lease.until > now for lease in self.leases.values())
        while self.first < len(messages) and self.first in self.acknowledged:
            self.acknowledged.remove(self.first)
            self.first += 1
        for place in range(self.first, len(messages)):
            if outstanding + len(found) >= most or len(found) >= 1000:
                break
            message, lease = messages[place], self.leases.get(place)
            key = message.ordering_key if self.declared.enable_message_ordering else ""
            if place in self.acknowledged or (lease is not None and lease.until > now and key not in again):
                continue
            if lease is not None:
                self.places.pop(lease.ack_id, None)
                if key:
                    again.add(key)
            lease = self.leases[place] = _Lease(f"lease-{next(_LEASES)}", now + seconds)
            self.places[lease.ack_id] = place
            found.append((lease.ack_id, message))
        return found

    def drop(self, ack_id, now):
        """Acknowledge; return whether the lease still held."""
        place = self.places.pop(ack_id, None)
        if place is None:
            return False
        lease = self.leases.pop(place)
        if lease.until <= now:
            return False
        self.acknowledged.add(place)
        return True


_MOMENT = 0.1
_LEASES = itertools.count(1)


class Emulator:
    """The calls, all under one lock."""

    def __init__(self):
        self.lock = threading.Condition()
        self.topics, self.messages, self.subscriptions = {}, {}, {}
        self.numbers = itertools.count(1)
        self.refused = 0
        """How many acknowledgements came for a lease that was lost."""

    def create_topic(self, request, _context):
        with self.lock:
            self.topics[request.name] = request
            self.messages.setdefault(request.name, [])
        return request

    def get_topic(self, request, context):
        return self._found(self.topics, request.topic, context)

    def publish(self, request, context):
        from google.pubsub_v1 import types

        with self.lock:
            self._found(self.topics, request.topic, context)
            kept = self.messages[request.topic]
            for message in request.messages:
                message.message_id, message.publish_time = str(next(self.numbers)), datetime.now(UTC)
                kept.append(message)
            self.lock.notify_all()
        return types.PublishResponse(message_ids=[one.message_id for one in request.messages])

    def create_subscription(self, request, context):
        with self.lock:
            self._found(self.topics, request.topic, context)
            self.subscriptions[request.name] = _Subscription(request, len(self.messages[request.topic]))
        return request

    def get_subscription(self, request, context):
        return self._found(self.subscriptions, request.subscription, context).declared

    def delete_subscription(self, request, context):
        from google.protobuf.empty_pb2 import Empty

        with self.lock:
            self._found(self.subscriptions, request.subscription, context)
            del self.subscriptions[request.subscription]
        return Empty()

    def seek(self, request, context):
        from google.pubsub_v1 import types

        with self.lock:
            one = self._found(self.subscriptions, request.subscription, context)
            kept = self.messages[one.declared.topic]
            one.first = next((n for n, message in enumerate(kept) if message.publish_time >= request.time), len(kept))
            one.acknowledged, one.leases, one.places = set(), {}, {}
        return types.SeekResponse()

    def acknowledge(self, request, context):
        from google.protobuf.empty_pb2 import Empty

        with self.lock:
            one = self._found(self.subscriptions, request.subscription, context)
            lost = [lease for lease in request.ack_ids if not one.drop(lease, time.monotonic())]
            self.lock.notify_all()
        if lost and one.declared.enable_exactly_once_delivery:
            self.refused += len(lost)
            _refuse(lost, context)
        return Empty()

    def modify_ack_deadline(self, request, context):
        from google.protobuf.empty_pb2 import Empty

        with self.lock:
            one = self._found(self.subscriptions, request.subscription, context)
            for ack_id in request.ack_ids:
                if ack_id in one.places:
                    # What is given back comes again after a moment, when the stream of who gave it back has ended.
                    seconds = max(request.ack_deadline_seconds, _MOMENT)
                    one.leases[one.places[ack_id]].until = time.monotonic() + seconds
            self.lock.notify_all()
        return Empty()

    def streaming_pull(self, requests, context):
        from google.pubsub_v1 import types

        asked = next(requests)
        while context.is_active():
            with self.lock:
                one = self._found(self.subscriptions, asked.subscription, context)
                kept = self.messages[one.declared.topic]
                found = one.next(kept, asked.max_outstanding_messages or 1000, asked.stream_ack_deadline_seconds,
                                 time.monotonic())  # fmt: skip
                if not found:
                    self.lock.wait(0.02)
            if found:
                received = [types.ReceivedMessage(ack_id=ack_id, message=message) for ack_id, message in found]
                yield types.StreamingPullResponse(received_messages=received)

    def expire(self):
        """Let every lease end now."""
        with self.lock:
            for one in self.subscriptions.values():
                for lease in one.leases.values():
                    lease.until = 0.0

    def _found(self, among, name, context):
        import grpc

        if name not in among:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={name}).")
        return among[name]


def _refuse(leases, context):
    """Say which leases were lost, as a subscription with exactly-once delivery says it."""
    from google.protobuf.any_pb2 import Any
    from google.rpc import code_pb2, error_details_pb2, status_pb2
    from grpc_status import rpc_status

    told = error_details_pb2.ErrorInfo(
        reason="EXACTLY_ONCE_ACKID_FAILURE",
        domain="pubsub.googleapis.com",
        metadata=dict.fromkeys(leases, "PERMANENT_FAILURE_INVALID_ACK_ID"),
    )
    detail = Any()
    detail.Pack(told)
    status = status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message="Some acks failed.", details=[detail])
    context.abort_with_status(rpc_status.to_status(status))


@contextmanager
def pubsub():
    """Give the emulator and its address, for ``PUBSUB_EMULATOR_HOST``; skip the test without the client."""
    pytest.importorskip("google.cloud.pubsub_v1")
    import grpc
    from google.protobuf.empty_pb2 import Empty
    from google.pubsub_v1 import types

    emulator = Emulator()

    def plain(call, asked):
        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=asked.deserialize,
            response_serializer=lambda made: (
                made.SerializeToString() if isinstance(made, Empty) else type(made).serialize(made)
            ),
        )

    publisher = {
        "CreateTopic": plain(emulator.create_topic, types.Topic),
        "GetTopic": plain(emulator.get_topic, types.GetTopicRequest),
        "Publish": plain(emulator.publish, types.PublishRequest),
    }
    subscriber = {
        "CreateSubscription": plain(emulator.create_subscription, types.Subscription),
        "GetSubscription": plain(emulator.get_subscription, types.GetSubscriptionRequest),
        "DeleteSubscription": plain(emulator.delete_subscription, types.DeleteSubscriptionRequest),
        "Seek": plain(emulator.seek, types.SeekRequest),
        "Acknowledge": plain(emulator.acknowledge, types.AcknowledgeRequest),
        "ModifyAckDeadline": plain(emulator.modify_ack_deadline, types.ModifyAckDeadlineRequest),
        "StreamingPull": grpc.stream_stream_rpc_method_handler(
            emulator.streaming_pull,
            request_deserializer=types.StreamingPullRequest.deserialize,
            response_serializer=types.StreamingPullResponse.serialize,
        ),
    }
    server = grpc.server(ThreadPoolExecutor(32))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", publisher),
            grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", subscriber),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield emulator, f"127.0.0.1:{port}"
    server.stop(0).wait()
