"""``kilter up``, and the parts that it runs: server, serve, controller; ``kilter link`` opens the page of a running one."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, plain, say
from kilter.cli.target import DEFAULT_HOST, DEFAULT_PORT, address, environment, store_name, store_of
from kilter.cli.tuning import add_flags, passed_on, tuned
from kilter.core.errors import InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    from kilter.operations.running import RunFolder
    from kilter.server.supervisor import Happening, Part
    from kilter.serving.front.process import FrontConfig

_TEXTS = {
    "up": "Run server, endpoints and controller on a store as one group of processes, and keep them running.",
    "server": "Run the server alone: operations over HTTP, the journal as a stream, the pages.",
    "serve": "Run the front of the endpoints alone: it answers predictions, and runs a process per version.",
    "controller": "Run the controller alone. A second one on the same store waits until the first is gone.",
    "link": "Print a link that opens the page of the server that runs on the store; it can be used once.",
}


def build(parser: Parser, command: str) -> None:
    """Add the arguments of one of the commands."""
    parser.description = _TEXTS[command]
    parser.set_defaults(run=_RUNS[command])
    if command == "link":
        return
    parser.add_argument("--clock", default="system", help="system, or file:PATH of a simulated one")
    if command in {"up", "controller"}:
        parser.add_argument("--preload", action="append", default=[], metavar="MODULE",
                            help="a framework that trainings will need: imported before the first one")  # fmt: skip
    if command == "controller":
        return
    parser.add_argument("--host", help="the address to listen on (default: 127.0.0.1)")
    default = DEFAULT_PORT + (command == "serve")
    parser.add_argument("--port", type=int, help=f"the port, 0 for a free one (default: {default})")
    if command == "up":
        parser.add_argument("--serve-port", type=int, help="the endpoints' port (default: the one after --port)")
    if command in {"up", "serve"}:
        parser.add_argument("--grpc-port", type=int, help="a port for gRPC, 0 for a free one (default: no gRPC)")
        add_flags(parser)
    if command == "serve":
        parser.add_argument("--ray", nargs="?", const="", metavar="ADDRESS",
                            help="serve on Ray: on the cluster at ADDRESS (auto, HOST:PORT), or on this machine alone")  # fmt: skip
    if command in {"up", "server"}:
        parser.add_argument("--tls-cert", type=Path, help="certificate chain in PEM")
        parser.add_argument("--tls-key", type=Path, help="its key in PEM")
        parser.add_argument("--insecure", action="store_true", help="TLS ends at a proxy before this machine")


def _up(options: argparse.Namespace) -> None:
    from kilter.core.clock import SystemClock  # noqa: PLC0415
    from kilter.operations.running import Running  # noqa: PLC0415
    from kilter.server.access import Sessions, link_of, make_access  # noqa: PLC0415
    from kilter.server.ports import free_port  # noqa: PLC0415
    from kilter.server.preflight import check_folder, only_one  # noqa: PLC0415
    from kilter.server.supervisor import Supervisor  # noqa: PLC0415

    store, run = _local(options), _run_folder(options)
    tuned(options, environment(options.env))  # what can't be honoured is told here, not by a part that ends
    check_folder(run.path.parent)
    run.make()
    host, wanted = address(options)
    serve_wanted = (wanted and wanted + 1) if options.serve_port is None else options.serve_port
    with only_one(run.path / "up.lock", store):
        port, serve_port = free_port(host, wanted), free_port(host, serve_wanted, "--serve-port")
        if port == serve_port:
            raise InvalidInput("server and endpoints can't share a port", where="--serve-port", allowed="another port")
        grpc_port = _grpc_port(options, host, (port, serve_port))
        access = make_access(run, host, port, tls=options.tls_cert is not None, insecure=options.insecure)
        tell = _Teller(as_json=options.json)
        supervisor = Supervisor(_parts(options, store, host, port, serve_port, grpc_port), run, tell.happened)
        clock = SystemClock()
        running = Running("up", os.getpid(), clock.now(), host, port, access.url)

        def ready() -> None:
            run.write(running)
            key = Sessions(access.tokens["admin"], clock).link()
            grpc = "" if grpc_port is None else f"{_name(host)}:{grpc_port}"
            tell.ready(link_of(access.url, key), access.url, f"http://{_name(host)}:{serve_port}", grpc)

        try:
            supervisor.run(ready)
        finally:
            run.remove("up", os.getpid())


def _grpc_port(options: argparse.Namespace, host: str, taken: tuple[int, ...]) -> int | None:
    """Return the port for gRPC, or None without one.

    Raises:
        InvalidInput: When it is another part's, too.
    """
    from kilter.server.ports import free_port  # noqa: PLC0415

    if options.grpc_port is None:
        return None
    port = free_port(host, options.grpc_port, "--grpc-port")
    if port in taken:
        raise InvalidInput("gRPC can't share a port", where="--grpc-port", allowed="another port")
    return port


def _parts(
    options: argparse.Namespace, store: str, host: str, port: int, serve_port: int, grpc_port: int | None
) -> tuple[Part, ...]:
    from kilter.server.supervisor import Part  # noqa: PLC0415

    where = ["--store", store, "--clock", options.clock]
    where += ["--home", options.home] if options.home else []
    where += ["--env", options.env] if options.env else []
    tls = ["--tls-cert", str(options.tls_cert)] if options.tls_cert else []
    tls += ["--tls-key", str(options.tls_key)] if options.tls_key else []
    tls += ["--insecure"] if options.insecure else []
    grpc = [] if grpc_port is None else ["--grpc-port", str(grpc_port)]
    preload = [word for module in options.preload for word in ("--preload", module)]
    return (
        Part("server", ("server", *where, "--host", host, "--port", str(port), *tls)),
        # A front is ready for traffic only once a model is there; to be up, it only has to live.
        Part(
            "serve",
            ("serve", *where, "--host", host, "--port", str(serve_port), *grpc, *passed_on(options)),
            probe="/livez",
        ),
        Part("controller", ("controller", *where, *preload), probe=""),
    )


class _Teller:
    """Tells people in a few lines, and programs in one JSON line for each happening."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._up = False

    def happened(self, happening: Happening) -> None:
        if self._as_json:
            self._line(
                {"event": happening.what, "part": happening.part, "pid": happening.pid, "detail": happening.detail}
            )
        elif happening.what == "died":
            say(f"{happening.part} {happening.detail}")
        elif happening.what == "ready" and self._up:
            say(f"{happening.part} is back")
        elif happening.what == "stopping" and self._up:
            say("stopping")

    def ready(self, link: str, page: str, endpoints: str, grpc: str) -> None:
        self._up = True
        if self._as_json:
            more = {"grpc": grpc} if grpc else {}
            self._line({"event": "up", "link": link, "page": page, "endpoints": endpoints, **more})
        else:
            say(f"kilter is up: {link}")
            say(f"  predictions: POST {endpoints}/predict/LOOP    stop: Ctrl-C")
            if grpc:
                say(f"  gRPC: {grpc}")

    def _line(self, what: dict[str, object]) -> None:
        sys.stdout.write(msgspec.json.encode(what).decode() + "\n")
        sys.stdout.flush()


