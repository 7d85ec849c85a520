"""What Kilter stands on, each engine behind one small port: sql, objects, tables, online, streams, compute, clock.

Enters: URLs, bytes, rows and frames. Leaves: the same, durable. Guarantees: what was acknowledged is on disk,
and every failure of an engine is one of the errors of ``kilter.core.errors`` with what to do about it.
"""
