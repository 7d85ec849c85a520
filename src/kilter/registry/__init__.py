"""Models and their versions.

Enters: the digest of a packaged model, with the lineage of the training that made it; marks, aliases, evidence, approvals.
Leaves: versions that never change, found by number or by alias, each with its whole history.
Guarantees: numbers without gaps per model, one version per key however often it is tried, at most one champion.
"""
