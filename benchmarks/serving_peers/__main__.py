"""A model over the network: Kilter beside FastAPI written by hand, MLServer, LitServe, BentoML, Ray Serve and MLflow.

Every server with all its processes has one core, the load has the other, and the servers are asked in turns, round after
round. The first figure is the CPU that all of a server's processes used per request (user and system time); requests in a
second and latencies beside it. Kilter routes every row and records every answer before it is sent, as always; the others record
nothing. Before each round a fixed piece of work is done on both cores: a machine that does something else shows there.

- *trees*: XGBoost, 100 trees of depth 6 over 30 float32 columns, in the JSON of the Open Inference Protocol where the server
  speaks it and else in the server's own, and one row over gRPC;
- *linear*: a scaler and a logistic regression, 128 rows in JSON, and in each server's best form: the binary tensor extension,
  raw contents over gRPC, or bytes that a hand-written handler takes as a matrix.

Two floors: the body sent back by nothing but the front's HTTP, and the bare call of the model in the form that Kilter keeps
and in its own library. The peers don't agree on their requirements, so each has an environment of its own, PREFIX-NAME:

    python benchmarks/serving_peers --install peers | sh        # makes all of them; without sh it only says how
    python benchmarks/serving_peers --peers peers --rounds 5 --json

A peer without one is left out, and the result says so. wrk and h2load have to be installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

os.environ["OMP_NUM_THREADS"] = "1"

import load
import machine
import numpy as np
import peers
import rows
from machine import Cores, Spin
from peers import Server
from rows import Kind

FIGURES = ("cpu_us", "per_second", "p50_ms", "p99_ms")
Figures = dict[str, float]


class Case(NamedTuple):
    """What is asked.

    Args:
        kind: Which model.
        name: What the table calls it.
        forms: In which forms, as far as a server has them; Kilter's in the first one is what the others are held against.
        rows: Of a request.
        connections: Requests that are under way at a time.
    """

    kind: Kind
    name: str
    forms: tuple[str, ...]
    rows: int
    connections: int

    @property
    def reference(self) -> str:
        """What the others are held against."""
        return f"{peers.OURS} ({self.forms[0]})"


CASES = (
    Case("trees", "trees, 1 row, JSON, 1 at a time", ("json",), 1, 1),
    Case("trees", "trees, 1 row, JSON, 32 at a time", ("json",), 1, 32),
    Case("trees", "trees, 128 rows, JSON, 32 at a time", ("json",), 128, 32),
    Case("trees", "trees, 1 row, gRPC, 1 at a time", ("grpc",), 1, 1),
    Case("trees", "trees, 1 row, gRPC, 32 at a time", ("grpc",), 1, 32),
    Case("linear", "linear, 128 rows, JSON, 32 at a time", ("json",), 128, 32),
    Case("linear", "linear, 128 rows, not JSON, 32 at a time", ("binary", "grpc", "raw", "parquet"), 128, 32),
)


class Bench:
    """The rounds of one model.

    Args:
        kind: Which model.
        folder: Where its files go.
        options: What was asked for.
        cores: Where the two sides run.
    """

    def __init__(self, kind: Kind, folder: Path, options: argparse.Namespace, cores: Cores) -> None:
        self.options, self.cores, self.folder = options, cores, folder
        self.model, fitted_on = rows.fitted(kind)
        self.cases = [case for case in CASES if case.kind == kind]
        self.figures: dict[str, dict[str, list[Figures]]] = {case.name: {} for case in self.cases}
        self.spins: list[dict[str, Spin]] = []
        path = rows.saved(kind, self.model, folder)
        others, self.skipped = peers.peers(folder, kind, path, options.peers, options.only)
        ours = [peers.kilter(folder, kind, self.model, fitted_on[:500]), peers.echo(folder, kind)]
        self.servers = [*ours, *others]
        self.calls = model_calls(self.model, fitted_on[:500])

    def start(self) -> None:
        """Start everybody; who can't be started, or doesn't give the model's answers, is left out."""
        for server in tuple(self.servers):
            try:
                server.start(self.cores.server)
                if not server.floor:
                    for rows_asked in (1, 128):
                        for form in server.forms:
                            server.answers = rows.check(load.once(server, form, rows_asked), self.model, rows_asked)
                load.warm(server, server.forms, self.cores, self.folder)
            except (RuntimeError, ValueError, OSError) as error:
                if server.name == peers.OURS:
                    raise
                self._leave_out(server, str(error))

    def round(self, number: int) -> None:
        """Ask everybody everything once; who is first changes from round to round."""
        self.spins.append({"server": machine.spin(self.cores.server), "client": machine.spin(self.cores.client)})
        first = number % len(self.servers)
        for case in self.cases:
            for server in (*self.servers[first:], *self.servers[:first]):
                self._ask(server, case)
            for name, call in self.calls.items():
                with machine.pinned(self.cores.server):
                    self.figures[case.name].setdefault(name, []).append({"cpu_us": call(case.rows)})

    def _ask(self, server: Server, case: Case) -> None:
        try:
            for form in server.forms:
                if form.name in case.forms:
                    found = load.run(
                        server, form, case.rows, case.connections, self.options.seconds, self.cores, self.folder
                    )
                    self.figures[case.name].setdefault(f"{server.name} ({form.name})", []).append(found)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            if server.name == peers.OURS:
                raise
            self._leave_out(server, f"it failed under load: {error}")

    def _leave_out(self, server: Server, reason: str) -> None:
        """Say why a server is not compared, and forget what it did."""
        self.skipped[server.name] = reason
        server.stop()
        self.servers.remove(server)
        for figures in self.figures.values():
            for form in server.forms:
                figures.pop(f"{server.name} ({form.name})", None)

    def stop(self) -> None:
        """End everybody."""
        for server in self.servers:
            server.stop()


