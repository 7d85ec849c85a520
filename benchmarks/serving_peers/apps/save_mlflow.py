"""Writes the model as MLflow keeps it, for ``mlflow models serve``: ``python save_mlflow.py MODEL FOLDER``."""

import sys

from loading import load

model = load(sys.argv[1])
if sys.argv[1].endswith(".json"):
    import mlflow.xgboost

    mlflow.xgboost.save_model(model, sys.argv[2])
else:
    import mlflow.sklearn

    mlflow.sklearn.save_model(model, sys.argv[2], pyfunc_predict_fn="predict_proba")
