"""``kilter export``: a version as source code, a container, or what a platform needs around it."""

from __future__ import annotations

import argparse
from pathlib import Path

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, say
from kilter.cli.target import connected
from kilter.core.errors import InvalidInput

_TARGETS = ("c", "js", "edge", "container", "kubernetes", "kserve", "sagemaker", "vertex", "azure")


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = (
        "Write a version into a folder: as C or JavaScript that needs nothing else (trees and linear models), as ONNX "
        "graphs for devices, as a container's folder that serves exactly this version, or as that folder with what a "
        "platform needs around it. The same version gives the same bytes; manifest.json holds the digests of all files."
    )
    parser.add_argument("model", metavar="MODEL[@VERSION]", help="churn, churn@v3 or churn@champion")
    parser.add_argument("--target", required=True, choices=_TARGETS, help="for what")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="a folder that is not there, or is empty"
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    group = parser.add_argument_group("containers and platforms")
    group.add_argument("--lock", type=Path, metavar="FILE", help="a lock file; its hashes go into the requirements")
    group.add_argument("--image", default="", help="the name the image will have (default: MODEL:vVERSION)")
    group.add_argument("--namespace", default="default", help="where in a cluster (default: default)")
    group.add_argument("--replicas", default="2:6", metavar="N[:M]", help="at least and at most (default: 2:6)")
    group.add_argument("--cpu", default="1", help="cores per replica (default: 1)")
    group.add_argument("--memory", default="1Gi", help="per replica (default: 1Gi)")
    group.add_argument("--canary", type=int, metavar="PERCENT", help="KServe: this version's share of the traffic")
    group.add_argument("--instance", default="", metavar="TYPE", help="the cloud's kind of machine")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kilter.loop.versions.exporting import export  # noqa: PLC0415 - numpy and the rooms, after the arguments were checked
    from kilter.packaging.export.platform import Sizing  # noqa: PLC0415

    if options.canary is not None and options.target != "kserve":
        raise InvalidInput("only KServe is told a canary's share", where="--canary", allowed="--target kserve",
                           fix="`kilter apply` with a Canary releases in steps elsewhere")  # fmt: skip
    least, most = _replicas(options.replicas)
    sizing = Sizing(
        image=options.image,
        namespace=options.namespace,
        replicas=least,
        replicas_max=most,
        cpu=options.cpu,
        memory=options.memory,
        canary=options.canary,
        instance=options.instance,
    )
    with connected(options) as kilter:
        found = export(
            kilter, options.model, options.target, options.out, sizing=sizing, lock=options.lock, force=options.force
        )

    def show() -> None:
        say(f"{found.model}@v{found.version} for {found.target}: {len(found.files)} files in {found.folder}")
        for path in found.files:
            say(f"  {path}")

    answer(found, as_json=options.json, show=show)


def _replicas(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    most = most or least
    if not (text.isascii() and least.isdigit() and most.isdigit()):
        raise InvalidInput(f"{text!r} is no number of replicas", where="--replicas", allowed="N or N:M")
    return int(least), int(most)
