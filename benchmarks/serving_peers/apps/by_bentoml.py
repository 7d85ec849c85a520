"""The model as a BentoML service, one worker: ``BENCH_MODEL=MODEL bentoml serve by_bentoml:Bench``."""

import os

import bentoml
import numpy as np
from loading import load


@bentoml.service(name="bench", workers=1)
class Bench:
    def __init__(self) -> None:
        self.model = load(os.environ["BENCH_MODEL"])

    @bentoml.api(route="/predict")
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model.predict_proba(np.asarray(rows, dtype=np.float32))[:, 1]
