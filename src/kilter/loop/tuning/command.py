"""A trial that is a command: it is given its parameters as arguments, and its run to write to."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from kilter.core.errors import InvalidInput, KilterError
from kilter.loop.tuning.output import KEPT, tail_of
from kilter.loop.tuning.records import StudySpec
from kilter.loop.tuning.trial import Ended, Trial
from kilter.tracking.service import RunService

_LOOK: Final = 0.2
_GRACE: Final = 5.0
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG


def run_command(trial: Trial, spec: StudySpec, detail: Mapping[str, object], runs: RunService, store: str) -> Ended:
    """Run a trial's command to its end, or until it is not worth going on.

    The result is the newest value of the metric that the command logged to its run (``kilter.run()`` joins it), else the last
    line of its output that is a JSON object with the metric's name.
    """
    with tempfile.TemporaryDirectory(prefix="kilter-tune-") as folder:
        output = Path(folder) / "output"
        written = Path(folder) / "args.json"
        nested = nest(trial.params)
        written.write_text(json.dumps(nested), encoding="utf-8")
        template = [str(part) for part in detail["command"]]  # type: ignore[attr-defined]
        argv = arguments(template, str(detail.get("program", "")), nested, str(written))
        environment = {
            **os.environ,
            "KILTER_RUN": trial.run,
            "KILTER_STORE": store,
            "KILTER_TRIAL": str(trial.number),
            "KILTER_SEED": str(trial.seed),
        }
        with output.open("wb") as sink:
            try:
                process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
                    argv,
                    env=environment,
                    cwd=str(detail.get("folder") or "."),
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_bound if sys.platform == "linux" else None,  # noqa: PLW1509 - this process has one thread
                )
            except OSError as error:
                return Ended(state="failed", reason=f"{argv[0]}: {error.strerror}")
            try:
                stopped = _watch(process, trial, spec, runs)
            finally:
                _stop(process)
        tail = tail_of(output)
        if tail:
            runs.log_artifact(trial.run, KEPT, tail)
    if stopped:
        return Ended(state="pruned", reports=trial.reports)
    if process.returncode:
        said = tail.decode(errors="replace").strip().splitlines()
        ending = f"status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        return Ended(state="failed", reason=f"the command ended with {ending}: {said[-1] if said else ''}"[:1000])
    _follow(trial, spec, runs)
    return _result(trial, spec, runs, tail)


def arguments(template: Sequence[str], program: str, params: Mapping[str, Any], file: str) -> list[str]:
    """Return a command with its macros filled in, as W&B's agents do it.

    Args:
        template: The parts, with ``${args}`` and its kin.
        program: What ``${program}`` stands for.
        params: The parameters.
        file: What ``${args_json_file}`` stands for.

    Raises:
        InvalidInput: When a macro or an environment variable is not known.
    """
    flags = {name: f"{name}={_said(value)}" for name, value in params.items()}
    switches = {name: f"--{name}" if value is True else f"--{flags[name]}" for name, value in params.items()}
    macros = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": [sys.executable],
        "${program}": [program],
        "${args}": [f"--{flag}" for flag in flags.values()],
        "${args_no_hyphens}": list(flags.values()),
        "${args_no_boolean_flags}": [switch for name, switch in switches.items() if params[name] is not False],
        "${args_json}": [json.dumps(params)],
        "${args_json_file}": [file],
    }
    return [said for part in template for said in (macros[part] if part in macros else [_variable(part)])]


def _variable(part: str) -> str:
    """Return what ``${envvar:NAME}`` stands for; anything else is itself."""
    if not (part.startswith("${envvar:") and part.endswith("}")):
        return part
    name = part[len("${envvar:") : -1]
    if name not in os.environ:
        raise InvalidInput(f"the environment has no {name}", where="command", fix=f"export {name}=...")
    return os.environ[name]


def nest(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with a dot in their name as groups: ``optimizer.lr`` is ``lr`` in ``optimizer``."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        *groups, last = name.split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return found


def _said(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _watch(process: subprocess.Popen[bytes], trial: Trial, spec: StudySpec, runs: RunService) -> bool:
    """Wait for the end of a command; return whether it is stopped because others are better."""
    waited = 0.01
    while True:
        try:
            process.wait(waited)
        except subprocess.TimeoutExpired:
            waited = min(waited * 2, _LOOK)
        else:
            return False
        if spec.pruner.kind != "none" and waited >= _LOOK:
            _follow(trial, spec, runs)
            if trial.should_prune():
                return True


def _follow(trial: Trial, spec: StudySpec, runs: RunService) -> None:
    """Take what the command has logged as the trial's own reports."""
    if len(spec.goals) > 1:
        return
    try:
        points = runs.metrics(trial.run, spec.goals[0].metric, after=max(trial.reports, default=None))
    except KilterError:  # a store that is away for a moment
        return
    for point in points:
        trial.reports[point.step] = point.number


def _result(trial: Trial, spec: StudySpec, runs: RunService, tail: bytes) -> Ended:
    run = runs.get(trial.run)
    said = _spoken(tail)
    values: list[float] = []
    logged = True
    for goal in spec.goals:
        value = run.metric(goal.metric)
        logged = logged and value is not None
        if value is None and isinstance(said.get(goal.metric), int | float):
            value = float(said[goal.metric])
        if value is None:
            fix = f'log it with kilter.run(), or print {{"{goal.metric}": ...}} as the last line'
            return Ended(state="failed", reason=f"the command ended without the metric {goal.metric!r}: {fix}")
        values.append(value)
    return msgspec.structs.replace(trial.ended(tuple(values)), logged=logged)


def _spoken(tail: bytes) -> dict[str, Any]:
    for line in reversed(tail.decode(errors="replace").splitlines()):
        if line.strip().startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return {}


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a command and everything that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + _GRACE
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)


def _bound() -> None:
    """Let the kernel end the command when the worker is killed, which can't do it then."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
