"""The HTTP protocols: bytes come in as somebody's wire format, become rows for the intake, and go out in the same format.

One file per protocol, none of which holds state. ``tensors.py`` is shared with gRPC; ``bodies.py`` reads tables of other
formats; ``routes.py`` finds who answers a path, and ``table.py`` lists them all.
"""
