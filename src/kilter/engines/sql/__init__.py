"""Metadata: the same SQLAlchemy Core on SQLite and on PostgreSQL.

Enters: the URL of a store. Leaves: connections inside transactions, and leases with fencing epochs.
Guarantees: one schema on both dialects, times in UTC to the microsecond, JSON that comes back equal,
and a store of a newer schema, a foreign file or a dead server refused with a clear text.
"""