def _server(options: argparse.Namespace) -> None:
    _prepare()
    from kilter.server.process import ServerConfig, run  # noqa: PLC0415

    _keep_modules()
    host, port = address(options)
    overlay = environment(options.env)
    keep = {} if overlay is None else {"keep": overlay.keep}
    run(
        ServerConfig(
            store=_local(options),
            home=options.home,
            host=host,
            port=port,
            clock=options.clock,
            tls_cert=options.tls_cert,
            tls_key=options.tls_key,
            insecure=options.insecure,
            **keep,
        )
    )


def _serve(options: argparse.Namespace) -> None:
    _prepare()
    from kilter.core.clock import SystemClock  # noqa: PLC0415
    from kilter.engines.online.store import OnlineStore  # noqa: PLC0415
    from kilter.engines.sql.database import Database  # noqa: PLC0415
    from kilter.operations.running import Running  # noqa: PLC0415
    from kilter.server.ports import free_port  # noqa: PLC0415
    from kilter.serving.front.process import FrontConfig, run  # noqa: PLC0415

    _local(options)
    store = store_of(options)
    serve: Callable[[FrontConfig], None] = run if options.ray is None else _on_ray(options)
    host, wanted = address(options)
    port = (wanted and wanted + 1) if options.port is None else wanted
    if not options.ray:  # on a cluster, its proxy may be there already
        port = free_port(host, port)
    grpc_port = _grpc_port(options, host, (port,))
    if grpc_port is not None:
        say(f"gRPC: {_name(host)}:{grpc_port}")
    settings, single, memory = tuned(options, environment(options.env))
    # The front only reads: whoever starts first makes what there is to read.
    store.folder.mkdir(parents=True, exist_ok=True)
    database = Database.open(store.database)
    database.migrate()
    database.close()
    online = store.folder / "online"
    OnlineStore.open(online).close()
    folder = store.run
    folder.write(Running("serve", os.getpid(), SystemClock().now(), host, port, f"http://{_name(host)}:{port}"))
    try:
        serve(
            FrontConfig(
                database=store.database,
                objects=store.objects,
                logs=str(store.folder / "log" / "predictions"),
                online=str(online),
                host=host,
                port=port,
                grpc_port=grpc_port,
                token=os.environ.get("KILTER_TOKEN"),
                guarded_by=os.environ.get("KILTER_GUARDED_BY", ""),
                clock=options.clock,
                otlp=os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
                or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
                otlp_share=_trace_share(),
                settings=settings,
                endpoints=single,
                memory=memory,
            )
        )
    finally:
        folder.remove("serve", os.getpid())


