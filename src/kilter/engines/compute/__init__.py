"""Functions run in warm worker processes.

Enters: the name of a function and a payload of bytes. Leaves: its answer or its error, and the CPU seconds.
Guarantees: a worker that dies or overruns gives an error, never a hang, and no worker outlives its parent.
"""
