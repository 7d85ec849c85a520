"""A durable log of records on the local disk, with one writer and any number of readers.

Enters: bytes. Leaves: rising positions, and the bytes in order. Guarantees: a record whose append returned
survives the death of the process; a torn tail is cut off, and damage elsewhere is reported, never skipped.
"""
