"""One front with the models that the protocols are asked about, for unmodified clients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.packaging.bundle import package
from kilter.serving.records import TrafficPlan
from kilter.testing.front import RunningFront

COLUMNS = ("a", "b", "c", "d")
ROWS = np.array([[0.5, -1.0, 2.0, 0.25], [1.5, 1.0, -2.0, 0.5], [-0.5, 0.0, 0.125, -3.0]])
CITIES = ("Kiel", "Köln", "Ulm")


class Models(RunningFront):
    """A front with these endpoints.

    - ``tree``: four numbers, no key: version 1 answers; ``tree.answers`` has what it should.
    - ``mixed``: a number and a city, rows of a table with key and time; the answer depends on both.
    - ``classes``: four numbers, three classes by name.
    - ``split``: versions 1 (0.1) and 2 (0.2) in a canary of 50 %, 3 (0.3) warm.
    """

    def deploy(self) -> None:
        """Package the models and set their plans."""
        import lightgbm

        random = np.random.default_rng(0)
        X = random.normal(size=(400, 4))
        numbers = Encoding(COLUMNS, ("numeric",) * 4, {})
        options = {"n_estimators": 8, "num_leaves": 7, "n_jobs": 1, "verbosity": -1}
        tree = lightgbm.LGBMRegressor(**options).fit(X, X @ [1.0, 2.0, -1.0, 0.5])
        classes = lightgbm.LGBMClassifier(**options).fit(X, np.digitize(X[:, 0], [-0.5, 0.5]))
        codes = np.column_stack([X[:, 0], random.integers(0, 3, 400)])
        mixed = lightgbm.LGBMRegressor(**options).fit(codes, codes[:, 0] + 10 * codes[:, 1])
        self.answers = tree.predict(ROWS)
        self.probabilities = classes.predict_proba(ROWS)
        self.mixed = mixed.predict(np.array([[0.5, 1.0], [1.0, 2.0], [0.5, np.nan]]))
        cities = Encoding(("x", "city"), ("numeric", "categorical"), {"city": CITIES})
        table = Table("visits", "id", "at")
        self.bundles = {
            "tree": package(tree, numbers, X, [], self.objects, table=None, label="regression").digest,
            "classes": package(classes, numbers, X, [], self.objects, table=None, label="multiclass").digest,
            "mixed": package(mixed, cities, codes, [], self.objects, table=table, label="regression").digest,
        }
        for name, bundle in self.bundles.items():
            self.plan(TrafficPlan(loop=name, champion=1, bundles={1: bundle}))
        constants = {number: self.constant(number / 10) for number in (1, 2, 3)}
        self.plan(
            TrafficPlan(
                loop="split",
                champion=1,
                challenger=2,
                mode="canary",
                share=50,
                warm=(3,),
                bundles=constants,
                fallback=0.9,
            )
        )

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.client.base_url.port}"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """The front."""
    import warnings

    pytest.importorskip("lightgbm")
    with Models(tmp_path_factory.mktemp("protocols"), load_timeout=30.0) as running:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            running.deploy()
        running.start()
        yield running
