"""LocalStack keeps S3 objects in /tmp/localstack-s3-storage/BUCKET, whatever FILESYSTEM_ROOT and TMPDIR say: two
clouds on one machine would share the bytes of buckets of one name. Each gets a folder in its own temporary
directory.
"""

import os
import tempfile


def apply() -> None:
    from localstack.services.s3.storage.ephemeral import EphemeralS3ObjectStore

    original = EphemeralS3ObjectStore.__init__

    def __init__(self, root_directory: str | None = None):
        original(self, os.path.join(tempfile.gettempdir(), "s3"))

    EphemeralS3ObjectStore.__init__ = __init__
