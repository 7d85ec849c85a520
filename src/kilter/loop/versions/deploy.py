"""``kilter.deploy``: from a fitted model in a notebook to an endpoint that answers, in one call."""

from __future__ import annotations

import inspect
import os
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kilter.core.errors import InvalidInput
from kilter.loop.declaration.source import Source
from kilter.loop.remote import Kilter
from kilter.loop.store import DEFAULT_STORE
from kilter.loop.versions.deployments import PIECE, Deployed
from kilter.loop.workspace import Workspace, connect
from kilter.packaging import functions, graph, upstream
from kilter.packaging.bundle import Parts, build
from kilter.packaging.examples import Example, read_example
from kilter.packaging.formats import label_of
from kilter.packaging.forms import choose
from kilter.packaging.records import LabelKind, Signature

Tell = Callable[[str], None]


def deploy(
    model: Any,
    *,
    name: str,
    example: Any,
    label: LabelKind | None = None,
    outputs: tuple[str, ...] = (),
    deterministic: bool = True,
    fallback: float | None = None,
    optimize: bool = False,
    store: str | os.PathLike[str] | None = None,
    tell: Tell | None = None,
) -> Deployed:
    """Package a fitted model and let an endpoint answer with it; deploying again is the next version, swapped in at once.

    ``kilter up`` or ``kilter serve`` on the same store answers; one that runs already picks the version up by itself,
    loads and warms it, and only then swaps it in.

    Args:
        model: A fitted LightGBM, XGBoost or scikit-learn model; a ``torch.nn.Module``; one read from a file; a plain
            function of the rows; an :class:`kilter.packaging.upstream.Upstream`; or a
            :class:`kilter.packaging.graph.Graph` of such steps.
        name: The endpoint's name: lower-case words joined by hyphens.
        example: Some rows as the model's own ``predict`` takes them: an array (n, d), a pandas or Polars frame. They name
            and type the inputs, and the packaged model is checked and warmed on them.
        label: What it answers with; found from the model if not said. ``"regression"`` for the value, also of a classifier.
        outputs: Names of several outputs; the model's classes, or numbers, if not said.
        deterministic: The same row always gets the same answer, so that answers may be kept.
        fallback: The constant that answers when no model can.
        optimize: Try other forms of the model (ONNX, folded, 8-bit) and keep the fastest that agrees.
        store: A folder or database, or the address of a server; ``KILTER_STORE`` or ``.kilter`` if not said.
        tell: Takes a line about each step.

    Returns:
        The version and the endpoint's address.

    Raises:
        InvalidInput: When the model can't be packaged, the example doesn't fit it, or the name is none.
        Conflict: When a loop of that name decides about the endpoint.
        Unavailable: When the store or the server can't be reached.
    """
    kilter = connect(store or os.environ.get("KILTER_STORE") or DEFAULT_STORE)
    try:
        return deploy_to(
            kilter,
            model,
            name=name,
            example=example,
            label=label,
            outputs=outputs,
            deterministic=deterministic,
            fallback=fallback,
            optimize=optimize,
            tell=tell,
        )
    finally:
        kilter.close()


def deploy_to(
    kilter: Kilter,
    model: Any,
    *,
    name: str,
    example: Any,
    label: LabelKind | None = None,
    outputs: tuple[str, ...] = (),
    deterministic: bool = True,
    fallback: float | None = None,
    optimize: bool = False,
    by: str = "",
    tell: Tell | None = None,
) -> Deployed:
    """Deploy to an opened store or server; see :func:`deploy`."""
    said = tell or _silent
    parts = packaged(model, example, label=label, outputs=outputs, deterministic=deterministic)
    said(f"packaged {parts.manifest.framework} as {parts.manifest.flavor}: it answers like the original on "
         f"{parts.manifest.example_rows} rows")  # fmt: skip
    if optimize:
        choice = choose(parts, tell=tell)
        parts = choice.best
        said(f"kept the {choice.name} form")
    deployed = release(kilter, name, parts, by=by, fallback=fallback)
    said(f"registered {deployed.reference}, generation {deployed.generation} of the endpoint")
    return deployed


