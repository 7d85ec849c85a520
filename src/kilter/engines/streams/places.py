"""Which stream an address names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from kilter.core.errors import InvalidInput, Unavailable
from kilter.engines.streams.port import Sink, Source

ALLOWED = (
    "log:NAME, kafka://host:port/topic, nats://host:port/subject, redis://host:port/stream, rabbitmq://host:port/stream, "
    "kinesis://region/stream or pubsub://project/topic"
)
_PACKAGES = {
    "kafka": "confluent_kafka",
    "nats": "nats",
    "redis": "redis",
    "rabbitmq": "aio_pika",
    "kinesis": "boto3",
    "pubsub": "google.cloud.pubsub_v1",
}
_ALSO = {"amqp": "rabbitmq"}
"""Other words for an engine."""


class Place(NamedTuple):
    """A stream's address, read.

    Args:
        scheme: ``log``, ``kafka``, ``nats``, ``redis``, ``rabbitmq``, ``kinesis`` or ``pubsub``.
        servers: ``host:port``, several joined by commas; a region for Kinesis, a project for Pub/Sub; empty for a log.
        name: The log, topic, subject, stream or queue.
        options: What stands behind the question mark.
    """

    scheme: str
    servers: str
    name: str
    options: dict[str, str]

    def sibling(self, ending: str) -> Place:
        """Return the stream beside this one whose name ends so."""
        return self._replace(name=self.name + ending)


def place_of(url: str, where: str) -> Place:
    """Read a stream's address.

    Args:
        url: The address.
        where: The option that gave it, for errors.

    Raises:
        InvalidInput: When it names no stream, or has credentials in it.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "log" and rest and not rest.startswith("//"):
        return Place("log", "", rest, {})
    parts = urlsplit(url)
    scheme = _ALSO.get(parts.scheme, parts.scheme)
    if scheme not in _PACKAGES or not parts.netloc or not parts.path.strip("/"):
        raise InvalidInput(f"{parts.scheme or url[:40]!r} names no stream", where=where, allowed=ALLOWED)
    if "@" in parts.netloc:
        raise InvalidInput(
            "an address with credentials ends up in logs",
            where=where,
            fix="see ?config=, ?credentials= or the environment",
        )
    return Place(scheme, parts.netloc, parts.path.strip("/"), dict(parse_qsl(parts.query, keep_blank_values=True)))


def open_source(place: Place, group: str, mark: Callable[[], str], folder: Path) -> Source:
    """Open a stream to read.

    Args:
        place: The stream.
        group: Who reads; each group reads every message.
        mark: Says how far the written streams are.
        folder: The folder of the workspace's own streams.

    Raises:
        InvalidInput: When an option is none of the engine's.
        Unavailable: When the engine's package is not installed, or the broker doesn't answer.
        Conflict: When another process reads for the group.
    """
    _check_package(place.scheme)
    engine: Callable[[str, str, str, Callable[[], str], dict[str, str]], Source]
    match place.scheme:
        case "kafka":
            from kilter.engines.streams import kafka  # noqa: PLC0415 - an extra

            options, engine = kafka.OPTIONS, kafka.KafkaSource
        case "nats":
            from kilter.engines.streams import jetstream  # noqa: PLC0415 - an extra

            options, engine = jetstream.OPTIONS, jetstream.JetStreamSource
        case "redis":
            from kilter.engines.streams import redis_streams  # noqa: PLC0415 - an extra

            options, engine = redis_streams.OPTIONS, redis_streams.RedisSource
        case "rabbitmq":
            from kilter.engines.streams import rabbitmq  # noqa: PLC0415 - an extra

            options, engine = rabbitmq.OPTIONS, rabbitmq.RabbitSource
        case "kinesis":
            from kilter.engines.streams import kinesis  # noqa: PLC0415 - an extra

            options, engine = kinesis.OPTIONS, kinesis.KinesisSource
        case "pubsub":
            from kilter.engines.streams import pubsub  # noqa: PLC0415 - an extra

            options, engine = pubsub.OPTIONS, partial(pubsub.PubSubSource, folder=folder)
        case _:
            from kilter.engines.streams.local import LogSource  # noqa: PLC0415 - as its neighbours

            return LogSource(folder, place.name, group, mark)
    _check_options(place, options)
    return engine(place.servers, place.name, group, mark, place.options)


def open_sink(place: Place, folder: Path) -> Sink:
    """Open a stream to write.

    Args:
        place: The stream.
        folder: The folder of the workspace's own streams.

    Raises:
        InvalidInput: When an option is none of the engine's.
        Unavailable: When the engine's package is not installed, or the broker doesn't answer.
        Conflict: When another process writes the log.
    """
    _check_package(place.scheme)
    options: tuple[str, ...]
    engine: Callable[[str, str, dict[str, str]], Sink]
    match place.scheme:
        case "kafka":
            from kilter.engines.streams import kafka  # noqa: PLC0415 - an extra

            options, engine = ("config",), kafka.KafkaSink
        case "nats":
            from kilter.engines.streams import jetstream  # noqa: PLC0415 - an extra

            options, engine = ("stream", "credentials"), jetstream.JetStreamSink
        case "redis":
            from kilter.engines.streams import redis_streams  # noqa: PLC0415 - an extra

            options, engine = ("db", "password"), redis_streams.RedisSink
        case "rabbitmq":
            from kilter.engines.streams import rabbitmq  # noqa: PLC0415 - an extra

            options, engine = ("vhost", "credentials", "tls"), rabbitmq.RabbitSink
        case "kinesis":
            from kilter.engines.streams import kinesis  # noqa: PLC0415 - an extra

            options, engine = ("profile", "endpoint"), kinesis.KinesisSink
        case "pubsub":
            from kilter.engines.streams import pubsub  # noqa: PLC0415 - an extra

            options, engine = ("settle", "endpoint", "credentials"), pubsub.PubSubSink
        case _:
            from kilter.engines.streams.local import LogSink  # noqa: PLC0415 - as its neighbours

            return LogSink(folder, place.name)
    _check_options(place, options)
    return engine(place.servers, place.name, place.options)


def _check_package(scheme: str) -> None:
    package = _PACKAGES.get(scheme)
    if package is not None and not _is_installed(package):
        raise Unavailable(
            f"the package for {scheme} is not installed", where=scheme, fix=f"pip install kilter[{scheme}]"
        )


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # what the package lies in is not there either
        return False


def _check_options(place: Place, allowed: Iterable[str]) -> None:
    unknown = sorted(set(place.options) - set(allowed))
    if unknown:
        raise InvalidInput(
            f"{place.scheme} has no option {unknown[0]!r}", where=place.name, allowed=", ".join(allowed) or "none"
        )
