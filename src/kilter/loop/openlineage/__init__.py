"""The journal, told in OpenLineage's words.

In come the journal's events; out go run events (spec 2-0-2) about trainings, gates, batches, releases, deployments, promotions and
versions of tables, to whoever collects lineage. Each is made of one event of the journal and has the same content every time, so that a
delivery that is repeated changes nothing. The journal itself is the outbox: a cursor says how far it has been told.
"""
