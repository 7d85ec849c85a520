"""Rows that come without an endpoint: files, tables and streams, scored by a version as the endpoint would."""
