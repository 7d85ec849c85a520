"""Packaging a fitted model, and loading it again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from kilter.core.digests import canonical_json, digest
from kilter.core.errors import Damaged, InvalidInput, KilterError
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.objects.store import ObjectStore
from kilter.packaging.environment import lock
from kilter.packaging.examples import Example
from kilter.packaging.formats import Matrix, export, output_names
from kilter.packaging.loading import load_model
from kilter.packaging.native import Explains, Flavor, Frame, NativeModel
from kilter.packaging.records import Bundle, Explainer, FileEntry, LabelKind, Manifest, Signature

# A worker warms itself with these rows, and the parity check compares on them.
_EXAMPLES = 512
_SINGLE = 1e-5
"""How far an answer may be from one that was computed in 32 bits."""


class Parts(NamedTuple):
    """A bundle's bytes, digests verified.

    Args:
        manifest: The manifest.
        model: The model file.
        example: The example matrix, row-major little-endian float64.
        explainer: The model that explains its answers; empty without.
    """

    manifest: Manifest
    model: bytes
    example: bytes
    explainer: bytes = b""


class Runtime:
    """A packaged model, loaded: the native library behind one method.

    Args:
        manifest: Its manifest.
        model: The loaded model.
        explainer: What explains its answers; the model itself, if not said.
    """

    def __init__(self, manifest: Manifest, model: NativeModel, explainer: NativeModel | None = None) -> None:
        self.manifest = manifest
        self._model = model
        self._explainer = explainer or model

    @classmethod
    def of(cls, parts: Parts) -> Runtime:
        """Return a bundle's bytes loaded."""
        spec = parts.manifest.spec()
        explainer = load_model(spec.explainer, parts.explainer) if spec.explainer is not None else None
        return cls(parts.manifest, load_model(spec, parts.model), explainer)

    @property
    def encoding(self) -> Encoding:
        """How columns become the matrix."""
        return self.manifest.signature.encoding

    def predict(self, matrix: Matrix) -> Matrix:
        """Return one answer per row.

        Args:
            matrix: (n, d) float64; NaN where a value is missing, integer codes for categories.

        Returns:
            (n,) float64: the probability of the positive class, or the value; (n, k) with k > 1 outputs: the probability of
            each class, or the values.
        """
        held = _rectangle(matrix)
        rows, columns = held.shape
        answers = self._model.predict(held.tobytes(), rows, columns) if rows else b""
        values = np.frombuffer(answers, dtype="<f8").copy()
        outputs = len(self.manifest.signature.outputs)
        return values if outputs == 1 else values.reshape(rows, outputs)

    @property
    def explains(self) -> bool:
        """Whether it can tell how much each column adds to its answers."""
        return isinstance(self._explainer, Explains)

    def contributions(self, matrix: Matrix) -> Matrix:
        """Return how much each column adds to each answer.

        TreeSHAP (Lundberg et al. 2020) for boosters, exact for linear models, in the units of the sum before it becomes an
        answer: log odds of a classifier.

        Args:
            matrix: (n, d) float64, as for :meth:`predict`.

        Returns:
            (n, d + 1), or (n, k, d + 1) with k > 1 outputs; the last column is the average answer.

        Raises:
            InvalidInput: When the model can't be explained.
        """
        held = _rectangle(matrix)
        rows, columns = held.shape
        if not isinstance(self._explainer, Explains):
            raise InvalidInput(
                f"a model of the format {self.manifest.flavor} can't be explained",
                where="contributions",
                allowed="LightGBM, XGBoost and linear models, and graphs that were made from them",
            )
        found = np.frombuffer(self._explainer.contributions(held.tobytes(), rows, columns), dtype="<f8").copy()
        outputs = len(self.manifest.signature.outputs)
        return found.reshape((rows, columns + 1) if outputs == 1 else (rows, outputs, columns + 1))


def _rectangle(matrix: Matrix) -> Matrix:
    held: Matrix = np.ascontiguousarray(matrix, dtype="<f8")
    if held.ndim != 2:
        raise InvalidInput(f"an array of {held.ndim} dimensions was given", where="predict", allowed="rows x columns")
    return held


