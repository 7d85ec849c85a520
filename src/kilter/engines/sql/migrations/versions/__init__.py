"""The steps in order; a store at a revision that is not among them is newer than this code."""

REVISIONS: tuple[str, ...] = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
HEAD = REVISIONS[-1]

TABLES = 71
"""How many tables the newest schema has. Only a process that knows all of them may make a new store from what it knows."""
