"""Rows in files: Parquet, CSV, Arrow and Delta, in a folder or in S3, read in batches and written in parts.

Enters: a place and a name for each part. Leaves: frames in the order of the file, parts that are whole or not there.
Guarantees: memory is bounded by the size of a batch; a part that was written survives the death of the process.
"""
