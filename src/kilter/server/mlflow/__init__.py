"""MLflow's wire: its clients talk to the rooms' operations, unchanged.

Enters: MLflow's REST calls (``/api/2.0/mlflow``, ``/api/3.0/mlflow``, ``/api/2.0/mlflow-artifacts``). Leaves: its answers, with its
error codes and limits. Guarantees: nothing is stored here; what comes in by this wire is seen by every other face.
"""
