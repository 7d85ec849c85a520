"""Bringing the history of other trackers.

Enters: what MLflow, Weights & Biases, Comet, Neptune or TensorBoard kept, read piece by piece. Leaves: runs like any other.
Guarantees: each point once, however often and wherever an import was cut off; what has no equivalent is counted, never silent.
"""
