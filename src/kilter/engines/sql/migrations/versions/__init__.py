"""The steps in order; a store at a revision that is not among them is newer than this code."""

REVISIONS: tuple[str, ...] = ()
HEAD: str | None = REVISIONS[-1] if REVISIONS else None
