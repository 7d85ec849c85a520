"""Endpoints on Ray Serve: each replica is a front, and Ray's proxy hands it the requests."""
