"""Bytes under the digest of their content, in a folder or in S3.

Enters: bytes. Leaves: their BLAKE3 digest, and later the bytes again. Guarantees: a put is whole or absent,
what get returns has the digest that was asked for, and the same bytes have one digest on every engine.
"""
