"""A user's file as a value and as data: read, checked, compared with what was applied before."""
