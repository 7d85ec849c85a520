"""The history of the schema, one file per step, run by Alembic without any configuration file.

Enters: a database of any older schema. Leaves: the newest one. Guarantees: a step is done wholly or not at all,
once, however many processes start together, and each can be undone.
"""