def model_calls(model: Any, example: np.ndarray) -> dict[str, Callable[[int], float]]:
    """Return what measures the bare call of a model: in the form that Kilter keeps, and in its own library."""
    from kilter.loop.versions.deploy import packaged
    from kilter.packaging.forms import choose
    from kilter.packaging.loading import load_model

    choice = choose(packaged(model, example))
    parts = choice.best
    kept = load_model(parts.manifest.spec(), parts.model)

    def timed(ask: Callable[[], object]) -> float:
        ask()
        used, count = time.thread_time(), 0
        while time.thread_time() - used < 0.1:
            ask()
            count += 1
        return (time.thread_time() - used) / count * 1e6

    def bare(count: int) -> float:
        payload = rows.asked(count).astype(np.float64).tobytes()
        return timed(lambda: kept.predict(payload, count, rows.COLUMNS))

    def library(count: int) -> float:
        asked = rows.asked(count)
        return timed(lambda: model.predict_proba(asked))

    return {f"{peers.FLOOR}the model call ({choice.name})": bare, f"{peers.FLOOR}predict_proba": library}


def summary(bench: Bench) -> dict[str, Any]:
    """Return the medians of the rounds, and of each round's ratio to Kilter."""
    answers = {f"{server.name} ({form.name})": server.answers for server in bench.servers for form in server.forms}
    table: dict[str, Any] = {}
    for case in bench.cases:
        figures = bench.figures[case.name]
        ours = figures[case.reference]
        table[case.name] = {}
        for name, found in figures.items():
            one: dict[str, Any] = {
                key: round(statistics.median(each[key] for each in found), 3) for key in FIGURES if key in found[0]
            }
            ratios = [each["cpu_us"] / kilter["cpu_us"] for each, kilter in zip(found, ours, strict=True)]
            one["times_kilter"] = round(statistics.median(ratios), 2)
            one["times_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
            if answers.get(name):
                one["answers"] = answers[name]
            table[case.name][name] = one
    return table


def best_peers(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return per case the peer that used the least; where 128 rows may come in any form, in whatever form it does best."""
    found = {}
    for case in CASES:
        alike = [one for one in CASES if one.kind == "linear"] if case.forms[0] == "binary" else [case]
        rivals = {
            name: figures["cpu_us"]
            for one in alike
            for name, figures in table.get(one.name, {}).items()
            if not name.startswith((peers.OURS, peers.FLOOR))
        }
        if rivals:
            best = min(rivals, key=lambda name: rivals[name])
            ours = table[case.name][case.reference]["cpu_us"]
            found[case.name] = {"peer": best, "cpu_us": rivals[best], "times_kilter": round(rivals[best] / ours, 2)}
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    cores = machine.two_cores()
    kinds = [kind for kind in get_args(Kind) if options.case in {"all", kind}]
    result: dict[str, Any] = {"rounds": options.rounds, "seconds": options.seconds, "cases": {}, "skipped": {}}
    spins: list[dict[str, Spin]] = []
    for kind in kinds:
        with tempfile.TemporaryDirectory() as name:
            bench = Bench(kind, Path(name), options, cores)
            try:
                bench.start()
                for number in range(options.rounds):
                    bench.round(number)
            finally:
                bench.stop()
        spins.extend(bench.spins)
        result["cases"] |= summary(bench)
        result["skipped"] |= bench.skipped
    result["best_peer"] = best_peers(result["cases"])
    result["versions"] = {
        name: peers.version(name, options.peers)
        for name in options.only or peers.PACKAGES
        if name not in result["skipped"]
    }
    result["machine"] = {side: machine.noise(one[side] for one in spins) for side in ("server", "client")}
    result["spins"] = [{side: one[side]._asdict() for side in one} for one in spins]
    return result


def show(result: dict[str, Any]) -> None:
    for case, found in result["cases"].items():
        print(f"\n{case:46} {'CPU us':>9} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8}  times Kilter's CPU")
        for name, one in sorted(found.items(), key=lambda item: item[1]["cpu_us"]):
            rest = (
                f"{one['per_second']:8.0f} {one['p50_ms']:8.2f} {one['p99_ms']:8.2f}" if "p50_ms" in one else " " * 26
            )
            low, high = one["times_range"]
            print(f"{name:46} {one['cpu_us']:9.1f} {rest}  {one['times_kilter']:7.2f}  ({low:.2f} to {high:.2f})")
        if case in result["best_peer"]:
            best = result["best_peer"][case]
            print(f"the best peer: {best['peer']}, {best['times_kilter']} times Kilter's CPU")
    print()
    for name, reason in result["skipped"].items():
        print(f"left out: {name}: {reason.strip().splitlines()[-1]}")
    for side, one in result["machine"].items():
        said = "quiet" if one["quiet"] else "NOT QUIET: repeat it on an idle machine"
        print(f"{side} core: {said}; least share {one['least_share']:.0%}, speed moved by {one['speed_moved']:.0%}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", metavar="PREFIX", help="the environment of a peer is PREFIX-NAME")
    parser.add_argument("--install", metavar="PREFIX", help="print how the environments are made, and end")
    parser.add_argument(
        "--only", nargs="+", choices=tuple(peers.PACKAGES), default=[], help="these peers and no others"
    )
    parser.add_argument("--case", choices=("all", *get_args(Kind)), default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of load per case, server and round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.install:
        same = " ".join(f"{name}=={importlib.metadata.version(name)}" for name in ("scikit-learn", "xgboost"))
        for name, packages in peers.PACKAGES.items():
            place = f"{options.install}-{name}"
            print(f"python -m venv {place} && {place}/bin/pip install {packages} {same}")
        return 0
    missing = load.missing_tools()
    if missing:
        raise SystemExit(f"these have to be installed: {', '.join(missing)}")
    result = measure(options)
    print(load.as_json(result)) if options.json else show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