def _on_ray(options: argparse.Namespace) -> Callable[[FrontConfig], None]:
    """Return what serves on Ray.

    Raises:
        InvalidInput: When something is asked for that is not there on Ray.
        Unavailable: When the extra is missing.
    """
    if options.grpc_port is not None:
        raise InvalidInput("Ray Serve has no port for our gRPC", where="--grpc-port", fix="leave it out with --ray")
    try:
        from kilter.serving.ray.application import run  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed", where="--ray", fix='pip install "kilter[ray]"') from error
    return partial(run, address=options.ray, ready=lambda url: say(f"predictions: POST {url}/predict/LOOP"))


def _trace_share() -> float:
    """Return the share of requests that begin a trace: ``OTEL_TRACES_SAMPLER_ARG``, as OpenTelemetry names it.

    Raises:
        InvalidInput: When it is no share.
    """
    given = os.environ.get("OTEL_TRACES_SAMPLER_ARG", "1")
    try:
        return float(given)
    except ValueError:
        raise InvalidInput("that is no share", where="OTEL_TRACES_SAMPLER_ARG", allowed="0 to 1") from None


def _controller(options: argparse.Namespace) -> None:
    _prepare()
    from kilter.loop.controller import ControllerConfig, run  # noqa: PLC0415

    _keep_modules()
    _local(options)
    store = store_of(options)
    store.folder.mkdir(parents=True, exist_ok=True)
    run(ControllerConfig(store=store, clock=options.clock, preload=tuple(options.preload)))


def _link(options: argparse.Namespace) -> None:
    from kilter.core.clock import SystemClock  # noqa: PLC0415
    from kilter.server.access import Sessions, link_of  # noqa: PLC0415

    run = _run_folder(options)
    running, token = run.living("server"), run.token()
    if running is None or token is None:
        raise NotFound("no server runs on this store", where=_local(options), fix="start one with `kilter up`")
    link = link_of(running.url, Sessions(token, SystemClock()).link())
    answer({"link": link, "page": running.url}, as_json=options.json, show=lambda: say(plain(link)))


_RUNS = {"up": _up, "server": _server, "serve": _serve, "controller": _controller, "link": _link}


def _keep_modules() -> None:
    """Spare the collector what is loaded by now: it stays as long as the process does.

    To look for garbage first would take a tenth of the start, and imports leave next to none.
    """
    gc.freeze()


def _prepare() -> None:
    """Make this process a good part: it logs to standard error, and ends with its supervisor if it has one."""
    from kilter.server.lifeline import hold_on  # noqa: PLC0415

    hold_on()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)


def _local(options: argparse.Namespace) -> str:
    """Return the store's name.

    Raises:
        InvalidInput: When it is a server's address: processes run on stores.
    """
    name = store_name(options)
    if name.startswith(("http://", "https://")):
        raise InvalidInput(
            "a process runs on a store, not on a server", where="--store", allowed="a folder or a database"
        )
    return name


def _run_folder(options: argparse.Namespace) -> RunFolder:
    """Return the folder ``run`` of the store, without importing the rooms when the store is a folder."""
    from kilter.operations.running import RunFolder  # noqa: PLC0415

    name = _local(options)
    return store_of(options).run if "://" in name else RunFolder(Path(name).expanduser().resolve() / "run")


def _name(host: str) -> str:
    """Return the address as it stands in a URL that works on this machine."""
    name = DEFAULT_HOST if host in {"0.0.0.0", ""} else "::1" if host == "::" else host.strip("[]")  # noqa: S104
    return f"[{name}]" if ":" in name else name
