"""Versioned tables of rows in Delta Lake, in a folder or in S3.

Enters: Polars frames. Leaves: lazy frames of any version. Guarantees: an append is one version, whole or absent;
writers in several processes lose nothing; old versions stay readable.
"""
