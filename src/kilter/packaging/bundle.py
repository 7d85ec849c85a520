"""Packaging a fitted model, and loading it again."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from kilter.core.digests import canonical_json
from kilter.core.errors import Damaged, InvalidInput
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.objects.store import ObjectStore
from kilter.packaging.environment import lock
from kilter.packaging.formats import Matrix, export
from kilter.packaging.loading import load_model
from kilter.packaging.native import NativeModel
from kilter.packaging.records import Bundle, FileEntry, LabelKind, Manifest, Signature

# A worker warms itself with these rows, and the parity check compares on them.
_EXAMPLES = 512


class Parts(NamedTuple):
    """A bundle's bytes, digests verified.

    Args:
        manifest: The manifest.
        model: The model file.
        example: The example matrix, row-major little-endian float64.
    """

    manifest: Manifest
    model: bytes
    example: bytes


class Runtime:
    """A packaged model, loaded: the native library behind one method.

    Args:
        manifest: Its manifest.
        model: The loaded model.
    """

    def __init__(self, manifest: Manifest, model: NativeModel) -> None:
        self.manifest = manifest
        self._model = model

    @property
    def encoding(self) -> Encoding:
        """How columns become the matrix."""
        return self.manifest.signature.encoding

    def predict(self, matrix: Matrix) -> Matrix:
        """Return one answer per row.

        Args:
            matrix: (n, d) float64; NaN where a value is missing, integer codes for categories.

        Returns:
            (n,) float64: the probability of the positive class, or the value.
        """
        held = np.ascontiguousarray(matrix, dtype="<f8")
        if held.ndim != 2:
            raise InvalidInput(
                f"an array of {held.ndim} dimensions was given", where="predict", allowed="rows x columns"
            )
        rows, columns = held.shape
        answers = self._model.predict(held.tobytes(), rows, columns) if rows else b""
        return np.frombuffer(answers, dtype="<f8").copy()


def package(
    model: Any,
    encoding: Encoding,
    example: Matrix,
    views: Sequence[object],
    objects: ObjectStore,
    *,
    table: Table,
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
        table: The table that the rows are of; its key and time columns are part of every request.
        label: ``binary`` or ``regression``.
        reference: Numbers to hold production against: ``base_rate``, holdout metrics.

    Raises:
        InvalidInput: When the model can't be packaged, or the native model answers differently from the original.
        Unavailable: When the store can't be written.
    """
    rows = np.ascontiguousarray(example[:_EXAMPLES], dtype="<f8")
    if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] != len(encoding.names):
        raise InvalidInput(f"the example has shape {rows.shape}", where="example",
                           allowed=f"at least one row of {len(encoding.names)} columns")  # fmt: skip
    exported = export(model, label)
    signature = Signature(
        table=table.name,
        key=table.key,
        time=table.time,
        encoding=encoding,
        views=tuple(msgspec.to_builtins(view) for view in views),
        label=label,
    )
    manifest = Manifest(
        flavor=exported.flavor,
        framework=exported.framework,
        iterations=exported.iterations,
        model=FileEntry("", 0),
        example=FileEntry("", 0),
        example_rows=len(rows),
        example_values=(),
        signature=signature,
        environment=lock(exported.distribution) if exported.distribution else lock(),
        reference=dict(reference or {}),
    )
    runtime = Runtime(manifest, load_model(manifest.spec(), exported.data))
    answers = runtime.predict(rows)
    _check_parity(np.asarray(exported.predict(rows), dtype=np.float64), answers, exported.tolerance, label)
    manifest = msgspec.structs.replace(
        manifest,
        model=FileEntry(objects.put(exported.data), len(exported.data)),
        example=FileEntry(objects.put(rows.tobytes()), rows.nbytes),
        example_values=tuple(answers.tolist()),
    )
    return Bundle(objects.put(canonical_json(manifest)), manifest)


def fetch(digest: str, objects: ObjectStore) -> Parts:
    """Read a bundle's files.

    Raises:
        NotFound: When a file is missing.
        Damaged: When bytes don't match their digest, or the manifest can't be read.
    """
    try:
        manifest = msgspec.json.decode(objects.get(digest), type=Manifest)
    except msgspec.MsgspecError as error:
        raise Damaged("the object is not a bundle's manifest", where=digest) from error
    return Parts(manifest, _file(manifest.model, objects), _file(manifest.example, objects))


def load(digest: str, objects: ObjectStore) -> Runtime:
    """Load a bundle.

    Args:
        digest: The bundle's digest.
        objects: Where its files are.

    Raises:
        NotFound: When a file is missing.
        Damaged: When bytes don't match their digest.
        InvalidInput: When the model holds types that are not trusted.
        Unavailable: When its framework is not installed here.
    """
    parts = fetch(digest, objects)
    return Runtime(parts.manifest, load_model(parts.manifest.spec(), parts.model))


def _file(entry: FileEntry, objects: ObjectStore) -> bytes:
    data = objects.get(entry.digest)
    if len(data) != entry.size:
        raise Damaged(f"the file has {len(data)} bytes, its manifest says {entry.size}", where=entry.digest)
    return data


def _check_parity(expected: Matrix, got: Matrix, tolerance: float, label: LabelKind) -> None:
    """Refuse a bundle that answers differently from the model it was made of."""
    if expected.shape != got.shape or not np.isfinite(expected).all():
        raise InvalidInput(f"the model answers with shape {expected.shape} or with values that are not finite",
                           where="package", allowed="one finite number per row")  # fmt: skip
    scale = tolerance if label == "binary" else tolerance * max(1.0, float(np.abs(expected).max()))
    worst = float(np.abs(expected - got).max())
    if not worst <= max(scale, sys.float_info.epsilon):
        raise InvalidInput(
            f"the packaged model answers differently from the original, by up to {worst:.3g}",
            where="package",
            allowed=f"a difference of at most {scale:.3g}",
            fix="return a model without a custom objective or wrapper; wrap the transformation into the features",
        )
