"""The table store's contract over a folder and S3."""

from kilter.testing.tables import TableStoreContract


class TestTables(TableStoreContract):
    pass
