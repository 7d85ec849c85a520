"""The object store's contract over a folder and S3."""

from kilter.testing.objects import ObjectStoreContract


class TestObjects(ObjectStoreContract):
    pass
