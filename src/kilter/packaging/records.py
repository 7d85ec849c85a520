"""What a bundle is made of. The manifest's own digest is the bundle's name."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kilter.data.encoding import Encoding
from kilter.packaging.native import Flavor, ModelSpec

LabelKind = Literal["binary", "regression"]


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a bundle.

    Args:
        digest: BLAKE3 of its bytes, which is its address in the object store.
        size: Its length in bytes.
    """

    digest: str
    size: int


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes and gives.

    Args:
        table: Name of the table that its rows are of.
        key: The column that identifies a row.
        time: The column that tells when a row's prediction is for; features are looked up as of it.
        encoding: How columns become the matrix.
        views: The feature views that some of the columns come from, in their JSON form; looked up online by entity.
        label: ``binary`` answers with the probability of the positive class, ``regression`` with the value.
    """

    table: str
    key: str
    time: str
    encoding: Encoding
    views: tuple[dict[str, Any], ...] = ()
    label: LabelKind = "binary"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a packaged model but its bytes.

    Args:
        flavor: The format of the model file.
        framework: The framework and its version: ``lightgbm==4.7.0``.
        iterations: Boosting rounds to use; 0 for all.
        model: The model file.
        example: Example rows: a row-major little-endian float64 matrix, used to check and to warm a loaded model.
        example_rows: How many.
        example_values: What the model answered for them.
        signature: What the model takes and gives.
        environment: ``name==version`` of Python, the framework and all that it requires.
        reference: Numbers to hold production against: ``base_rate``, holdout metrics.
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
    schema: Literal[1] = 1

    def spec(self) -> ModelSpec:
        """Return what a process needs to know to load the model's bytes."""
        return ModelSpec(
            flavor=self.flavor,
            columns=len(self.signature.encoding.names),
            iterations=self.iterations,
            output="probability" if self.signature.label == "binary" else "value",
        )


class Bundle(msgspec.Struct, frozen=True):
    """A packaged model in an object store.

    Args:
        digest: Digest of the manifest; names the bundle everywhere.
        manifest: The manifest.
    """

    digest: str
    manifest: Manifest