def package(
    model: Any,
    encoding: Encoding,
    example: Matrix,
    views: Sequence[object],
    objects: ObjectStore,
    *,
    table: Table | None,
    label: LabelKind = "binary",
    reference: Mapping[str, float] | None = None,
) -> Bundle:
    """Write a fitted model as a bundle, load it again, and check that it answers the same.

    Args:
        model: A fitted model; see :func:`kilter.packaging.formats.export`.
        encoding: How columns become the matrix that the model was fitted on.
        example: (n, d) rows of that matrix, n >= 1; the first 512 are kept.
        views: The feature views that some of the columns come from.
        objects: Where the files go.
        table: The table that the rows are of; its key and time columns are part of every request. None for a model whose
            rows have neither.
        label: What the model answers with; see :class:`kilter.packaging.records.Signature`.
        reference: Numbers to hold production against: ``base_rate``, holdout metrics.

    Raises:
        InvalidInput: When the model can't be packaged, or the native model answers differently from the original.
        Unavailable: When the store can't be written.
    """
    rows = np.ascontiguousarray(example[:_EXAMPLES], dtype="<f8")
    if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] != len(encoding.names):
        raise InvalidInput(f"the example has shape {rows.shape}", where="example",
                           allowed=f"at least one row of {len(encoding.names)} columns")  # fmt: skip
    signature = Signature(
        table=table.name if table else "",
        key=table.key if table else "",
        time=table.time if table else "",
        encoding=encoding,
        views=tuple(msgspec.to_builtins(view) for view in views),
        label=label,
    )
    return keep(build(model, signature, Example(encoding, rows, rows, ""), reference), objects)


def build(model: Any, signature: Signature, example: Example, reference: Mapping[str, float] | None = None) -> Parts:
    """Make a bundle's bytes of a fitted model, load them again, and check that they answer the same.

    Args:
        model: A fitted model; see :func:`kilter.packaging.formats.export`.
        signature: What it takes and gives; outputs that are not named are given the model's own names, or numbers.
        example: Rows to check it on; the first 512 are kept.
        reference: Numbers to hold production against: ``base_rate``, holdout metrics.

    Raises:
        InvalidInput: When the model can't be packaged, or the native model answers differently from the original.
    """
    label = signature.label
    exported = export(model, label)
    rows = np.ascontiguousarray(example.matrix[:_EXAMPLES], dtype="<f8")
    expected = None if exported.predict is None else _expected(exported.predict, example.given[:_EXAMPLES], label)
    manifest = Manifest(
        flavor=exported.flavor,
        framework=exported.framework,
        iterations=exported.iterations,
        model=FileEntry(digest(exported.data), len(exported.data)),
        example=FileEntry(digest(rows.tobytes()), rows.nbytes),
        example_rows=len(rows),
        example_values=(),
        signature=signature,
        environment=lock(*filter(None, (exported.distribution, *exported.needs))),
        reference=dict(reference or {}),
    )
    width = _width(manifest, exported.data, rows) if expected is None else np.size(expected) // len(rows)
    manifest = msgspec.structs.replace(manifest, signature=_answering(signature, width, output_names(model, width)))
    manifest, answers = _answers(
        manifest, exported.data, rows, example.frame if exported.flavor in {"skops", "python"} else ""
    )
    if expected is not None:
        least = _SINGLE if _is_single(example.given) else 0.0
        check_parity(expected, answers, max(exported.tolerance, least), manifest.signature.label)
    manifest = msgspec.structs.replace(manifest, example_values=tuple(answers.ravel().tolist()))
    return explained(Parts(manifest, exported.data, rows.tobytes()), model)


def _width(manifest: Manifest, model: bytes, rows: Matrix) -> int:
    """Return how many numbers a model that is only known by its bytes answers a row with."""
    spec = msgspec.structs.replace(manifest.spec(), outputs=0)
    return len(load_model(spec, model).predict(rows.tobytes(), *rows.shape)) // (8 * len(rows))


def _answering(signature: Signature, width: int, names: tuple[str, ...]) -> Signature:
    """Return the signature with as many outputs as the model has, under the names that were given, else the model's."""
    label = signature.label
    if width > 1:
        several: dict[LabelKind, LabelKind] = {"regression": "vector", "binary": "multiclass"}
        label = several.get(label, label)
    given = signature.outputs if len(signature.outputs) == width and width > 1 else names
    return msgspec.structs.replace(signature, label=label, outputs=given)


def _answers(manifest: Manifest, model: bytes, rows: Matrix, frame: Frame) -> tuple[Manifest, Matrix]:
    """Return what the loaded model answers, as a matrix if it takes one (a frame costs more than most predictions)."""
    framed = msgspec.structs.replace(manifest, frame=frame)
    if frame and manifest.flavor == "skops" and not manifest.signature.encoding.categorical:
        try:
            return manifest, Runtime(manifest, load_model(manifest.spec(), model)).predict(rows)
        except KilterError:  # it asks for its columns by name
            return framed, Runtime(framed, load_model(framed.spec(), model)).predict(rows)
    return framed, Runtime(framed, load_model(framed.spec(), model)).predict(rows)


def explained(parts: Parts, model: Any) -> Parts:
    """Return a bundle of a scikit-learn estimator with its linear form, when it has one, to explain its answers by."""
    if parts.manifest.flavor != "skops":
        return parts
    from kilter.packaging.folding import fold  # noqa: PLC0415 - for scikit-learn's own models alone

    form = fold(model, *folding_inputs(parts))
    return parts if form is None else with_explainer(parts, "linear", canonical_json(form))


