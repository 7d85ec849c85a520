"""How an exported container starts: the bundle beside it becomes a store of its own, and ``kilter serve`` answers with it.

Where to listen is told by the platform: ``KILTER_PORT``, Vertex AI's ``AIP_HTTP_PORT``, SageMaker's ``SAGEMAKER_BIND_TO_PORT``, or
``PORT``. Callers need the token in ``KILTER_TOKEN``, or in the file that ``KILTER_TOKEN_FILE`` names. Where the platform itself
lets only its own callers through and hands no token on, ``KILTER_GUARDED_BY`` says which. Of the prediction log as much is kept as
``KILTER_LOG_SIZE`` says; nobody else trims it in a container.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kilter.core.access import check_bind
from kilter.core.clock import SystemClock
from kilter.core.errors import InvalidInput, KilterError, Unavailable
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.loop.store import Store
from kilter.packaging.bundle import keep
from kilter.packaging.export.container import ENDPOINT, PORT, STORE, TRUSTED, read_model
from kilter.serving.recording.retention import parse_size
from kilter.serving.records import TrafficPlan
from kilter.serving.service import EndpointService

_PORTS = ("KILTER_PORT", "AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT", "PORT")
_NAP = 5
_MOUNTED = "/opt/ml/model"
"""Where SageMaker lays what a model.tar.gz held."""


def prepare(folder: Path, store: Path) -> str:
    """Make a store whose only endpoint answers with an exported bundle; doing it again changes nothing.

    Args:
        folder: The exported model.
        store: A folder that can be written.

    Returns:
        The endpoint's name.

    Raises:
        Damaged: When the model is not the one that was exported.
        Unavailable: When the store can't be written.
    """
    endpoint, parts = read_model(folder)
    where = Store.parse(str(store), None)
    try:
        where.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"the store can't be written: {error.strerror}", where=str(store),
                          fix="mount a volume there, or set KILTER_STORE") from error  # fmt: skip
    database = Database.open(where.database)
    try:
        database.migrate()
        keep(parts, ObjectStore.open(where.objects))
        EndpointService(database, SystemClock()).set_plan(
            TrafficPlan(
                loop=endpoint.name,
                champion=endpoint.version,
                bundles={endpoint.version: endpoint.bundle},
                fallback=endpoint.fallback,
            )
        )
    finally:
        database.close()
    return endpoint.name


def command(folder: Path, environment: Mapping[str, str], more: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Return the command that serves a prepared store, and its environment.

    Args:
        folder: The exported model; what SageMaker has mounted goes before it.
        environment: What the platform says.
        more: Flags of ``kilter serve``, such as ``--replicas 4`` or ``--grpc-port 9000``.

    Raises:
        Forbidden: When anybody could ask: there is neither a token nor a platform that guards the port.
        InvalidInput: When a port is none, or the token's file can't be read.
    """
    given = next(((name, environment[name]) for name in _PORTS if environment.get(name)), ("", str(PORT)))
    name, port = given
    if not (port.isascii() and port.isdigit() and 0 <= int(port) < 65536):
        raise InvalidInput(f"{port!r} is no port", where=name, allowed="0 to 65535")
    store = Path(environment.get("KILTER_STORE") or STORE)
    settings = {**environment, "KILTER_STORE": str(store)}
    file = environment.get("KILTER_TOKEN_FILE")
    if file and not environment.get("KILTER_TOKEN"):
        try:
            settings["KILTER_TOKEN"] = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise InvalidInput(f"the token can't be read: {error.strerror}", where="KILTER_TOKEN_FILE") from error
    host = environment.get("KILTER_HOST") or "0.0.0.0"  # noqa: S104 - a container is reached from outside; a token is asked for
    check_bind(host, settings.get("KILTER_TOKEN") or settings.get("KILTER_GUARDED_BY"))
    model = Path(_MOUNTED) if (Path(_MOUNTED) / ENDPOINT).is_file() else folder
    prepare(model, store)
    if (model / TRUSTED).is_file():
        settings.setdefault("KILTER_TRUST", str(model / TRUSTED))
    serve = ["serve", "--store", str(store), "--host", host, "--port", port, *more]
    return [sys.executable, "-m", "kilter.cli.main", *serve], settings


def trimming(store: str, size: str, process: int, every: int = 600) -> list[str]:
    """Return the command that trims a store's prediction log as long as a process lives; a shell, which holds no memory.

    Args:
        store: The store.
        size: How much of the log is kept.
        process: The process.
        every: Seconds from one look to the next.

    Raises:
        InvalidInput: When the size is none.
    """
    parse_size(size, where="KILTER_LOG_SIZE")
    trim = shlex.join([sys.executable, "-m", "kilter.cli.main", "log", "trim", "--no-archive", "--size", size,
                       "--store", store])  # fmt: skip
    looks = max(every // _NAP, 1)
    loop = f"n=0; while kill -0 {process} 2>&-; do sleep {_NAP}; n=$((n + 1)); [ $((n % {looks})) -ne 0 ] || {trim} >&-; done"
    return ["/bin/sh", "-c", loop]


def main() -> None:
    """Prepare the store and become ``kilter serve``."""
    try:
        folder, *more = sys.argv[1:]
        arguments, settings = command(Path(folder), os.environ, more[1:] if more[:1] == ["serve"] else more)
        trim = trimming(settings["KILTER_STORE"], os.environ.get("KILTER_LOG_SIZE") or "2 GB", os.getpid())
    except KilterError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    subprocess.Popen(trim, stdin=subprocess.DEVNULL, env=settings)  # noqa: S603 - it ends with this process
    os.execve(sys.executable, arguments, settings)  # noqa: S606 - this very interpreter


if __name__ == "__main__":
    main()
