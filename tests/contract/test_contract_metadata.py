"""The metadata store's contract over SQLite and PostgreSQL."""

from kilter.testing.metadata import MetadataContract


class TestMetadata(MetadataContract):
    pass
