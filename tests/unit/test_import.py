"""``import kilter`` is light, and its public names are these."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kilter

PUBLIC = [
    "Agreement", "Batch", "Business", "Canary", "Choice", "Columns", "Dataset", "DeclarationError", "Errors", "FeatureView", "Freeze", "Gate",
    "KilterError", "Label", "Latency", "Loop", "Metric",
    "Monitor", "Normal", "Pruner", "Range", "Retrain", "Shadow", "Table", "Trial", "Tune", "Window", "Workspace", "__version__", "accuracy", "active_run", "at_least", "auc", "autolog", "batch",
    "beats_champion", "beats_naive", "brier", "calibration", "connect", "count", "decay", "deploy", "drift", "fair", "faster_than",
    "features", "latest", "log_loss", "maximum", "mean", "minimum", "precision", "recall", "run", "total", "tune",
]  # fmt: skip


def fresh(program: str) -> str:
    """Run a program in a new interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_public_names_are_frozen() -> None:
    assert sorted(kilter.__all__) == sorted(PUBLIC)
    assert dir(kilter) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(kilter, name) is not None


def test_importing_loads_nothing_heavy() -> None:
    heavy = {"numpy", "polars", "sqlalchemy", "msgspec", "httpx", "litestar", "asyncio", "dataclasses"}
    assert fresh(f"import sys, kilter; print(*sorted({heavy!r} & set(sys.modules)))") == ""


def test_the_policies_of_a_declaration_load_nothing_heavy() -> None:
    heavy = {"numpy", "polars", "sqlalchemy", "httpx", "litestar"}
    names = "Canary, Label, Loop, Retrain, Shadow, Table, Window, at_least, drift, features, mean"
    assert fresh(f"import sys; from kilter import {names}; print(*sorted({heavy!r} & set(sys.modules)))") == ""


def test_the_function_wins_over_the_room_of_the_same_name() -> None:
    before = "from kilter.features.declare import FeatureView; import kilter.features; "
    assert (
        fresh(f"{before}from kilter import features; print(features.__name__, callable(features))") == "features True"
    )
    assert (
        fresh("import kilter; kilter.features; import kilter.features.declare; print(callable(kilter.features))")
        == "True"
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lop'"):
        kilter.lop  # noqa: B018 - reading it is the test
