"""What a bundle is made of. The manifest's own digest is the bundle's name."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kilter.data.encoding import Encoding
from kilter.packaging.native import Flavor, Frame, ModelSpec, Output

LabelKind = Literal["binary", "regression", "multiclass", "vector"]
Announced = Literal["FP64", "FP32"]


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a bundle.

    Args:
        digest: BLAKE3 of its bytes, which is its address in the object store.
        size: Its length in bytes.
    """

    digest: str
    size: int


class Explainer(msgspec.Struct, frozen=True):
    """A model that explains another one's answers: the booster that a graph was made from, or the linear form of a pipeline.

    Args:
        flavor: The format of its file.
        file: The file.
        iterations: Boosting rounds to use; 0 for all.
    """

    flavor: Flavor
    file: FileEntry
    iterations: int = 0


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes and gives.

    Args:
        table: Name of the table that its rows are of; empty when they are of none.
        key: The column that identifies a row; empty when there is none: ids are made up then.
        time: The column that tells when a row's prediction is for; features are looked up as of it. Empty when there is none:
            a prediction is then for the moment in which it is asked for.
        encoding: How columns become the matrix.
        views: The feature views that some of the columns come from, in their JSON form; looked up online by entity.
        label: ``binary`` answers with the probability of the positive class, ``regression`` with the value, ``multiclass``
            with the probability of each class, ``vector`` with several values: targets, or an embedding.
        outputs: The names of the columns that an answer has; the names of the classes when ``multiclass``.
        shape: The shape of one row when the input is a single tensor; its columns are the tensor, flattened row-major.
            Empty for plain columns.
        dtype: What tensors are announced as to clients; inside they are always float64.
        deterministic: The same row always gets the same answer, so that answers may be kept.
    """

    table: str
    key: str
    time: str
    encoding: Encoding
    views: tuple[dict[str, Any], ...] = ()
    label: LabelKind = "binary"
    outputs: tuple[str, ...] = ("value",)
    shape: tuple[int, ...] = ()
    dtype: Announced = "FP64"
    deterministic: bool = True


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a packaged model but its bytes.

    Args:
        flavor: The format of the model file.
        framework: The framework and its version: ``lightgbm==4.7.0``.
        iterations: Boosting rounds to use; 0 for all.
        model: The model file.
        example: Example rows: a row-major little-endian float64 matrix, used to check and to warm a loaded model.
        example_rows: How many.
        example_values: What the model answered for them, row-major: rows x outputs.
        signature: What the model takes and gives.
        environment: ``name==version`` of Python, the framework and all that it requires.
        reference: Numbers to hold production against: ``base_rate``, holdout metrics.
        frame: The library whose frames the model takes; empty for one that takes a matrix.
        explainer: What explains the model's answers, when it is another model than itself.
        schema: Version of this record.
    """

    flavor: Flavor
    framework: str
    iterations: int
    model: FileEntry
    example: FileEntry
    example_rows: int
    example_values: tuple[float, ...]
    signature: Signature
    environment: tuple[str, ...]
    reference: dict[str, float] = {}
    frame: Frame = ""
    explainer: Explainer | None = None
    schema: Literal[1] = 1

    def spec(self) -> ModelSpec:
        """Return what a process needs to know to load the model's bytes."""
        encoding = self.signature.encoding
        named = bool(self.frame) or self.flavor in _NAMED
        explainer = self.explainer
        return ModelSpec(
            flavor=self.flavor,
            columns=len(encoding.names),
            iterations=self.iterations,
            output=_OUTPUT[self.signature.label],
            outputs=len(self.signature.outputs),
            names=encoding.names if named else (),
            categories=encoding.categories if named else {},
            frame=self.frame,
            shape=self.signature.shape,
            explainer=None
            if explainer is None
            else ModelSpec(
                flavor=explainer.flavor,
                columns=len(encoding.names),
                iterations=explainer.iterations,
                output=_OUTPUT[self.signature.label],
                outputs=len(self.signature.outputs),
            ),
        )


_NAMED: frozenset[Flavor] = frozenset({"catboost-cbm", "onnx", "python", "remote"})
_OUTPUT: dict[LabelKind, Output] = {
    "binary": "probability",
    "regression": "value",
    "multiclass": "probabilities",
    "vector": "value",
}


class Bundle(msgspec.Struct, frozen=True):
    """A packaged model in an object store.

    Args:
        digest: Digest of the manifest; names the bundle everywhere.
        manifest: The manifest.
    """

    digest: str
    manifest: Manifest
