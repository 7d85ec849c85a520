"""Endpoints: requests of rows enter over HTTP, predictions leave, and each is in the log before its answer is sent.

The desired traffic (a plan in SQL) says which packaged versions answer, shadow or stay warm; each runs in its own process.
Guarantees: a version is swapped in one step after it has been loaded and warmed, a dead worker fails no request,
queues are bounded, and what was answered is recorded with the arm, version and inputs that truly gave the answer.
"""
