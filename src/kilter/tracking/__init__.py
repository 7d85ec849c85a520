"""Experiments, runs and their metrics.

Enters: parameters, metric points, artifacts and heartbeats of a training. Leaves: runs that can be listed, filtered and
compared, each naming its data, code, environment and seed by digest.
Guarantees: values come back exactly (NaN and infinities too), a write is done once per key, a dead run says so.
"""
