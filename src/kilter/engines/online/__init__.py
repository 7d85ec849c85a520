"""Keys and values in memory-mapped files, for features at serving time.

Enters: pairs of bytes. Leaves: values by key, in microseconds. Guarantees: a put is one transaction, and
readers in other processes see it whole or not at all, without waiting.
"""