def folding_inputs(parts: Parts) -> tuple[dict[int, tuple[str, ...]], Matrix]:
    """Return the categories by position, and the example rows, of a bundle."""
    encoding = parts.manifest.signature.encoding
    places = {position: encoding.categories[encoding.names[position]] for position in encoding.categorical}
    return places, np.frombuffer(parts.example, dtype="<f8").reshape(parts.manifest.example_rows, -1)


def with_explainer(parts: Parts, flavor: Flavor, data: bytes, iterations: int = 0) -> Parts:
    """Return a bundle whose answers another model explains."""
    explainer = Explainer(flavor, FileEntry(digest(data), len(data)), iterations)
    return parts._replace(manifest=msgspec.structs.replace(parts.manifest, explainer=explainer), explainer=data)


def keep(parts: Parts, objects: ObjectStore) -> Bundle:
    """Put a bundle's bytes into a store.

    Raises:
        Damaged: When they are not those that the manifest names.
        Unavailable: When the store can't be written.
    """
    files = [(parts.manifest.model, parts.model), (parts.manifest.example, parts.example)]
    if parts.manifest.explainer is not None:
        files.append((parts.manifest.explainer.file, parts.explainer))
    for entry, data in files:
        if (objects.put(data), len(data)) != (entry.digest, entry.size):
            raise Damaged("a file is not the one that the manifest names", where=entry.digest)
    return Bundle(objects.put(canonical_json(parts.manifest)), parts.manifest)


def fetch(name: str, objects: ObjectStore) -> Parts:
    """Read a bundle's files.

    Args:
        name: The bundle's digest.
        objects: Where its files are.

    Raises:
        NotFound: When a file is missing.
        Damaged: When bytes don't match their digest, or the manifest can't be read.
    """
    manifest = manifest_of(name, objects)
    explainer = file_of(manifest.explainer.file, objects) if manifest.explainer is not None else b""
    return Parts(manifest, file_of(manifest.model, objects), file_of(manifest.example, objects), explainer)


def manifest_of(name: str, objects: ObjectStore) -> Manifest:
    """Read a bundle's manifest alone; see :func:`fetch`."""
    try:
        return msgspec.json.decode(objects.get(name), type=Manifest)
    except msgspec.MsgspecError as error:
        raise Damaged("the object is not a bundle's manifest", where=name) from error


def load(name: str, objects: ObjectStore) -> Runtime:
    """Load a bundle.

    Args:
        name: The bundle's digest.
        objects: Where its files are.

    Raises:
        NotFound: When a file is missing.
        Damaged: When bytes don't match their digest.
        InvalidInput: When the model holds types that are not trusted.
        Unavailable: When its framework is not installed here.
    """
    return Runtime.of(fetch(name, objects))


def _expected(predict: Callable[[Any], Matrix], given: Any, label: LabelKind) -> Matrix:
    """Return the original's own answers; a single column of values is one value per row."""
    try:
        found = np.asarray(predict(given), dtype=np.float64)
    except KilterError:
        raise
    except Exception as error:  # whatever the user's own model raises
        raise InvalidInput(
            f"the model can't predict the example: {type(error).__name__}: {str(error)[:300]}",
            where="example",
            fix="hand in rows as the model's own predict takes them",
        ) from error
    return found[:, 0] if label != "multiclass" and found.ndim == 2 and found.shape[1] == 1 else found


def file_of(entry: FileEntry, objects: ObjectStore) -> bytes:
    """Read a file of a bundle; see :func:`fetch`."""
    data = objects.get(entry.digest)
    if len(data) != entry.size:
        raise Damaged(f"the file has {len(data)} bytes, its manifest says {entry.size}", where=entry.digest)
    return data


def _is_single(given: Any) -> bool:
    """Say whether rows hold numbers of less than 64 bits: scikit-learn then computes in those, and a bundle always in 64."""
    kinds = [given.dtype] if isinstance(given, np.ndarray) else list(getattr(given, "dtypes", ()))
    return any("float32" in str(kind).lower() or "float16" in str(kind).lower() for kind in kinds)


def check_parity(expected: Matrix, got: Matrix, tolerance: float, label: LabelKind) -> None:
    """Refuse a bundle that answers differently from the model it was made of."""
    if expected.shape != got.shape or not np.isfinite(expected).all():
        raise InvalidInput(f"the model answers with shape {expected.shape} or with values that are not finite",
                           where="package", allowed="a finite number per row and output")  # fmt: skip
    scale = tolerance if label in {"binary", "multiclass"} else tolerance * max(1.0, float(np.abs(expected).max()))
    worst = float(np.abs(expected - got).max())
    if not worst <= max(scale, sys.float_info.epsilon):
        raise InvalidInput(
            f"the packaged model answers differently from the original, by up to {worst:.3g}",
            where="package",
            allowed=f"a difference of at most {scale:.3g}",
            fix="return a model without a custom objective or wrapper; wrap the transformation into the features",
        )
