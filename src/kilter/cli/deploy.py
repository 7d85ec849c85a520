"""``kilter deploy FILE --name N``: a model file becomes the next version of an endpoint and answers alone."""

from __future__ import annotations

import argparse
import sys

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, say
from kilter.cli.target import connected, who


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = (
        "Package a model file, register it as the next version, and let the endpoint of that name answer with it. "
        "A front that runs (kilter up) loads and warms it first and then swaps it in."
    )
    parser.add_argument(
        "file",
        help=".ubj or .json (XGBoost), .txt (LightGBM), .cbm (CatBoost), .skops (scikit-learn), .onnx, .pt2; an MLflow model: "
        "its folder or archive, runs:/RUN/PATH, models:/m-ID, models:/NAME/VERSION",
    )
    parser.add_argument("--name", required=True, help="the endpoint's name: lower-case words joined by hyphens")
    parser.add_argument(
        "--example", metavar="FILE", help="some rows to check and warm it on: .csv, .parquet, .json, .npy"
    )
    parser.add_argument(
        "--label", choices=("binary", "regression", "multiclass", "vector"), help="what it answers with"
    )
    parser.add_argument("--fallback", type=float, metavar="NUMBER", help="what is answered when no model can")
    parser.add_argument("--optimize", action="store_true", help="keep the fastest form that gives the same answers")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kilter.loop.versions.deploy import deploy_to  # noqa: PLC0415 - numpy and the rooms, after the arguments were checked
    from kilter.loop.versions.mlmodels import deploy_mlmodel, names_mlmodel  # noqa: PLC0415
    from kilter.packaging.examples import made_up, read_table  # noqa: PLC0415
    from kilter.packaging.files import read_model  # noqa: PLC0415

    def tell(line: str) -> None:
        if not options.json:
            sys.stderr.write(f"{line}\n")

    if names_mlmodel(options.file):
        with connected(options) as kilter:
            deployed = deploy_mlmodel(
                kilter,
                options.file,
                name=options.name,
                example=options.example,
                label=options.label,
                fallback=options.fallback,
                optimize=options.optimize,
                by=who(),
                tell=tell,
            )
        answer(deployed, as_json=options.json, show=lambda: say(str(deployed)))
        return
    model = read_model(options.file)
    example = read_table(options.example, model) if options.example else made_up(model)
    with connected(options) as kilter:
        found = deploy_to(
            kilter,
            model,
            name=options.name,
            example=example,
            label=options.label,
            fallback=options.fallback,
            optimize=options.optimize,
            by=who(),
            tell=tell,
        )
    answer(found, as_json=options.json, show=lambda: say(str(found)))
