"""The journal: every change of control state, in order, chained by digests.

Enters: events, inside the transaction of the change they describe. Leaves: the same events, to any number of
readers with cursors. Guarantees: no gap, no reordering, and any byte changed afterwards is found by ``verify``.
"""
