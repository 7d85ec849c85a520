"""``kilter export``: a version as source code, a container, or what a platform needs around it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, say
from kilter.cli.target import connected
from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.packaging.compression import Limits
    from kilter.packaging.export.devices import DeviceExport

_TARGETS = ("c", "js", "browser", "edge", "container", "kubernetes", "kserve", "sagemaker", "vertex", "azure", "mlflow")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(%|[kKM]B|B)?")
_UNITS = {"B": 1, "KB": 1_000, "MB": 1_000_000}


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = (
        "Write a version into a folder: as C or JavaScript that needs nothing else (trees and linear models), as a page "
        "that predicts in a browser without a network, as ONNX graphs for devices, as an MLflow model, as a container's folder that serves exactly this "
        "version, or as that folder with what a platform needs around it. The same version gives the same bytes; manifest.json holds the digests of all files."
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
    group = parser.add_argument_group("browsers and devices")
    group.add_argument("--runtime-from", type=Path, metavar="DIR|TGZ", help="ONNX Runtime Web, in place of asking npm")
    group.add_argument("--quantise", default="auto", choices=("auto", "dynamic", "static", "best", "none"),
                       help="8-bit weights: where they are worth it (auto), or by all means")  # fmt: skip
    group.add_argument("--max-loss", type=float, metavar="X", help="how far an 8-bit answer may be off (default: 0.01)")
    group.add_argument("--max-flips", type=float, metavar="X", help="the share of decisions that may change, 0 to 1")
    group.add_argument("--max-size", metavar="SIZE", help="of the 8-bit graph: 200kB, or 60%% of the whole one")
    group.add_argument("--sign", type=Path, metavar="KEY", help="sign the release with an Ed25519 key (PEM)")
    group.add_argument(
        "--sequence", type=int, metavar="N", help="the release's number (default: the seconds since 1970)"
    )
    group.add_argument(
        "--publish", action="store_true", help="let devices get the signed release from the store's server"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    _check_devices(options)
    if options.target in {"browser", "edge"}:
        _run_for_device(options)
    else:
        _run_for_platform(options)


def _run_for_platform(options: argparse.Namespace) -> None:
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


def _check_devices(options: argparse.Namespace) -> None:
    """Refuse what belongs to another target."""
    given = {
        "--quantise": options.quantise != "auto",
        "--max-loss": options.max_loss is not None,
        "--max-flips": options.max_flips is not None,
        "--max-size": options.max_size is not None,
        "--sign": options.sign is not None,
        "--sequence": options.sequence is not None,
        "--publish": options.publish,
    }
    wrong = [name for name, is_given in given.items() if is_given and options.target != "edge"]
    if wrong:
        raise InvalidInput(f"only devices know {wrong[0]}", where=wrong[0], allowed="--target edge")
    if options.runtime_from is not None and options.target != "browser":
        raise InvalidInput(
            "only a browser's folder holds that runtime", where="--runtime-from", allowed="--target browser"
        )
    unsigned = options.sign is None and (options.publish or options.sequence is not None)
    if unsigned:
        raise InvalidInput("a release has to be signed", where="--publish" if options.publish else "--sequence",
                           fix="add --sign KEY")  # fmt: skip


def _run_for_device(options: argparse.Namespace) -> None:
    from kilter.core.clock import SystemClock  # noqa: PLC0415 - numpy and the rooms, after the arguments were checked
    from kilter.loop.versions.optimizing import parts_of  # noqa: PLC0415
    from kilter.packaging.export.devices import Origin, export_browser, export_edge  # noqa: PLC0415
    from kilter.packaging.export.web_runtime import runtime_files  # noqa: PLC0415
    from kilter.registry.service import split_reference  # noqa: PLC0415

    limits = _limits(options)
    with connected(options) as kilter:
        version = kilter.models.get(*split_reference(options.model))
        parts = parts_of(kilter, version.bundle)
        origin = Origin(version.model, version.version)
        if options.target == "browser":
            runtime = runtime_files(options.runtime_from)
            found = export_browser(parts, origin, options.out, runtime, force=options.force)
        else:
            now = int(SystemClock().now().timestamp())
            sequence = now if options.sequence is None else options.sequence
            found = export_edge(
                parts,
                origin,
                options.out,
                quantise=options.quantise,
                limits=limits,
                key=options.sign,
                sequence=sequence,
                force=options.force,
            )
    if options.publish:
        _publish(options)
    answer(found, as_json=options.json, show=lambda: _show(found))


def _show(found: DeviceExport) -> None:
    from kilter.packaging.compression import table  # noqa: PLC0415

    signed = f", release {found.sequence}" if found.sequence else ""
    say(f"{found.model}@v{found.version} for {found.target}{signed}: {len(found.files)} files in {found.folder}")
    for path in found.files:
        say(f"  {path}")
    if found.scores:
        for line in table(found.scores):
            say(line)


def _publish(options: argparse.Namespace) -> None:
    """Let devices get the release from the server of the store."""
    from kilter.serving.edge.publishing import publish_folder  # noqa: PLC0415 - as above

    with connected(options) as kilter:
        publish_folder(kilter.devices, options.out)


def _limits(options: argparse.Namespace) -> Limits:
    """Return what an 8-bit graph may cost."""
    from kilter.packaging.compression import Limits  # noqa: PLC0415 - as above

    said: dict[str, float | int] = {}
    if options.max_loss is not None:
        said["loss"] = options.max_loss
    if options.max_flips is not None:
        said["flips"] = options.max_flips
    if options.max_size is not None:
        found = _SIZE.fullmatch(options.max_size)
        if found is None:
            raise InvalidInput(f"{options.max_size!r} is no size", where="--max-size", allowed="200kB, 2MB, or 60%")
        number, unit = float(found[1]), (found[2] or "B").upper()
        if unit == "%":
            said["share"] = number / 100
        else:
            said["size"] = int(number * _UNITS[unit])
    return Limits(**said)  # type: ignore[arg-type]  # the record checks them


def _replicas(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    most = most or least
    if not (text.isascii() and least.isdigit() and most.isdigit()):
        raise InvalidInput(f"{text!r} is no number of replicas", where="--replicas", allowed="N or N:M")
    return int(least), int(most)
