"""Loads the model for a peer, in the peer's own environment."""

from __future__ import annotations

from typing import Any


def load(path: str) -> Any:
    """Return the model of a file: XGBoost's own JSON, or what joblib has written."""
    if path.endswith(".json"):
        import xgboost

        model = xgboost.XGBClassifier()
        model.load_model(path)
        model.set_params(n_jobs=1)
        return model
    import joblib

    return joblib.load(path)
