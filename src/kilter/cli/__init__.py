"""The command line: ``kilter NOUN VERB``, or a plain verb for the daily ones.

Enters: arguments. Leaves: one answer for people or, with ``--json``, one JSON document; and an exit code from the error.
Guarantees: the same operations as the Python calls, through a running server or the store itself; help imports nothing heavy.
"""
