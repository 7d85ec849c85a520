"""``kilter experiment``: let versions share an endpoint's traffic, and compare them."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser, verbs
from kilter.cli.output import answer, plain, say, table
from kilter.cli.target import connected, who
from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.release.records import Arm, ExperimentStatus

_ARM = re.compile(r"^([^=]+)=v?(\d{1,9})(?::(\d+(?:\.\d+)?))?$", re.ASCII)


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    start = add("start", "let several versions share the traffic", _start)
    start.add_argument("loop", help="the endpoint")
    start.add_argument("name", help="the experiment's name")
    start.add_argument(
        "--arm",
        action="append",
        required=True,
        metavar="NAME=VERSION[:SHARE]",
        help="an arm, such as control=v3 or blue=v4:30; the first one is what answers now",
    )
    start.add_argument("--metric", required=True, help="loss, errors, or the name of a metric that is observed")
    start.add_argument("--low", type=float, default=0.0, help="the metric's least value (default: 0)")
    start.add_argument("--high", type=float, default=1.0, help="the metric's greatest value (default: 1)")
    start.add_argument("--less-is-better", action="store_true", help="a smaller value of the metric is better")
    start.add_argument("--within", help="how long after its prediction a value may come: 2d")
    start.add_argument("--missing", type=float, help="what a row without a value counts as then")
    start.add_argument("--confidence", type=float, default=0.95, help="over all arms and looks (default: 0.95)")
    start.add_argument("--pre", default="", metavar="PERIOD", help="the period before it that is used for CUPED: 28d")
    start.add_argument("--bandit", action="store_true", help="let the shares follow the chance of being best")
    start.add_argument("--every", default="1h", help="how often a bandit's shares are drawn anew (default: 1h)")
    start.add_argument("--floor", type=float, default=0.05, help="the least share of a bandit's arm (default: 0.05)")
    status = add("status", "each arm against the control, valid whenever one looks", _status)
    status.add_argument("loop", help="the endpoint")
    status.add_argument("name", nargs="?", help="one experiment; all of the endpoint, without results, if not given")
    stop = add("stop", "end an experiment; the control answers everything again", _stop)
    stop.add_argument("loop", help="the endpoint")
    stop.add_argument("name", help="the experiment's name")
    stop.add_argument("--reason", default="", help="why; it is kept in the journal")
    add("list", "the experiments of every endpoint", _list)


def _start(options: argparse.Namespace) -> None:
    arms = [_arm(text) for text in options.arm]
    with connected(options) as kilter:
        found = kilter.experiments.start(
            options.loop,
            options.name,
            arms,
            options.metric,
            low=options.low,
            high=options.high,
            greater_is_better=not options.less_is_better,
            within=options.within,
            missing=options.missing,
            confidence=options.confidence,
            pre=options.pre,
            allocation="thompson" if options.bandit else "fixed",
            every=options.every,
            floor=options.floor,
            by=who(),
        )
    answer(found, as_json=options.json, show=lambda: _show(found))


def _status(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        if options.name is None:
            every = kilter.experiments.list(options.loop)
            answer(every, as_json=options.json, show=lambda: _show_all(every))
        else:
            one = kilter.experiments.status(options.loop, options.name)
            answer(one, as_json=options.json, show=lambda: _show(one))


def _stop(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.experiments.stop(options.loop, options.name, options.reason, who())
    answer(found, as_json=options.json, show=lambda: _show(found))


def _list(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.experiments.list()
    answer(found, as_json=options.json, show=lambda: _show_all(found))


def _arm(text: str) -> Arm:
    """Return the arm that ``blue=v4:30`` names."""
    from kilter.release.records import Arm  # noqa: PLC0415 - the other verbs' help needs no records

    found = _ARM.match(text)
    if found is None:
        raise InvalidInput(
            f"{text!r} is no arm", where="--arm", allowed="NAME=VERSION or NAME=VERSION:SHARE, like blue=v4:30"
        )
    name, version, share = found.groups()
    return Arm(name=name, version=int(version), share=float(share or 1.0))


def _show_all(found: tuple[ExperimentStatus, ...]) -> None:
    table(
        ("endpoint", "experiment", "phase", "arms", "metric", "started"),
        (
            (
                one.plan.loop,
                one.plan.name,
                one.phase,
                ", ".join(f"{arm.name}=v{arm.version}" for arm in one.plan.arms),
                one.plan.metric,
                one.started_at,
            )
            for one in found
        ),
        empty="no experiment was started: `kilter experiment start`",
    )


def _show(found: ExperimentStatus) -> None:
    plan = found.plan
    up = "more" if plan.greater_is_better else "less"
    say(f"{plan.loop}: experiment {plan.name} ({found.phase}), {plain(plan.metric)}, {up} is better")
    for arm in found.arms:
        value = "no outcome yet" if arm.value is None else str(arm.value)
        say(f"  {plain(arm.name)} (v{arm.version}, {arm.share:.1%}): {value}, {arm.outcomes:,} of {arm.units:,} keys")
    for one in found.comparisons:
        effect = "no outcome yet" if one.effect is None else str(one.effect)
        said = f"  {plain(one.arm)} is {one.verdict} than {plain(one.against)}"
        if one.verdict == "inconclusive":
            said = f"  {plain(one.arm)} against {plain(one.against)}: inconclusive"
        say(f"{said} ({effect}; p = {one.p_value:.2g}; {one.units:,} outcomes)")
    if found.sample_ratio is not None and found.sample_ratio.mismatched:
        say("  the arms did not get their shares: rows or outcomes are lost, and nothing can be concluded")