def packaged(
    model: Any,
    example: Any,
    *,
    label: LabelKind | None = None,
    outputs: tuple[str, ...] = (),
    deterministic: bool = True,
) -> Parts:
    """Return the bundle of a fitted model without keeping it anywhere; see :func:`deploy`."""
    first = model.steps[0].model if isinstance(model, graph.Graph) else model
    read: Example = example if isinstance(example, Example) else read_example(example, first)
    if isinstance(model, graph.Graph):
        model, named = graph.as_model(model, read, _step)
        outputs = outputs or named
    else:
        model = _exportable(model, read)
    signature = Signature(
        table="",
        key="",
        time="",
        encoding=read.encoding,
        label=label or label_of(model),
        outputs=outputs or ("value",),
        shape=read.shape,
        deterministic=deterministic,
    )
    parts = build(model, signature, read)
    if outputs and parts.manifest.signature.outputs != outputs:
        raise InvalidInput(f"{len(outputs)} outputs are named", where="outputs",
                           allowed=f"{len(parts.manifest.signature.outputs)}, which the model has")  # fmt: skip
    return parts


def _exportable(model: Any, read: Example, widths: tuple[int, ...] = ()) -> Any:
    """Return what packaging takes for a function, an upstream or a network; a fitted model itself."""
    if inspect.isfunction(model):
        return functions.as_model(model, _source(model), widths)
    if isinstance(model, upstream.Upstream):
        return upstream.as_model(model)
    if "torch" in {kind.__module__.partition(".")[0] for kind in type(model).__mro__}:
        from kilter.packaging.torch_export import export  # noqa: PLC0415 - an extra, and seconds to import

        return export(model, read.given)
    return model


def _step(step: graph.Step, read: Example, widths: tuple[int, ...]) -> Parts:
    """Package one step of a graph."""
    model = _exportable(step.model, read, widths if len(widths) > 1 else ())
    label = step.label or label_of(model)
    return build(
        model, Signature(table="", key="", time="", encoding=read.encoding, label=label, shape=read.shape), read
    )


def _source(function: Callable[..., Any]) -> str:
    """Return a function's source, with everything in its file that it uses.

    Raises:
        InvalidInput: When it has none, or uses a name that its file doesn't define.
    """
    name = function.__name__
    try:
        text = inspect.getsource(function)
        whole = inspect.getsourcefile(function) or ""
        if Path(whole).is_file():
            text = Path(whole).read_text(encoding="utf-8")
    except (OSError, TypeError, UnicodeDecodeError) as error:
        raise InvalidInput("the function has no source", where=name, fix="write it in a file or in a cell") from error
    source = Source(textwrap.dedent(text), whole)
    if not source.defines(name):
        raise InvalidInput(f"{name!r} is not at the top level of its file", where=name,
                           fix="write it with def, outside of other functions")  # fmt: skip
    unknown = source.unknown(name)
    if unknown:
        raise InvalidInput(f"it uses {', '.join(sorted(unknown))}, which its file doesn't define", where=name)
    return source.closure(name)


def release(
    kilter: Kilter,
    name: str,
    parts: Parts,
    *,
    trigger: str = "deployed",
    by: str = "",
    parent: str = "",
    fallback: float | None = None,
) -> Deployed:
    """Register a bundle and let the endpoint answer with it, here or through a server."""
    if isinstance(kilter, Workspace):
        return kilter.deployments.deploy(name, parts, trigger=trigger, by=by, parent=parent, fallback=fallback)
    model, explainer = (_sent(kilter, data) for data in (parts.model, parts.explainer))
    return kilter.deployments.release(
        name, parts.manifest, model, parts.example, trigger, by, parent, fallback, explainer, uuid.uuid4().hex
    )


def _sent(kilter: Kilter, data: bytes) -> tuple[str, ...]:
    """Send bytes to the server in pieces, and return their digests."""
    return tuple(kilter.deployments.keep(data[start : start + PIECE]) for start in range(0, len(data), PIECE))


def _silent(_line: str) -> None:
    """Say nothing."""
