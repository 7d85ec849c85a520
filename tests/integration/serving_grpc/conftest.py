"""A front with gRPC, and the facts that clients in processes of their own are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.packaging.bundle import package
from kilter.serving.records import TrafficPlan
from kilter.testing.front import RunningFront

pytest.importorskip("h2")
pytest.importorskip("google.protobuf")
lightgbm = pytest.importorskip("lightgbm")

ROWS = np.array([[0.5, -1.0, 2.0, 0.25], [1.5, 1.0, -2.0, 0.5], [-0.5, 0.0, 0.125, -3.0]])


class GrpcFront(RunningFront):
    """A front with these endpoints.

    - ``tree``: four numbers ``a`` to ``d``, no key; a value.
    - ``classes``: the same, three classes by name.
    - ``mixed``: the number ``x`` and the text ``city``, of a table with the key ``id`` and the time ``at``.
    - ``split``: versions 1 (0.1) and 2 (0.2) in a canary of 50 %.
    """

    def deploy(self) -> None:
        """Package the models and set their plans."""
        random = np.random.default_rng(0)
        X = random.normal(size=(400, 4))
        numbers = Encoding(("a", "b", "c", "d"), ("numeric",) * 4, {})
        options = {"n_estimators": 8, "num_leaves": 7, "n_jobs": 1, "verbosity": -1}
        tree = lightgbm.LGBMRegressor(**options).fit(X, X @ [1.0, 2.0, -1.0, 0.5])
        classes = lightgbm.LGBMClassifier(**options).fit(X, np.digitize(X[:, 0], [-0.5, 0.5]))
        codes = np.column_stack([X[:, 0], random.integers(0, 3, 400)])
        mixed = lightgbm.LGBMRegressor(**options).fit(codes, codes[:, 0] + 10 * codes[:, 1])
        cities = Encoding(("x", "city"), ("numeric", "categorical"), {"city": ("Kiel", "Köln", "Ulm")})
        bundles = {
            "tree": package(tree, numbers, X, [], self.objects, table=None, label="regression"),
            "classes": package(classes, numbers, X, [], self.objects, table=None, label="multiclass"),
            "mixed": package(mixed, cities, codes, [], self.objects, table=Table("visits", "id", "at"),
                             label="regression"),
        }  # fmt: skip
        for name, bundle in bundles.items():
            self.plan(TrafficPlan(loop=name, champion=1, bundles={1: bundle.digest}))
        constants = {number: self.constant(number / 10) for number in (1, 2)}
        self.plan(
            TrafficPlan(
                loop="split", champion=1, challenger=2, mode="canary", share=50, bundles=constants, fallback=0.9
            )
        )
        self.facts = {
            "rows": ROWS.tolist(),
            "tree": tree.predict(ROWS).tolist(),
            "classes": classes.predict_proba(ROWS).tolist(),
            "mixed": mixed.predict(np.array([[0.5, 1.0], [1.0, 2.0], [0.5, np.nan]])).tolist(),
        }

    @property
    def grpc(self) -> str:
        """Host and port of gRPC."""
        return f"127.0.0.1:{json.loads(Path(self.config.announce).read_text())['grpc_port']}"


@pytest.fixture(scope="session")
def grpc_front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcFront]:
    """The front."""
    with GrpcFront(tmp_path_factory.mktemp("grpc"), grpc_port=0, load_timeout=30.0) as running:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LightGBM's own, of names
            running.deploy()
        running.start()
        yield running


@pytest.fixture(scope="session")
def run_client(grpc_front: GrpcFront) -> Callable[[str], None]:
    """Run the tests of a client in a process of its own: client libraries register the same names and can't live together."""

    def run(name: str) -> None:
        file = Path(__file__).parent / "clients" / f"{name}.py"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", str(file)]
        facts = {**grpc_front.facts, "grpc": grpc_front.grpc}
        found = subprocess.run(
            command,
            env={**os.environ, "KILTER_TEST_FACTS": json.dumps(facts)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        if " passed" not in found.stdout:
            pytest.skip(found.stdout.splitlines()[-1])

    return run
